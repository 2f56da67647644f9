"""Row D8: leaving and cancelling (W1 to W13) again, under uvloop, under eager tasks and in asyncio's debug mode.

Compact on purpose: each row is tested in full elsewhere, in virtual time. Here real loops run too, so nothing waits for long,
and nothing is said of how long it took.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from journals import ROUTE, Told, posts, session
from kling_async import ConfigurationError, JournalError, KlingSession, Polling, Retry, TaskFailedError, Text2Video, Video
from kling_async.emulator import Emulator
from kling_async.journal import State
from kling_async.observers import Record, StatusChange, Waiting
from kling_async.testing import VirtualLoop, no_leaks

pytestmark = [pytest.mark.usefixtures("nothing_is_left"), pytest.mark.row("D8")]

Loop = asyncio.AbstractEventLoop


def _debugged(loop: Loop) -> Loop:
    loop.set_debug(enabled=True)
    loop.slow_callback_duration = float("inf")  # the machine's affair
    return loop


LOOPS: Final[dict[str, tuple[Callable[[], Loop], Callable[[], Loop]]]] = {
    # A loop for the test, and one of the same kind for another thread, where virtual time would run ahead of this one's.
    "debug": (lambda: _debugged(VirtualLoop()), lambda: _debugged(asyncio.new_event_loop()))
}
if sys.version_info >= (3, 12):

    def _eager(loop: Loop) -> Loop:
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    LOOPS["eager"] = (lambda: _eager(VirtualLoop()), lambda: _eager(asyncio.new_event_loop()))
if sys.platform != "win32":
    import uvloop

    LOOPS["uvloop"] = (uvloop.new_event_loop, uvloop.new_event_loop)


@pytest.fixture(params=LOOPS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which loop."""
    return str(request.param)


@pytest.fixture
def anyio_backend(kind: str) -> tuple[str, dict[str, Any]]:
    """Run the test in it."""
    return "asyncio", {"loop_factory": LOOPS[kind][0]}


