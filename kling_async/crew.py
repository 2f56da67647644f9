"""Who reads next, how many read at once, and how many a second: the best first, and nobody starts a task per read that waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Final, Generic, Protocol, TypeVar

from attrs import define, field

from kling_async._clock import Clock, Timer

__all__ = ["READS", "Crew", "Errand"]

READS: Final = 64
"""Reads in flight at once: fewer than there are sockets, so that none waits for a connection."""
_REWEIGH: Final = 0.5
"""Seconds for which the order of very many errands is left as it is: worth grows slowly, and sorting takes its time."""
_MANY: Final = 64


class Errand(Protocol):
    """Something to read."""

    def gain(self, now: float) -> float:
        """What doing it now is worth beside others; infinity for at once."""
        ...


E = TypeVar("E", bound=Errand)


@define(eq=False)
class Crew(Generic[E]):
    """Does errands, each once."""

    work: Callable[[E], Awaitable[None]]
    """Never raises."""
    clock: Clock
    max_rate: float | None = None
    """Reads a second, on the average of a second; `None` for as many as come."""
    _queue: list[E] = field(factory=list, init=False)
    """The best last, as far as they have been weighed."""
    _new: list[E] = field(factory=list, init=False)
    _weighed: float = field(default=-math.inf, init=False)
    _workers: set[asyncio.Task[None]] = field(factory=set, init=False)
    _context: Context = field(factory=copy_context, init=False)
    """That in which the session was made."""
    _allowed: float = field(default=-math.inf, init=False)
    """When the next read may begin."""
    _timer: Timer | None = field(default=None, init=False)

    @property
    def idle(self) -> bool:
        """Whether nothing is being done, or waits to be."""
        return not self._workers and not self._queue and not self._new

    def add(self, errand: E) -> None:
        """Do this when its turn comes."""
        self._new.append(errand)
        self._hire()

    def charge(self, reads: int) -> None:
        """An errand takes more than one read."""
        if self.max_rate is not None:
            self._allowed = max(self._allowed, self.clock.now()) + reads / self.max_rate

    def take_back(self) -> list[E]:
        """All that has not begun."""
        taken = self._queue + self._new
        self._queue, self._new = [], []
        return taken

    async def aclose(self) -> None:
        """Stop, in the middle of whatever it is."""
        self.take_back()
        if self._timer is not None:
            self._timer.cancel()
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers)

    def _hire(self) -> None:
        if len(self._workers) < READS and self._is_allowed():
            # What is said in one waiter's context, such as its span, is not about the looks that are made for all.
            worker = asyncio.get_running_loop().create_task(self._work(), context=self._context.copy())
            if not worker.done():  # an eager one may have done all there was by now
                self._workers.add(worker)

    def _is_allowed(self) -> bool:
        if self.max_rate is None:
            return True
        now = self.clock.now()
        if self._allowed <= now:
            return True
        if self._timer is None:
            self._timer = self.clock.call_at(self._allowed, self._resume)
        return False

    def _resume(self) -> None:
        self._timer = None
        if self._queue or self._new:
            self._hire()

    async def _work(self) -> None:
        try:
            while (self._queue or self._new) and self._is_allowed():
                errand = self._best()
                if self.max_rate is not None:
                    # What was not used is lost but for a read: a burst after a quiet hour would be one all the same.
                    self._allowed = max(self._allowed, self.clock.now() - 1 / self.max_rate) + 1 / self.max_rate
                    if self._queue or self._new:
                        self._hire()
                await self.work(errand)
                if self._queue or self._new:
                    # Where replies come by the dozen others have their turn before as many looks begin.
                    await asyncio.sleep(0)
        finally:
            # Here and not when the task is done, which is a turn of the loop later: what comes meanwhile needs a new worker.
            self._workers -= {asyncio.current_task()}

    def _best(self) -> E:
        if not self._queue and self.max_rate is None and len(self._workers) < READS:
            return self._new.pop(0)  # as many work as there are errands: each is done at once
        now = self.clock.now()
        if self._new and (not self._queue or len(self._queue) + len(self._new) < _MANY or now - self._weighed >= _REWEIGH):
            # Of those that are worth the same whoever came first.
            self._queue = sorted([*reversed(self._queue), *self._new], key=lambda errand: errand.gain(now), reverse=True)[::-1]
            self._new, self._weighed = [], now
        return self._queue.pop()
