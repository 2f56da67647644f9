from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async._durations import Durations, Kind, kind_asked
from kling_async._pacing import Pace, Paces, Polling, Retry, backoff, check_timeout, next_gap
from kling_async.errors import ConfigurationError
from kling_async.jobs import ALL_JOBS

PACE = Pace(first=10.0, interval=5.0, max_interval=15.0)
CLIPS = kind_asked("videos/text2video", {})
PICTURES = kind_asked("images/generations", {})
rolls = st.floats(0.0, 1.0)


def looks(pace: Pace, until: float) -> list[float]:
    """The ages at which looks are made when nothing is late and the dice show the middle."""
    ages = [0.0]
    while ages[-1] < until:
        ages.append(ages[-1] + next_gap(pace, ages[-1], jitter=0.2, roll=0.5))
    return ages[1:]


def taught(*seconds: float, times: int = 1) -> Durations:
    """What is known where clips took that long, as exactly as the service may tell."""
    durations = Durations()
    for took in seconds * times:
        durations.learn(CLIPS, took, took)
    return durations


@pytest.mark.parametrize("verb", [job.verb for job in ALL_JOBS])
def test_nothing_known(verb: str) -> None:
    """Before anything is learnt looks begin early and double their age, so that no task is seen later than at twice its age and a gap."""
    route = next(job.route for job in ALL_JOBS if job.verb == verb)
    pace = Paces(Polling()).of(kind_asked(str(route), {}))
    ages = looks(pace, 2000.0)
    assert 2.0 <= ages[0] <= 12.0
    assert all(after <= 2.5 * before for before, after in pairwise(ages))
    assert all(after - before <= 12.001 for before, after in pairwise(ages) if pace.first <= before < 455.0)


def test_even_once_most_end() -> None:
    """What is known: a look as the first are done, an even pace while most end, and gaps that grow by a quarter each beyond the last."""
    pace = Paces(Polling(), taught(*range(100, 220, 5), times=4)).of(CLIPS)
    assert pace.early == ()
    assert 60 < pace.first < 115
    assert pace.interval == 12.0
    assert pace.tail is not None
    assert 200 < pace.tail < 400
    gaps = [after - before for before, after in pairwise(looks(pace, 2000.0))]
    even = round((pace.tail - pace.first) / 12)
    assert gaps[: even - 1] == pytest.approx([12.0] * (even - 1))
    assert gaps == pytest.approx(sorted(gaps))
    assert gaps[-1] == pytest.approx(36.0)


def mean(pace: Pace, durations: list[float]) -> tuple[float, float]:
    """Looks and lag per task, of tasks that take that long."""
    ages = looks(pace, 2 * max(durations))
    seen = [next((number, age) for number, age in enumerate(ages, 1) if age >= took) for took in durations]
    return sum(number for number, _ in seen) / len(seen), sum(age - took for (_, age), took in zip(seen, durations, strict=True)) / len(
        seen
    )


@pytest.mark.parametrize(("gap", "most"), [(3.0, 0.58), (12.0, 0.56), (24.0, 0.56), (36.0, 0.6)])
def test_few_looks_for_the_same_lag(gap: float, most: float) -> None:
    """Whatever the gap, there are fewer looks than at a fixed interval of the same mean lag; wide gaps begin late, narrow ones early."""
    dice = random.Random(1)
    many = [120.0 * math.exp(dice.gauss(0.0, 0.3)) for _ in range(2000)]
    pace = Paces(Polling(interval=gap, max_interval=3 * gap), taught(*many[:100])).of(CLIPS)
    reads, lag = mean(pace, many)
    fixed, _ = mean(Pace(first=2 * lag, interval=2 * lag, max_interval=2 * lag), many)
    assert reads <= most * fixed


@pytest.mark.parametrize(("wrong", "latest"), [(2.0, 0.3), (0.5, 0.06)])
def test_a_wrong_model_is_harmless(wrong: float, latest: float) -> None:
    """Where tasks take half or double of all that was ever learnt they are late by a part of their time, and no more is read."""
    took = [160.0 * (0.8 + 0.02 * step) for step in range(21)]
    pace = Paces(Polling(), taught(*(wrong * seconds for seconds in took), times=5)).of(CLIPS)
    seen = [next(age for age in looks(pace, 3 * seconds + 100) if age >= seconds) for seconds in took]
    reads = [sum(age < seconds for age in looks(pace, seconds)) + 1 for seconds in took]
    assert sum(after - seconds for after, seconds in zip(seen, took, strict=True)) / sum(took) < latest
    assert max(reads) <= 16


def test_paces_are_the_callers() -> None:
    """What `Polling` says counts more than what is known, whatever that is."""
    for known in (Durations(), taught(160.0, 170.0, times=20)):
        pace = Paces(Polling(first=1.0), known).of(CLIPS)
        assert (pace.first, pace.early) == (1.0, ())
        pace = Paces(Polling(interval=60.0), known).of(CLIPS)
        assert (pace.interval, pace.max_interval) == (60.0, 60.0)
        assert Paces(Polling(max_interval=2.0), known).of(CLIPS).interval == 2.0
        pace = Paces(Polling(first=7.0, interval=1.0, max_interval=2.0), known).of(PICTURES)
        assert (pace.first, pace.interval, pace.max_interval, pace.queued) == (7.0, 1.0, 2.0, None)


