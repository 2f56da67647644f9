"""Who is due when: places in a heap, and one timer for the first of them, however many there are."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from attrs import define, field

from kling_async._clock import Clock, Timer

__all__ = ["Agenda", "Due"]

_TURN: Final = 64
"""Places that one turn of the loop goes through: more of them that came due together would hold up everybody."""


class Due(Protocol):
    """What may have a place."""

    due: float
    """When, by the clock's `now`; infinity for none. It is the agenda's to set."""


D = TypeVar("D", bound=Due)


@define(eq=False)
class Agenda(Generic[D]):
    """Has whatever is due served, some in each turn of the loop."""

    clock: Clock
    serve: Callable[[list[D], float, bool], None]
    """Told of those that are due, which have no place any more; of the time; and whether that is all."""
    _heap: list[tuple[float, int, D]] = field(factory=list, init=False)
    _void: int = field(default=0, init=False)
    """Places in the heap that do not count: what was put off, called off or brought forward leaves its own behind."""
    _order: itertools.count[int] = field(factory=itertools.count, init=False)
    _timer: Timer | None = field(default=None, init=False)
    _timer_at: float = field(default=math.inf, init=False)
    _closed: bool = field(default=False, init=False)

    def put(self, entry: D, when: float) -> None:
        """It is due then, unless it is before."""
        if when >= entry.due or self._closed:
            return
        self._void += entry.due < math.inf
        entry.due = when
        heapq.heappush(self._heap, (when, next(self._order), entry))
        if 2 * self._void > len(self._heap) + _TURN:
            self._heap = [place for place in self._heap if place[0] == place[2].due]
            heapq.heapify(self._heap)
            self._void = 0
        self._arm()

    def strike(self, entry: D) -> None:
        """It is not due."""
        self._void += entry.due < math.inf
        entry.due = math.inf

    def close(self) -> None:
        """Serve nobody any more."""
        self._closed = True
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._heap and self._heap[0][0] < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._heap[0][0]
            self._timer = self.clock.call_at(self._timer_at, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now, due = self.clock.now(), list[D]()
        while self._heap and self._heap[0][0] <= now and len(due) < _TURN:
            when, _, entry = heapq.heappop(self._heap)
            if when == entry.due:
                entry.due = math.inf
                due.append(entry)
            else:
                self._void -= 1
        self.serve(due, now, not self._heap or self._heap[0][0] > now)
        self._arm()
