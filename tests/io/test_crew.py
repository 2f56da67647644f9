from __future__ import annotations

import asyncio
import math
import random
import sys
from collections import Counter
from contextvars import ContextVar

import pytest
from attrs import define, field

from kling_async._clock import SystemClock
from kling_async._durations import Durations, Forecast, kind_asked
from kling_async._pacing import Pace, Polling
from kling_async._patience import Patience
from kling_async._watch import Watch
from kling_async.agenda import Agenda
from kling_async.crew import READS, Crew
from kling_async.models import Snapshot, Status, TaskRef
from kling_async.poller import Poller
from rooms import PROCESSING, SUCCEEDED, Room, settle, snapshot

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def now() -> float:
    """Seconds of the loop."""
    return asyncio.get_running_loop().time()


class Turns:
    """Counts the turns of the loop."""

    def __init__(self) -> None:
        self.count, self.going = 0, True
        self.tick()

    def tick(self) -> None:
        """Another one."""
        self.count += 1
        if self.going:
            asyncio.get_running_loop().call_soon(self.tick)

    def end(self) -> None:
        """No more."""
        self.going = False


@define(eq=False)
class Job:
    """Something to read, the more worth the longer ago it was read last."""

    number: int
    since: float = 0.0

    def gain(self, at: float) -> float:
        return at - self.since


@define(eq=False)
class Works:
    """A crew whose reads take a while, and what it did."""

    takes: float = 1.0
    max_rate: float | None = None
    begun: list[tuple[float, int]] = field(factory=list)
    crew: Crew[Job] = field(init=False)
    under_way: int = 0
    at_most: int = 0

    def __attrs_post_init__(self) -> None:
        self.crew = Crew(self.work, SystemClock(), self.max_rate)

    async def work(self, job: Job) -> None:
        self.begun.append((now(), job.number))
        self.under_way += 1
        self.at_most = max(self.at_most, self.under_way)
        await asyncio.sleep(self.takes)
        self.under_way -= 1


async def test_the_best_come_first() -> None:
    """While more is to be read than may be at once, what is worth most is read next, and everything is read once."""
    works = Works()
    jobs = [Job(number, since=random.Random(number).uniform(-1000, 0)) for number in range(200)]
    for job in jobs:
        works.crew.add(job)
    await asyncio.sleep(5)
    assert works.at_most == READS
    assert sorted(number for _, number in works.begun) == list(range(200))
    order = [jobs[number].since for _, number in works.begun]
    assert order == sorted(order)
    assert works.crew.idle


@pytest.mark.parametrize("eager", [False, *([True] if sys.version_info >= (3, 12) else [])])
async def test_errands_that_do_not_wait(*, eager: bool) -> None:
    """Errands that are done at once, as where nothing may be asked, leave room for others, under eager tasks, too."""
    loop, done = asyncio.get_running_loop(), list[int]()

    async def work(job: Job) -> None:
        done.append(job.number)

    if eager and sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    try:
        crew = Crew(work, SystemClock())
        for number in range(2 * READS):
            crew.add(Job(number))
        await settle()
    finally:
        loop.set_task_factory(None)
    assert done == [*range(2 * READS)]
    assert crew.idle


@pytest.mark.parametrize("rate", [0.5, 20.0, 1000.0])
async def test_a_budget_of_reads(rate: float) -> None:
    """With a rate no more begin in any stretch of time than it allows, none is forgotten, and an idle hour saves nothing up."""
    works = Works(takes=0.2, max_rate=rate)
    for round_ in range(2):
        for number in range(40):
            works.crew.add(Job(40 * round_ + number))
        await asyncio.sleep(40 / rate + 3600)
    times = [at for at, _ in works.begun]
    assert len({number for _, number in works.begun}) == len(times) == 80
    for first in range(80):
        for last in range(first + 1, 80):
            assert last - first <= (times[last] - times[first]) * rate + 1.001
    assert times[39] - times[0] == pytest.approx(39 / rate, rel=0.05, abs=0.2)
    assert works.crew.idle


