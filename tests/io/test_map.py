from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from attrs import define, field

from kling_async._pacing import Polling
from kling_async.emulator import Emulator
from kling_async.errors import ConfigurationError, InvalidRequestError, KlingError, SubmitOutcomeUnknown, TaskFailedError
from kling_async.jobs import Text2Video
from kling_async.models import TaskRef
from kling_async.outcomes import Outcome
from kling_async.session import KlingSession

pytestmark = pytest.mark.usefixtures("nothing_is_left")

T2V = "videos/text2video"


def gateway(**options: Any) -> Emulator:
    """A gateway with room for all, where a video takes 100 s if its prompt does not say otherwise."""
    return Emulator(**{"slots": {"video": 1000}, "durations": 100.0, "seed": 1, **options})


def session(emulator: Emulator, **options: Any) -> KlingSession:
    """A session with that gateway."""
    return KlingSession(emulator.api_key, base_url=emulator.url, in_flight=options.pop("in_flight", 1000), **options)


@define
class Source:
    """Hands out jobs, and knows how many were taken."""

    count: int
    breaks_at: int | None = None
    taken: int = 0
    prompts: list[str] = field(factory=list)

    def __iter__(self) -> Iterator[Text2Video]:
        for number in range(self.count):
            if number == self.breaks_at:
                msg = f"the list ended at {number}"
                raise LookupError(msg)
            self.taken += 1
            prompt = self.prompts[number] if self.prompts else "a fox"
            yield Text2Video(prompt=prompt, external_task_id=f"ka-{number}")

    async def later(self) -> AsyncIterator[Text2Video]:
        """The same, one each 10 s."""
        for job in self:
            await asyncio.sleep(10)
            yield job


def keys(outcomes: list[Outcome[Any]]) -> list[str | None]:
    """Whose outcomes they are."""
    return [outcome.job.external_task_id for outcome in outcomes]


def nothing_twice(emulator: Emulator) -> bool:
    """Whether no key made two tasks."""
    made = [task.external_task_id for task in emulator.log.tasks]
    return len(made) == len(set(made))


async def test_outcomes_come_as_they_complete() -> None:
    """The quickest is first, each once, each with its job, its handle and its result."""
    source = Source(5, prompts=[f"[seconds: {seconds}]" for seconds in (300, 100, 500, 200, 400)])
    async with gateway() as emulator, session(emulator) as kling, kling.map(source) as outcomes:
        found = [outcome async for outcome in outcomes]
        assert keys(found) == ["ka-1", "ka-3", "ka-0", "ka-4", "ka-2"]
        for outcome in found:
            assert outcome.error is None
            assert outcome.handle is not None
            assert outcome.unwrap() == outcome.result == await outcome.handle
            assert outcome.handle.ref.external_task_id == outcome.job.external_task_id
        assert [outcome async for outcome in outcomes] == [], "it has ended, and says so again"
        assert len(emulator.log.tasks) == 5


async def test_one_failure_hides_nothing() -> None:
    """Whatever befalls one job, all others have their outcome, and every task its handle (P2)."""
    source = Source(12, prompts=["[fail]" if number % 4 == 0 else "[block]" if number % 4 == 1 else "a fox" for number in range(12)])
    async with gateway() as emulator, session(emulator) as kling, kling.map(source) as outcomes:
        found = {outcome.job.external_task_id: outcome async for outcome in outcomes}
        assert len(found) == 12
        for number in range(12):
            outcome = found[f"ka-{number}"]
            kind = (TaskFailedError, KlingError, type(None), type(None))[number % 4]
            assert isinstance(outcome.error, kind)
            assert (outcome.handle is None) == (number % 4 == 1)
            assert (outcome.result is None) == (number % 4 < 2)
        with pytest.raises(TaskFailedError):
            found["ka-0"].unwrap()
        made = {task.external_task_id for task in emulator.log.tasks}
        assert made == {f"ka-{number}" for number in range(12) if number % 4 != 1}
        assert {handle.ref.external_task_id for handle in outcomes.started} == made


