"""Where time comes from. Every waiting thing is handed a clock; nothing else asks for the time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final, Protocol, Self

from attrs import frozen


class Timer(Protocol):
    """Something that will happen, and can still be called off."""

    def cancel(self) -> None:
        """Call it off; harmless when it has happened."""


class Clock(Protocol):
    """Two readings and two ways to wait. Seconds throughout."""

    def now(self) -> float:
        """Monotonic seconds: for durations and deadlines."""
        ...

    def wall(self) -> float:
        """Unix seconds: for signatures and for people."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` from the event loop once `now()` has reached `when`."""
        ...


@frozen
class Deadline:
    """When a caller's time is up: made once, where the call comes in, and handed down to whatever it waits for."""

    at: float
    """By the clock's `now`; infinity is never."""

    @classmethod
    def after(cls, timeout: float | None, clock: Clock) -> Self:
        """So many seconds from now; `None` is never."""
        return cls(math.inf if timeout is None else clock.now() + timeout)

    def left(self, now: float) -> float:
        """Seconds until then: 0 when the time is up, infinity when it never is."""
        return max(0.0, self.at - now)


NEVER: Final = Deadline(math.inf)


class SystemClock:
    """The running event loop's own clock and timers."""

    def now(self) -> float:
        """Seconds of the running loop."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Seconds since 1970."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep in the running loop."""
        await asyncio.sleep(seconds)

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Set a timer in the running loop."""
        return asyncio.get_running_loop().call_at(when, callback)
