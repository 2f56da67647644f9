from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from journals import session
from kling_async.emulator import Emulator
from kling_async.errors import SubmitOutcomeUnknown
from kling_async.jobs import GenerateImage, Job, Text2Video
from kling_async.session import KlingSession

pytestmark = pytest.mark.usefixtures("nothing_is_left")

T2V = "videos/text2video"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.db"


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway with five slots of each kind, whose tasks take 100 s."""
    async with Emulator(slots={"video": 5, "image": 5}, durations=100.0, seed=1) as emulator:
        yield emulator


def answers(emulator: Emulator) -> Counter[int | None]:
    """How many creations were answered by which status."""
    return Counter(seen.status for seen in emulator.log.requests if seen.method == "POST")


def held(kling: KlingSession, kind: str = "video") -> int:
    """Slots that the session takes for taken."""
    door = kling._admission._doors.get(kind)
    return 0 if door is None else door.gate.held


async def left_running(emulator: Emulator, path: Path, *jobs: Job[Any]) -> None:
    """Buy the jobs' tasks in a session that is gone when this returns; they go on."""
    async with session(emulator, path) as gone:
        for job in jobs:
            await gone.submit(job)


def foxes(count: int) -> list[Text2Video]:
    """So many jobs, each with a key."""
    return [Text2Video(prompt="a fox", external_task_id=f"ka-{number}") for number in range(count)]


@pytest.mark.parametrize("in_flight", [5, 3])
async def test_what_was_bought_before_the_crash_holds_its_slots(emulator: Emulator, path: Path, in_flight: int) -> None:
    """With all slots taken by tasks of a dead process twenty more are bought without one refusal, though nobody awaits the old ones."""
    clock = asyncio.get_running_loop()
    await left_running(emulator, path, *foxes(5))
    begun = clock.time()
    async with session(emulator, path, in_flight=in_flight) as kling:
        assert len(await kling.recover()) == held(kling) == 5
        handles = [await kling.text2video(prompt="another") for _ in range(20)]
        await asyncio.gather(*handles)
        assert held(kling) == 0
    assert answers(emulator) == {200: 25}
    assert clock.time() - begun < (20 / in_flight + 2) * (100 + 40)


async def test_a_picture_holds_as_many_slots_as_it_was_bought_with(emulator: Emulator, path: Path) -> None:
    """A picture task with `n=4`, said in the field or in `extra`, takes four slots of five, before and after the crash."""
    await left_running(emulator, path, GenerateImage(prompt="a fox", n=4))
    async with session(emulator, path, in_flight=5) as kling:
        await kling.recover()
        assert held(kling, "image") == 4
        await kling.generate_image(prompt="one more")
        begun = emulator.now
        await kling.generate_image(prompt="too many", n=2)
        assert emulator.now - begun > 90
        assert answers(emulator) == {200: 3}
    assert GenerateImage(prompt="a fox", extra={"n": 4}).slots == GenerateImage.slots_of({"n": 4}) == 4
    assert GenerateImage.slots_of({"n": "nine"}) == Text2Video.slots_of({"n": 4, "": 4}) == 1


async def test_no_task_holds_its_slots_twice(emulator: Emulator, path: Path) -> None:
    """However often a task is recovered, asked for by key or by word, or adopted, it holds the slots of one, and frees them once."""
    (known,) = foxes(1)
    async with session(emulator, path, in_flight=5) as gone:
        await gone.submit(known, dedupe="order-1")
    async with session(emulator, path, in_flight=5) as kling:
        fresh = await kling.text2video(prompt="of this session")
        for _ in range(2):
            assert len(await kling.recover()) == 2
            assert await kling.reconcile("ka-0") is not None
            handle = await kling.submit(known, dedupe="order-1")
            await kling.adopt("ka-0", handle.task_id)
            assert held(kling) == 2
        await asyncio.gather(handle, fresh)
        assert held(kling) == 0
    async with session(emulator, path, in_flight=5) as kling:
        again = await kling.submit(known, dedupe="order-1")
        assert again.task_id == handle.task_id
        await kling.reconcile("ka-0")
        await kling.adopt("ka-0", handle.task_id)
        assert held(kling) == 0, "what has ended holds nothing"
    assert answers(emulator) == {200: 2}


async def test_recovering_again_is_no_reason_to_try_again(path: Path) -> None:
    """A full service is not asked sooner because what holds its slots is recovered over and over."""
    async with Emulator(slots={"video": 1}, durations=100.0, seed=1) as emulator, session(emulator, path) as kling:
        await kling.text2video(prompt="a fox")
        waiting = asyncio.ensure_future(kling.text2video(prompt="another"))
        await asyncio.sleep(0.5)
        for _ in range(10):
            assert len(await kling.recover()) == 1
            await asyncio.sleep(0.01)
        assert answers(emulator) == {200: 1, 429: 1}
        await waiting


@pytest.mark.parametrize("way", ["submit", "reconcile", "adopt"])
async def test_every_way_back_holds(emulator: Emulator, path: Path, way: str) -> None:
    """A task that comes back by its word, its key or by hand holds its slot, and gives it back when it ends unawaited."""
    (job,) = foxes(1)
    async with session(emulator, path) as gone:
        if way == "adopt":
            emulator.fault("drop", route=T2V, method="POST", accepted=True)
            with pytest.raises(SubmitOutcomeUnknown):
                await gone.submit(job)
        else:
            await gone.submit(job, dedupe="order-1")
    async with session(emulator, path, in_flight=1) as kling:
        if way == "submit":
            await kling.submit(job, dedupe="order-1")
        elif way == "reconcile":
            await kling.reconcile("ka-0")
        else:
            await kling.adopt("ka-0", emulator.log.tasks[0].id)
        assert held(kling) == 1
        begun = emulator.now
        await kling.text2video(prompt="the next")
        assert 90 < emulator.now - begun < 140
        assert len(emulator.log.tasks) == 2


@pytest.mark.parametrize("fault", ["not_found", "status"])
async def test_what_cannot_be_seen_gives_its_slots_back(emulator: Emulator, path: Path, fault: str) -> None:
    """A recovered task that has vanished, or that no look reaches for the error budget, keeps nobody waiting for ever."""
    await left_running(emulator, path, *foxes(2))
    emulator.fault(fault, route=T2V, method="GET", times=None)
    async with session(emulator, path, in_flight=1) as kling:
        await kling.recover()
        begun = emulator.now
        await kling.text2video(prompt="the next")
        assert emulator.now - begun < 700
        assert held(kling) == 1


async def test_an_endpoint_of_another_version(emulator: Emulator, path: Path) -> None:
    """A task of an endpoint that this version does not know comes back, and takes no slots of kinds it may not belong to."""
    await left_running(emulator, path, *foxes(1))
    async with session(emulator, path, in_flight=1) as kling:
        await kling._journal._writer.run(lambda db: db.execute("UPDATE creation SET action2 = 'text2opera'"))
        assert len(await kling.recover()) == 1
        await kling.text2video(prompt="at once")
        assert held(kling) == 1


async def test_attaching_holds_nothing(emulator: Emulator, path: Path) -> None:
    """A reference tells neither whether its task still runs nor how wide it is: to look at it takes no slot."""
    async with session(emulator, path) as gone:
        ref = (await gone.submit(foxes(1)[0])).ref
    async with session(emulator, path, in_flight=1) as kling:
        kling.attach(ref)
        begun = emulator.now
        await kling.text2video(prompt="at once")
        assert emulator.now - begun < 1
