"""A result link in, its bytes out: no key, no cookie, every hop and every address checked; never faster than it is read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

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
class Source:
    """One reply: its head, and what is left of its body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    _response: aiohttp.ClientResponse = field(repr=False)
    _left: float = WINDOW
    _got: int = 0

    @property
    def framed(self) -> bool:
        """Whether a body without a length says by itself where it ends."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    async def read(self) -> bytes:
        """The next bytes; none at the end.

        Raises:
            FailedExchange: it broke off, or brings less than 1 KiB/s. Time in which nobody reads does not count.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._left):
                # One piece as it came, where pieces are not those of the host: to take all that are there is to copy them together.
                body = self._response.content
                piece = await body.readany() if self.framed else (await body.readchunk())[0]
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            failure = failure_of(error, sent=True)
        else:
            self._left -= loop.time() - begun
            self._got += len(piece)
            if self._got >= LEAST:
                self._left, self._got = WINDOW, 0
            return piece
        raise FailedExchange(failure)

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
                return Source(response.status, kept, response)
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
