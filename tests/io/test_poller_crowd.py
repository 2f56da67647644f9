from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from kling_async._clock import SystemClock
from kling_async._pacing import Pace, Polling
from kling_async._verdict import Failure
from kling_async._watch import Seen, Watch
from kling_async._wire import Refusal
from kling_async.errors import TaskTimeoutError
from kling_async.models import Status, TaskRef
from kling_async.poller import Poller
from rooms import PROCESSING, SUCCEEDED, VIDEO, Room, settle, snapshot

pytestmark = pytest.mark.usefixtures("nothing_is_left")

MINUTE = Pace(first=60.0, interval=60.0, max_interval=60.0)
HUNG = Failure(cause="timeout", sent=False, slow=True)


def now() -> float:
    """Seconds of the loop."""
    return asyncio.get_running_loop().time()


def refused(status: int, wait: float | None = None) -> Refusal:
    """A look that is refused."""
    return Refusal(code=None, message="no", request_id=None, http_status=status, retry_after=wait, readable=True)


async def test_waiters_cost_nothing_while_they_wait() -> None:
    """A thousand waiters of one handle with bounds of their own share its place; those who leave do so unnoticed by the last."""
    room = Room()
    handle = room.handle(*[PROCESSING] * 50, SUCCEEDED)
    waiters = [asyncio.ensure_future(handle.wait(timeout=10_000 + number)) for number in range(1000)]
    await asyncio.sleep(100)
    entry, looks = room.poller._entries[handle._watch], len(room.gateway.looks)
    assert len(entry.waiters) == 1000
    assert len(room.poller._agenda._heap) <= 64
    for waiter in waiters[:-1]:
        waiter.cancel()
    await settle()
    assert len(entry.waiters) == 1
    begun = now()
    await asyncio.sleep(15.1)
    assert len(room.gateway.looks) == looks + 1
    late = [asyncio.ensure_future(handle.wait(timeout=20.0 + number / 1000)) for number in range(200)]
    ends = await asyncio.gather(*late, return_exceptions=True)
    assert {type(end) for end in ends} == {TaskTimeoutError}
    assert now() - begun == pytest.approx(15.1 + 20.199)
    assert len(room.poller._agenda._heap) <= 64 + 2
    assert await waiters[-1] == (VIDEO,)
    assert len(room.gateway.looks) == 51
    assert room.idle


async def test_coming_and_going() -> None:
    """Waiters who give up again and again, each long before its bound, leave nothing behind, and looks keep their pace."""
    room = Room()
    handle = room.handle(*[PROCESSING] * 40, SUCCEEDED)
    begun = now()
    while not handle.done:
        waiter = asyncio.ensure_future(handle.wait(timeout=86400))
        await asyncio.sleep(0.5)
        waiter.cancel()
        await asyncio.wait([waiter])
        assert len(room.poller._agenda._heap) < 100
    assert len(room.gateway.looks) == 41
    assert now() - begun >= 30 * 15
    assert room.idle


@pytest.mark.row("K6")
@pytest.mark.parametrize("seen", [refused(429, 40.0), refused(503, 40.0)])
async def test_the_servers_wish_is_not_stretched(seen: Seen) -> None:
    """A look refused with `Retry-After` is repeated when the server said, also while all gaps are stretched for refusals before."""
    room = Room()
    room.poller._ration.stretch = 8.0 if seen == refused(503, 40.0) else 1.0
    handle = room.handle(seen, SUCCEEDED)
    assert await handle == (VIDEO,)
    (_, first), (_, second) = room.gateway.looks
    assert second - first == pytest.approx(40.0)


@pytest.mark.row("K6")
@pytest.mark.parametrize("wish", [600.0, 999_999.0])
async def test_an_absurd_wish(wish: float) -> None:
    """A wait whose bound comes before the server's wish ends at its bound; a later one gets its look within ten minutes of the last."""
    room = Room()
    handle = room.handle(refused(429, wish), SUCCEEDED)
    begun = now()
    with pytest.raises(TaskTimeoutError):
        await handle.wait(timeout=500.0)
    assert now() - begun == pytest.approx(500.0)
    assert await handle == (VIDEO,)
    assert now() - begun == pytest.approx(10.0 + 600.0)


