from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest

from kling_async import Exchange, Journal, KlingSession, TaskHandle, TransportError, TransportTimeoutError
from kling_async.journal import State
from kling_async.testing import VirtualLoop
from scripted import FOX, KEY, PROFILES, Gateway

pytestmark = pytest.mark.usefixtures("nothing_is_left")

Addresses = list[tuple[Any, ...]]


class NamedLoop(VirtualLoop):
    """A loop in which names under `.invalid` are looked up by script; the last answer stands for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.names: deque[Callable[[int], Awaitable[Addresses]]] = deque()

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Addresses:
        if not str(host).endswith(".invalid"):
            return cast("Addresses", await super().getaddrinfo(host, port, **options))
        found: Addresses = await (self.names.popleft() if len(self.names) > 1 else self.names[0])(int(port))
        return found


async def nobody(_port: int) -> Addresses:
    """There is no such name."""
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


async def silence(_port: int) -> Addresses:
    """The name server does not answer."""
    never: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    return await never


async def loopback(port: int) -> Addresses:
    """The name is this machine's."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


async def both(port: int) -> Addresses:
    """The name has an address of each family, the newer one first."""
    return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)), *await loopback(port)]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run the tests of this file in a `NamedLoop`."""
    return "asyncio", {"loop_factory": NamedLoop}


@pytest.fixture
async def loop() -> NamedLoop:
    """The loop of the test."""
    running = asyncio.get_running_loop()
    assert isinstance(running, NamedLoop)
    return running


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway that has yet to be opened."""
    made = Gateway()
    yield made
    await made.aclose()


class Backlog:
    """A port at which every connection hangs, until it is drained."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET, port: int = 0) -> None:
        self.socket = socket.create_server(("::1" if family is socket.AF_INET6 else "127.0.0.1", port), family=family, backlog=0)
        self.socket.setblocking(False)  # noqa: FBT003  the standard library's own signature
        self.fillers = [socket.socket(family) for _ in range(4)]
        for filler in self.fillers:
            filler.setblocking(False)  # noqa: FBT003  as above
            filler.connect_ex(self.socket.getsockname())

    def drain(self) -> None:
        """Let those go who fill it."""
        for filler in self.fillers:
            filler.close()


class Watcher:
    """Calls something once so many creations have failed."""

    def __init__(self, failures: int, then: Callable[[], object]) -> None:
        self.causes: list[str | None] = []
        self.failures = failures
        self.then = then

    def __call__(self, record: object) -> None:
        if isinstance(record, Exchange) and record.paid and record.cause:
            self.causes.append(record.cause)
            if len(self.causes) == self.failures:
                self.then()


@pytest.mark.row("C1")
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_name_that_comes_back(loop: NamedLoop, gateway: Gateway, profile: str) -> None:
    """A name that cannot be found twice is tried again, and one task is bought."""
    await gateway.open()
    loop.names.extend((nobody, nobody, loopback))
    outcome, row = await gateway.buy(profile=profile, base_url=f"http://gateway.invalid:{gateway.port}", insecure=True)
    assert isinstance(outcome, TaskHandle)
    assert (row.state, row.attempt, gateway.posts, len(gateway.tasks)) == (State.ACCEPTED, 3, 1, 1)


@pytest.mark.row("C1")
async def test_a_name_that_nobody_has(loop: NamedLoop, gateway: Gateway) -> None:
    """A name that is never found is given up after five attempts, with nothing bought."""
    loop.names.append(nobody)
    outcome, row = await gateway.buy(base_url="http://gateway.invalid:1", insecure=True)
    assert type(outcome) is TransportError
    assert (outcome.billed, row.state, row.attempt) == (False, State.REJECTED, 5)


@pytest.mark.row("C2", "D1")
async def test_a_name_server_that_never_answers(loop: NamedLoop, gateway: Gateway) -> None:
    """A look-up without an answer ends at the caller's bound, and nothing was sent."""
    loop.names.append(silence)
    begun = loop.time()
    outcome, row = await gateway.buy(timeout=25.0, base_url="http://gateway.invalid:1", insecure=True)
    assert loop.time() - begun == pytest.approx(25.0, abs=0.1)
    assert isinstance(outcome, TransportTimeoutError)
    assert (outcome.billed, row.state) == (False, State.WITHDRAWN)


