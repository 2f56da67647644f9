from __future__ import annotations

import math

import pytest

from kling_async._clock import NEVER, Deadline, SystemClock


class Noon(SystemClock):
    """A clock that stands still."""

    def now(self) -> float:
        return 100.0


@pytest.mark.parametrize(("timeout", "at"), [(None, math.inf), (0, 100.0), (2.5, 102.5)])
def test_a_deadline_is_a_moment(timeout: float | None, at: float) -> None:
    """It is made from seconds and the clock, and does not move."""
    assert Deadline.after(timeout, Noon()) == Deadline(at)


@pytest.mark.parametrize(("now", "left"), [(0.0, 102.0), (100.0, 2.0), (102.0, 0.0), (103.0, 0.0)])
def test_what_is_left_is_never_less_than_nothing(now: float, left: float) -> None:
    """It counts down to nothing, and stays there; where there is no bound it does not count."""
    assert Deadline(102.0).left(now) == left
    assert NEVER.left(now) == math.inf
