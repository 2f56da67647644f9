from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from kling_async._durations import Durations, kind_asked
from kling_async._pacing import Paces, Polling
from kling_async._watch import Watch
from kling_async._wire import Blank
from kling_async.models import Snapshot
from looks import DROPPED, FAILED, PROCESSING, REF, SUBMITTED, SUCCEEDED, see

KIND = kind_asked("videos/text2video", {})
BORN = datetime(2026, 1, 1, tzinfo=UTC)


def known(*seconds: float) -> Durations:
    """What is known where clips took that long."""
    durations = Durations()
    for took in seconds or [160.0 + step for step in range(-20, 20)]:
        durations.learn(KIND, took, took)
    return durations


def paced(durations: Durations | None = None, *, begun: bool = True, **facts: object) -> Watch:
    """A clip's task that was created at time 1000, looked after as is known of clips."""
    paces = Paces(Polling(jitter=0.0), durations or known())
    made = Watch(ref=REF, pace=paces.of(KIND), polling=paces.polling, kind=KIND, paces=paces, snapshot=SUBMITTED, **facts)  # type: ignore[arg-type]
    if begun:
        made.begin(1000.0, 0.5)
    return made


def look(task: Watch, seen: Snapshot, now: float) -> None:
    """Look at that time, in no time."""
    task.looking(now)
    see(task, seen, now)


def test_the_first_look_is_late() -> None:
    """What is well known to take long is left alone until the first of its kind are done, but for one look in case it takes half."""
    task = paced()
    assert task.next_look == pytest.approx(1000.0 + 0.6 * 160.0, abs=2.0)
    look(task, PROCESSING, task.next_look)
    assert 1120.0 < task.next_look == 1000.0 + task.pace.first < 1155.0
    look(task, PROCESSING, task.next_look)
    assert task.next_look == pytest.approx(1000.0 + task.pace.first + 12.0)


def test_what_is_learnt_counts_at_the_next_look() -> None:
    """A task that is under way is paced by what becomes known meanwhile."""
    durations = Durations()
    task = paced(durations)
    assert task.next_look == 1012.0
    for _ in range(20):
        durations.learn(KIND, 160.0, 160.0)
    look(task, PROCESSING, 1012.0)
    assert task.next_look > 1080.0


def test_a_long_queue_is_no_duration() -> None:
    """A task that is still queued when others are done is looked at seldom until it runs, and then as if it had just begun."""
    task = paced()
    first = task.pace.first
    look(task, SUBMITTED, 1000.0 + first)
    assert task.next_look == pytest.approx(1000.0 + first + first / 3)
    look(task, SUBMITTED, 1600.0)
    look(task, PROCESSING, 1640.0)
    assert task.next_look >= 1600.0 + 0.6 * first
    look(task, PROCESSING, 1750.0)
    look(task, SUCCEEDED, 1770.0)
    assert task.took(1770.0) == (110.0, 170.0)


def test_a_short_queue_is_part_of_it() -> None:
    """Being queued at the beginning is part of what such tasks take."""
    task = paced(Durations())
    look(task, SUBMITTED, 1012.0)
    look(task, PROCESSING, 1024.0)
    look(task, PROCESSING, 1100.0)
    look(task, SUCCEEDED, 1112.0)
    assert task.took(1112.0) == (100.0, 112.0)


@pytest.mark.parametrize(
    ("seconds", "took"),
    [(105.0, (105.0, 105.0)), (90.0, (100.0, 112.0)), (111.5, (100.0, 112.0)), (500.0, (100.0, 112.0)), (None, (100.0, 112.0))],
)
def test_what_the_service_says(seconds: float | None, took: tuple[float, float]) -> None:
    """The service's own times count where they lie between the looks; where they move with each look, as on some gateways, they do not."""
    task = paced(Durations())
    look(task, PROCESSING, 1100.0)
    see(task, DROPPED, 1105.0)
    updated = None if seconds is None else BORN + timedelta(seconds=seconds)
    look(task, evolve(SUCCEEDED, created_at=BORN, updated_at=updated), 1112.0)
    assert task.took(1112.0) == took


def test_what_teaches_nothing() -> None:
    """A failure, and a task of which nobody knows when it began, teach nothing; nor does one that is not done."""
    task = paced()
    assert task.took(1100.0) is None
    look(task, FAILED, 1100.0)
    assert task.took(1100.0) is None
    attached = paced(begun=False)
    look(attached, SUCCEEDED, 1100.0)
    assert attached.took(1100.0) is None


def test_a_post_tells_the_end() -> None:
    """Where a post says that it is over the time is known to a second; as long as caches last looks come fast, then at the even pace."""
    task = paced(called=True)
    task.hurry(1090.0, final=True)
    look(task, PROCESSING, 1090.0)
    assert task.next_look == pytest.approx(1095.0)
    look(task, PROCESSING, 1119.0)
    assert task.next_look == pytest.approx(1124.0)
    look(task, PROCESSING, 1124.0)
    assert task.next_look == pytest.approx(1136.0)
    look(task, SUCCEEDED, 1136.0)
    assert task.took(1136.0) == (135.0, 136.0)


def test_attached() -> None:
    """A task attached to is looked at at once, then evenly: it may end at any time. Where its creation is known it is as old as it is."""
    task = paced(begun=False)
    look(task, PROCESSING, 5000.0)
    assert task.next_look == pytest.approx(5012.0)
    task = paced(begun=False, born=4990.0)
    look(task, PROCESSING, 5000.0)
    assert task.next_look > 5060.0
    look(task, SUCCEEDED, 5150.0)
    assert task.took(5150.0) == (10.0, 160.0)


def test_slower_when_asked_too_often() -> None:
    """Where the gateway is asked too often even gaps are longer, and what is far off anyway is not put off."""
    task = paced()
    task.looking(1012.0)
    see(task, PROCESSING, 1012.0, stretch=4.0)
    assert task.next_look == pytest.approx(1000.0 + task.pace.early[0])
    task.looking(1180.0)
    see(task, PROCESSING, 1180.0, stretch=4.0)
    assert task.next_look == pytest.approx(1180.0 + 48.0, abs=10.0)


def test_gain() -> None:
    """Who is likelier to be done, and longer, is worth more; who is said to be done is worth most; a blank shows that it still runs."""
    young, ripe, queued = paced(), paced(), paced(begun=False)
    ripe.begin(900.0, 0.5)
    assert ripe.gain(1060.0) > young.gain(1060.0) > 0.0
    look(ripe, PROCESSING, 1060.0)
    assert ripe.gain(1060.0) == 0.0
    assert 0.0 < ripe.gain(1070.0) < 10.0
    ripe.looking(1070.0)
    see(ripe, Blank(), 1070.0)
    assert ripe.gain(1070.0) == 0.0
    see(ripe, DROPPED, 1075.0)
    assert ripe.gain(1080.0) > ripe.gain(1075.0) > 0.0
    young.hurry(1080.0)
    assert young.gain(1080.0) == math.inf == queued.gain(1080.0)