@pytest.fixture
async def nothing_is_left(kind: str) -> AsyncIterator[None]:
    """Fail a test that leaves something behind; of uvloop, which opens sockets of its own as it likes, a task."""
    if kind == "uvloop":
        yield
        assert [task for task in asyncio.all_tasks() if not getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")] == []
    else:
        async with no_leaks():
            yield


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A server whose tasks take a tenth of a second, and which can be asked by key."""
    async with Emulator(profile="official", durations=0.1, seed=7) as emulator:
        yield emulator


def opened(emulator: Emulator, journal: Path | None = None, **options: Any) -> KlingSession:
    """A session that looks often."""
    options = {"polling": Polling.fixed(0.01), "retry": Retry(base=0.01, probe=0.01, reconcile_window=0.01), **options}
    return session(emulator, journal, **options)


def fox(key: str = "ka-fox") -> Text2Video:
    """A job."""
    return Text2Video(prompt="a fox", external_task_id=key)


async def until(reached: Callable[[], object]) -> None:
    """Come back as soon as it is so."""
    while not reached():  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0.002)


def reads(emulator: Emulator) -> int:
    """How many looks at tasks arrived."""
    return sum(seen.method == "GET" for seen in emulator.log.requests)


async def nobody_looks(emulator: Emulator) -> None:
    """Check that the looks have stopped, but for those that were under way."""
    await asyncio.sleep(0.03)
    seen = reads(emulator)
    await asyncio.sleep(0.05)
    assert reads(emulator) == seen


async def _is_debugged_and_eager() -> tuple[str, bool, bool]:
    loop = asyncio.get_running_loop()
    done: list[int] = []

    async def at_once() -> None:
        done.append(1)

    task = loop.create_task(at_once())
    eager = bool(done)
    await task
    return type(loop).__module__.partition(".")[0], loop.get_debug(), eager


async def test_the_loop_is_the_one_that_is_meant(kind: str) -> None:
    """The other tests run where they say they do."""

    def elsewhere() -> tuple[str, bool, bool]:
        with asyncio.Runner(loop_factory=LOOPS[kind][1]) as runner:
            return runner.run(_is_debugged_and_eager())

    for module, debug, eager in (await _is_debugged_and_eager(), await anyio.to_thread.run_sync(elsewhere)):
        assert (module == "uvloop", debug, eager) == (kind == "uvloop", kind == "debug", kind == "eager")


async def test_leaving_a_purchase(emulator: Emulator) -> None:
    """W1, W2, W4: whoever leaves, once or twice, after any number of turns: one request at most, and no task that nobody knows."""
    async with opened(emulator) as kling:
        for turns in (0, 1, 2, 4, 8, 16, 32, 64):
            caller = asyncio.ensure_future(kling.submit(fox(f"ka-{turns}")))
            for _ in range(turns):
                await asyncio.sleep(0)
            caller.cancel()
            await asyncio.sleep(0)
            caller.cancel()
            known: list[str] = []
            with suppress(asyncio.CancelledError):
                known = [(await caller).task_id]
            row = None
            with suppress(JournalError):  # it left before it was written down
                await kling.reconcile(f"ka-{turns}")
                row = await kling._journal.get(f"ka-{turns}")
            tasks = [task.id for task in emulator.log.tasks if task.external_task_id == f"ka-{turns}"]
            orphans = [ref.task_id for ref in kling.orphans() if ref.external_task_id == f"ka-{turns}"]
            assert len(emulator.log.posts_for(f"ka-{turns}")) == len(tasks) <= 1
            assert known + orphans == tasks
            assert row is None or row.state is (State.ACCEPTED if tasks else State.WITHDRAWN)
            assert turns or not tasks


async def test_leaving_a_queue(emulator: Emulator) -> None:
    """W3: whoever leaves while it waits for another turn has nothing sent for it any more."""
    emulator.fault("code", route=ROUTE, method="POST", code=1303, times=100)
    told: list[Record] = []
    async with opened(emulator, observers=[told.append], retry=Retry(probe=1000)) as kling:
        caller = asyncio.ensure_future(kling.submit(fox()))
        await until(lambda: any(isinstance(record, Waiting) for record in told))
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        emulator.clear_faults()
        await asyncio.sleep(0.02)
        assert (posts(emulator), emulator.log.tasks, kling.orphans()) == (1, [], ())


async def test_scopes(emulator: Emulator) -> None:
    """W4, W13: a scope, a timeout and a group stop the waiting alone, with their own exceptions and types."""
    async with opened(emulator) as kling:
        handle = await kling.submit(fox())
        with anyio.move_on_after(0) as scope:
            await handle
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await handle
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        emulator.fault("fail", route=ROUTE)
        failing = await kling.submit(fox("ka-failing"))
        caught: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(failing.wait())
                group.create_task(asyncio.sleep(1000))
        except* TaskFailedError as errors:
            caught.extend(errors.exceptions)
        assert len(caught) == 1
        assert len(await handle) == 1


async def test_waiters(emulator: Emulator) -> None:
    """W5, W7: of many waiters all but one leave, the last one is served; when nobody waits nobody looks, and nothing complains."""
    async with opened(emulator) as kling:
        handle = await kling.submit(fox())
        waiters = [asyncio.ensure_future(handle.wait()) for _ in range(30)]
        await asyncio.sleep(0.01)
        for waiter in waiters[1:]:
            waiter.cancel()
        assert len(await waiters[0]) == 1
        assert all(isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*waiters[1:], return_exceptions=True))
        other = await kling.submit(Text2Video(prompt="[stuck]"))
        waiter, seen = asyncio.ensure_future(other.wait()), reads(emulator)
        await until(lambda: reads(emulator) > seen)
        waiter.cancel()
        await nobody_looks(emulator)
        del waiter, other
        gc.collect()


async def test_the_very_turn(emulator: Emulator) -> None:
    """W6, W8: a waiter cancelled by an observer as the result is told is cancelled; an observer that raises hurts nobody."""
    waiters: list[asyncio.Future[tuple[Video, ...]]] = []

    def observe(record: Record) -> None:
        if isinstance(record, StatusChange) and record.after.value == "succeed":
            waiters[0].cancel()
            raise ValueError

    async with opened(emulator, observers=[observe]) as kling:
        handle = await kling.submit(fox())
        waiters.extend(asyncio.ensure_future(handle.wait()) for _ in range(3))
        unlucky, *lucky = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(unlucky, asyncio.CancelledError)
        assert [len(each) for each in lucky if isinstance(each, tuple)] == [1, 1]


async def test_many_at_once(emulator: Emulator) -> None:
    """W9: each outcome is delivered once, whether good or bad."""
    emulator.fault("fail", route=ROUTE, times=2)
    async with opened(emulator) as kling:
        handles = [await kling.submit(fox(f"ka-{number}")) for number in range(8)]
        ended = [each async for each in _as_completed(handles)]
        again = await asyncio.gather(*handles, return_exceptions=True)
        assert sorted(ended) == sorted(not isinstance(each, BaseException) for each in again) == [False] * 2 + [True] * 6
        async with kling.map([fox(f"kb-{number}") for number in range(4)]) as outcomes:
            keys = [outcome.job.external_task_id async for outcome in outcomes]
        assert sorted(map(str, keys)) == [f"kb-{number}" for number in range(4)]


async def _as_completed(handles: list[Any]) -> AsyncIterator[bool]:
    for each in asyncio.as_completed([handle.wait() for handle in handles]):
        try:
            yield len(await each) == 1
        except TaskFailedError:
            yield False


async def test_again_elsewhere_and_later(emulator: Emulator) -> None:
    """W10, W12: a handle is awaited twice at the price of once, not in another loop, and not after closing; updates may be left early."""
    async with opened(emulator) as kling:
        handle, other = await kling.submit(fox()), await kling.submit(Text2Video(prompt="[stuck]"))
        async for _ in other.updates():
            break
        await nobody_looks(emulator)
        assert await handle == await handle

        async def elsewhere() -> None:
            with pytest.raises(ConfigurationError, match="event loop"):
                await other

        await anyio.to_thread.run_sync(asyncio.run, elsewhere())
    assert len(await handle) == 1
    with pytest.raises(ConfigurationError, match="closed"):
        await other


async def test_the_loop_is_torn_down(kind: str, emulator: Emulator, tmp_path: Path) -> None:
    """W11: when all tasks are cancelled in the middle of a request, as by Ctrl-C, the journal has what another session recovers."""
    emulator.fault("slow", route=ROUTE, method="POST", seconds=5)
    tasks = emulator.log.tasks = Told()
    path = tmp_path / "journal.db"

    async def dying() -> None:
        async with opened(emulator, path) as kling:
            buying = asyncio.ensure_future(kling.submit(fox()))
            await until(lambda: tasks)
            assert not buying.done()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:  # as `asyncio.run` does
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def lives_and_dies() -> None:
        with asyncio.Runner(loop_factory=LOOPS[kind][1]) as runner:
            runner.run(dying())

    await anyio.to_thread.run_sync(lives_and_dies)
    async with opened(emulator, path) as kling:
        assert [handle.task_id for handle in await kling.recover()] == [tasks[0].id]
    assert posts(emulator) == 1
