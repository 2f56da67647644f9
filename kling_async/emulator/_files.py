"""Result files behind links that are signed and run out, made when first asked for and served in ranges."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote, unquote

from attrs import field, frozen

from kling_async.emulator._replies import Reply
from kling_async.emulator._studio import Scene, Studio
from kling_async.emulator._time import EmulatedTime

PREFIX: Final = "/_files/"
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_ERROR: Final = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'


@frozen(kw_only=True)
class Files:
    """The file host of one emulator."""

    origin: str
    secret: bytes = field(repr=False)
    """Signs the links."""
    ttl: float
    """Emulated seconds a link lives."""
    time: EmulatedTime
    studio: Studio
    scene_of: Callable[[str, str, float], Scene | None]
    """What (task id, entry id) shows at a moment."""

    def link(self, task_id: str, name: str) -> str:
        """A fresh link to a file of a task."""
        path = f"{quote(task_id, safe='')}/{quote(name, safe='')}"
        expires = int(self.time.wall() + self.ttl)
        return f"{self.origin}{PREFIX}{path}?sig={self._signature(path, str(expires))}&exp={expires}"

    async def answer(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        """Serve what stands behind `PREFIX` in a request's path, as sent."""
        expires = query.get("exp", "")
        if not hmac.compare_digest(self._signature(path, expires).encode(), query.get("sig", "").encode()):
            return _refused(403, "SignatureDoesNotMatch", "The signature does not match")
        if self.time.wall() >= float(expires):
            return _refused(403, "AccessDenied", "Request has expired")
        return await self.shown(path, headers)

    async def shown(self, path: str, headers: Mapping[str, str]) -> Reply:
        """The same without a signature: what the emulator's own page shows."""
        task_id, _, name = (unquote(part) for part in path.partition("/"))
        entry_id = name.rpartition(".")[0].removesuffix("-watermark")
        scene = self.scene_of(task_id, entry_id, self.time.now())
        if scene is None:
            return _refused(404, "NoSuchKey", "The specified key does not exist")
        media = await self.studio.make(scene)
        return _ranged(media.data, media.content_type, headers)

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self.secret, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()[:32]


def _refused(status: int, code: str, message: str) -> Reply:
    return Reply(status=status, body=_ERROR.format(code=code, message=message).encode(), content_type="application/xml")


def _ranged(data: bytes, content_type: str, headers: Mapping[str, str]) -> Reply:
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    known = {"ETag": etag, "Accept-Ranges": "bytes"}
    wanted = _RANGE.fullmatch(headers.get("Range", ""))
    # Several ranges, another unit or a file that has changed since: the whole of it, as RFC 9110 allows.
    if wanted is None or wanted[0] == "bytes=-" or headers.get("If-Range", etag) != etag:
        return Reply(body=data, content_type=content_type, headers=known)
    first, last = wanted[1], wanted[2]
    start = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start > end or start >= len(data):
        return Reply(status=416, content_type=content_type, headers={**known, "Content-Range": f"bytes */{len(data)}"})
    span = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
    return Reply(status=206, body=data[start : end + 1], content_type=content_type, headers={**known, **span})
