from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async._pacing import Pace, Polling, Retry, backoff, check_timeout, next_gap, pace_for
from kling_async.errors import ConfigurationError
from kling_async.jobs import ALL_JOBS

PACE = Pace(first=10.0, interval=5.0, max_interval=15.0)
rolls = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("verb", "pace"),
    [
        ("generate_image", (2.0, 2.0, 5.0)),
        ("virtual_try_on", (4.0, 2.0, 5.0)),
        *((verb, (10.0, 5.0, 15.0)) for verb in ("text2video", "image2video", "video_extend", "lip_sync")),
    ],
)
def test_usual_paces(verb: str, pace: tuple[float, float, float]) -> None:
    """Each kind of job is looked after as quickly as such jobs are done (`api.md` 9)."""
    route = next(job.route for job in ALL_JOBS if job.verb == verb)
    first, interval, max_interval = pace
    assert pace_for(Polling(), route.action, route.action2) == Pace(first=first, interval=interval, max_interval=max_interval)


def test_paces_are_the_callers() -> None:
    """What `Polling` says counts, and the longest gap is never shorter than the first."""
    assert pace_for(Polling(first=1), "videos", "text2video") == Pace(first=1, interval=5.0, max_interval=15.0)
    assert pace_for(Polling(interval=60), "videos", "text2video") == Pace(first=10.0, interval=60, max_interval=60)
    assert pace_for(Polling(interval=1, max_interval=2), "images", "generations") == Pace(first=2.0, interval=1, max_interval=2)


def test_gaps_grow() -> None:
    """The first look has its own time; from then on gaps grow by a quarter up to the longest."""
    gaps = [next_gap(PACE, looks, jitter=0.2, roll=0.5) for looks in range(9)]
    assert gaps[:3] == [10.0, 5.0, 6.25]
    assert gaps[1:] == sorted(gaps[1:])
    assert gaps[-1] == 15.0


@given(st.integers(0, 10**9), st.floats(0.0, 1.0), rolls)
def test_jitter_is_bounded(looks: int, jitter: float, roll: float) -> None:
    """However long a task is looked after, a gap stays within its share of jitter."""
    exact = next_gap(PACE, looks, jitter=0.0, roll=roll)
    assert 5.0 <= exact <= 15.0
    gap = next_gap(PACE, looks, jitter=jitter, roll=roll)
    assert exact * (1 - jitter) - 1e-9 <= gap <= exact * (1 + jitter) + 1e-9


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
    pace = pace_for(Polling.fixed(3), "videos", "text2video")
    assert [next_gap(pace, looks, jitter=0.0, roll=0.9) for looks in range(4)] == [3, 3, 3, 3]
    assert Polling.patient().timeout is None
    assert Retry.never().attempts == 1
    assert Retry.patient().attempts > Retry().attempts
