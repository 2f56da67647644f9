"""Who waits for which task, and what is to be looked at: the places in the poller's agenda, and the errands of its crew."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from attrs import define, field

from kling_async._fault import ConfigurationError, KlingError
from kling_async._watch import Watch
from kling_async.errors import TaskTimeoutError
from kling_async.models import TaskRef

__all__ = ["Entry", "Round", "Waiter", "closed", "is_near", "out_of_time"]


@define(eq=False, weakref_slot=False)
class Waiter:
    """Somebody who waits."""

    until: float
    """When the time is up."""
    any_change: bool
    """Whether every change ends this wait, rather than the end of the task."""
    future: asyncio.Future[KlingError | None]

    def wake(self, error: KlingError | None) -> None:
        """End the wait."""
        if not self.future.done():
            # As a result and not an exception: a waiter cancelled this very moment leaves it unread.
            self.future.set_result(error)


@define(eq=False, weakref_slot=False)
class Entry:
    """A watch that is waited for or holds slots, and a place in the agenda for the next look, or for whose time is up before."""

    watch: Watch
    waiters: list[Waiter] = field(factory=list)
    """In the order they came."""
    until: float = math.inf
    """When time is up for the first of them; or for one who has left."""
    due: float = math.inf
    """Its place in the agenda; infinity for none."""
    reading: bool = False
    release: Callable[[], object] | None = None
    """To be called when the task is final: it holds slots until then."""

    def enter(self, until: float, any_change: bool) -> Waiter:  # noqa: FBT001  as `Poller.wait` got them
        """Somebody waits."""
        waiter = Waiter(until, any_change, asyncio.get_running_loop().create_future())
        if self.waiters:
            self.waiters.append(waiter)
        else:
            self.waiters = [waiter]  # of just that size, as most stay alone
        self.until = min(self.until, until)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Somebody waits no longer."""
        if waiter in self.waiters:  # whoever was woken is no longer there
            self.waiters.remove(waiter)

    def expire(self, now: float) -> None:
        """Wake those whose time is up."""
        if self.until > now:
            return
        for waiter in self.waiters:
            if waiter.until <= now:
                waiter.wake(out_of_time(self.watch.ref))
        self.until = min((waiter.until for waiter in self.waiters if not waiter.future.done()), default=math.inf)

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


@define(eq=False, weakref_slot=False)
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


def closed(ref: TaskRef) -> ConfigurationError:
    """For those who wait when the session is closed."""
    return ConfigurationError(f"the session was closed; the task goes on, attach to it in a new session: {ref}")


def out_of_time(ref: TaskRef) -> TaskTimeoutError:
    """For those whose time is up."""
    return TaskTimeoutError("the waiting ran out of time; the task goes on", ref=ref)
