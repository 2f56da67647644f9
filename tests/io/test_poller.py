from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from typing import Any

import anyio
import pytest

from kling_async._watch import Seen
from kling_async._wire import Refusal
from kling_async.errors import (
    AuthenticationError,
    ConfigurationError,
    KlingError,
    ProtocolError,
    TaskFailedError,
    TaskTimeoutError,
)
from kling_async.models import Status
from rooms import DROPPED, FAILED, PROCESSING, SUCCEEDED, VIDEO, Raising, Room, settle, snapshot

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.mark.row("W10")
async def test_awaiting() -> None:
    """Awaiting a handle looks at its pace and gives the entries; awaiting it again costs no look."""
    room = Room()
    handle = room.handle(PROCESSING, PROCESSING, PROCESSING, SUCCEEDED)
    begun = asyncio.get_running_loop().time()
    assert await handle == (VIDEO,)
    assert [when - begun for _, when in room.gateway.looks] == pytest.approx([10.0, 15.0, 21.25, 29.0625], abs=0.01)
    assert await handle == (VIDEO,)
    assert await handle.wait(timeout=0) == (VIDEO,)
    assert len(room.gateway.looks) == 4
    assert (handle.done, handle.status, handle.task_id) == (True, Status.SUCCEED, "t1")
    assert room.idle


async def test_a_thousand_awaiters_one_stream() -> None:
    """Any number of awaiters cause one stream of looks (P6)."""
    room = Room()
    handle = room.handle(PROCESSING, PROCESSING, SUCCEEDED)
    assert await asyncio.gather(*(handle.wait() for _ in range(1000))) == [(VIDEO,)] * 1000
    assert len(room.gateway.looks) == 3


@pytest.mark.parametrize("takes", [0.0, 3.0])
@pytest.mark.row("W5")
async def test_cancelling_all_but_one(takes: float) -> None:
    """Cancelling 999 of 1,000 waiters, between looks or during one, changes nothing for the last (P7)."""
    room = Room()
    room.gateway.takes = takes
    handle = room.handle(PROCESSING, PROCESSING, SUCCEEDED)
    waiters = [asyncio.ensure_future(handle.wait()) for _ in range(1000)]
    await asyncio.sleep(11)
    for waiter in waiters[:-1]:
        waiter.cancel()
    await settle()
    assert len(room.poller._entries[handle._watch].waiters) == 1
    assert await waiters[-1] == (VIDEO,)
    assert all(waiter.cancelled() for waiter in waiters[:-1])
    assert len(room.gateway.looks) == 3


@pytest.mark.parametrize("takes", [0.0, 3.0])
@pytest.mark.row("W5")
async def test_cancelling_everybody(takes: float) -> None:
    """When nobody waits nothing is looked at, and nothing is kept; who waits later is looked after again (W5)."""
    room = Room()
    room.gateway.takes = takes
    handle = room.handle(PROCESSING, SUCCEEDED)
    waiters = [asyncio.ensure_future(handle.wait(timeout=100)) for _ in range(10)]
    await asyncio.sleep(11)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.sleep(1000)
    assert len(room.gateway.looks) == 1
    assert room.idle
    assert await handle == (VIDEO,)


async def test_a_deadline_left_behind_disturbs_nobody() -> None:
    """The deadline of a waiter who left during a look passes without a trace for those who came later."""
    room = Room()
    room.gateway.takes = 3.0
    handle = room.handle(PROCESSING, *[PROCESSING] * 20, SUCCEEDED)
    gone = asyncio.ensure_future(handle.wait(timeout=30))
    await asyncio.sleep(11)
    gone.cancel()
    await asyncio.sleep(5)
    assert await handle.wait(timeout=600) == (VIDEO,)


@pytest.mark.parametrize("cancelled_first", [True, False])
@pytest.mark.row("W6")
async def test_cancelled_as_the_result_arrives(*, cancelled_first: bool) -> None:
    """A waiter cancelled in the very turn of the result is cancelled, and the others get the result (W6)."""
    room = Room()
    handle = room.handle(SUCCEEDED)
    unlucky, lucky = asyncio.ensure_future(handle.wait()), asyncio.ensure_future(handle.wait())
    await settle()
    if cancelled_first:
        unlucky.cancel()
    await room.poller._take(handle._watch, SUCCEEDED, None)
    if not cancelled_first:
        unlucky.cancel()
    assert await lucky == (VIDEO,)
    with pytest.raises(asyncio.CancelledError):
        await unlucky
    assert unlucky.cancelling() == 1
    await asyncio.sleep(100)
    assert room.idle


