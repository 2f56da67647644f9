"""The receiver: one flow from the head of a post to its answer, whichever server it came through."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import (
    TYPE_CHECKING,  # noqa: TID251  whoever serves with something else than aiohttp must not load it for a type
    Final,
)
from urllib.parse import urlsplit
from weakref import WeakSet

import anyio

from kling_async._capability import Listener, digest_of
from kling_async._clock import Clock, SystemClock
from kling_async._fault import ConfigurationError, KlingError, forgetful
from kling_async._wire import callback_snapshot
from kling_async.callbacks._asgi import Application, application
from kling_async.callbacks._posts import LARGEST, PATIENCE, Body, Post, head_fault, token_of
from kling_async.callbacks._signature import is_signed, keys_from
from kling_async.errors import CallbackError
from kling_async.media import url_fault
from kling_async.models import Status

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Receiver"]

_log = logging.getLogger(__name__)

_NO_NEWS: Final = {Status.SUBMITTED, Status.PROCESSING}


@forgetful
class Receiver:
    """Receives callbacks for the sessions that it is given to.

    Serve it with `aiohttp_app` or `asgi_app`, in the event loop of the sessions, and give it to them:
    `KlingSession(callbacks=receiver)`. Every creation then gets a URL of its own, below `public_url`, with 256 random bits
    in it, which ends with its task. A post to it is answered at once, and has the task looked at, at most once a second.

    Args:
        public_url: where the service reaches this receiver, such as `https://example.com/kling`.
        secret: the secret, or several while it is changed, with which the service signs (`whsec_…`); unsigned posts
            are refused then. Gateways do not sign (`api.md` 3.1).
        clock: where time comes from; for tests.

    Raises:
        ConfigurationError: the URL or a secret cannot be used.
    """

    def __init__(self, public_url: str, *, secret: str | Iterable[str] | None = None, clock: Clock | None = None) -> None:
        fault = url_fault(public_url) or ("must be a URL without a query" if "?" in public_url else None)
        if fault:
            msg = f"public_url: {fault}"
            raise ConfigurationError(msg)
        self._base = public_url.rstrip("/")
        self._keys = keys_from(secret)
        self._clock = clock or SystemClock()
        self._listeners: WeakSet[Listener] = WeakSet()

    def __repr__(self) -> str:
        """Where it is reached; no token, no secret."""
        return f"<Receiver {self._base}{' signed' if self._keys else ''}>"

    def url_for(self, token: str) -> str:
        """The public URL under which a post arrives as one with this token."""
        return f"{self._base}/{token}"

    def bind(self, listener: Listener) -> None:
        """Tell this session of posts about its tasks; it is forgotten when it ends."""
        self._listeners.add(listener)

    def aiohttp_app(self) -> web.Application:
        """An application of its own for `aiohttp.web`: `app.add_subapp("/kling", receiver.aiohttp_app())`."""
        from kling_async.callbacks._aiohttp import web_application

        return web_application(self._answer)

    def asgi_app(self) -> Application:
        """An ASGI application of its own, to mount: with Starlette `Mount("/kling", app=receiver.asgi_app())`."""
        return application(self._answer, urlsplit(self._base).path)

    async def _answer(self, post: Post, body: Body) -> HTTPStatus:
        if post.method != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED
        try:
            with anyio.fail_after(PATIENCE):
                digest = digest_of(token_of(post) or "")
                listener = await self._who_knows(digest)
                if listener is None:
                    return HTTPStatus.NOT_FOUND
                if fault := head_fault(post):
                    return fault
                data = await _read(body)
        except TimeoutError:
            return HTTPStatus.REQUEST_TIMEOUT
        except CallbackError:
            return HTTPStatus.BAD_REQUEST
        if data is None:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if self._keys and not is_signed(self._keys, post.headers, data, now=self._clock.wall()):
            return HTTPStatus.UNAUTHORIZED
        try:
            said = callback_snapshot(data)
        except CallbackError:
            return HTTPStatus.BAD_REQUEST
        # Its id is not looked at: through some gateways posts come from Kling itself, with Kling's own (`api.md` 3.1).
        listener.hint(digest, final=said.status not in _NO_NEWS)
        return HTTPStatus.OK

    async def _who_knows(self, digest: bytes) -> Listener | None:
        for listener in tuple(self._listeners):
            try:
                if await listener.knows(digest):
                    return listener
            except KlingError as error:
                _log.warning("a session cannot tell whether it knows a callback: %s", error)
        return None


async def _read(body: Body) -> bytes | None:
    """The whole body; `None` as soon as it is too large."""
    data = bytearray()
    while (piece := await body()) is not None:
        data += piece
        if len(data) > LARGEST:
            return None
    return bytes(data)