def test_a_bound_on_queueing_is_kept() -> None:
    """Where queueing is bounded there is a look soon after that time, however late the first one would be."""
    pace = Paces(Polling(queued_timeout=30.0), taught(300.0, 310.0, times=20)).of(CLIPS)
    assert any(30.0 <= age <= 30.0 + 2 * pace.interval for age in looks(pace, 400.0))
    assert pace.queued is None


def test_gaps_grow() -> None:
    """Where nothing is known of a tail gaps grow by a quarter each from the first look on, up to the longest."""
    ages = looks(PACE, 100.0)
    assert ages[:4] == [10.0, 15.0, 21.25, 29.0625]
    assert ages[-1] - ages[-2] == 15.0


@settings(max_examples=50)
@given(st.floats(0.0, 1e9), st.floats(0.0, 1.0), rolls, st.lists(st.floats(1.0, 4000.0), max_size=6))
def test_gaps_are_bounded(age: float, jitter: float, roll: float, known: list[float]) -> None:
    """However old a task is, and whatever is known: a gap is above zero, and no longer than to the first look, or the longest gap."""
    pace = Paces(Polling(), taught(*known)).of(CLIPS)
    gap = next_gap(pace, age, jitter=jitter, roll=roll)
    assert 0.0 < gap <= max(pace.first - age, 0.0) + pace.max_interval * (1 + jitter)
    exact = next_gap(pace, age, jitter=0.0, roll=roll)
    assert abs(gap - exact) <= jitter * min(exact, pace.max_interval) + 1e-9


@given(st.integers(1, 10**6), rolls, st.none() | st.floats(0, 1e6))
def test_backoff_is_full_jitter(attempt: int, roll: float, floor: float | None) -> None:
    """A pause is rolled between nothing and a bound that doubles up to the cap; what the server asked for is its floor."""
    bound = min(20.0, 0.5 * 2.0 ** min(attempt - 1, 60))
    pause = backoff(attempt, base=0.5, cap=20.0, roll=roll, floor=floor)
    assert (floor or 0.0) <= pause <= max(bound, floor or 0.0)
    assert backoff(attempt, base=0.5, cap=20.0, roll=1.0) == bound


@pytest.mark.parametrize(("given_", "seconds"), [(None, None), (0, 0.0), (5, 5.0), (0.25, 0.25), (math.inf, None)])
@pytest.mark.row("V15")
def test_timeouts(given_: float | None, seconds: float | None) -> None:
    """A bound is seconds; none and an infinite one are no bound."""
    assert check_timeout(given_) == seconds


@pytest.mark.parametrize("bad", [-1, -0.1, math.nan, -math.inf, True, "5"])
@pytest.mark.row("V15")
def test_what_is_no_timeout(bad: float) -> None:
    """What is no bound is refused before anything is done with it (V15)."""
    with pytest.raises(ConfigurationError, match="timeout"):
        check_timeout(bad)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, True, "5", 7 * 86400 + 1])
@pytest.mark.parametrize("name", ["first", "interval", "max_interval", "queued_timeout", "timeout", "error_budget"])
def test_polling_refuses(name: str, bad: float) -> None:
    """A time that cannot be waited for is refused by name."""
    with pytest.raises(ConfigurationError, match=rf"Polling\.{name} must be"):
        Polling(**{name: bad})


@pytest.mark.parametrize(
    ("name", "bad"),
    [("attempts", 0), ("attempts", 2.5), ("attempts", True), ("attempts", None), ("base", 0), ("cap", math.nan), ("probe", -1)],
)
def test_retry_refuses(name: str, bad: Any) -> None:
    """A number of attempts is whole, and pauses are times."""
    with pytest.raises(ConfigurationError, match=rf"Retry\.{name} must be"):
        Retry(**{name: bad})


@pytest.mark.parametrize("bad", [-0.1, 1.1, None])
def test_jitter_is_a_share(bad: float | None) -> None:
    """Jitter is a part of the gap."""
    with pytest.raises(ConfigurationError, match="jitter"):
        Polling(jitter=bad)  # type: ignore[arg-type]  # a caller without types


def test_presets() -> None:
    """The presets are settings like any other, said in a word."""
    assert Polling.fixed(3) == Polling(first=3, interval=3, max_interval=3, jitter=0.0)
    for known in (Durations(), taught(100.0, times=20)):
        assert looks(Paces(Polling.fixed(3), known).of(CLIPS), 12) == [3, 6, 9, 12]
        ages = looks(Paces(Polling.backoff(4, max_interval=8), known).of(CLIPS), 60)
        assert ages[:4] == [4.0, 8.0, 13.0, 19.25]
        assert ages[-1] - ages[-2] == 8.0
    assert evolve(Polling.backoff(4, max_interval=8), jitter=0.0) == evolve(Polling.backoff(4, max_interval=8), jitter=0.0)
    assert evolve(Polling.backoff(4, max_interval=8), timeout=5.0) != Polling(first=4, interval=4, max_interval=8, timeout=5.0)
    assert Polling.patient().timeout is None
    assert Retry.never().attempts == 1
    assert Retry.patient().attempts > Retry().attempts


def test_paces_follow_what_is_known() -> None:
    """A pace is made once for all tasks of a kind, and anew when more is known; how many are kept is bounded."""
    paces = Paces(Polling())
    before = paces.of(CLIPS)
    assert paces.of(CLIPS) is before
    paces.durations.learn(CLIPS, 50.0, 60.0)
    assert paces.of(CLIPS) is not before
    for number in range(1000):
        paces.of(Kind(levels=(f"k{number}",), usual=100.0))
    assert len(paces._made) <= 256
