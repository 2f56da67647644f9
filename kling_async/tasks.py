"""`TaskHandle`, and the session's one poller: a heap of due times, bounded reads in flight, a future per waiter."""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
import logging
import math
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from attrs import define, field, frozen

from kling_async._clock import Clock, Timer
from kling_async._fault import ConfigurationError, KlingError
from kling_async._pacing import check_timeout
from kling_async._watch import Seen, Watch, entries_of, snapshot_from
from kling_async.errors import TaskTimeoutError
from kling_async.models import Audio, Image, Snapshot, Status, TaskRef, Video

__all__ = ["Poller", "Saver", "TaskHandle"]

R = TypeVar("R", covariant=True)

Look = Callable[[TaskRef], Awaitable[tuple[Seen, float | None]]]
"""Read a task once: what was seen, and the server's own wish in seconds to the next look."""

_log = logging.getLogger(__name__)

_READS: Final = 64
"""Reads in flight at once: fewer than there are sockets, so that none waits for a connection."""


@frozen
class _Waiter:
    deadline: float
    any_change: bool
    """Whether every change ends this wait, rather than the end of the task."""


@define(eq=False)
class _Entry:
    """A watch that is waited for, and its place in the heap."""

    watch: Watch
    waiters: dict[asyncio.Future[KlingError | None], _Waiter] = field(factory=dict)
    due: float = math.inf
    reading: bool = False

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
    _entries: dict[Watch, _Entry] = field(factory=dict, init=False)
    _heap: list[tuple[float, int, _Entry]] = field(factory=list, init=False)
    _order: itertools.count[int] = field(factory=itertools.count, init=False)
    _timer: Timer | None = field(default=None, init=False)
    _timer_at: float = field(default=math.inf, init=False)
    _ready: deque[_Entry] = field(factory=deque, init=False)
    _workers: set[asyncio.Task[None]] = field(factory=set, init=False)
    _closed: bool = field(default=False, init=False)

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
        self._note(watch, seen, hint)
        return seen

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
        if not entry.reading and entry.watch.next_look <= now and not all(future.done() for future in entry.waiters):
            entry.reading = True
            self._ready.append(entry)
            if len(self._workers) < _READS:
                worker = asyncio.get_running_loop().create_task(self._work())
                self._workers.add(worker)
                worker.add_done_callback(self._workers.discard)
        self._plan(entry)

    def _plan(self, entry: _Entry) -> None:
        deadlines = [waiter.deadline for future, waiter in entry.waiters.items() if not future.done()]
        if deadlines:
            self._schedule(entry, min(*deadlines, math.inf if entry.reading else entry.watch.next_look))
        elif not entry.reading:
            # Without a due time its place in the heap is void: the next wait makes an entry of its own.
            entry.due = math.inf
            self._entries.pop(entry.watch, None)

    async def _work(self) -> None:
        while self._ready:
            entry = self._ready.popleft()
            try:
                seen, hint = await self.look(entry.watch.ref)
                self._note(entry.watch, seen, hint)
            except KlingError as error:  # there is nothing to ask, or nobody to ask it
                entry.wake(error.with_traceback(None), lambda _: True)
            except Exception as bug:  # noqa: BLE001  a waiter must hear of a defect in here, not hang on it
                _log.error("looking at task %s broke", entry.watch.ref.task_id, exc_info=bug)
                entry.wake(KlingError(f"a defect in kling_async: {type(bug).__name__}; please report it"), lambda _: True)
            entry.reading = False
            self._plan(entry)
        # Here and not when the task is done, which is a turn of the loop later: what comes meanwhile needs a new worker.
        self._workers -= {asyncio.current_task()}

    def _note(self, watch: Watch, seen: Seen, hint: float | None) -> None:
        news = watch.note(seen, now=self.clock.now(), roll=self.roll(), hint=hint)
        entry = self._entries.get(watch)
        if entry is None:
            return
        if watch.done:
            entry.wake(None, lambda _: True)
        elif news.error is not None:
            entry.wake(news.error, lambda _: True)
        elif news.changed:
            entry.wake(None, lambda waiter: waiter.any_change)


def _closed(ref: TaskRef) -> ConfigurationError:
    return ConfigurationError(f"the session was closed; the task goes on, attach to it in a new session: {ref}")


def _out_of_time(ref: TaskRef) -> TaskTimeoutError:
    return TaskTimeoutError("the waiting ran out of time; the task goes on", ref=ref)


