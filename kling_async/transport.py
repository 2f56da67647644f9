"""Sends a request value, gives a reply value or a `Failure`; aiohttp ends here, and so do its exceptions."""

from __future__ import annotations

import asyncio
import functools
import math
import netrc
import os
import platform
import ssl
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import ClientSession as ClientSession  # noqa: PLC0414  the one place others get the type from
from attrs import define, field, frozen
from yarl import URL

from kling_async._auth import Credentials, KeyPair, bearer, masked, term
from kling_async._clock import Clock
from kling_async._fault import ConfigurationError
from kling_async._patience import Patience
from kling_async._verdict import Failure
from kling_async._version import __version__
from kling_async._wire import Reply, Request
from kling_async.errors import InvalidJobError
from kling_async.upload import Upload, outgoing

__all__ = ["USER_AGENT", "ClientSession", "FailedExchange", "Proxy", "Transport", "failure_of", "proxy_for", "trusted"]

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
MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes of a reply after decompression; no reply of this API comes near (`reliability.md` P18)."""
SOCKETS: Final = 90
"""Kept-alive connections for reads; callers are bounded below it, so that nobody waits inside aiohttp."""

_KEPT_HEADERS: Final = ("content-type", "date", "location", "retry-after", "x-oneapi-request-id", "x-request-id")
USER_AGENT: Final = f"kling_async/{__version__} (Python {platform.python_version()}; aiohttp {aiohttp.__version__})"
_HEADERS: Final = {
    "User-Agent": USER_AGENT,
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}


class FailedExchange(Exception):  # noqa: N818  carries a value between two floors; never reaches a user
    """An exchange brought no complete reply."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.cause)
        self.failure = failure


def failure_of(error: Exception, *, sent: bool) -> Failure:  # noqa: C901  a table
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
        case aiohttp.ClientConnectionError(__cause__=InvalidJobError()):  # media that are no longer what they were
            return Failure(cause="changed-file", sent=sent)
        case OSError():
            return Failure(cause="reset" if sent else "connect", sent=sent)
        case _:
            return Failure(cause="broken", sent=sent)


@frozen
class Proxy:
    """Through whom a request goes."""

    url: str = field(repr=False)
    """It may hold a password."""


@define
class Transport:
    """Two sessions, opened on first use: reads on kept-alive connections, each paid request on a fresh one."""

    credentials: Credentials
    clock: Clock
    injected: ClientSession | None = None
    trust_env: bool = False
    _reads: ClientSession | None = field(default=None, init=False)
    _paid: ClientSession | None = field(default=None, init=False)
    _skew: float = field(default=0.0, init=False)
    _bearer: str = field(default="", init=False, repr=False)
    _bearer_term: float = field(default=math.nan, init=False)
    _patience: Patience = field(factory=lambda: Patience(READ_TIMEOUT), init=False)
    _closed: bool = field(default=False, init=False)

    async def read(self, request: Request) -> Reply:
        """Send what may be sent any number of times.

        Raises:
            FailedExchange: no complete reply came in time.
            ConfigurationError: the session to read with has been closed by its owner.
        """
        if self._reads is None or self.injected is not None:
            self._reads = self._to_read_with()
        own = self._reads is not self.injected
        failure: Failure
        try:
            with self._patience:
                if own:
                    self._reads.headers["Authorization"] = self._authorization()
                # An injected session has an environment, or none, of its own.
                proxy = await proxy_for(request.url, trust_env=True) if own and self.trust_env else None
                # Whatever holds the key stands in the call, so that no frame of ours has it in a local.
                response = await self._reads.request(
                    request.method,
                    _address(request.url),
                    headers=None if own else {**_HEADERS, "Authorization": self._authorization()},
                    proxy=proxy.url if proxy else None,
                    allow_redirects=False,
                    raise_for_status=False,
                )
                try:
                    body = await _bounded(response)
                finally:
                    if not response.closed:  # else it has been read to its end, and its connection given back
                        response.close()
                kept = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
                return Reply(status=response.status, headers=kept, body=masked(self.credentials, body))
        except asyncio.CancelledError as cancelled:
            # The frames of aiohttp hold the key, and a timeout around this call would keep them as its cause.
            raise cancelled.with_traceback(None) from None
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            failure = failure_of(error, sent=False)
        # Raised out here, so that the original, whose text holds the key, is not kept as the context.
        raise FailedExchange(failure)

    async def pay(self, request: Request, *, on_sent: Callable[[], None]) -> Reply:
        """Send a paid request once, on a connection of its own; `on_sent` is called before its first byte leaves, and may forbid it.

        Raises:
            FailedExchange: no complete reply came in time; or what `on_sent` raised, and nothing was sent.
        """
        if self._paid is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_headers_sent)
            self._paid = self._session(aiohttp.TCPConnector(force_close=True, limit=0, ssl=trusted(self.trust_env)), trace_configs=[trace])
        body, size = (None, 0) if request.body is None else (outgoing(request.body), request.body.size)
        context = SimpleNamespace(sent=False, hook=on_sent, scope=None, bound=CREATION_TIMEOUT + size / UPLOAD_RATE, timer=None)
        failure: Failure
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT) as context.scope:
                proxy = await proxy_for(request.url, trust_env=True) if self.trust_env else None
                # Not in the call: no frame of ours holds the key in a local.
                self._paid.headers["Authorization"] = self._authorization()
                async with self._paid.request(
                    request.method,
                    _address(request.url),
                    data=body,
                    headers={"Content-Length": str(size)} if isinstance(body, Upload) else None,  # else it were chunked
                    proxy=proxy.url if proxy else None,
                    allow_redirects=False,
                    trace_request_ctx=context,
                ) as response:
                    answer = await _bounded(response)
                    kept = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
                    return Reply(status=response.status, headers=kept, body=masked(self.credentials, answer))
        except asyncio.CancelledError as cancelled:
            # The frames of aiohttp hold the key, and a timeout around this call would keep them as its cause.
            raise cancelled.with_traceback(None) from None
        except (FailedExchange, aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            # A RuntimeError is what uvloop raises for writing to a closed connection.
            failure = error.failure if isinstance(error, FailedExchange) else failure_of(error, sent=context.sent)
        finally:
            if context.timer is not None:
                context.timer.cancel()
        # Raised out here, so that the original, whose text holds the key, is not kept as the context.
        raise FailedExchange(failure)

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

    async def aclose(self) -> None:
        """Close what was opened here, and open nothing more."""
        self._closed = True
        self._patience.close()
        for session in (self._reads, self._paid):
            if session is not None and session is not self.injected:
                await session.close()
        self._reads = self._paid = None

    def _to_read_with(self) -> ClientSession:
        if self.injected is None:
            # Compressed, the few bytes of a task take longer to unpack than to read; what comes compressed all the same is unpacked.
            return self._session(aiohttp.TCPConnector(limit=SOCKETS + 10, ssl=trusted(self.trust_env)))
        if self.injected.closed:
            msg = "the aiohttp session given as http=… is closed: close it after the KlingSession that reads with it"
            raise ConfigurationError(msg)
        return self.injected

    def _authorization(self) -> str:
        now = self.clock.wall() + self._skew
        if (term_ := term(self.credentials, now)) != self._bearer_term:
            self._bearer, self._bearer_term = f"Bearer {bearer(self.credentials, now)}", term_
        return self._bearer

    def _session(self, connector: aiohttp.TCPConnector, **options: Any) -> ClientSession:
        if self._closed:
            msg = "the session was closed"
            raise ConfigurationError(msg)
        return ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            raise_for_status=False,
            **options,
        )


