"""The emulator's time: the given clock, run faster and pushed on by hand. Everything in it waits for this and nothing else."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from kling_async._clock import Clock, Timer


class EmulatedTime:
    """Seconds since the emulator started, `speed` of them to a real one; a speed of 0 stands still but for `advance`."""

    def __init__(self, clock: Clock, speed: float) -> None:
        _check_speed(speed)
        self._clock = clock
        self._speed = speed
        self._started = clock.now()
        self._started_wall = clock.wall()
        self._advanced = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._pauses: set[asyncio.Future[None]] = set()
        self.closed = False
        """Whether the emulator is ending: nothing waits any more."""

    @property
    def speed(self) -> float:
        """Emulated seconds to a real one; may be changed at any moment."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        _check_speed(speed)
        self._advanced = self.now()
        self._started = self._clock.now()
        self._speed = speed
        self._arm()

    def now(self) -> float:
        """Emulated seconds since the start."""
        return (self._clock.now() - self._started) * self._speed + self._advanced

    def wall(self, moment: float | None = None) -> float:
        """Emulated Unix seconds, now or at a moment."""
        return self._started_wall + (self.now() if moment is None else moment)

    def millis(self, moment: float) -> int:
        """A moment as the service writes it: Unix milliseconds."""
        return round(self.wall(moment) * 1000)

    def real_wall(self) -> float:
        """Unix seconds as the rest of the world has them; what others sign is checked by these."""
        return self._clock.wall()

    def call_at(self, moment: float, callback: Callable[[], object]) -> None:
        """Call it when `now()` has reached the moment, whichever way it got there."""
        heapq.heappush(self._due, (moment, next(self._order), callback))
        self._arm()

    def advance(self, seconds: float) -> None:
        """Jump ahead and do at once what has become due, in its order."""
        if not 0 <= seconds < float("inf"):
            msg = f"seconds: how far to jump ahead, 0 or more; got {seconds}"
            raise ValueError(msg)
        self._advanced += seconds
        self._run_due()

    async def pause(self, seconds: float | None, bell: asyncio.Future[None] | None = None) -> None:
        """Wait real seconds, or with `None` until the emulator closes; closing ends every pause, and so does its `bell`."""
        if self.closed:
            return
        pause = bell or asyncio.get_running_loop().create_future()
        self._pauses.add(pause)
        timer = None if seconds is None else self._clock.call_at(self._clock.now() + seconds, lambda: _end(pause))
        try:
            await pause
        finally:
            self._pauses.discard(pause)
            if timer:
                timer.cancel()

    def close(self) -> None:
        """Call off what is not due yet and end every pause."""
        self.closed = True
        self._due.clear()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        for pause in self._pauses:
            _end(pause)

    def _run_due(self) -> None:
        now = self.now()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        self._arm()

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        wait = self._due[0][0] - self.now() if self._due else None
        if wait is not None and (self._speed or wait <= 0):
            # A hair late, so that rounding never makes a timer find nothing to do and set itself again.
            wait = wait / self._speed + 1e-6 if wait > 0 else 0.0
            self._timer = self._clock.call_at(self._clock.now() + wait, self._run_due)


def _check_speed(speed: float) -> None:
    if not 0 <= speed < float("inf"):
        msg = f"speed: emulated seconds per second, 0 or more; got {speed}"
        raise ValueError(msg)


def _end(pause: asyncio.Future[None]) -> None:
    if not pause.done():
        pause.set_result(None)
