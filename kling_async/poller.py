"""The session's one poller: an agenda of due times, bounded reads in flight, a future per waiter.

No task per handle, no timer per handle. A task is looked at while somebody waits for it, or while it
holds a slot that somebody else wants.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

from attrs import define, field

from kling_async._clock import Clock
from kling_async._fault import KlingError
from kling_async._ration import Ration
from kling_async._watch import Seen, Watch
from kling_async.agenda import Agenda
from kling_async.crew import READS, Crew
from kling_async.errors import NotFoundError
from kling_async.lists import Lists, shown
from kling_async.models import Snapshot, TaskRef
from kling_async.observers import Anomaly, Record
from kling_async.waiters import Entry, Round, closed, is_near, out_of_time

__all__ = ["Poller"]

Look = Callable[[TaskRef, Snapshot | None], Awaitable[tuple[Seen, float | None]]]
"""Read a task once, given what is known of it: what was seen, and the server's own wish in seconds to the next look."""

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 4 * READS
"""Tasks that are looked at together because they came due together: the others, as after attaching ten thousand, come spread."""
_BEAT: Final = 32
"""A second has so many moments at which looks begin where there are many: one turn of the loop then serves several."""
_GATHERING: Final = 0.1
"""Seconds for which looks wait for others that a page of a list can show with them."""
_HANDFUL: Final = 8
"""Looks that one page is worth reading for."""
_SLICE: Final = 50
"""Rows of a page that are taken in before others have their turn: half a thousand would hold up everybody for 20 ms."""


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
    lists: Lists | None = None
    """Where the server lists its tasks, so that one read can show many."""
    max_rate: float | None = None
    """Reads a second."""
    _entries: dict[Watch, Entry] = field(factory=dict, init=False)
    _agenda: Agenda[Entry] = field(init=False)
    """When each is to be looked at, or the time is up for somebody."""
    _begun: int = field(default=0, init=False)
    """Looks at tasks that came due together."""
    _crew: Crew[Entry | Round] = field(init=False)
    _gathered: dict[str, list[Entry]] = field(factory=dict, init=False)
    """By route, in the order in which they came due."""
    _closed: bool = field(default=False, init=False)
    _slots_looked_after: bool = field(default=False, init=False)
    """Whether every task that holds a slot has its place in the agenda."""
    _ration: Ration = field(factory=Ration, init=False)

    def __attrs_post_init__(self) -> None:
        self._agenda = Agenda(self.clock, self._serve)
        self._crew = Crew[Entry | Round](self._work, self.clock, self.max_rate)

    async def wait(self, watch: Watch, until: float, *, any_change: bool = False) -> None:
        """Return once the task is final, or has changed; `until` is by the clock's `now`.

        Raises:
            TaskTimeoutError: the time is up, or a budget of the polling is spent.
            ApiError: the service refuses to tell.
            ConfigurationError: the session was closed.
        """
        if self._closed:
            raise closed(watch.ref)
        self.bind()
        if until <= self.clock.now():
            raise out_of_time(watch.ref)
        entry = self._entries.get(watch)
        if entry is None:
            entry = self._entries[watch] = Entry(watch)
        if not entry.waiters:
            watch.resume()
        waiter = entry.enter(until, any_change)
        self._plan(entry)
        try:
            error = await waiter.future
        finally:
            entry.leave(waiter)
        if error is not None:
            # One exception raised in many tasks would collect all their tracebacks.
            raise copy.copy(error)

    async def look_now(self, watch: Watch) -> Seen:
        """Look once, at once, whatever the pace says."""
        watch.looking(self.clock.now())
        seen, hint = await self.look(watch.ref, watch.snapshot)
        await self._take(watch, seen, hint)
        if entry := self._entries.get(watch):
            self._plan(entry)  # it may have held nothing but slots, and be of no use now
        return seen

    def look_soon(self, watch: Watch, final: bool) -> None:  # noqa: FBT001  handed down as a function of two arguments
        """A callback has come: look soon if anybody waits, else as soon as somebody does.

        Word of something else than the end is for those who follow every change.
        """
        entry = self._entries.get(watch)
        if final or (entry is not None and any(waiter.any_change for waiter in entry.waiters)):
            watch.hurry(now := self.clock.now(), final=final)
            if entry is not None:
                self._attend(entry, now)

    def hold(self, watch: Watch, release: Callable[[], object]) -> None:
        """The task holds slots: `release` is called once it is final, whoever has looked."""
        if watch.done or self._closed:
            release()
            return
        entry = self._entries.setdefault(watch, Entry(watch))
        entry.free_slots()  # a gateway may give a task out twice: it holds the slots of one
        entry.release = release
        self._plan(entry)

    def holds(self, watch: Watch) -> bool:
        """Whether the task holds slots."""
        entry = self._entries.get(watch)
        return entry is not None and entry.release is not None

    def look_after_slots(self) -> None:
        """Somebody wants a slot: look at the tasks that hold one."""
        if self._slots_looked_after:
            return
        self._slots_looked_after = True
        for entry in list(self._entries.values()):
            if entry.release is not None:
                self._plan(entry)

    async def aclose(self) -> None:
        """Stop looking, and tell whoever waits."""
        self._closed = True
        self._agenda.close()
        for entry in self._entries.values():
            entry.wake(closed(entry.watch.ref))
        self._entries.clear()
        self._gathered.clear()
        await self._crew.aclose()

    def _serve(self, due: list[Entry], now: float, over: bool) -> None:  # noqa: FBT001  as the agenda tells
        for entry in due:
            entry.expire(now)
            self._begun += self._attend(entry, now, spread=self._begun >= _AT_ONCE)
        if over:
            self._begun = 0

    def _attend(self, entry: Entry, now: float, *, spread: bool = False) -> bool:
        """Have a task looked at that is due; whether that takes a read of its own."""
        if entry.reading or entry.watch.next_look > now or not self._is_wanted(entry):
            self._plan(entry)
            return False
        entry.reading = True
        self._plan(entry)
        route = entry.watch.ref.route
        if self.lists is not None and len(self._entries) >= _HANDFUL and self.lists.usable(route):
            gathered = self._gathered.setdefault(route, [])
            gathered.append(entry)
            if len(gathered) == 1:
                self.clock.call_at(now + _GATHERING, lambda: self._call(route))
            return False
        if spread:
            self._put_off([entry])
            return False
        self._crew.add(entry)
        return True

    def _call(self, route: str) -> None:
        """Those gathered are looked at: together, or each by itself."""
        gathered = self._gathered.pop(route, [])
        together = len(gathered) >= _HANDFUL or len(gathered) + len(self._near(route)) >= _HANDFUL
        for errand in [Round(gathered)] if together and gathered else gathered:
            self._crew.add(errand)

    def _is_wanted(self, entry: Entry) -> bool:
        for waiter in entry.waiters:
            if not waiter.future.done():
                return True
        if entry.release is None:
            return False
        self._slots_looked_after &= (wanted := self.slots_wanted())
        return wanted

    def _plan(self, entry: Entry) -> None:
        if entry.reading:
            self._agenda.put(entry, entry.until)
        elif self._is_wanted(entry):
            when = entry.watch.next_look
            if len(self._entries) > _BEAT and math.isfinite(when) and not entry.watch.hurried:
                when = math.ceil(when * _BEAT) / _BEAT
            self._agenda.put(entry, min(when, entry.until))
        else:
            self._agenda.strike(entry)
            if entry.release is None:
                self._entries.pop(entry.watch, None)

    async def _work(self, errand: Entry | Round) -> None:
        if isinstance(errand, Entry):
            await self._look_at(errand)
        else:
            await self._read_list(errand.entries)

    async def _look_at(self, entry: Entry) -> None:
        try:
            entry.watch.looking(self.clock.now())
            seen, hint = await self.look(entry.watch.ref, entry.watch.snapshot)
            await self._take(entry.watch, seen, hint)
        except KlingError as error:  # there is nothing to ask, or nobody to ask it
            self._give_up(entry, error.with_traceback(None))
        except Exception as bug:  # noqa: BLE001  a waiter must hear of a defect in here, not hang on it
            _log.error("looking at task %s broke", entry.watch.ref.task_id, exc_info=bug)
            self._give_up(entry, KlingError(f"a defect in kling_async: {type(bug).__name__}; please report it"))
        self._done(entry)

    async def _read_list(self, due: list[Entry]) -> None:
        """Look at tasks of a route by reading the list; what it does not show for certain is looked at by itself."""
        now, ref, wanted = self.clock.now(), due[0].watch.ref, {entry.watch.ref.task_id for entry in due}
        near = self._near(ref.route)
        for entry in due + near:
            entry.reading = True
            entry.watch.looking(now)
        looked = {entry.watch.ref.task_id: entry for entry in due + near}
        others = {entry.watch.ref.task_id: entry for entry in self._entries.values() if self._is_free(entry, ref.route)}
        try:
            all_ids, charge = {**others, **looked}, self._crew.charge
            rows = await self.lists.look(ref.action, ref.action2, all_ids, looked, charge) if self.lists else {}
            for number, (task_id, row) in enumerate(rows.items()):
                entry = looked.get(task_id) or others[task_id]
                seen = shown(row, entry.watch)
                if seen is not None and (task_id in looked or (seen.status.final and self._is_free(entry, ref.route))):
                    await self._take(entry.watch, seen, None)
                    self._done(looked.pop(task_id, entry))
                if number % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)
        except Exception as bug:  # noqa: BLE001  those who wait get their looks, one by one
            _log.error("reading a list of %s broke", ref.route, exc_info=bug)
        for task_id, entry in looked.items():
            if task_id in wanted:
                self._crew.add(entry)
            else:
                self._done(entry)

    def _near(self, route: str) -> list[Entry]:
        """What comes along with those that are due: so those of a route fall into step, and one list serves all."""
        now = self.clock.now()
        return [entry for entry in self._entries.values() if self._is_free(entry, route) and is_near(entry.watch, now)]

    def _is_free(self, entry: Entry, route: str) -> bool:
        return not entry.reading and entry.watch.ref.route == route and self._is_wanted(entry)

    def _done(self, entry: Entry) -> None:
        entry.reading = False
        self._plan(entry)

    async def _take(self, watch: Watch, seen: Seen, hint: float | None) -> None:
        before, now = watch.snapshot, self.clock.now()
        if self._ration.note(seen):
            self._spread()
        stretch = self._ration.stretch
        news = watch.note(seen, now=now, roll=self.roll(), hint=hint, stretch=stretch)
        if self._ration.spent:
            watch.keep_pace(now, self.roll(), stretch)
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

    def _give_up(self, entry: Entry, error: KlingError) -> None:
        """No look was made, and another at once would fare no better."""
        entry.watch.keep_pace(self.clock.now(), self.roll())
        self._let_go(entry, str(error))
        entry.wake(error)

    def _let_go(self, entry: Entry, why: str) -> None:
        """The task has not failed, and nobody can see it end: slots held until then would be held for ever."""
        if entry.release is not None and not self._closed:
            self.tell(Anomaly(what="slot-let-go", detail=f"{why}: its slot is given to the next, the task may go on", ref=entry.watch.ref))
            entry.free_slots()

    def _spread(self) -> None:
        """An outage is over: what has queued up behind looks that hung must not be asked for all at once."""
        for errand in self._crew.take_back():
            self._put_off(errand.entries if isinstance(errand, Round) else [errand])

    def _put_off(self, entries: list[Entry]) -> None:
        """Look at them some time within their gaps."""
        for entry in entries:
            entry.reading = False
            entry.watch.spread(self.clock.now(), self.roll())
            self._plan(entry)
