"""A thread for one file, which does what it is told, in that order. Who gives up leaves at once; what was told is done nevertheless.

The shared thread pools are no place for this: slow disks fill them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from attrs import define, field

__all__ = ["Hand"]

T = TypeVar("T")


class _Thread(threading.Thread):
    """A hand's thread. A daemon: a process that ends must not hang on a disk that does not answer."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(name="kling_async file", daemon=True)
        self.hand = hand

    def run(self) -> None:
        """Do what is told until the end is."""
        self.hand.work_off()


@define(eq=False)
class Hand:
    """The thread and what it is still to do. Starts with the first work."""

    _queue: queue.SimpleQueue[Callable[[], object] | None] = field(factory=queue.SimpleQueue, init=False)
    _thread: _Thread | None = field(default=None, init=False)
    _told: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)

    @property
    def idle(self) -> bool:
        """Whether all is done that it was told."""
        return self._told == self._done

    def tell(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have it done after what it was told before. A failure that nobody waits for is nobody's."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

        def job() -> None:
            try:
                settle: Callable[[], None] = partial(_settle, future.set_result, work())
            except Exception as error:  # noqa: BLE001  whoever waits gets it
                settle = partial(_settle, future.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
                loop.call_soon_threadsafe(settle)

        if self._thread is None:
            self._thread = _Thread(self)
            self._thread.start()
        self._told += 1
        self._queue.put(job)
        return future

    def end(self) -> None:
        """Let the thread end after what it was told."""
        self._queue.put(None)

    def work_off(self) -> None:
        """The life of the thread."""
        while job := self._queue.get():
            job()
            self._done += 1


def _settle(deliver: Callable[[Any], None], outcome: Any) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):  # whoever waited was cancelled
        deliver(outcome)