class Saver(Protocol):
    """Downloads the entries of a result; `refresh` reads the task again for fresh links."""

    async def __call__(
        self,
        entries: tuple[Video | Image | Audio, ...],
        directory: str | os.PathLike[str],
        *,
        ref: TaskRef,
        overwrite: bool,
        refresh: Callable[[], Awaitable[tuple[Video | Image | Audio, ...]]],
    ) -> tuple[Path, ...]:
        """Paths in the order of the entries."""
        ...


@define(eq=False, repr=False)
class TaskHandle(Generic[R]):
    """How you follow and await one task. `R` is what awaiting it yields, such as `tuple[Video, ...]`.

    Any number of tasks may await one handle: there is one stream of reads, and cancelling one waiter
    changes nothing for the others. Nothing here ever ends the task itself: the service offers no way.
    """

    _watch: Watch
    _poller: Poller
    _save: Saver

    @property
    def ref(self) -> TaskRef:
        """The handle as data: `str(handle.ref)` is text to store or log."""
        return self._watch.ref

    @property
    def task_id(self) -> str:
        """The service's id of the task."""
        return self._watch.ref.task_id

    @property
    def snapshot(self) -> Snapshot | None:
        """The latest observation; `None` before the first, as after `attach`."""
        return self._watch.snapshot

    @property
    def status(self) -> Status:
        """The latest status; `Status.UNKNOWN` before the first observation."""
        return self._watch.snapshot.status if self._watch.snapshot else Status.UNKNOWN

    @property
    def done(self) -> bool:
        """Whether the task is known to be final. It becomes so only while somebody waits or looks."""
        return self._watch.done

    def __await__(self) -> Generator[Any, None, R]:
        """Wait until the task is final: see `wait`."""
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> R:
        """Wait until the task is final and give its typed entries.

        Args:
            timeout: seconds for this one wait; `None` is the `timeout` of the session's `Polling`.
                Running out stops the waiting, never the task.

        Raises:
            TaskFailedError: the service gave up on the task; `.reason` says why.
            ResultMissingError: the task succeeded and brings nothing.
            TaskTimeoutError: the time, or a budget of the polling, ran out; wait again with `.ref`.
            ApiError: the service refuses to tell, as for a wrong key or an unknown task.
        """
        bound = check_timeout(timeout)
        if not self._watch.done:
            await self._poller.wait(self._watch, self._watch.polling.timeout if timeout is None else bound)
        return self._result()

    async def updates(self) -> AsyncIterator[Snapshot]:
        """Every change as it is seen, from the present state on, the final one last.

        A failed task is a final snapshot here, not an exception.

        Raises:
            TaskTimeoutError: as for `wait`, with the same default bound for the whole iteration.
            ApiError: as for `wait`.
        """
        bound = self._watch.polling.timeout
        deadline = None if bound is None else self._poller.clock.now() + bound
        change = None
        while True:
            following = self._watch.latest if change is None else change.following
            if following is not None:
                change = following
                yield change.snapshot
            elif self._watch.done:
                return
            else:
                left = None if deadline is None else max(0.0, deadline - self._poller.clock.now())
                await self._poller.wait(self._watch, left, any_change=True)

    async def refresh(self) -> Snapshot:
        """Read the task once, now.

        Raises:
            ApiError: the service refused.
            TransportError: there was no reply.
            ProtocolError: the reply cannot be read.
        """
        return snapshot_from(await self._poller.look_now(self._watch), self.ref)

    async def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> tuple[Path, ...]:
        """Wait, then download every entry into `directory`, each atomically; gives the paths in order.

        A file that is there already is left alone and counts as saved, unless `overwrite`. A link that
        has expired is asked for afresh, once.

        Raises:
            DownloadError: a file could not be fetched or written.
            ResultExpiredError: the service no longer has the result.
            TaskError: as for `wait`.
        """
        entries = cast("tuple[Video | Image | Audio, ...]", await self)  # whatever R is called, entries is what it is
        self._poller.bind()

        async def refresh() -> tuple[Video | Image | Audio, ...]:
            return entries_of(await self.refresh(), self.ref.action)

        return await self._save(entries, directory, ref=self.ref, overwrite=overwrite, refresh=refresh)

    def _result(self) -> R:
        if self._watch.failure is not None:
            raise copy.copy(self._watch.failure)
        entries = entries_of(self._watch.snapshot, self.ref.action) if self._watch.snapshot else ()
        return cast("R", entries)  # R is fixed by the job's class, whose route brings these entries

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as its `TaskRef`: a handle is bound to a session, data is not."""
        return TaskRef.parse, (str(self.ref),)

    def __repr__(self) -> str:
        """Route, id and status; no link, no secret."""
        return f"<TaskHandle {self.ref.route} {self.task_id} {self.status}>"
