"""Who waits for which task, and what is to be looked at: the places in the poller's heap, and the errands of its crew."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from attrs import define, field

from kling_async._fault import ConfigurationError, KlingError
from kling_async._watch import Watch
from kling_async.errors import TaskTimeoutError
from kling_async.models import TaskRef

__all__ = ["Entry", "Round", "Waiter", "closed", "is_live", "is_near", "out_of_time"]


@define(eq=False)
class Waiter:
    """Somebody who waits, and a place in the heap for the end of that."""

    ref: TaskRef
    any_change: bool
    """Whether every change ends this wait, rather than the end of the task."""
    future: asyncio.Future[KlingError | None]

    def wake(self, error: KlingError | None) -> None:
        """End the wait."""
        if not self.future.done():
            # As a result and not an exception: a waiter cancelled this very moment leaves it unread.
            self.future.set_result(error)


@define(eq=False)
class Entry:
    """A watch that is waited for or holds slots, and a place in the heap for the next look."""

    watch: Watch
    waiters: list[Waiter] = field(factory=list)
    """In the order they came."""
    due: float = math.inf
    reading: bool = False
    release: Callable[[], object] | None = None
    """To be called when the task is final: it holds slots until then."""

    def wake(self, error: KlingError | None, *, any_change: bool = False) -> None:
        """Wake everybody, or only those who wait for any change."""
        woken = [waiter for waiter in self.waiters if waiter.any_change or not any_change]
        self.waiters = [waiter for waiter in self.waiters if any_change and not waiter.any_change]
        for waiter in woken:
            waiter.wake(error)

    def gain(self, now: float) -> float:
        """As for the watch: an entry is an errand."""
        return self.watch.gain(now)

    def free_slots(self) -> None:
        """Give back what the task holds."""
        if self.release is not None:
            self.release()
            self.release = None


@define(eq=False)
class Round:
    """Looks at tasks of one route that were gathered for a list."""

    entries: list[Entry]

    def gain(self, now: float) -> float:
        """More than any look."""
        del now
        return math.inf


def is_near(watch: Watch, now: float) -> bool:
    """Whether a task is past the middle between two looks, or its creation and the first."""
    last = watch.looked_at if watch.looked_at > -math.inf else watch.born
    return last is not None and 2 * now >= last + watch.next_look


def is_live(when: float, what: Entry | Waiter) -> bool:
    """Whether a place in the heap still means something."""
    # A look that was put off or called off, and whoever waits no longer, leaves its place behind.
    return when == what.due if isinstance(what, Entry) else not what.future.done()


def closed(ref: TaskRef) -> ConfigurationError:
    """For those who wait when the session is closed."""
    return ConfigurationError(f"the session was closed; the task goes on, attach to it in a new session: {ref}")


def out_of_time(ref: TaskRef) -> TaskTimeoutError:
    """For those whose time is up."""
    return TaskTimeoutError("the waiting ran out of time; the task goes on", ref=ref)
