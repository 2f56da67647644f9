"""When to look next, given what was seen, the time and a roll of the dice. Pure: no clock, no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Self

from attrs import Attribute, field, frozen

from kling_async._fault import ConfigurationError

__all__ = ["Pace", "Polling", "Retry", "backoff", "check_timeout", "next_gap", "pace_for"]

_GROWTH: Final = 1.25
"""Each gap between two looks is this much longer than the one before, up to the longest."""


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
    """How a wait looks after its task. All in seconds; `None` means the default for that kind of job."""

    first: float | None = field(default=None, validator=_duration_or_none)
    """From the submission to the first look."""
    interval: float | None = field(default=None, validator=_duration_or_none)
    """From the first look to the second; later gaps grow by a quarter each."""
    max_interval: float | None = field(default=None, validator=_duration_or_none)
    """The longest gap between two looks."""
    jitter: float = field(default=0.2, validator=_number(0.0, 1.0, "of the gap"))
    """Each gap is longer or shorter by up to this share, so that many waits do not look at once."""
    queued_timeout: float | None = field(default=None, validator=_duration_or_none)
    """How long a task may stay `submitted` before the wait ends; `None` is as long as `timeout`."""
    timeout: float | None = field(default=3600.0, validator=_duration_or_none)
    """How long one wait lasts at most; `None` is for ever. Running out never ends the task."""
    error_budget: float = field(default=600.0, validator=_duration)
    """How long looks may fail without a good one between before the wait ends."""

    @classmethod
    def fixed(cls, seconds: float) -> Self:
        """Look every so many seconds, from the first time on and without jitter."""
        return cls(first=seconds, interval=seconds, max_interval=seconds, jitter=0.0)

    @classmethod
    def patient(cls) -> Self:
        """Wait for as long as it takes: no bound in time, and a day of failing looks."""
        return cls(timeout=None, error_budget=86400.0)


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
    """A `Polling` with every blank filled in for one kind of job."""

    first: float
    interval: float
    max_interval: float


# api.md section 9: images take 8 to 32 s, a try-on 19 s, clips 80 to 455 s, and gateways refresh every 15 s.
_IMAGES: Final = Pace(first=2.0, interval=2.0, max_interval=5.0)
_TRY_ON: Final = Pace(first=4.0, interval=2.0, max_interval=5.0)
_OTHERS: Final = Pace(first=10.0, interval=5.0, max_interval=15.0)
# Where callbacks are expected: from the time on when nearly all of the kind are done, and then seldom.
_IMAGES_CALLED: Final = Pace(first=40.0, interval=15.0, max_interval=30.0)
_TRY_ON_CALLED: Final = Pace(first=30.0, interval=15.0, max_interval=30.0)
_OTHERS_CALLED: Final = Pace(first=480.0, interval=30.0, max_interval=60.0)


def pace_for(polling: Polling, action: str, action2: str, *, called: bool = False) -> Pace:
    """The pace for tasks of a route: what `polling` says, else what its kind of job is known to need.

    `called` is whether callbacks are expected. A bound on queueing can be kept by looking only.
    """
    paces = (_TRY_ON_CALLED, _IMAGES_CALLED, _OTHERS_CALLED) if called and polling.queued_timeout is None else (_TRY_ON, _IMAGES, _OTHERS)
    usual = paces[0 if action2 == "kolors-virtual-try-on" else 1 if action == "images" else 2]
    interval = polling.interval if polling.interval is not None else usual.interval
    return Pace(
        first=polling.first if polling.first is not None else usual.first,
        interval=interval,
        max_interval=max(interval, polling.max_interval if polling.max_interval is not None else usual.max_interval),
    )


def next_gap(pace: Pace, looks: int, *, jitter: float, roll: float) -> float:
    """Seconds to the next look after `looks` looks; `roll` is from 0 to 1."""
    # The exponent is bounded: a task may be looked at for a week, and 1.25 ** 4000 is no float.
    gap = pace.first if looks == 0 else min(pace.interval * _GROWTH ** min(looks - 1, 64), pace.max_interval)
    return gap * (1 + jitter * (2 * roll - 1))


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
