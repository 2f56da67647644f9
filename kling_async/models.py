"""What comes back: frozen values, tolerant of everything a reply may leave out. Knows no I/O."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, Self, cast
from urllib.parse import quote, unquote

from attrs import field, frozen

from kling_async._fault import InvalidRefError
from kling_async._json import parsed

__all__ = ["Audio", "Image", "ParentVideo", "Snapshot", "Status", "TaskRef", "Video"]


class Status(StrEnum):
    """Where a task stands. `SUCCEED` and `FAILED` are final (`api.md` section 9)."""

    SUBMITTED = "submitted"
    """Accepted, and waiting for its turn at the service."""
    PROCESSING = "processing"
    """Under way."""
    SUCCEED = "succeed"
    """Done: the result is there."""
    FAILED = "failed"
    """Given up by the service; `Snapshot.message` has its reason."""
    UNKNOWN = "unknown"
    """A word nobody has documented; taken as still running, kept verbatim in `Snapshot.raw_status`."""

    @property
    def final(self) -> bool:
        """Whether the task will not change any more."""
        return self is Status.SUCCEED or self is Status.FAILED


def _unsigned(url: str | None) -> str:
    """A link as it may be printed: what follows the path is a signature, and whoever has it has the file."""
    return repr(url if url is None or "?" not in url else f"{url.partition('?')[0]}?…")


@frozen(kw_only=True)
class Video:
    """One clip of a result. The link expires: the service deletes results after 30 days, links sooner."""

    id: str
    """The video's own id, which `VideoExtend` and `LipSync` take; not the task's id."""
    url: str = field(repr=_unsigned)
    """The link. What follows its `?` may be a signature: whoever has it has the file, so no repr shows it."""
    duration: float | None = None
    """Length of the whole clip in seconds; `None` when the service did not say."""
    watermark_url: str | None = field(default=None, repr=_unsigned)
    """The same with a watermark, where one was asked for."""


@frozen(kw_only=True)
class Image:
    """One picture of a result. The link expires."""

    index: int
    """Position in the result, from 0."""
    url: str = field(repr=_unsigned)
    """The link; no repr shows its signature."""
    watermark_url: str | None = field(default=None, repr=_unsigned)
    """The same with a watermark, where one was asked for."""


@frozen(kw_only=True)
class Audio:
    """One sound of a result. The link expires."""

    id: str
    url: str = field(repr=_unsigned)
    """The link to listen to: the service's `url`, else its MP3, else its WAV."""
    duration: float | None = None
    """Length in seconds; `None` when the service did not say."""
    url_wav: str | None = field(default=None, repr=_unsigned)
    """The link to the WAV, where there is one."""


@frozen(kw_only=True)
class ParentVideo:
    """The clip that an extension or a lip-sync started from."""

    id: str
    url: str | None = field(default=None, repr=_unsigned)
    """The link, where the service tells it."""
    duration: float | None = None
    """Its length in seconds, before what was made of it."""


@lru_cache(64)
def _route(action: str, action2: str) -> str:
    return f"{action}/{action2}"  # one text for very many tasks


_PREFIX: Final = "kling1"
_LONGEST: Final = 512
"""Characters of a part of a reference; real ids have at most some forty."""
_PARTS: Final = ("version", "origin", "action", "action2", "task_id", "external_task_id", "created_at")