@pytest.mark.parametrize("takes", [0.0, 1e6])
async def test_a_deadline_is_a_deadline(takes: float) -> None:
    """A wait ends on time, between looks and while one hangs, with the reference of its task; the task goes on (P11)."""
    room = Room()
    room.gateway.takes = takes
    handle = room.handle(PROCESSING)
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def lateness(timeout: float) -> float:
        with pytest.raises(TaskTimeoutError) as late:
            await handle.wait(timeout=timeout)
        assert late.value.ref == handle.ref
        return loop.time() - begun - timeout

    found = await asyncio.gather(*map(lateness, (0, 0.001, 9.99, 10.0, 12.5, 47.0, 47.0, 300.0)))
    assert found == pytest.approx([0.0] * 8, abs=0.01)
    assert not handle.done
    await room.poller.aclose()


async def test_the_default_bound_is_the_pollings() -> None:
    """Without a bound of its own a wait lasts as long as `Polling.timeout`; an infinite bound is none."""
    room = Room()
    loop = asyncio.get_running_loop()
    handle = room.handle(*[PROCESSING] * 20, SUCCEEDED, timeout=100.0)
    begun = loop.time()
    with pytest.raises(TaskTimeoutError):
        await handle
    assert loop.time() - begun == pytest.approx(100.0, abs=0.01)
    assert await handle.wait(timeout=float("inf")) == (VIDEO,)


@pytest.mark.row("V15")
async def test_no_look_for_those_who_will_not_wait() -> None:
    """A bound of nothing looks at nothing; a negative one is a mistake."""
    room = Room()
    handle = room.handle(SUCCEEDED)
    with pytest.raises(TaskTimeoutError):
        await handle.wait(timeout=0)
    with pytest.raises(ConfigurationError):
        await handle.wait(timeout=-1)
    await settle()
    assert room.gateway.looks == []


@pytest.mark.row("Q1")
async def test_noise() -> None:
    """Failed looks end no wait (P9)."""
    room = Room()
    noise: list[Seen] = [DROPPED, ProtocolError("not JSON"), DROPPED]
    assert await room.handle(*noise, PROCESSING, *noise, SUCCEEDED) == (VIDEO,)


async def test_an_old_failure_does_not_end_a_new_wait() -> None:
    """The error budget is that of each wait: what failed when somebody else waited does not count (P9)."""
    handle = Room().handle(DROPPED, DROPPED, SUCCEEDED, error_budget=60.0)
    with pytest.raises(TaskTimeoutError):
        await handle.wait(timeout=10.2)
    await asyncio.sleep(1000)
    assert await handle == (VIDEO,)


async def test_the_end_is_news() -> None:
    """A task that the reply to its creation called final is told of as final, once, when a look has confirmed it."""
    room = Room()
    handle = room.handle(SUCCEEDED)
    handle._watch.snapshot = SUCCEEDED
    assert await handle == (VIDEO,)
    await handle.refresh()
    assert room.news == [(SUCCEEDED, SUCCEEDED)]


async def test_failed_tasks() -> None:
    """Each waiter of a failed task gets an error of its own that says why, now and later."""
    room = Room()
    handle = room.handle(FAILED)
    errors: Any = await asyncio.gather(*(handle.wait() for _ in range(3)), return_exceptions=True)
    with pytest.raises(TaskFailedError) as again:
        await handle
    errors.append(again.value)
    assert {(type(error), error.reason, error.ref) for error in errors} == {(TaskFailedError, "too dark", handle.ref)}
    assert len(set(map(id, errors))) == 4
    assert len(room.gateway.looks) == 1


async def test_refused_looks() -> None:
    """A refusal that waiting will not mend reaches every waiter, and asking again looks again."""
    room = Room()
    refusal = Refusal(code=1000, message="no", request_id=None, http_status=401, retry_after=None, readable=True)
    handle = room.handle(refusal)
    handle._watch.snapshot = None
    for _ in range(2):
        errors = await asyncio.gather(handle.wait(), handle.wait(), return_exceptions=True)
        assert [type(error) for error in errors] == [AuthenticationError] * 2
        assert {error.ref for error in errors if isinstance(error, AuthenticationError)} == {handle.ref}
        assert errors[0] is not errors[1]
    assert len(room.gateway.looks) == 2
    assert room.idle