async def test_an_unknown_outcome_is_an_outcome() -> None:
    """A job of which nobody can tell says so, with its key, and is not sent again."""
    async with gateway() as emulator, session(emulator) as kling:
        emulator.fault("drop", route=T2V, method="POST", accepted=True)
        async with kling.map(Source(3)) as outcomes:
            found = [outcome async for outcome in outcomes]
        (lost,) = [outcome.error for outcome in found if outcome.error]
        assert isinstance(lost, SubmitOutcomeUnknown)
        assert len(emulator.log.posts_for(lost.external_task_id)) == 1
        assert len(found) == 3
        assert nothing_twice(emulator)


@pytest.mark.parametrize("at_once", [1, 4])
async def test_jobs_are_taken_as_there_is_room(at_once: int) -> None:
    """No job is taken from the iterable before there is room for it, and no more are under way than was said."""
    source = Source(10)
    async with gateway() as emulator, session(emulator) as kling, kling.map(source, in_flight=at_once) as outcomes:
        await asyncio.sleep(50)
        assert source.taken == at_once
        assert len(emulator.log.tasks) == at_once
        done = 0
        async for _ in outcomes:
            done += 1
            await asyncio.sleep(1)
            assert source.taken <= min(10, done + at_once + at_once)
        assert done == 10
        starts = sorted(task.created for task in emulator.log.tasks)
        for number, start in enumerate(starts[at_once:]):
            assert start >= starts[number] + 100


async def test_an_endless_iterable() -> None:
    """Jobs without end can be mapped, for as long as somebody looks."""
    async with gateway() as emulator, session(emulator) as kling:
        source = Source(10**9)
        async with kling.map(source, in_flight=5) as outcomes:
            found = []
            async for outcome in outcomes:
                found.append(outcome)
                if len(found) == 20:
                    break
        assert source.taken <= 20 + 2 * 5
        assert len(emulator.log.tasks) == source.taken


async def test_an_asynchronous_iterable() -> None:
    """Jobs that come one by one are sent as they come."""
    looks = Polling.fixed(1.0)  # so that no look is late by more than lies between two jobs
    async with gateway() as emulator, session(emulator, polling=looks) as kling, kling.map(Source(4).later()) as outcomes:
        assert keys([outcome async for outcome in outcomes]) == [f"ka-{number}" for number in range(4)]
        created = [task.created for task in emulator.log.tasks]
        assert [later - earlier for earlier, later in itertools.pairwise(created)] == pytest.approx([10.0] * 3, abs=1)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_iterable_that_breaks(*, asynchronous: bool) -> None:
    """What the iterable raises is raised after the outcomes of all jobs before it; none is lost."""
    source = Source(9, breaks_at=3)
    async with gateway() as emulator, session(emulator) as kling, kling.map(source.later() if asynchronous else source) as outcomes:
        found = [await anext(outcomes) for _ in range(3)]
        for _ in range(2):
            with pytest.raises(LookupError, match="ended at 3"):
                await anext(outcomes)
        assert sorted(map(str, keys(found))) == ["ka-0", "ka-1", "ka-2"]
        assert all(outcome.result for outcome in found)
        assert len(emulator.log.tasks) == 3


async def test_no_jobs() -> None:
    """Nothing to do is done."""
    async with gateway() as emulator, session(emulator) as kling, kling.map(Source(0)) as outcomes:
        assert [outcome async for outcome in outcomes] == []


@pytest.mark.parametrize("how", ["break", "raise", "cancel"])
async def test_leaving_early(how: str) -> None:
    """Leaving the block withdraws what waits for a slot; tasks that exist run on, and every one is in `started`."""
    async with gateway() as emulator, session(emulator, in_flight=4) as kling:
        outcomes = kling.map(Source(20), in_flight=12)

        async def consume() -> None:
            async with outcomes:
                async for _ in outcomes:
                    if how == "raise":
                        raise KeyError(how)
                    if how == "break":
                        break

        consumer = asyncio.ensure_future(consume())
        await asyncio.sleep(130)
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
        await asyncio.sleep(0)
        posts = sum(seen.method == "POST" for seen in emulator.log.requests)
        refs = [handle.ref for handle in outcomes.started]
        assert [ref.task_id for ref in refs] == [task.id for task in emulator.log.tasks]
        assert 4 <= len(refs) <= 12
        await asyncio.sleep(1000)
        assert sum(seen.method == "POST" for seen in emulator.log.requests) == posts, "nothing was sent after leaving"
        assert nothing_twice(emulator)
        assert kling.orphans() == ()
        assert all([await kling.attach(ref) for ref in refs]), "they can still be had"


