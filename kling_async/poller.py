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

from attrs import define, field, frozen

from kling_async._clock import Clock, Timer
from kling_async._fault import ConfigurationError, KlingError
from kling_async._watch import Seen, Watch
from kling_async._wire import Refusal
from kling_async.errors import NotFoundError, TaskTimeoutError
from kling_async.models import Snapshot, TaskRef

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


@frozen
class _Waiter:
    deadline: float
    any_change: bool
    """Whether every change ends this wait, rather than the end of the task."""


@define(eq=False)
class _Entry:
    """A watch that is waited for or holds slots, and its place in the heap."""

    watch: Watch
    waiters: dict[asyncio.Future[KlingError | None], _Waiter] = field(factory=dict)
    due: float = math.inf
    reading: bool = False
    release: Callable[[], object] | None = None
    """To be called when the task is final: it holds slots until then."""

    def wake(self, error: KlingError | None, chosen: Callable[[_Waiter], bool]) -> None:
        for future, waiter in self.waiters.items():
            if chosen(waiter) and not future.done():
                # As a result and not an exception: a waiter cancelled this very moment leaves it unread.
                future.set_result(error)


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
    _entries: dict[Watch, _Entry] = field(factory=dict, init=False)
    _heap: list[tuple[float, int, _Entry]] = field(factory=list, init=False)
    _order: itertools.count[int] = field(factory=itertools.count, init=False)
    _timer: Timer | None = field(default=None, init=False)
    _timer_at: float = field(default=math.inf, init=False)
    _ready: deque[_Entry] = field(factory=deque, init=False)
    _workers: set[asyncio.Task[None]] = field(factory=set, init=False)
    _closed: bool = field(default=False, init=False)
    _tokens: float = field(default=_BUDGET, init=False)
    _stretch: float = field(default=1.0, init=False)

    async def wait(self, watch: Watch, bound: float | None, *, any_change: bool = False) -> None:
        """Return once the task is final, or has changed.

        Raises:
            TaskTimeoutError: `bound` seconds have passed, or a budget of the polling is spent.
            ApiError: the service refuses to tell.
            ConfigurationError: the session was closed.
        """
        if self._closed:
            raise _closed(watch.ref)
        self.bind()
        if bound == 0:
            raise _out_of_time(watch.ref)
        entry = self._entries.get(watch)
        if entry is None:
            entry = self._entries[watch] = _Entry(watch)
        if not entry.waiters:
            watch.resume()
        future: asyncio.Future[KlingError | None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(math.inf if bound is None else self.clock.now() + bound, any_change)
        entry.waiters[future] = waiter
        self._schedule(entry, min(waiter.deadline, math.inf if entry.reading else watch.next_look))
        try:
            error = await future
        finally:
            del entry.waiters[future]
        if error is not None:
            # One exception raised in many tasks would collect all their tracebacks.
            raise copy.copy(error)

    async def look_now(self, watch: Watch) -> Seen:
        """Look once, at once, whatever the pace says."""
        seen, hint = await self.look(watch.ref)
        await self._take(watch, seen, hint)
        return seen

    def hold(self, watch: Watch, release: Callable[[], object]) -> None:
        """The task holds slots: `release` is called once it is final, whoever has looked."""
        if watch.done or self._closed:
            release()
            return
        entry = self._entries.setdefault(watch, _Entry(watch))
        if entry.release is not None:
            entry.release()  # a gateway has given this task out twice: it holds the slots of one
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
            entry.wake(_closed(entry.watch.ref), lambda _: True)
        self._entries.clear()
        self._heap.clear()
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers)

    def _schedule(self, entry: _Entry, when: float) -> None:
        if when < entry.due:
            entry.due = when
            heapq.heappush(self._heap, (when, next(self._order), entry))
            if len(self._heap) > 2 * len(self._entries) + _READS:
                # Every look that comes before a deadline leaves the deadline's place behind.
                self._heap = [place for place in self._heap if place[0] == place[2].due]
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
            when, _, entry = heapq.heappop(self._heap)
            if when == entry.due:  # else it was pushed again for an earlier time, which has come and gone
                entry.due = math.inf
                self._attend(entry, now)
        self._arm()

    def _attend(self, entry: _Entry, now: float) -> None:
        entry.wake(_out_of_time(entry.watch.ref), lambda waiter: waiter.deadline <= now)
        if not entry.reading and entry.watch.next_look <= now and self._is_wanted(entry):
            entry.reading = True
            self._ready.append(entry)
            if len(self._workers) < _READS:
                worker = asyncio.get_running_loop().create_task(self._work())
                self._workers.add(worker)
                worker.add_done_callback(self._workers.discard)
        self._plan(entry)

    def _is_wanted(self, entry: _Entry) -> bool:
        return not all(future.done() for future in entry.waiters) or (entry.release is not None and self.slots_wanted())

    def _plan(self, entry: _Entry) -> None:
        if self._is_wanted(entry):
            deadlines = [waiter.deadline for future, waiter in entry.waiters.items() if not future.done()]
            self._schedule(entry, min(*deadlines, math.inf if entry.reading else entry.watch.next_look, math.inf))
        elif not entry.reading:
            # Without a due time its place in the heap is void: the next wait makes one of its own.
            entry.due = math.inf
            if entry.release is None:
                self._entries.pop(entry.watch, None)

    async def _work(self) -> None:
        while self._ready:
            entry = self._ready.popleft()
            try:
                seen, hint = await self.look(entry.watch.ref)
                await self._take(entry.watch, seen, hint)
            except KlingError as error:  # there is nothing to ask, or nobody to ask it
                entry.wake(error.with_traceback(None), lambda _: True)
            except Exception as bug:  # noqa: BLE001  a waiter must hear of a defect in here, not hang on it
                _log.error("looking at task %s broke", entry.watch.ref.task_id, exc_info=bug)
                entry.wake(KlingError(f"a defect in kling_async: {type(bug).__name__}; please report it"), lambda _: True)
            entry.reading = False
            self._plan(entry)
        # Here and not when the task is done, which is a turn of the loop later: what comes meanwhile needs a new worker.
        self._workers -= {asyncio.current_task()}

    async def _take(self, watch: Watch, seen: Seen, hint: float | None) -> None:
        before, now = watch.snapshot, self.clock.now()
        news = watch.note(seen, now=now, roll=self.roll(), hint=hint)
        self._ration(watch, seen, now)
        if news.changed:
            await self.on_news(watch, before)
        entry = self._entries.get(watch)
        if entry is None:
            return
        if entry.release is not None and (watch.done or isinstance(news.error, NotFoundError)):
            entry.release()
            entry.release = None
        if watch.done:
            entry.wake(None, lambda _: True)
        elif news.error is not None:
            entry.wake(news.error, lambda _: True)
        elif news.changed:
            entry.wake(None, lambda waiter: waiter.any_change)

    def _ration(self, watch: Watch, seen: Seen, now: float) -> None:
        """Outages and throttling concern all tasks of the gateway: together they may add only so many looks."""
        if isinstance(seen, Snapshot):
            self._tokens = min(_BUDGET, self._tokens + 1)
            self._stretch = max(1.0, self._stretch * 0.9)
        elif self._tokens >= _COST:
            self._tokens -= _COST
        else:
            watch.keep_pace(now, self.roll())
        if isinstance(seen, Refusal) and seen.http_status == 429:  # noqa: PLR2004
            self._stretch = min(_LONGEST_STRETCH, self._stretch * 2)
        watch.next_look = now + (watch.next_look - now) * self._stretch


def _closed(ref: TaskRef) -> ConfigurationError:
    return ConfigurationError(f"the session was closed; the task goes on, attach to it in a new session: {ref}")


def _out_of_time(ref: TaskRef) -> TaskTimeoutError:
    return TaskTimeoutError("the waiting ran out of time; the task goes on", ref=ref)
