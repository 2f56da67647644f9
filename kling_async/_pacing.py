"""When to look next, given what was seen, the time and a roll of the dice. Pure: no clock, no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Self

from attrs import Attribute, define, field, frozen

from kling_async._durations import Durations, Forecast, Kind
from kling_async._fault import ConfigurationError

__all__ = ["Pace", "Paces", "Polling", "Retry", "backoff", "check_timeout", "next_gap", "pace_for"]

_GROWTH: Final = 0.25
"""Beyond the expected tail each gap is this part longer than the one before, up to the longest."""


def _number(low: float, high: float, unit: str, *, none: bool = False, whole: bool = False) -> Callable[[Any, Attribute[Any], Any], None]:
    def check(instance: object, attribute: Attribute[Any], value: object) -> None:
        if value is None and none:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
            msg = f"{type(instance).__name__}.{attribute.name} must be {low:g} to {high:g} {unit}, got {value!r}"
            raise ConfigurationError(msg)

    return check


_WEEK: Final = 7 * 86400.0
_duration = _number(0.001, _WEEK, "seconds")
_duration_or_none = _number(0.001, _WEEK, "seconds", none=True)


@frozen(kw_only=True)
class Polling:
    """How a wait looks after its task. All in seconds; `None` means the default for that kind of job.

    The default is what is known of such jobs: a look when the first of them are done, an even pace while most of them
    end, and gaps that grow by a quarter each beyond that. It is learnt from the tasks that finish.
    """

    first: float | None = field(default=None, validator=_duration_or_none)
    """From the submission to the first look."""
    interval: float | None = field(default=None, validator=_duration_or_none)
    """From one look to the next, while most such tasks end."""
    max_interval: float | None = field(default=None, validator=_duration_or_none)
    """The longest gap between two looks, for tasks that take longer than nearly all such tasks."""
    jitter: float = field(default=0.2, validator=_number(0.0, 1.0, "of the gap"))
    """Each gap is longer or shorter by up to this share of it, or of `interval`, so that many waits do not look at once."""
    queued_timeout: float | None = field(default=None, validator=_duration_or_none)
    """How long a task may stay `submitted` before the wait ends; `None` is as long as `timeout`."""
    timeout: float | None = field(default=3600.0, validator=_duration_or_none)
    """How long one wait lasts at most; `None` is for ever. Running out never ends the task."""
    error_budget: float = field(default=600.0, validator=_duration)
    """How long looks may fail without a good one between before the wait ends."""
    max_rate: float | None = field(default=None, validator=_number(0.001, 100_000.0, "looks a second", none=True))
    """The most looks a second of the whole session; those come first that save most waiting. `None` is as many as the pace asks for."""

    @classmethod
    def fixed(cls, seconds: float) -> Self:
        """Look every so many seconds, from the first time on and without jitter."""
        return cls(first=seconds, interval=seconds, max_interval=seconds, jitter=0.0)

    @classmethod
    def backoff(cls, first: float, *, max_interval: float) -> Polling:
        """Look after `first` seconds, then at gaps that grow by a quarter each up to `max_interval`, whatever is known of the job."""
        return _Backoff(first=first, interval=first, max_interval=max_interval)

    @classmethod
    def patient(cls) -> Self:
        """Wait for as long as it takes: no bound in time, and a day of failing looks."""
        return cls(timeout=None, error_budget=86400.0)


@frozen(kw_only=True)
class _Backoff(Polling):
    """One whose gaps grow from the first look on."""


@frozen(kw_only=True)
class Retry:
    """How often and how fast what is provably harmless is tried again."""

    attempts: int = field(default=5, validator=_number(1, 100, "whole attempts", whole=True))
    """How often a paid request is sent at the most, counting only sends that were provably not accepted."""
    base: float = field(default=0.5, validator=_duration)
    """Seconds up to which the first pause is rolled; each later bound is twice the one before."""
    cap: float = field(default=20.0, validator=_duration)
    """The longest pause in seconds."""
    probe: float = field(default=1.0, validator=_duration)
    """The first pause in seconds after the service said that it has no free slot or is asked too fast."""
    reconcile_window: float = field(default=120.0, validator=_duration)
    """Seconds in which an unknown outcome is looked up, where the profile can."""

    @classmethod
    def never(cls) -> Self:
        """Send once; only a full service is asked again, when its turn comes."""
        return cls(attempts=1)

    @classmethod
    def patient(cls) -> Self:
        """Sit out an outage of some minutes before a request has left."""
        return cls(attempts=20, cap=60.0)


@frozen(kw_only=True)
class Pace:
    """A `Polling` with every blank filled in for one kind of job. Ages are counted from when the task began."""

    first: float
    interval: float
    max_interval: float
    early: tuple[float, ...] = ()
    """Ages before `first` at which to look, too: for what fails at once, and where what is known may be wrong."""
    tail: float | None = None
    """The age from which gaps grow; `None` is `first`."""
    queued: float | None = None
    """The gap while a task is queued at an age at which others are done; `None` is as if it ran."""
    forecast: Forecast | None = field(default=None, repr=False)


_SHARE: Final = 1 / 12
"""The even gap, of the usual duration: the mean lag is half of it."""
_GAPS: Final = (3.0, 12.0)
"""The shortest and the longest even gap. Gateways refresh what they know every 15 s: looking more often shows little."""
_LONGEST: Final = 3.0
"""The longest gap, in even gaps."""
_EARLY: Final = (0.0, 1.5)
"""Deviations below the middle at which the first look is, at the least and at the most: see `_before_the_middle`."""
_LATE: Final = 2.3
"""Deviations above it from which gaps grow: one in a hundred is not done."""
_DOUBT: Final = 2.0
"""Deviations by which these two are moved apart before anything has been learnt; with lessons less, as their root."""
_TAUGHT: Final = 2.0
"""Lessons before which looks are made at doubling ages, as what is known to begin with may be wrong by any factor."""
_SAFE: Final = 0.25
"""One look early on, as a part of the first age, while a kind is not well known, or has just failed or surprised."""
_HALF: Final = 0.6
"""Of the usual duration, where a look is worth its while even when all is well known, if the first is long after: tasks may take half."""
_QUEUED: Final = 1 / 3
"""The gap while queued, of the first age: what is left then is at least as much."""
_PACES: Final = 256
_LEAST: Final = 0.01
"""What jitter leaves of a gap in any case."""
# Where callbacks are expected: from the time on when nearly all of the kind are done, and then seldom.
_TRY_ON_CALLED: Final = (30.0, 15.0, 30.0)
_IMAGES_CALLED: Final = (40.0, 15.0, 30.0)
_OTHERS_CALLED: Final = (480.0, 30.0, 60.0)


@define(eq=False)
class Paces:
    """The paces of one session, by kind, as what is known of the kinds changes."""

    polling: Polling
    durations: Durations = field(factory=Durations)
    _made: dict[tuple[Kind, bool], tuple[int, Pace]] = field(factory=dict, init=False)

    def of(self, kind: Kind, *, called: bool = False) -> Pace:
        """The pace for tasks of that kind, now; `called` is whether callbacks are expected."""
        version, pace = self._made.get((kind, called), (-1, None))
        if pace is not None and version == self.durations.version:
            return pace
        forecast = self.durations.forecast(kind)
        if pace is None or pace.forecast is not forecast:
            pace = pace_for(self.polling, kind, forecast, called=called)
        if len(self._made) >= _PACES:
            self._made.clear()
        self._made[kind, called] = self.durations.version, pace
        return pace


def pace_for(polling: Polling, kind: Kind, forecast: Forecast, *, called: bool = False) -> Pace:
    """The pace for tasks of a kind: what `polling` says, else what such tasks are expected to need.

    `called` is whether callbacks are expected. A bound on queueing can be kept by looking only.
    """
    bound = polling.queued_timeout
    called = called and bound is None
    doubt = _DOUBT / math.sqrt(1.0 + forecast.lessons)
    if called:
        first, interval, longest = _called(kind.levels[0])
    else:
        first, interval = 0.0, min(_GAPS[1], max(_GAPS[0], forecast.quantile(0.5) * _SHARE))
        longest = interval * _LONGEST
    longest = longest if polling.max_interval is None else polling.max_interval
    interval = min(interval, longest) if polling.interval is None else polling.interval
    early: list[float] = []
    if polling.first is not None:
        first = polling.first
    elif not called:
        first = forecast.early(_before_the_middle(interval, forecast, doubt))
        early = _early(first, interval, forecast)
        if bound is not None and bound + interval < first:
            early = sorted([*early, bound + interval])
    free = not called and bound is None and polling.first is None and polling.interval is None
    return Pace(
        first=first,
        interval=interval,
        max_interval=max(interval, longest),
        early=tuple(early),
        tail=None if called or isinstance(polling, _Backoff) else max(first, forecast.late(_LATE + doubt)),
        queued=max(interval, first * _QUEUED) if free else None,
        forecast=forecast,
    )


def _before_the_middle(interval: float, forecast: Forecast, doubt: float) -> float:
    """Deviations below the middle at which the first look is worth its while, where looks are so far apart after it.

    Of lognormal durations, fewest looks at the same mean lag are those that begin at one and a half deviations for gaps of a fifth of one,
    at one for gaps of a third, and in the middle for gaps as wide as one: whoever looks so seldom can as well wait for half of the tasks.
    """
    latest, earliest = _EARLY
    deviation = (forecast.late(1.0) - forecast.early(1.0)) / 2
    best = max(latest, min(earliest, 0.1 - 0.85 * math.log(interval / deviation)))
    return best + (earliest - best) * doubt / _DOUBT + doubt


def _early(first: float, interval: float, forecast: Forecast) -> list[float]:
    if forecast.calm:
        half = forecast.quantile(0.5) * _HALF
        return [half] if first - half > 2 * interval else []
    if forecast.lessons >= _TAUGHT:
        return [first * _SAFE] if first * _SAFE >= interval else []
    doubling = (interval * 2.0**step for step in range(12))
    return [age for age in doubling if age * 1.5 < first]


def _called(route: str) -> tuple[float, float, float]:
    if route == "images/kolors-virtual-try-on":
        return _TRY_ON_CALLED
    return _IMAGES_CALLED if route.startswith("images/") else _OTHERS_CALLED


def next_gap(pace: Pace, age: float, *, jitter: float, roll: float) -> float:
    """Seconds from a look at that age of the task, or from its creation at 0, to the next; `roll` is from 0 to 1."""
    gap = interval = pace.interval
    if age < pace.first:
        # Jitter may have brought us here a little before a look that this one stands for.
        ahead = (look - age for look in (*pace.early, pace.first) if look - age > 0.5 * min(interval, look))
        gap = next(ahead, interval)
        interval = min(gap, interval)
    else:
        tail = pace.first if pace.tail is None else pace.tail
        gap = interval = min(pace.max_interval, gap + _GROWTH * max(0.0, age - tail))
    return max(gap + interval * jitter * (2 * roll - 1), gap * _LEAST)


def backoff(attempt: int, *, base: float, cap: float, roll: float, floor: float | None = None) -> float:
    """Seconds to pause after failed attempt number `attempt` (from 1): full jitter, never below `floor`."""
    pause = roll * min(cap, base * 2.0 ** min(attempt - 1, 64))
    return pause if floor is None else max(pause, floor)


def check_timeout(timeout: object) -> float | None:
    """A caller's own bound in seconds, as given; `None` for none.

    Raises:
        ConfigurationError: it is negative, not a number, or no number at all.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or math.isnan(timeout) or timeout < 0:
        msg = f"timeout must be seconds, zero or more, or None; got {timeout!r}"
        raise ConfigurationError(msg)
    return None if math.isinf(timeout) else float(timeout)