async def test_a_list_of_many_pages_counts_as_many() -> None:
    """What an errand takes beyond its one read is taken from the same budget."""
    works = Works(takes=0.0, max_rate=1.0)
    works.crew.add(Job(0))
    await settle()
    works.crew.charge(9)
    works.crew.add(Job(1))
    begun = now()
    await asyncio.sleep(100)
    assert works.begun[1][0] - begun == pytest.approx(9.0, abs=0.01)


async def mean_lag(forecast: Forecast | None) -> float:
    """Seconds from a task's end until it is seen, where so many run, of all ages, that each is looked at twice or so."""
    dice, ends, lags = random.Random(7), dict[str, float](), list[float]()

    async def look(ref: TaskRef, _known: Snapshot | None) -> tuple[Snapshot, None]:
        return snapshot(Status.SUCCEED if now() >= ends[ref.task_id] else Status.PROCESSING, ref.task_id), None

    async def hear(watch: Watch, _before: Snapshot | None) -> None:
        if watch.done:
            lags.append(now() - ends[watch.ref.task_id])

    poller = Poller(look, SystemClock(), dice.random, lambda: None, lambda: False, hear, max_rate=1.0)
    pace = Pace(first=20.0, interval=4.0, max_interval=4.0, forecast=forecast)
    waits = []
    for task_id in (f"t{number}" for number in range(50)):
        await asyncio.sleep(2.4)
        ends[task_id] = now() + dice.lognormvariate(math.log(120.0), 0.3)
        ref = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id=task_id)
        watch = Watch(ref=ref, pace=pace, polling=Polling(), snapshot=snapshot(Status.SUBMITTED, task_id))
        watch.begin(now(), dice.random())
        waits.append(asyncio.ensure_future(poller.wait(watch, math.inf)))
    await asyncio.gather(*waits)
    return sum(lags) / len(lags)


async def test_the_likeliest_first() -> None:
    """Under a budget of reads, looking first where an end is likeliest unseen shows ends sooner than taking turns."""
    durations, kind, dice = Durations(), kind_asked("videos/text2video", {}), random.Random(8)
    for _ in range(50):
        took = dice.lognormvariate(math.log(120.0), 0.3)
        durations.learn(kind, took, took)
    assert await mean_lag(durations.forecast(kind)) <= 0.7 * await mean_lag(None)


async def test_nobody_s_context() -> None:
    """Reads see the context in which the session was made, never that of the waiter who happened to set them off."""
    said: ContextVar[str] = ContextVar("said", default="nothing")
    said.set("the session's")
    heard = list[str]()

    async def work(_job: Job) -> None:
        heard.append(said.get())
        said.set("a read's")

    crew = Crew(work, SystemClock())
    said.set("a waiter's")
    for number in range(3):
        crew.add(Job(number))
        await settle()
    assert heard == ["the session's"] * 3


async def test_taking_back() -> None:
    """What has not begun can be taken back, and closing ends what has."""
    works = Works(takes=1e6)
    for number in range(100):
        works.crew.add(Job(number))
    await settle()
    assert sorted(job.number for job in works.crew.take_back()) == list(range(READS, 100))
    await works.crew.aclose()
    assert works.crew.idle


async def test_ten_thousand_at_once() -> None:
    """Tasks that come due together, as after attaching very many, are looked at spread over a gap, but for the first few hundred."""
    room = Room()
    handles = [room.handle(PROCESSING, SUCCEEDED, task_id="t1") for _ in range(2000)]
    waits = [asyncio.ensure_future(handle.wait()) for handle in handles]
    await asyncio.sleep(10.5)
    at_once = len(room.gateway.looks)
    assert 64 <= at_once <= 256 + 64
    await room.poller.aclose()
    await asyncio.gather(*waits, return_exceptions=True)


@define(eq=False)
class Place:
    """Something with a place."""

    due: float = math.inf


