"""The sender of callbacks: one post per change, in the background, over connections of its own. Whoever fails to listen misses it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from kling_async.emulator._ledger import GroundTruth, SentCallback
from kling_async.emulator._time import EmulatedTime

_log = logging.getLogger(__name__)
_PATIENCE: Final = 10.0
"""Real seconds a receiver has to answer."""


class Courier:
    """Posts task objects to the callers' URLs, signed when there is a secret (`api.md` 6.4)."""

    def __init__(self, *, log: GroundTruth, time: EmulatedTime, secret: str | None, new_id: Callable[[], str]) -> None:
        self._log = log
        self._time = time
        self._key = base64.b64decode(secret.removeprefix("whsec_"), validate=True) if secret else None
        self._new_id = new_id
        self._http: aiohttp.ClientSession | None = None
        self._posts: set[asyncio.Task[None]] = set()

    def send(self, url: str, task_id: str, body: Mapping[str, Any]) -> None:
        """Post it, some time soon."""
        sent = SentCallback(at=self._time.now(), task_id=task_id, url=url, body=body)
        self._log.posted(sent)
        post = asyncio.get_running_loop().create_task(self._post(sent))
        self._posts.add(post)
        post.add_done_callback(self._posts.discard)

    async def aclose(self) -> None:
        """Give up on what is under way."""
        posts = tuple(self._posts)
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        if self._http:
            await self._http.close()

    async def _post(self, sent: SentCallback) -> None:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE))
        raw = json.dumps(sent.body, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", **self._signature(raw)}
        try:
            async with self._http.post(sent.url, data=raw, headers=headers, allow_redirects=False) as answer:
                sent.status = answer.status
                self._log.posted(sent)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _log.debug("callback for %s not delivered: %s", sent.task_id, type(error).__name__)

    def _signature(self, raw: bytes) -> dict[str, str]:
        if self._key is None:
            return {}
        # Real time: the receiver compares it with its own clock.
        message_id, timestamp = self._new_id(), str(int(self._time.real_wall()))
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": sign(self._key, message_id, timestamp, raw),
        }


def sign(key: bytes, message_id: str, timestamp: str, raw: bytes) -> str:
    """The Standard Webhooks signature of a body."""
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + raw, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"