@pytest.mark.row("C3")
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_port_that_opens(loop: NamedLoop, gateway: Gateway, profile: str) -> None:
    """Refused twice, then let in: one task, by the third attempt."""
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    opening: list[asyncio.Task[None]] = []
    watcher = Watcher(2, lambda: opening.append(loop.create_task(gateway.open(port))))
    url = f"http://127.0.0.1:{port.getsockname()[1]}"
    outcome, row = await gateway.buy(profile=profile, base_url=url, observers=[watcher])
    assert isinstance(outcome, TaskHandle)
    assert watcher.causes == ["connect", "connect"]
    assert (row.state, row.attempt, gateway.posts, len(gateway.tasks)) == (State.ACCEPTED, 3, 1, 1)


@pytest.mark.row("C4")
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_full_backlog_that_drains(loop: NamedLoop, gateway: Gateway, profile: str) -> None:
    """Connections that are not made in time are tried again, and one task is bought."""
    full = Backlog()
    opening: list[asyncio.Task[None]] = []

    def drain() -> None:
        full.drain()
        opening.append(loop.create_task(gateway.open(full.socket)))

    watcher = Watcher(1, drain)
    outcome, row = await gateway.buy(profile=profile, base_url=f"http://127.0.0.1:{full.socket.getsockname()[1]}", observers=[watcher])
    assert isinstance(outcome, TaskHandle)
    assert watcher.causes[0] == "timeout"
    assert (row.state, row.attempt) == (State.ACCEPTED, len(watcher.causes) + 1)
    assert (gateway.posts, len(gateway.tasks)) == (1, 1)


@pytest.mark.row("C4", "D1")
async def test_a_full_backlog(loop: NamedLoop, gateway: Gateway) -> None:
    """A connection that is never made ends at the caller's bound, and nothing was sent."""
    full = Backlog()
    begun = loop.time()
    outcome, row = await gateway.buy(timeout=25.0, base_url=f"http://127.0.0.1:{full.socket.getsockname()[1]}")
    full.drain()
    full.socket.close()
    assert loop.time() - begun == pytest.approx(25.0, abs=0.1)
    assert isinstance(outcome, TransportTimeoutError)
    assert (row.state, row.attempt) == (State.WITHDRAWN, 3)


@pytest.mark.row("C19")
async def test_a_black_hole_beside_the_gateway(loop: NamedLoop, gateway: Gateway) -> None:
    """Of a name with two addresses the one that answers is used, within the time for one connection."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    await gateway.open()
    hole = Backlog(socket.AF_INET6, gateway.port)
    loop.names.append(both)
    begun = loop.time()
    outcome, row = await gateway.buy(base_url=f"http://gateway.invalid:{gateway.port}", insecure=True)
    hole.drain()
    hole.socket.close()
    assert isinstance(outcome, TaskHandle)
    assert loop.time() - begun < 10.0
    assert (row.attempt, gateway.posts) == (1, 1)


@pytest.mark.row("C6")
async def test_no_file_descriptor_left(gateway: Gateway) -> None:
    """Without a descriptor to connect with nothing is sent; with one again, one task is bought."""
    await gateway.open()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def release() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        while taken:
            os.close(taken.pop())

    watcher = Watcher(2, release)
    async with Journal() as journal, KlingSession("sk-x", base_url=gateway.url, journal=journal, observers=[watcher]) as kling:
        await journal.open()
        try:
            null = os.open(os.devnull, os.O_RDONLY)
            taken.append(null)
            resource.setrlimit(resource.RLIMIT_NOFILE, (null + 20, before[1]))
            while len(taken) < 1000:
                try:
                    taken.append(os.dup(null))
                except OSError:
                    break
            handle = await kling.submit(FOX)
        finally:
            release()
        row = await journal.get(KEY)
    assert watcher.causes == ["connect", "connect"]
    assert (row.state, row.attempt, row.task_id, gateway.posts) == (State.ACCEPTED, 3, handle.task_id, 1)


@pytest.mark.row("C12")
async def test_idle_connections_that_were_closed(gateway: Gateway) -> None:
    """A server that has closed its idle connections meanwhile is no matter to a creation: it never uses one."""
    await gateway.open()
    async with KlingSession("sk-x", base_url=gateway.url) as kling:
        for connections in (2, 3):
            handle = await kling.text2video(prompt="a fox")
            await handle.refresh()
            assert gateway.connections == connections  # one for each creation, and one that is kept for looks
        gateway.hang_up()  # and the next creation begins before the loop has seen it
        await (await kling.text2video(prompt="a fox")).refresh()
        assert gateway.connections == 5
    assert (gateway.posts, len(gateway.tasks)) == (3, 3)