@frozen(kw_only=True, weakref_slot=False)
class TaskRef:
    """A task handle as data: enough to find the task again from another process.

    `str(ref)` is one line of versioned text without spaces, quotes or secrets, made to be stored,
    logged and typed into a shell; `TaskRef.parse` is its inverse.
    """

    origin: str
    """Scheme, host and port of the gateway, such as `https://gateway.example`."""
    action: str
    """First half of the route, such as `videos`."""
    action2: str
    """Second half of the route, such as `text2video`."""
    task_id: str
    """The service's id of the task."""
    external_task_id: str | None = None
    """The caller's own key for the task, when one was sent."""
    created_at: datetime | None = field(default=None, eq=False)
    """When the task was created, by the service's clock, or by the journal's where the reference comes from there; aware, UTC.
    References to one task are equal whatever they say of it."""

    @property
    def route(self) -> str:
        """The two halves joined, such as `videos/text2video`."""
        return _route(self.action, self.action2)

    def __str__(self) -> str:
        """The one line of text."""
        created = "" if self.created_at is None else str(round(self.created_at.timestamp() * 1000))
        parts = (self.origin, self.action, self.action2, self.task_id, self.external_task_id or "", created)
        return ",".join((_PREFIX, *(quote(part, safe="/:[]") for part in parts)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str(ref)` wrote.

        Raises:
            InvalidRefError: the text is something else; the message names the part.
        """
        parts = text.strip().split(",")
        if parts[0] != _PREFIX or len(parts) != len(_PARTS):
            start = text.partition("?")[0][:80]  # a signed link was taken for one
            msg = f"not a task reference: expected `{_PREFIX},` and {len(_PARTS) - 1} parts joined by commas, got {start!r}"
            raise InvalidRefError(msg)
        try:
            origin, action, action2, task_id, external, created = (unquote(part, errors="strict") for part in parts[1:])
        except UnicodeDecodeError:
            msg = "not a task reference: a part is not UTF-8"
            raise InvalidRefError(msg) from None
        for name, value in zip(_PARTS[1:5], (origin, action, action2, task_id), strict=True):
            _require(name, value)
        if external:
            _require("external_task_id", external)
        if not origin.startswith(("http://", "https://")) or "@" in origin:
            msg = "not a task reference: origin is not scheme://host[:port]"
            raise InvalidRefError(msg)
        return cls(
            origin=origin,
            action=action,
            action2=action2,
            task_id=task_id,
            external_task_id=external or None,
            created_at=_from_millis(created) if created else None,
        )


def _require(name: str, value: str) -> None:
    if not value or len(value) > _LONGEST or not value.isprintable():
        msg = f"not a task reference: {name} is empty, too long or not printable"
        raise InvalidRefError(msg)


def _from_millis(text: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        msg = f"not a task reference: created_at is not Unix milliseconds: {text[:40]!r}"
        raise InvalidRefError(msg) from None


def _no_raw() -> dict[str, Any]:
    return {}


_REQUEST: Final = re.compile(rb'("request_id"\s*:\s*")[!#-\[\]-~]*"')
"""As plain as it is: whatever stands in its place reads the same."""


def _numberless(body: bytes) -> list[bytes]:
    return _REQUEST.split(body, 1)


@frozen(kw_only=True)
class Snapshot:
    """One observation of a task, as the service told it."""

    task_id: str
    status: Status
    raw_status: str = ""
    """The status word exactly as sent."""
    message: str = ""
    """Why it failed, when it failed (`task_status_msg`); usually empty otherwise."""
    created_at: datetime | None = None
    """When the task was made, by the service's clock; aware, UTC."""
    updated_at: datetime | None = None
    """When it last changed, by the service's clock; aware, UTC."""
    videos: tuple[Video, ...] = ()
    """The clips of the result, in the service's order; empty until the task has succeeded."""
    images: tuple[Image, ...] = ()
    """Likewise, the pictures."""
    audios: tuple[Audio, ...] = ()
    """Likewise, the sounds."""
    parent_video: ParentVideo | None = None
    """The clip that was extended or made to speak, where the service tells it."""
    external_task_id: str | None = None
    """The caller's own key for the task, where the server tells it."""
    _raw: dict[str, Any] | bytes = field(factory=_no_raw, eq=False, repr=False, alias="raw")

    @property
    def raw(self) -> dict[str, Any]:
        """The decoded body with nothing dropped. It holds result links: treat it as you treat those."""
        # Kept as it came: decoded it takes five times the memory, and few look.
        return self._raw if isinstance(self._raw, dict) else cast("dict[str, Any]", parsed(self._raw))  # an object when it was read

    def read_from(self, row: dict[str, Any]) -> bool:
        """Whether a row of a list is just what this was read from."""
        return isinstance(self._raw, dict) and self._raw.get("data") == row

    def repeated(self, body: bytes) -> bool:
        """Whether another reply says just what this was read from, but for the number of the request."""
        return isinstance(self._raw, bytes) and (body == self._raw or _numberless(body) == _numberless(self._raw))