async def test_leaving_with_requests_under_way() -> None:
    """A request under way when the block is left is settled, and its task listed as an orphan: between both lists none is missing."""
    async with gateway() as emulator, session(emulator) as kling:
        emulator.fault("slow", route=T2V, method="POST", seconds=20.0, times=None)
        async with kling.map(Source(5)) as outcomes:
            await asyncio.sleep(5)
        assert outcomes.started == []
        await asyncio.sleep(60)
        assert {ref.task_id for ref in kling.orphans()} == {task.id for task in emulator.log.tasks}
        assert len(kling.orphans()) == 5
        assert all(isinstance(ref, TaskRef) for ref in kling.orphans())


async def test_a_consumer_that_is_slow() -> None:
    """Outcomes wait for whoever takes them late."""
    async with gateway() as emulator, session(emulator) as kling, kling.map(Source(6)) as outcomes:
        await asyncio.sleep(5000)
        assert len([outcome async for outcome in outcomes]) == 6


async def test_the_session_closes_meanwhile() -> None:
    """Closing the session ends a batch: every job that was taken has its outcome, and every task is in `started`."""
    async with gateway() as emulator:
        kling = session(emulator, in_flight=2)
        async with kling.map(Source(6)) as outcomes:
            await asyncio.sleep(20)
            await kling.aclose()
            found = [outcome async for outcome in outcomes]
        assert len(found) == 6
        assert all(isinstance(outcome.error, ConfigurationError) for outcome in found)
        assert [handle.task_id for handle in outcomes.started] == [task.id for task in emulator.log.tasks]


async def test_a_map_that_is_not_entered() -> None:
    """Without its block it takes no job, and says what to do."""
    async with gateway() as emulator, session(emulator) as kling:
        source = Source(3)
        outcomes = kling.map(source)
        with pytest.raises(RuntimeError, match="async with"):
            await anext(outcomes)
        del outcomes
        gc.collect()
        assert source.taken == 0


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "3"])
async def test_a_room_that_is_none(bad: Any) -> None:
    """A number of jobs at once is whole, and one or more."""
    async with gateway() as emulator, session(emulator) as kling:
        with pytest.raises(ConfigurationError, match="in_flight"):
            kling.map(Source(1), in_flight=bad)


async def test_a_refused_job_leaves_room() -> None:
    """Jobs that fail at once take no room from those behind them."""
    async with gateway() as emulator, session(emulator) as kling:
        emulator.fault("code", route=T2V, method="POST", code=1201, times=30)
        async with kling.map(Source(35), in_flight=2) as outcomes:
            found = [outcome async for outcome in outcomes]
        assert sum(isinstance(outcome.error, InvalidRequestError) for outcome in found) == 30
        assert sum(outcome.result is not None for outcome in found) == 5


async def test_an_iterable_that_is_cancelled() -> None:
    """What the iterable waited for was cancelled: that is raised after the outcomes of the jobs before, and nobody waits for ever."""

    async def jobs() -> AsyncIterator[Text2Video]:
        yield Text2Video(prompt="a fox")
        raise asyncio.CancelledError

    async with gateway() as emulator, session(emulator) as kling, kling.map(jobs()) as outcomes:
        assert (await anext(outcomes)).result
        with pytest.raises(asyncio.CancelledError):
            await anext(outcomes)


async def test_asking_after_leaving() -> None:
    """Whoever asks for outcomes when the block has been left gets those there were, and an end."""
    async with gateway() as emulator, session(emulator) as kling:
        async with kling.map(Source(2)) as outcomes:
            await asyncio.sleep(10)
        assert [outcome async for outcome in outcomes] == []
