"""Sends a request value, gives a reply value or a `Failure`; aiohttp ends here, and so do its exceptions."""

from __future__ import annotations

import asyncio
import functools
import io
import ipaddress
import os
import platform
import socket
import ssl
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import ClientSession as ClientSession  # noqa: PLC0414  the one place others get the type from
from aiohttp.abc import AbstractResolver, ResolveResult
from attrs import define, field

from kling_async._auth import Credentials, KeyPair, bearer
from kling_async._clock import Clock
from kling_async._fault import ConfigurationError
from kling_async._verdict import Failure
from kling_async._version import __version__
from kling_async._wire import Reply, Request

__all__ = ["ClientSession", "FailedExchange", "Sink", "Transport"]

CONNECT_TIMEOUT: Final = 10.0
"""Seconds from the start of an exchange until its first byte is on its way: name look-up, connection, TLS."""
READ_TIMEOUT: Final = 20.0
"""Seconds for a whole read of a task."""
CREATION_TIMEOUT: Final = 60.0
"""Seconds a paid request waits for its reply; not the caller's bound, which never ends a request in flight."""
UPLOAD_RATE: Final = 64 * 1024
"""Bytes per second that an upload is given time for, on top of `CREATION_TIMEOUT`."""
LAST_LOOK: Final = 0.05
"""Seconds before the end of a paid request's time in which the loop must have had a turn: an answer that came while
it was held up, or the process stopped, is looked at before time runs out (`reliability.md` D3)."""
STALL_TIMEOUT: Final = 60.0
"""Seconds a download may bring nothing."""
MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes of a reply after decompression; no reply of this API comes near (`reliability.md` P18)."""
SOCKETS: Final = 90
"""Kept-alive connections for reads; callers are bounded below it, so that nobody waits inside aiohttp."""

_KEPT_HEADERS: Final = ("content-type", "date", "location", "retry-after", "x-oneapi-request-id", "x-request-id")
_USER_AGENT: Final = f"kling_async/{__version__} (Python {platform.python_version()}; aiohttp {aiohttp.__version__})"
_DOWNLOAD_BUFFER: Final = 1024 * 1024


class FailedExchange(Exception):  # noqa: N818  carries a value between two floors; never reaches a user
    """An exchange brought no complete reply."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.cause)
        self.failure = failure


class Sink(Protocol):
    """Where a download goes. Its own troubles are `KlingError`s: an `OSError` in here is the network's."""

    def begin(self, status: int, content_type: str) -> None:
        """Take the head; raise to refuse the body."""

    async def write(self, piece: bytes) -> None:
        """Take the next bytes."""


class _PublicResolver(AbstractResolver):
    """Name look-up that refuses addresses which are not public: a result link must not reach into a network."""

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not all(ipaddress.ip_address(result["host"].partition("%")[0]).is_global for result in found):
            msg = "not a public address"
            raise OSError(msg)
        return found

    async def close(self) -> None:
        await self._inner.close()


