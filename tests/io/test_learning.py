from __future__ import annotations

import asyncio
import math
import random
import sqlite3
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from kling_async import GenerateImage, Journal, JournalError, KlingSession, Polling, TaskFailedError, TaskRef, Text2Video
from kling_async._durations import kind_asked
from kling_async._watch import Watch
from kling_async.emulator import Emulator
from kling_async.observers import Anomaly

pytestmark = pytest.mark.usefixtures("nothing_is_left")

MEDIAN = 160.0


def clip(seconds: float, **fields: Any) -> Text2Video:
    """A job whose task takes so long."""
    return Text2Video(prompt=f"a red fox [seconds: {seconds:.3f}]", model_name="kling-v2-6", duration=5, **fields)


def session(emulator: Emulator, **options: Any) -> KlingSession:
    """A session of that emulator's."""
    return KlingSession(emulator.api_key, base_url=emulator.url, **options)


async def spend(emulator: Emulator, kling: KlingSession, job: Text2Video | GenerateImage) -> tuple[int, float]:
    """Reads until a task's end was seen, and how late that was."""
    handle = await kling.submit(job)
    await handle
    (finished,) = (task.finished for task in emulator.log.tasks if task.id == handle.task_id)
    return len(emulator.log.reads_for(handle.task_id)), emulator.now - finished


def watch_of(kling: KlingSession) -> Watch:
    """The watch of the one task that a session follows."""
    (watch,) = kling._watches.values()
    return watch


@pytest.mark.parametrize("profile", ["gateway", "newapi"])
async def test_fewer_reads_and_no_later(profile: str, say: Callable[[str], None]) -> None:
    """After 20 tasks a clip is read less than two thirds as often as with gaps that grow from 5 to 15 s, and its end is seen no later."""
    dice = random.Random(4)
    takes = [MEDIAN * math.exp(dice.gauss(0.0, 0.3)) for _ in range(34)]
    found = {}
    async with Emulator(seed=7, profile=profile) as emulator:
        for name, polling in (("before", evolve(Polling.backoff(5, max_interval=15), jitter=0.0)), ("learnt", Polling(jitter=0.0))):
            async with session(emulator, polling=polling) as kling:
                spent = [await spend(emulator, kling, clip(seconds)) for seconds in takes[20 if name == "before" else 0 :]]
                found[name] = [statistics.mean(figures) for figures in zip(*spent[-14:], strict=True)]
    (many, late), (few, lag) = found["before"], found["learnt"]
    say(f"reads per clip of {MEDIAN:.0f} s after 20 of them, {profile}: {few:.1f} and {lag:.1f} s late, before {many:.1f} and {late:.1f} s")
    assert few < 2 / 3 * many
    assert lag < late


async def test_kept_in_the_journal(tmp_path: Path) -> None:
    """What one session learnt the next one knows before its first look; another gateway's tasks are another matter."""
    path = tmp_path / "j.db"
    async with Emulator(seed=7) as emulator, Emulator(seed=8) as other:
        async with session(emulator, journal=path) as kling:
            await asyncio.gather(*(spend(emulator, kling, clip(300.0 + number)) for number in range(20)))
        reads = {}
        for gateway in (emulator, other):
            async with session(gateway, journal=path) as kling:
                reads[gateway], _ = await spend(gateway, kling, clip(310.0))
        assert reads[emulator] < 9
        assert reads[other] > 18


async def test_unreadable(tmp_path: Path) -> None:
    """What cannot be read of it is told, hurts no wait, and is written anew."""
    path, told = tmp_path / "j.db", list[Any]()
    async with Emulator(seed=7) as emulator:
        async with session(emulator, journal=path) as kling:
            await spend(emulator, kling, clip(50.0))
        with sqlite3.connect(path) as db:
            assert db.execute("SELECT count(*) FROM pace").fetchone() == (3,)
            db.execute("UPDATE pace SET learnt = 'not JSON' WHERE kind = 'videos/text2video'")
        db.close()
        async with session(emulator, journal=path, observers=[told.append]) as kling:
            await spend(emulator, kling, clip(50.0))
        (anomaly,) = (record for record in told if isinstance(record, Anomaly))
        assert (anomaly.what, "durations" in anomaly.detail) == ("journal", True)
        async with session(emulator, journal=path, observers=[told.append]) as kling:
            await spend(emulator, kling, clip(50.0))
            assert kling._learning.paces.durations.forecast(kind_asked("videos/text2video", {})).lessons > 0
        assert sum(isinstance(record, Anomaly) for record in told) == 1


class Lazy(Journal):
    """One that never comes to tell what was learnt, or has trouble with it."""

    trouble: JournalError | None = None
    asked = 0

    async def learnt(self, origin: str, *, most: int = 128) -> dict[str, str]:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        await asyncio.sleep(1000)
        return await super().learnt(origin, most=most)


@pytest.mark.parametrize("trouble", [None, JournalError("journal: the disk is full")])
async def test_nobody_waits_for_it(tmp_path: Path, trouble: JournalError | None) -> None:
    """A purchase and a wait go on while what was learnt is being read, and whatever comes of that."""
    async with Emulator(seed=7) as emulator, Lazy(tmp_path / "j.db") as journal:
        journal.trouble = trouble
        async with session(emulator, journal=journal) as kling:
            begun = emulator.now
            handle = await kling.submit(clip(20.0))
            assert emulator.now - begun < 1
            await handle
            assert emulator.now - begun < 50
        assert journal.asked == (1 if trouble is None else 2)


async def test_which_kind(tmp_path: Path) -> None:
    """A task's kind is what its job says, also when it is recovered; of one that is attached to only the route is known."""
    path = tmp_path / "j.db"
    async with Emulator(seed=7) as emulator:
        async with session(emulator, journal=path) as kling:
            ref = (await kling.submit(clip(100.0, mode="pro"))).ref
            kind = watch_of(kling).kind
            assert kind is not None
            assert kind.levels[-1] == "videos/text2video kling-v2-6 pro 5"
        async with session(emulator, journal=path) as kling:
            (handle,) = await kling.recover()
            assert watch_of(kling).kind is kind
            await handle
        async with session(emulator) as kling:
            attached = kling.attach(ref)
            assert watch_of(kling).kind is kind_asked("videos/text2video", {})
            assert watch_of(kling).born is not None
            assert not attached.done


async def test_failures_teach_caution(tmp_path: Path) -> None:
    """A failure teaches no duration; the next few tasks of its kind are looked at early, too."""
    async with Emulator(seed=7) as emulator, session(emulator, journal=tmp_path / "j.db") as kling:
        await asyncio.gather(*(spend(emulator, kling, clip(160.0 + number)) for number in range(20)))
        calm = kling._learning.paces.of(kind_asked("videos/text2video", {}))
        with pytest.raises(TaskFailedError):
            await (await kling.submit(Text2Video(prompt="a fox [fail] [seconds: 5]", model_name="kling-v2-6", duration=5)))
        wary = kling._learning.paces.of(kind_asked("videos/text2video", {}))
        assert wary.first == pytest.approx(calm.first)
        assert min(wary.early) < 0.5 * min(calm.early)


async def test_attached_outside_a_loop() -> None:
    """Attaching needs no event loop, and reads nothing."""
    kling = KlingSession("sk-x", base_url="http://127.0.0.1:9", journal="/nowhere/j.db")
    ref = TaskRef(origin="http://127.0.0.1:9", action="videos", action2="text2video", task_id="t", created_at=datetime.now(tz=UTC))
    assert await asyncio.to_thread(lambda: kling.attach(ref).ref) == ref
    await kling.aclose()
