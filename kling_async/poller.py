"""The session's one poller: a heap of due times, bounded reads in flight, a future per waiter.

No task per handle, no timer per handle. A task is looked at while somebody waits for it, or while it
holds a slot that somebody else wants.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from attrs import define, field

from kling_async._clock import Clock, Deadline, Timer
from kling_async._fault import ConfigurationError, KlingError
from kling_async._watch import Seen, Watch
from kling_async._wire import Refusal
from kling_async.errors import NotFoundError, TaskTimeoutError
from kling_async.models import Snapshot, TaskRef
from kling_async.observers import Anomaly, Record

__all__ = ["Poller"]

Look = Callable[[TaskRef], Awaitable[tuple[Seen, float | None]]]
"""Read a task once: what was seen, and the server's own wish in seconds to the next look."""

_log = logging.getLogger(__name__)

_READS: Final = 64
"""Reads in flight at once: fewer than there are sockets, so that none waits for a connection."""
_BUDGET: Final = 500
"""Tokens for looks that come sooner than the pace because one has failed (`reliability.md` P13)."""
_COST: Final = 14
"""Tokens for one such look; a good look gives one back."""
_LONGEST_STRETCH: Final = 8.0
"""How many times longer the gaps get, at the most, while the gateway says that it is asked too often."""


@define(eq=False)
class _Waiter:
    """Somebody who waits, and a place in the heap for the end of that."""

    ref: TaskRef
    deadline: Deadline
    any_change: bool
    """Whether every change ends this wait, rather than the end of the task."""
    future: asyncio.Future[KlingError | None]

    def wake(self, error: KlingError | None) -> None:
        if not self.future.done():
            # As a result and not an exception: a waiter cancelled this very moment leaves it unread.
            self.future.set_result(error)


@define(eq=False)
class _Entry:
    """A watch that is waited for or holds slots, and a place in the heap for the next look."""

    watch: Watch
    waiters: dict[_Waiter, None] = field(factory=dict)
    """In the order they came."""
    due: float = math.inf
    reading: bool = False
    release: Callable[[], object] | None = None
    """To be called when the task is final: it holds slots until then."""

    def wake(self, error: KlingError | None, *, any_change: bool = False) -> None:
        """Wake everybody, or only those who wait for any change."""
        for waiter in [waiter for waiter in self.waiters if waiter.any_change or not any_change]:
            del self.waiters[waiter]
            waiter.wake(error)

    def free_slots(self) -> None:
        if self.release is not None:
            self.release()
            self.release = None


