"""Short of descriptors, of threads, of references: rows L3, L4, L7."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
import pytest
from anyio import to_thread

import kling_async.session
from crowds import REPLY, VIDEOS, Crowded, Turning
from kling_async._pacing import Polling
from kling_async._wire import Reply, Request
from kling_async.jobs import Text2Video
from kling_async.journal import Journal, State
from kling_async.session import KlingSession
from kling_async.transport import Transport

NO_WAIT: Final = Polling(first=0.01, interval=0.01, max_interval=0.01)
FOX: Final = Text2Video(prompt="a fox")
_POOR: Final = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
from crowds import descriptors
from kling_async import Exchange, KlingSession, Polling
MANY = 300

async def main(url, path):
    causes, most = [], [0]
    def heard(record):
        if isinstance(record, Exchange) and record.cause:
            causes.append(record.cause)
    async def watch():
        while True:
            most[0] = max(most[0], descriptors() - 1)  # but for the one that the list is read through
            await asyncio.sleep(0)
    polling = Polling(first=0.01, interval=0.01, max_interval=0.01)
    async with KlingSession("k", base_url=url, journal=path, in_flight=MANY, polling=polling, observers=[heard]) as kling:
        watching = asyncio.ensure_future(watch())
        handles = await asyncio.gather(*[kling.text2video(prompt="a fox") for _ in range(MANY)])
        await asyncio.gather(*handles, *[kling.get(handle.ref) for handle in handles], *[handle.refresh() for handle in handles])
        watching.cancel()
    print(most[0], *causes)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Real time where threads or another process must come along; else virtual time, whose every turn a test may look into."""
    virtual = "turning" in request.fixturenames
    return "asyncio", {"loop_factory": Turning} if virtual else {}


@pytest.mark.row("L3")
@pytest.mark.usefixtures("nothing_is_left")
async def test_few_descriptors(tmp_path: Path) -> None:
    """With a hundred descriptors, hundreds of purchases, waits and looks at once queue for connections: none fails for want of one."""
    async with Crowded(takes=0.02) as gateway:
        command = [sys.executable, "-W", "error", "-c", _POOR, gateway.url, str(tmp_path / "journal.db")]
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        child = await anyio.run_process(command, env={**os.environ, "PYTHONPATH": path}, stderr=None)
    most, *causes = child.stdout.decode().split()
    assert causes == []
    assert int(most) < 100
    assert gateway.most_open > 20, "they were short of connections"
    assert gateway.posts == len(gateway.made) == 300


@pytest.fixture
async def exhausted() -> AsyncIterator[None]:
    """All threads that asyncio and anyio lend are kept busy, and more would have them."""
    end, began = threading.Event(), threading.Semaphore(0)

    def block() -> None:
        began.release()
        end.wait()

    loop = asyncio.get_running_loop()
    limiter = to_thread.current_default_thread_limiter()
    workers = min(32, (os.cpu_count() or 1) + 4)
    many = workers + int(limiter.total_tokens)
    jobs: list[asyncio.Future[Any]] = [loop.run_in_executor(None, block) for _ in range(2 * workers)]
    jobs += [asyncio.ensure_future(to_thread.run_sync(block)) for _ in range(2 * int(limiter.total_tokens))]
    for _ in range(many):
        while not began.acquire(blocking=False):  # noqa: ASYNC110  told by threads
            await asyncio.sleep(0.001)
    yield
    exhausted = limiter.available_tokens == 0 and not began.acquire(blocking=False)
    end.set()
    await asyncio.gather(*jobs)
    assert exhausted, "a thread was to be had"


@pytest.mark.row("L4")
@pytest.mark.usefixtures("nothing_is_left", "exhausted")
async def test_no_thread_to_be_had(tmp_path: Path) -> None:
    """While a user's blocking jobs hold every lent thread, purchases are recorded, wait for slots, are made and seen to end.

    The gateway is named by its address: a host name is looked up by asyncio in the same threads, and local media are read in them.
    """
    journal = tmp_path / "journal.db"
    async with asyncio.timeout(60), Crowded(lasts=0.05) as gateway:  # which would be for ever
        async with KlingSession("k", base_url=gateway.url, journal=journal, in_flight=2, polling=NO_WAIT) as kling:
            await asyncio.gather(*[kling.run(FOX) for _ in range(6)])
            await kling.text2video(prompt="left running")
        async with KlingSession("k", base_url=gateway.url, journal=journal, polling=NO_WAIT) as kling:
            await asyncio.gather(*await kling.recover())
        async with Journal(journal) as kept:
            assert [row.state for row in await kept.rows()] == [State.SUCCEEDED] * 7
        assert gateway.posts == 7


class Distant(Transport):
    """A network of which nothing on this machine keeps hold: an answer finds whoever still waits for it."""

    waiting: ClassVar[list[tuple[bytes, weakref.ref[asyncio.Future[Reply]]]]] = []

    async def pay(self, request: Request, *, on_sent: Callable[[], None]) -> Reply:
        del request
        on_sent()
        return await self._answer("task-0", "submitted", "[]")

    async def read(self, request: Request) -> Reply:
        return await self._answer(request.url.rpartition("/")[2], "succeed", VIDEOS)

    async def _answer(self, *facts: str) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.waiting.append(((REPLY % facts).encode(), weakref.ref(future)))
        return await future


async def answered() -> int:
    """Let time pass, answer all, and have the answers taken in; gives how many."""
    for _ in range(5):
        await asyncio.sleep(20)
    waiting, Distant.waiting[:] = [*Distant.waiting], []
    for body, reference in waiting:
        future = reference()
        assert future is not None, "whoever waited for the answer is gone"
        future.set_result(Reply(status=200, headers={}, body=body))
    await asyncio.sleep(1)
    return len(waiting)


@pytest.fixture
async def turning() -> AsyncIterator[Turning]:
    """The loop, as one that does something in every turn."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Turning)
    yield loop
    loop.each = int
    gc.enable()


@pytest.mark.row("L7")
@pytest.mark.usefixtures("nothing_is_left")
@pytest.mark.parametrize("collects", ["never", "in every turn"])
async def test_owners_survive(turning: Turning, monkeypatch: pytest.MonkeyPatch, collects: str) -> None:
    """Whether garbage is never collected or all the time, a purchase whose caller has gone ends with its task known, and a look is made."""
    monkeypatch.setattr(kling_async.session, "Transport", Distant)
    if collects == "never":
        gc.disable()
    else:
        turning.each = gc.collect
    async with KlingSession("k", base_url="http://127.0.0.1:9", observers=[bool]) as kling:
        caller = asyncio.ensure_future(kling.submit(FOX))
        await asyncio.sleep(1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        del caller
        assert await answered() == 1
        (ref,) = kling.orphans()
        waiting = asyncio.ensure_future(kling.attach(ref).wait())
        assert await answered() == 1
        assert len(await waiting) == 1
