"""One bound of time for everything of a kind, with one timer for all of it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from attrs import define, field

__all__ = ["Patience"]


@define(eq=False)
class Patience:
    """`with patience:` around awaits ends them by `TimeoutError` after so many seconds, as `asyncio.timeout` does.

    A timer of its own would cost a read of a task a twentieth of its time. As all have the same bound, they end in the order in
    which they began. A task is in it once at a time.
    """

    seconds: float
    _began: dict[asyncio.Task[Any], tuple[float, int]] = field(factory=dict, init=False)
    """Whoever is under way, the first to end first: when that is, and how often the task had been cancelled before."""
    _late: set[asyncio.Task[Any]] = field(factory=set, init=False)
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            msg = "a bound of time is for tasks"
            raise RuntimeError(msg)
        end = loop.time() + self.seconds
        self._began[task] = end, task.cancelling()
        if self._timer is None:
            self._timer = loop.call_at(end, self._tick, loop)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        before = self._began.pop(task)[1]
        if task in self._late:
            self._late.discard(task)
            # Cancelled by somebody else, too: that counts for more.
            if task.uncancel() <= before and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from error

    def close(self) -> None:
        """Set no more timers: to be called when nobody is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task, (end, _) in self._began.items():
            if end > now:
                self._timer = loop.call_at(end, self._tick, loop)
                return
            if task not in self._late:
                self._late.add(task)
                task.cancel()
