"""A result link in, its bytes out: no key, no cookie, every hop and every address checked; never faster than they are taken."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.typedefs import LooseHeaders
from attrs import define, field

from kling_async._fault import ConfigurationError
from kling_async._links import fault_of, hop, is_public
from kling_async.transport import USER_AGENT, FailedExchange, failure_of, proxy_for, trusted

__all__ = ["Hosts", "RefusedLink", "Source"]

REDIRECTS: Final = 3
WINDOW: Final = 60.0
"""Seconds in which the head of a reply must have come, and after it each `LEAST` bytes."""
LEAST: Final = 60 * 1024
"""Bytes: 1 KiB/s (`reliability.md` P25)."""
LARGE: Final = 32 * 1024 * 1024
"""Bytes to come from which on it is worth a connection to receive them past the parser; below, a handshake costs more than that saves."""
_BUFFER: Final = 512 * 1024
_REDIRECTED: Final = frozenset({301, 302, 303, 307, 308})


class RefusedLink(Exception):  # noqa: N818  carries a reason between two floors; never reaches a user
    """A link is not followed: why."""


class _PrivateAddressError(OSError):
    """A name or a link leads into a network that is not public."""


@define(eq=False)
class _Resolver(AbstractResolver):
    allowed: Callable[[str], bool]
    inner: AbstractResolver

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self.inner.resolve(host, port, family)
        if not all(self.allowed(result["host"]) for result in found):
            raise _PrivateAddressError
        return found

    async def close(self) -> None:
        await self.inner.close()


@define(eq=False)
class _Inflow(asyncio.BufferedProtocol):
    """Receives the rest of a body right where it is wanted, and nothing while nobody wants it.

    aiohttp has parsed the head, and would copy each byte twice into new memory. Its own protocol hears how the connection ends,
    after which the connection is of no use any more.
    """

    transport: asyncio.Transport
    left: int
    """Bytes of the body to come."""
    _parser: asyncio.Protocol = field(init=False)
    _room: memoryview = field(factory=lambda: memoryview(b""), init=False, repr=False)
    _size: int = field(default=0, init=False)
    """Bytes in the room."""
    _patient: bool = field(default=False, init=False)
    _lost: bool = field(default=False, init=False)
    _enough: asyncio.Future[None] | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._parser = cast("asyncio.Protocol", self.transport.get_protocol())
        self.transport.pause_reading()  # an event loop may have settled how it reads
        self.transport.set_protocol(self)

    async def fill(self, room: memoryview, patience: float) -> int:
        """As `Source.fill`; also none when the connection is lost."""
        self._room, self._size, self._patient = room[: self.left], 0, patience > 0
        if self.left and not self._lost:
            loop = asyncio.get_running_loop()
            self._enough = loop.create_future()
            timer = loop.call_later(patience, self._hurry)
            self.transport.resume_reading()
            try:
                await self._enough
            finally:
                timer.cancel()
        self.left -= self._size
        return self._size

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  as event loops call it
        return self._room[self._size :]

    def buffer_updated(self, nbytes: int) -> None:
        self._size += nbytes
        if not self._patient or self._size == len(self._room):
            self._wake()

    def eof_received(self) -> bool | None:
        return self._parser.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._parser.connection_lost(exc)
        self._wake()

    def _hurry(self) -> None:
        self._patient = False
        if self._size:
            self._wake()

    def _wake(self) -> None:
        self.transport.pause_reading()
        if self._enough is not None and not self._enough.done():
            self._enough.set_result(None)


@define(eq=False)
class Source:
    """One reply: its head, and what is left of its body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    _response: aiohttp.ClientResponse = field(repr=False)
    _large: int = LARGE
    _unread: int = field(init=False)
    """Bytes of the body that aiohttp has still to give; 0 where nothing says how many."""
    _rest: memoryview = field(factory=lambda: memoryview(b""), init=False, repr=False)
    """What aiohttp has given, and there was no room for."""
    _inflow: _Inflow | None = field(default=None, init=False)
    _time: float = field(default=WINDOW, init=False)
    """Seconds left for what is left of `LEAST`."""
    _got: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._unread = 0 if self.framed else self._response.content_length or 0

    @property
    def framed(self) -> bool:
        """Whether a body without a length says by itself where it ends."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    async def fill(self, room: memoryview, patience: float = 0.0) -> int:
        """Put the next bytes into `room`, and say how many; none at the end. As soon as there are any, or the room is full.

        Of a large body, `patience` seconds are waited until the room is full: fewer turns of the event loop for the same bytes.

        Raises:
            FailedExchange: it broke off, or brings less than 1 KiB/s. Time in which nobody asks does not count.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._time):
                size = await self._filled(room, patience)
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            failure = failure_of(error, sent=True)
        else:
            self._time -= loop.time() - begun
            self._got += size
            if self._got >= LEAST:
                self._time, self._got = WINDOW, 0
            return size
        raise FailedExchange(failure)

    async def _filled(self, room: memoryview, patience: float) -> int:
        if self._inflow is None and self._unread >= self._large:
            self._part_with_parser()
        if self._inflow is not None and not self._rest:
            return await self._inflow.fill(room, patience)
        if not self._rest:
            body = self._response.content
            # One piece as it came, where pieces are not those of the host: to take all that are there is to copy them together.
            self._rest = memoryview(await body.readany() if self.framed else (await body.readchunk())[0])
            self._unread -= len(self._rest)
        size = min(len(room), len(self._rest))
        room[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def _part_with_parser(self) -> None:
        """Take what aiohttp has, which is all that came: it holds nothing back once its buffer was emptied. Then do without it."""
        given, body = bytearray(self._rest), self._response.content
        while piece := body.read_nowait():
            given += piece
            self._unread -= len(piece)
        self._rest = memoryview(given)
        connection = self._response.connection
        transport = connection.transport if connection else None
        if transport is not None and self._unread >= self._large:
            self._inflow = _Inflow(transport, self._unread)

    def close(self) -> None:
        """Let go of the connection; one that has not been read to its end is closed."""
        self._response.close()


@define(eq=False)
class Hosts:
    """The session that files are fetched with; opened on first use."""

    trust_env: bool = False
    public_only: bool = True
    """Whether links are confined to https and public addresses; so is whatever they redirect to."""
    allowed: Callable[[str], bool] = is_public
    """Which addresses are public."""
    resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver
    large: int = LARGE
    """Bytes to come from which on a body is received past aiohttp's parser."""
    _sessions: dict[bool, aiohttp.ClientSession] = field(factory=dict, init=False)
    """By whether they go through a proxy."""
    _closed: bool = field(default=False, init=False)

    async def open(self, url: str, headers: Mapping[str, str]) -> Source:
        """Ask for what a link holds, following up to three redirects.

        Raises:
            RefusedLink: it, or what it redirects to, is not to be followed.
            FailedExchange: no head of a reply came.
        """
        for _ in range(REDIRECTS + 1):
            if fault := fault_of(url, public_only=self.public_only):
                raise RefusedLink(fault)
            response = await self._get(url, headers)
            if response.status not in _REDIRECTED:
                kept = {name.lower(): value for name, value in response.headers.items()}
                return Source(response.status, kept, response, self.large)
            response.close()
            url = hop(url, response.headers.get("Location", ""))
        msg = f"it redirects more than {REDIRECTS} times"
        raise RefusedLink(msg)

    async def aclose(self) -> None:
        """Close what was opened, and open nothing more."""
        self._closed = True
        for session in self._sessions.values():
            await session.close()

    async def _get(self, url: str, headers: LooseHeaders) -> aiohttp.ClientResponse:
        proxy = await proxy_for(url, trust_env=self.trust_env)
        session = self._opened(proxied=proxy is not None)
        refused: RefusedLink | FailedExchange
        try:
            async with asyncio.timeout(WINDOW):
                return await session.get(url, headers=headers, proxy=proxy.url if proxy else None, allow_redirects=False)
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _PrivateAddressError):
                refused = RefusedLink("it points into a private network")
            else:
                refused = FailedExchange(failure_of(error, sent=False))
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            refused = FailedExchange(failure_of(error, sent=True))
        raise refused

    def _opened(self, *, proxied: bool) -> aiohttp.ClientSession:
        if self._closed:
            msg = "the session was closed"
            raise ConfigurationError(msg)
        session = self._sessions.get(proxied)
        if session is None:
            checks: dict[str, Any] = {}
            # The way to a proxy is the user's own choice, and names are then looked up there.
            if self.public_only and not proxied:
                # Twice: a name is refused when one of its addresses is private, and a socket is made for none.
                checks = {"resolver": _Resolver(self.allowed, self.resolver()), "socket_factory": self._socket}
            session = self._sessions[proxied] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=trusted(self.trust_env), use_dns_cache=False, **checks),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                auto_decompress=False,
                read_bufsize=_BUFFER,
                raise_for_status=False,
            )
        return session

    def _socket(self, address: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, target = address
        if not self.allowed(str(target[0])):
            raise _PrivateAddressError
        return socket.socket(family=family, type=kind, proto=protocol)