class Crowd:
    """Ten thousand tasks, created over a minute and looked at once a minute each, by a gateway that fails as it is told to."""

    def __init__(self, count: int) -> None:
        self.looks: list[float] = []
        self.trouble: Seen | None = None
        self.takes = 0.0
        dice = random.Random(7)

        def roll() -> float:
            return dice.randrange(64) / 64  # with so few sides many looks fall on one instant, and cost one turn of the loop

        self.poller = Poller(self.look, SystemClock(), roll, lambda: None, lambda: False, self.hear)
        self.watches = [self.watch(f"t{number}", roll()) for number in range(count)]

    def watch(self, task_id: str, share: float) -> Watch:
        ref = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id=task_id)
        made = Watch(ref=ref, pace=MINUTE, polling=Polling(timeout=None, error_budget=86400.0, jitter=0.25))
        made.begin(now() - 60 + 60 * share, 0.5)
        return made

    async def look(self, ref: TaskRef, _known: object = None) -> tuple[Seen, float | None]:
        self.looks.append(now())
        if self.trouble is not None and self.takes:
            await asyncio.sleep(self.takes)
        return self.trouble or snapshot(Status.PROCESSING, ref.task_id), None

    async def hear(self, *_: object) -> None:
        pass


@pytest.mark.exhaustive
@pytest.mark.row("Q14")
@pytest.mark.parametrize(("trouble", "takes"), [(refused(503), 0.0), (HUNG, 20.0)], ids=["refused", "hung"])
async def test_an_outage_of_a_crowd(trouble: Seen, takes: float, say: Callable[[str], None]) -> None:
    """Five minutes of outage add no more looks for ten thousand tasks than the budget has; then they come spread, with no peak."""
    count = 10_000
    crowd = Crowd(count)
    loop = asyncio.get_running_loop()
    waits = [loop.create_task(crowd.poller.wait(watch, math.inf)) for watch in crowd.watches]
    await asyncio.sleep(60)
    crowd.trouble, crowd.takes, down = trouble, takes, now()
    await asyncio.sleep(300)
    crowd.trouble, up = None, now()
    await asyncio.sleep(180)
    await crowd.poller.aclose()
    await asyncio.gather(*waits, return_exceptions=True)
    usual, during = count * 300 / 60, sum(down <= at < up for at in crowd.looks)
    assert during <= usual * 1.01 + 500 / 14
    spread = Counter((at - up) // 5 for at in crowd.looks if up <= at < up + 180)
    assert len(spread) == 36
    peak = max(spread.values()) / (count * 5 / 60)
    assert peak <= 2
    say(
        f"Q14: {during - usual:+.0f} looks to {usual:.0f} in an outage of 300 s, budget {500 / 14:.0f}; afterwards the peak is {peak:.2f} x"
    )


async def test_tasks_that_hold_slots_are_looked_at_while_somebody_wants_one() -> None:
    """However often somebody comes, holders are planned once; when nobody wants a slot they rest, and whoever wants one later wakes all."""
    room, wanted, asked = Room(), [True], [0]

    def is_wanted() -> bool:
        asked[0] += 1
        return wanted[0]

    room.poller.slots_wanted = is_wanted
    handles = [room.handle(PROCESSING, task_id=f"t{number}") for number in range(20)]

    def held(some: Iterable[int]) -> None:
        for number in some:
            room.poller.hold(handles[number]._watch, lambda: None)

    def looked_at() -> set[str]:
        seen = {task_id for task_id, _ in room.gateway.looks}
        room.gateway.looks.clear()
        return seen

    held(range(10))
    for _ in range(1000):
        room.poller.look_after_slots()
    assert asked[0] < 100
    await asyncio.sleep(30)
    assert looked_at() == {f"t{number}" for number in range(10)}
    wanted[0] = False
    await asyncio.sleep(30)
    held(range(10, 20))
    looked_at()
    await asyncio.sleep(60)
    assert not looked_at()
    wanted[0] = True
    room.poller.look_after_slots()
    await asyncio.sleep(30)
    assert looked_at() == {f"t{number}" for number in range(20)}
    await room.poller.aclose()


async def test_looked_at_by_hand_alone() -> None:
    """A task that held slots and was seen to end by somebody who never waited for it is kept no longer."""
    room, freed = Room(), list[bool]()
    handle = room.handle(PROCESSING, SUCCEEDED)
    room.poller.hold(handle._watch, lambda: freed.append(True))
    await handle.refresh()
    assert (freed, room.idle) == ([], False)
    await handle.refresh()
    assert (freed, room.idle) == ([True], True)