def _failure(error: Exception, *, sent: bool) -> Failure:  # noqa: C901  a table
    """The failure table of `reliability.md` 2.2. The exception itself is dropped: its text holds headers."""
    match error:
        case TimeoutError():
            return Failure(cause="timeout", sent=sent, slow=True)
        case aiohttp.ClientConnectorCertificateError():
            return Failure(cause="certificate", sent=sent, final=not sent)
        case aiohttp.ClientSSLError():
            return Failure(cause="tls", sent=sent, final=not sent)
        case aiohttp.ClientConnectorDNSError():
            return Failure(cause="dns", sent=sent)
        case aiohttp.ClientConnectorError():
            return Failure(cause="connect", sent=sent)
        case aiohttp.ClientHttpProxyError():  # to a CONNECT; one that wants a password will go on wanting it
            return Failure(cause="proxy", sent=sent, final=not sent and error.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
        case aiohttp.ServerDisconnectedError():
            return Failure(cause="disconnected", sent=sent)
        case aiohttp.ClientResponseError():
            return Failure(cause="malformed-reply", sent=sent)
        case aiohttp.ClientPayloadError():
            return Failure(cause="cut-reply", sent=sent)
        case OSError():
            return Failure(cause="reset" if sent else "connect", sent=sent)
        case _:
            return Failure(cause="broken", sent=sent)


@define
class Transport:
    """Two sessions, opened on first use: reads on kept-alive connections, each paid request on a fresh one."""

    credentials: Credentials
    clock: Clock
    injected: ClientSession | None = None
    trust_env: bool = False
    public_only: bool = True
    """Whether downloads are confined to https and public addresses."""
    _reads: ClientSession | None = field(default=None, init=False)
    _paid: ClientSession | None = field(default=None, init=False)
    _files: ClientSession | None = field(default=None, init=False)
    _skew: float = field(default=0.0, init=False)
    _closed: bool = field(default=False, init=False)

    async def read(self, request: Request) -> Reply:
        """Send what may be sent any number of times.

        Raises:
            FailedExchange: no complete reply came in time.
            ConfigurationError: the session to read with has been closed by its owner.
        """
        if self.injected is not None and self.injected.closed:
            msg = "the aiohttp session given as http=… is closed: close it after the KlingSession that reads with it"
            raise ConfigurationError(msg)
        if self._reads is None:
            self._reads = self.injected or self._session(aiohttp.TCPConnector(limit=SOCKETS + 10, ssl=_trusted(self.trust_env)))
        return await self._exchange(self._reads, request, bound=READ_TIMEOUT, on_sent=None)

    async def pay(self, request: Request, *, on_sent: Callable[[], None]) -> Reply:
        """Send a paid request once, on a connection of its own; `on_sent` is called before its first byte leaves.

        Raises:
            FailedExchange: no complete reply came in time.
        """
        if self._paid is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_headers_sent)
            self._paid = self._session(aiohttp.TCPConnector(force_close=True, limit=0, ssl=_trusted(self.trust_env)), trace_configs=[trace])
        bound = CREATION_TIMEOUT + len(request.body or b"") / UPLOAD_RATE
        return await self._exchange(self._paid, request, bound=bound, on_sent=on_sent)

    def correct_clock(self, reply: Reply) -> bool:
        """Sign from now on by the server's clock, as told by its `Date` header; false when nothing is signed, or it does not tell."""
        try:
            date = parsedate_to_datetime(reply.headers.get("date", ""))
            theirs = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            return False
        if not isinstance(self.credentials, KeyPair):
            return False
        self._skew = theirs - self.clock.wall()
        return True

    async def download(self, url: str, sink: Sink) -> None:
        """Pour what a result link holds into `sink`, without key, cookies or redirects.

        Raises:
            FailedExchange: it cannot be opened, broke off, or brought nothing for a minute.
        """
        if self._files is None:
            resolver = _PublicResolver() if self.public_only else None
            connector = aiohttp.TCPConnector(limit=16, resolver=resolver, ssl=_trusted(self.trust_env))
            self._files = self._session(connector, auto_decompress=False, read_bufsize=_DOWNLOAD_BUFFER)
        loop = asyncio.get_running_loop()
        failure: Failure
        try:
            async with asyncio.timeout(STALL_TIMEOUT) as stall:
                async with self._files.get(url, headers={"Accept-Encoding": "identity"}, allow_redirects=False) as response:
                    sink.begin(response.status, response.content_type)
                    async for piece in response.content.iter_any():
                        stall.reschedule(loop.time() + STALL_TIMEOUT)
                        await sink.write(piece)
                    return
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            failure = _failure(error, sent=True)
        raise FailedExchange(failure)

    async def aclose(self) -> None:
        """Close what was opened here, and open nothing more."""
        self._closed = True
        for session in (self._reads, self._paid, self._files):
            if session is not None and session is not self.injected:
                await session.close()
        self._reads = self._paid = self._files = None

    def _session(self, connector: aiohttp.TCPConnector, **options: Any) -> ClientSession:
        if self._closed:
            msg = "the session was closed"
            raise ConfigurationError(msg)
        return ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": _USER_AGENT},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trust_env=self.trust_env,
            raise_for_status=False,
            **options,
        )

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {bearer(self.credentials, self.clock.wall() + self._skew)}",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }

    async def _exchange(self, session: ClientSession, request: Request, *, bound: float, on_sent: Callable[[], None] | None) -> Reply:
        context = SimpleNamespace(sent=False, hook=on_sent, scope=None, bound=bound, timer=None)
        failure: Failure
        try:
            async with asyncio.timeout(bound if on_sent is None else CONNECT_TIMEOUT) as context.scope:
                # The headers are built in the call, so that no frame of ours holds the key in a local.
                async with session.request(
                    request.method,
                    request.url,
                    data=None if request.body is None else io.BytesIO(request.body),  # which is sent piece by piece
                    headers=self._headers(),
                    allow_redirects=False,
                    raise_for_status=False,
                    trace_request_ctx=None if on_sent is None else context,
                ) as response:
                    body = await _bounded(response)
                    kept = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
                    return Reply(status=response.status, headers=kept, body=body)
        except asyncio.CancelledError as cancelled:
            # The frames of aiohttp hold the key, and a timeout around this call would keep them as its cause.
            raise cancelled.with_traceback(None) from None
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            # A RuntimeError is what uvloop raises for writing to a closed connection.
            failure = _failure(error, sent=context.sent)
        finally:
            if context.timer is not None:
                context.timer.cancel()
        # Raised out here, so that the original, whose text holds the key, is not kept as the context.
        raise FailedExchange(failure)


def _trusted(trust_env: bool) -> ssl.SSLContext | bool:  # noqa: FBT001  a setting handed on
    # OpenSSL asks the environment whom to trust; where only the environment knows any certificates, it is believed.
    system = ssl.get_default_verify_paths()
    file = system.openssl_cafile if Path(system.openssl_cafile).is_file() else None
    directory = system.openssl_capath if Path(system.openssl_capath).is_dir() else None
    if trust_env or {"SSL_CERT_FILE", "SSL_CERT_DIR"}.isdisjoint(os.environ) or not (file or directory):
        return True
    try:
        return _context(file, directory)
    except OSError:  # such as no file descriptor left
        failure = Failure(cause="connect", sent=False)
    raise FailedExchange(failure)


@functools.cache
def _context(file: str | None, directory: str | None) -> ssl.SSLContext:
    """One for all sessions: reading the certificates takes 50 ms, in which the loop stands still."""
    return ssl.create_default_context(cafile=file, capath=directory)


async def _headers_sent(_session: ClientSession, names: SimpleNamespace, _params: aiohttp.TraceRequestHeadersSentParams) -> None:
    context = names.trace_request_ctx
    context.sent = True
    loop = asyncio.get_running_loop()
    context.scope.reschedule(None)
    context.timer = loop.call_at(loop.time() + context.bound - LAST_LOOK, lambda: context.scope.reschedule(loop.time() + LAST_LOOK))
    context.hook()


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MAX_BODY:
            response.close()
            msg = "reply too large"
            raise aiohttp.ClientPayloadError(msg)
        pieces.append(piece)
    return b"".join(pieces)