@pytest.mark.parametrize("bug", [RuntimeError("a defect"), KeyError("data")])
async def test_a_defect_hangs_nobody(bug: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """A defect in looking is told to those who wait and logged; the next wait looks anew."""
    room = Room()
    handle = room.handle(Raising(bug), SUCCEEDED)
    with pytest.raises(KlingError, match=f"defect.*{type(bug).__name__}"):
        await handle
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert await handle == (VIDEO,)
    assert room.idle


async def test_own_errors_are_no_defects() -> None:
    """A reference that cannot be asked for is told as that."""
    handle = Room().handle(Raising(ConfigurationError("cannot stand in a path")))
    with pytest.raises(ConfigurationError, match="stand in a path"):
        await handle


async def test_looks_are_bounded() -> None:
    """However many tasks are due, no more looks are under way than there are connections, and every task is looked after."""
    room = Room()
    room.gateway.takes = 1.0
    scripts = {f"t{number}": (snapshot(Status.PROCESSING, f"t{number}"), snapshot(Status.SUCCEED, f"t{number}")) for number in range(300)}
    handles = [room.handle(*script, task_id=task_id) for task_id, script in scripts.items()]
    assert await asyncio.gather(*handles) == [(VIDEO,)] * 300
    assert room.gateway.at_most == 64
    assert set(Counter(task_id for task_id, _ in room.gateway.looks).values()) == {2}
    assert room.idle


async def test_no_task_is_stranded() -> None:
    """A task that comes due just as all looks under way end is looked at."""
    room = Room()
    room.gateway.gate = asyncio.Event()
    crowd = [room.handle(snapshot(Status.SUCCEED, f"t{number}"), task_id=f"t{number}") for number in range(64)]
    waiters = [asyncio.ensure_future(handle.wait()) for handle in crowd]
    await asyncio.sleep(10.5)
    assert room.gateway.under_way == 64
    late = room.handle(snapshot(Status.SUCCEED, "late"), task_id="late")
    last = asyncio.ensure_future(late.wait(timeout=600))
    await settle()
    late._watch.next_look = 0.0
    # In one turn of the loop: all looks end, then the last task comes due.
    room.gateway.gate.set()
    entry = room.poller._entries[late._watch]
    asyncio.get_running_loop().call_soon(room.poller._attend, entry, asyncio.get_running_loop().time())
    assert await last == (VIDEO,)
    await asyncio.gather(*waiters)


async def test_waiting_long_leaves_no_litter() -> None:
    """The places that looks take in the queue are given back, though a deadline is far away."""
    room = Room()
    handle = room.handle(*[PROCESSING] * 500, SUCCEEDED)
    assert await handle.wait(timeout=7 * 86400) == (VIDEO,)
    assert len(room.gateway.looks) == 501
    assert len(room.poller._agenda._heap) < 100


async def test_finished_tasks_are_forgotten() -> None:
    """What nobody holds and nobody waits for is not kept alive until some deadline passes."""
    room = Room()
    for number in range(200):
        await room.handle(snapshot(Status.SUCCEED, f"t{number}"), task_id=f"t{number}").wait(timeout=86400)
    handle = room.handle(SUCCEEDED)
    watch = weakref.ref(handle._watch)
    await handle.wait(timeout=86400)
    del handle
    for number in range(200):
        await room.handle(snapshot(Status.SUCCEED, f"t{number}"), task_id=f"t{number}").wait(timeout=86400)
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("takes", [0.0, 1e6])
@pytest.mark.row("W10")
async def test_closing(takes: float) -> None:
    """Closing tells every waiter how to go on, ends the looks, and refuses new waits; a known result stays known (P28)."""
    room = Room()
    known = room.handle(snapshot(Status.SUCCEED, "t2"), task_id="t2")
    await known
    room.gateway.takes = takes
    handle = room.handle(PROCESSING)
    waiters = [asyncio.ensure_future(handle.wait()) for _ in range(3)]
    await asyncio.sleep(11)
    begun = asyncio.get_running_loop().time()
    await room.poller.aclose()
    assert asyncio.get_running_loop().time() == begun
    errors = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(error) for error in errors] == [ConfigurationError] * 3
    assert str(handle.ref) in str(errors[0])
    assert room.gateway.under_way == 0
    with pytest.raises(ConfigurationError, match="closed"):
        await handle
    assert await known == (VIDEO,)
    looks = len(room.gateway.looks)
    await asyncio.sleep(1000)
    assert len(room.gateway.looks) == looks
    assert room.idle


async def test_another_loop_is_refused() -> None:
    """Waiting or saving in another loop is refused at once, and disturbs nobody at home (P29)."""
    room = Room()
    handle = room.handle(PROCESSING, SUCCEEDED)
    known = room.handle(snapshot(Status.SUCCEED, "t2"), task_id="t2")
    await known
    waiter = asyncio.ensure_future(handle.wait())
    await settle()

    async def elsewhere() -> None:
        with pytest.raises(ConfigurationError, match="another event loop"):
            await handle
        with pytest.raises(ConfigurationError, match="another event loop"):
            await known.save("out")
        assert await known == (VIDEO,)

    await anyio.to_thread.run_sync(asyncio.run, elsewhere())
    assert await waiter == (VIDEO,)