async def test_turns_are_short() -> None:
    """Of very many that are due together some are served in each turn of the loop."""
    served, turns = list[tuple[int, int, bool]](), Turns()
    agenda = Agenda[Place](SystemClock(), lambda due, _, over: served.append((len(due), turns.count, over)))
    places = [Place() for _ in range(200)]
    for place in places:
        agenda.put(place, now())
    agenda.strike(places[0])
    await settle()
    turns.end()
    assert [(many, over) for many, _, over in served] == [(64, False), (64, False), (64, False), (7, True)]
    assert len({turn for _, turn, _ in served}) == 4
    assert {place.due for place in places} == {math.inf}
    agenda.put(places[0], now())
    agenda.close()
    await settle()
    assert len(served) == 4


@pytest.mark.parametrize("many", [READS + 1, 5 * READS])
async def test_reads_do_not_begin_in_the_turn_in_which_others_end(many: int) -> None:
    """Where replies come by the dozen, others have a turn before as many reads begin."""
    begun, turns = Counter[int](), Turns()

    async def work(_job: Job) -> None:
        begun[turns.count] += 1

    crew = Crew(work, SystemClock())
    for number in range(many):
        crew.add(Job(number))
    await settle()
    turns.end()
    assert sum(begun.values()) == many
    assert max(begun.values()) <= READS


async def test_looks_share_their_beat() -> None:
    """Where there are many, looks begin together thirty-two times a second, never early; where there are few, each at its time."""
    few, many = Room(), Room()
    for room, count in ((few, 10), (many, 100)):
        begun = now()
        handles = [room.handle(snapshot(Status.SUCCEED, f"t{number}"), task_id=f"t{number}") for number in range(count)]
        for number, handle in enumerate(handles):
            handle._watch.next_look = begun + 10 + number / 97
        ends = await asyncio.gather(*handles, return_exceptions=True)
        assert len(ends) == count
        times = dict(room.gateway.looks)
        assert all(times[f"t{number}"] >= begun + 10 + number / 97 - 1e-6 for number in range(count))
        assert all(times[f"t{number}"] <= begun + 10 + number / 97 + 1 / 32 + 1e-6 for number in range(count))
        moments = Counter(times.values())
        assert (len(moments) == count) is (room is few)
        assert room.idle


async def test_word_of_the_end_waits_for_no_beat() -> None:
    """A look that a callback asked for begins at once, however many wait."""
    room = Room()
    handles = [room.handle(snapshot(Status.SUCCEED, f"t{number}"), task_id=f"t{number}") for number in range(100)]
    for handle in handles:
        handle._watch.next_look = now() + 1000.0
    waits = [asyncio.ensure_future(handle.wait()) for handle in handles]
    for number, handle in enumerate(handles):
        await asyncio.sleep(1.0 + 1 / 97)
        said = now()
        room.poller.look_soon(handle._watch, final=True)
        await waits[number]
        assert dict(room.gateway.looks)[f"t{number}"] == pytest.approx(said, abs=1e-6)
    assert room.idle


async def test_patience() -> None:
    """Whatever takes longer than the bound ends by `TimeoutError` on time, each by its own; what is quicker is left alone."""
    patience = Patience(20.0)
    ends: list[tuple[float, float]] = []

    async def call(after: float, takes: float) -> str:
        await asyncio.sleep(after)
        try:
            with patience:
                await asyncio.sleep(takes)
        except TimeoutError:
            ends.append((after, now() - begun))
            return "late"
        return "done"

    begun = now()
    calls = [call(0, 1), call(0, 30), call(5, 19.9), call(5, 100), call(18, 100), call(40, 21), call(1000, 21), call(1000, 1)]
    assert await asyncio.gather(*calls) == ["done", "late", "done", "late", "late", "late", "late", "done"]
    assert [at - after for after, at in ends] == pytest.approx([20.0] * 5, abs=0.01)
    patience.close()


@pytest.mark.parametrize("first", ["bound", "caller"])
async def test_cancelling_the_impatient(first: str) -> None:
    """Who is cancelled by somebody else is cancelled, also in the very turn in which the time is up."""
    patience = Patience(20.0)

    async def call() -> None:
        with patience:
            await asyncio.sleep(1e6)

    task = asyncio.ensure_future(call())
    await settle()
    if first == "bound":
        asyncio.get_running_loop().call_at(now() + 20.0, task.cancel)
        await asyncio.sleep(20.0)
    else:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    patience.close()