@define(eq=False)
class Poller:
    """Looks after every task that somebody waits for. No task per handle, no timer per handle."""

    look: Look
    clock: Clock
    roll: Callable[[], float]
    bind: Callable[[], None]
    """Raises where this event loop or process is not the one that the poller belongs to."""
    slots_wanted: Callable[[], bool]
    """Whether a creation waits for a slot, so that tasks which nobody awaits must be looked at too."""
    on_news: Callable[[Watch, Snapshot | None], Awaitable[None]]
    """Told of every change before anybody is woken: the watch, and its snapshot before. Never raises."""
    tell: Callable[[Record], object] = lambda _: None
    _entries: dict[Watch, _Entry] = field(factory=dict, init=False)
    _heap: list[tuple[float, int, _Entry | _Waiter]] = field(factory=list, init=False)
    _waiting: int = field(default=0, init=False)
    _order: itertools.count[int] = field(factory=itertools.count, init=False)
    _timer: Timer | None = field(default=None, init=False)
    _timer_at: float = field(default=math.inf, init=False)
    _ready: deque[_Entry] = field(factory=deque, init=False)
    _workers: set[asyncio.Task[None]] = field(factory=set, init=False)
    _closed: bool = field(default=False, init=False)
    _tokens: float = field(default=_BUDGET, init=False)
    _stretch: float = field(default=1.0, init=False)
    _down: bool = field(default=False, init=False)
    """Whether the tokens ran out in an outage that still lasts."""

    async def wait(self, watch: Watch, deadline: Deadline, *, any_change: bool = False) -> None:
        """Return once the task is final, or has changed.

        Raises:
            TaskTimeoutError: the time is up, or a budget of the polling is spent.
            ApiError: the service refuses to tell.
            ConfigurationError: the session was closed.
        """
        if self._closed:
            raise _closed(watch.ref)
        self.bind()
        if not deadline.left(self.clock.now()):
            raise _out_of_time(watch.ref)
        entry = self._entries.get(watch)
        if entry is None:
            entry = self._entries[watch] = _Entry(watch)
        if not entry.waiters:
            watch.resume()
        waiter = _Waiter(watch.ref, deadline, any_change, asyncio.get_running_loop().create_future())
        entry.waiters[waiter] = None
        self._waiting += 1
        if math.isfinite(deadline.at):
            self._push(deadline.at, waiter)
        self._plan(entry)
        try:
            error = await waiter.future
        finally:
            self._waiting -= 1
            entry.waiters.pop(waiter, None)
        if error is not None:
            # One exception raised in many tasks would collect all their tracebacks.
            raise copy.copy(error)

    async def look_now(self, watch: Watch) -> Seen:
        """Look once, at once, whatever the pace says."""
        watch.looking(self.clock.now())
        seen, hint = await self.look(watch.ref)
        await self._take(watch, seen, hint)
        return seen

    def look_soon(self, watch: Watch, final: bool) -> None:  # noqa: FBT001  handed down as a function of two arguments
        """A callback has come: look soon if anybody waits, else as soon as somebody does.

        Word of something else than the end is for those who follow every change.
        """
        entry = self._entries.get(watch)
        if final or (entry is not None and any(waiter.any_change for waiter in entry.waiters)):
            watch.hurry(self.clock.now(), final=final)
            if entry is not None:
                self._plan(entry)

    def hold(self, watch: Watch, release: Callable[[], object]) -> None:
        """The task holds slots: `release` is called once it is final, whoever has looked."""
        if watch.done or self._closed:
            release()
            return
        entry = self._entries.setdefault(watch, _Entry(watch))
        entry.free_slots()  # a gateway may give a task out twice: it holds the slots of one
        entry.release = release
        self._plan(entry)

    def look_after_slots(self) -> None:
        """Somebody wants a slot: look at the tasks that hold one."""
        for entry in list(self._entries.values()):
            if entry.release is not None:
                self._plan(entry)

    async def aclose(self) -> None:
        """Stop looking, and tell whoever waits."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for entry in self._entries.values():
            entry.wake(_closed(entry.watch.ref))
        self._entries.clear()
        self._heap.clear()
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers)

    def _schedule(self, entry: _Entry, when: float) -> None:
        if when < entry.due:
            entry.due = when
            self._push(when, entry)

    def _push(self, when: float, what: _Entry | _Waiter) -> None:
        heapq.heappush(self._heap, (when, next(self._order), what))
        if len(self._heap) > 2 * (len(self._entries) + self._waiting) + _READS:
            # Whoever was woken or has left before the deadline leaves its place behind.
            self._heap = [place for place in self._heap if _is_live(place[0], place[2])]
            heapq.heapify(self._heap)
        self._arm()

    def _arm(self) -> None:
        if self._heap and not self._closed and self._heap[0][0] < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._heap[0][0]
            self._timer = self.clock.call_at(self._timer_at, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self.clock.now()
        while self._heap and self._heap[0][0] <= now:
            when, _, what = heapq.heappop(self._heap)
            if not _is_live(when, what):
                continue
            if isinstance(what, _Waiter):
                what.wake(_out_of_time(what.ref))
            else:
                what.due = math.inf
                self._attend(what, now)
        self._arm()

    def _attend(self, entry: _Entry, now: float) -> None:
        if not entry.reading and entry.watch.next_look <= now and self._is_wanted(entry):
            entry.reading = True
            self._ready.append(entry)
            if len(self._workers) < _READS:
                worker = asyncio.get_running_loop().create_task(self._work())
                self._workers.add(worker)
                worker.add_done_callback(self._workers.discard)
        self._plan(entry)

    def _is_wanted(self, entry: _Entry) -> bool:
        return not all(waiter.future.done() for waiter in entry.waiters) or (entry.release is not None and self.slots_wanted())

    def _plan(self, entry: _Entry) -> None:
        if entry.reading:
            return
        if self._is_wanted(entry):
            self._schedule(entry, entry.watch.next_look)
            return
        # Without a due time its place in the heap is void: the next wait makes one of its own.
        entry.due = math.inf
        if entry.release is None:
            self._entries.pop(entry.watch, None)

    async def _work(self) -> None:
        while self._ready:
            entry = self._ready.popleft()
            try:
                entry.watch.looking(self.clock.now())
                seen, hint = await self.look(entry.watch.ref)
                await self._take(entry.watch, seen, hint)
            except KlingError as error:  # there is nothing to ask, or nobody to ask it
                self._give_up(entry, error.with_traceback(None))
            except Exception as bug:  # noqa: BLE001  a waiter must hear of a defect in here, not hang on it
                _log.error("looking at task %s broke", entry.watch.ref.task_id, exc_info=bug)
                self._give_up(entry, KlingError(f"a defect in kling_async: {type(bug).__name__}; please report it"))
            entry.reading = False
            self._plan(entry)
        # Here and not when the task is done, which is a turn of the loop later: what comes meanwhile needs a new worker.
        self._workers -= {asyncio.current_task()}

    async def _take(self, watch: Watch, seen: Seen, hint: float | None) -> None:
        before, now = watch.snapshot, self.clock.now()
        spent = self._ration(seen)
        news = watch.note(seen, now=now, roll=self.roll(), hint=hint, stretch=self._stretch)
        if spent:
            watch.keep_pace(now, self.roll(), self._stretch)
        if news.changed:
            await self.on_news(watch, before)
        entry = self._entries.get(watch)
        if entry is None:
            return
        if watch.done or isinstance(news.error, NotFoundError):
            entry.free_slots()
        elif news.lost:
            self._let_go(entry, f"no good answer for {watch.polling.error_budget:g} s")
        if watch.done or news.error is not None:
            entry.wake(None if watch.done else news.error)
        elif news.changed:
            entry.wake(None, any_change=True)

    def _give_up(self, entry: _Entry, error: KlingError) -> None:
        """No look was made, and another at once would fare no better."""
        entry.watch.keep_pace(self.clock.now(), self.roll())
        self._let_go(entry, str(error))
        entry.wake(error)

    def _let_go(self, entry: _Entry, why: str) -> None:
        """The task has not failed, and nobody can see it end: slots held until then would be held for ever."""
        if entry.release is not None and not self._closed:
            self.tell(Anomaly(what="slot-let-go", detail=f"{why}: its slot is given to the next, the task may go on", ref=entry.watch.ref))
            entry.free_slots()

    def _ration(self, seen: Seen) -> bool:
        """Outages and throttling concern all tasks of the gateway: together they may add only so many looks.

        True when those are spent.
        """
        if isinstance(seen, Refusal) and seen.http_status == 429:  # noqa: PLR2004
            self._stretch = min(_LONGEST_STRETCH, self._stretch * 2)
        if isinstance(seen, Snapshot):
            self._tokens = min(_BUDGET, self._tokens + 1)
            self._stretch = max(1.0, self._stretch * 0.9)
            if self._down:
                self._down = False
                self._spread()
            return False
        if self._tokens < _COST:
            self._down = True
            return True
        self._tokens -= _COST
        return False

    def _spread(self) -> None:
        """An outage is over: what has queued up behind looks that hung must not be asked for all at once."""
        queued, now = list(self._ready), self.clock.now()
        self._ready.clear()
        for entry in queued:
            entry.reading = False
            entry.watch.spread(now, self.roll())
            self._plan(entry)


def _is_live(when: float, what: _Entry | _Waiter) -> bool:
    # A look that was put off or called off, and whoever waits no longer, leaves its place behind.
    return when == what.due if isinstance(what, _Entry) else not what.future.done()


def _closed(ref: TaskRef) -> ConfigurationError:
    return ConfigurationError(f"the session was closed; the task goes on, attach to it in a new session: {ref}")


def _out_of_time(ref: TaskRef) -> TaskTimeoutError:
    return TaskTimeoutError("the waiting ran out of time; the task goes on", ref=ref)