async def proxy_for(url: str, *, trust_env: bool) -> Proxy | None:
    """The proxy that the environment names for an address, when it is asked.

    Not aiohttp's own `trust_env`: that would let a netrc speak to the API, where it collides with the key, and to file
    hosts, which get no credentials. Here it speaks to the proxy alone.

    Raises:
        FailedExchange: it is of a kind that aiohttp does not speak to, such as SOCKS; going without it was not asked for.
    """
    if not trust_env:
        return None
    proxy = await asyncio.to_thread(_named_proxy, url)  # reads a file, and on some systems asks for names
    if proxy is None or proxy.url.startswith(("http://", "https://")):
        return proxy
    raise FailedExchange(Failure(cause="proxy", sent=False, final=True))


def _named_proxy(url: str) -> Proxy | None:
    link, known = urlsplit(url), getproxies()
    named = known.get(link.scheme) or known.get("all")
    if not named or proxy_bypass(link.netloc):
        return None
    named = named if "://" in named else f"http://{named}"
    scheme, _, rest = named.partition("://")
    if "@" in rest or not (login := _login(urlsplit(named).hostname or "")):
        return Proxy(named)
    return Proxy(f"{scheme}://{login}@{rest}")


def _login(host: str) -> str:
    """Name and password that the netrc has for a host, as they stand in an address."""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):  # whose text may quote a password
        return ""
    return f"{quote(known[0], safe='')}:{quote(known[2] or '', safe='')}" if known else ""


def trusted(trust_env: bool) -> ssl.SSLContext | bool:  # noqa: FBT001  a setting handed on
    """Whom TLS believes."""
    # OpenSSL asks the environment whom to trust; where only the environment knows any certificates, it is believed.
    if {"SSL_CERT_FILE", "SSL_CERT_DIR"}.isdisjoint(os.environ):
        return True
    system = ssl.get_default_verify_paths()
    file = system.openssl_cafile if Path(system.openssl_cafile).is_file() else None
    directory = system.openssl_capath if Path(system.openssl_capath).is_dir() else None
    if trust_env or not (file or directory):
        file, directory = system.cafile, system.capath  # of this moment; aiohttp asked when it was imported
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
    context.hook()  # nothing has been written yet, and if it raises nothing is
    context.sent = True
    loop = asyncio.get_running_loop()
    context.scope.reschedule(None)
    context.timer = loop.call_at(loop.time() + context.bound - LAST_LOOK, lambda: context.scope.reschedule(loop.time() + LAST_LOOK))


_home: Final = functools.lru_cache(8)(URL)


@functools.lru_cache(2048)  # looks at one task are many, and an address keeps what aiohttp has taken from it
def _address(url: str) -> URL:
    # As it stands: it has been quoted. Beside one that is known, the half of the time.
    path = url.find("/", len("https://"))
    return URL(url, encoded=True) if path < 0 or "?" in url else _home(url[:path]).with_path(url[path:], encoded=True)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    if response.content.is_eof() and response.content.total_bytes <= MAX_BODY:  # it came in one piece with its head, as most do
        return response.content.read_nowait()
    pieces, size = list[bytes](), 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MAX_BODY:
            response.close()
            msg = "reply too large"
            raise aiohttp.ClientPayloadError(msg)
        pieces.append(piece)
    return b"".join(pieces)
