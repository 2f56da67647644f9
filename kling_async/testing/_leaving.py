"""Callers that leave: cancelled at every point where they wait, one after the other."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, Self, TypeVar

from attrs import define, field

__all__ = ["CancelAt"]

T = TypeVar("T")


@define(eq=False)
class CancelAt:
    """Cancels at suspension point number `at` of what it drives, just before that takes effect.

    This is what `task.cancel()` does when it comes at that very moment: no timing, the same each time.

    Example:
        for leave in CancelAt.every():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.drive(buy(order))
            ...  # what must hold, wherever the caller has left

    Args:
        at: the point, counted from 1.
        twice: cancel once more at the next point: whoever cleans up after a cancellation may be cancelled at that, too.
    """

    at: int
    twice: bool = field(default=False, kw_only=True)
    cancel: Callable[[], object] | None = field(default=None, kw_only=True)
    """What to do then: another task's `cancel`, or that of an anyio scope. Without it the driving task is cancelled."""
    steps: int = field(default=0, init=False)
    """Suspension points so far."""

    @classmethod
    def every(cls, *, twice: bool = False) -> Iterator[Self]:
        """One for the first point, one for the second and so on, until the work ends before its point comes.

        Raises:
            RuntimeError: the first one met no suspension point: nothing was tried.
        """
        at, steps = 0, 0
        while steps >= at:
            at += 1
            leave = cls(at, twice=twice)
            yield leave
            steps = leave.steps
            if steps == 0:
                raise RuntimeError(f"nothing waited under CancelAt({at}): give the work to its `drive`, and let it wait for something")

    async def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the work, and cancel when its point comes."""
        return await _stepped(work, self._step)

    def _step(self) -> None:
        self.steps += 1
        if self.steps != self.at and not (self.twice and self.steps == self.at + 1):
            return
        if self.cancel is not None:
            self.cancel()
        elif (task := asyncio.current_task()) is not None:
            task.cancel()


@types.coroutine
def _stepped(work: Coroutine[Any, Any, T], on_step: Callable[[], object]) -> Generator[Any, Any, T]:
    value, raised = None, None
    while True:
        try:
            waited_for = work.send(value) if raised is None else work.throw(raised)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # what a coroutine returns, which no stub tells of
        on_step()
        value, raised = None, None
        try:
            value = yield waited_for
        except BaseException as error:  # noqa: BLE001  handed on to whom it is meant for
            raised = error
