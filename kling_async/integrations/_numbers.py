"""Numbers out of records: tasks in flight, reads of each, seconds that creations waited, duplicates that were not bought."""

from __future__ import annotations

from typing import Final, Protocol

from attrs import define, field

from kling_async._clock import Clock, SystemClock
from kling_async.integrations._recent import Recent, key_of
from kling_async.models import Status
from kling_async.observers import Anomaly, Exchange, Record, Settled, StatusChange, Waiting

__all__ = ["AT_MOST", "AVOIDED", "READS", "TASK_SECONDS", "WAIT_SECONDS", "Meters", "Numbers"]

AT_MOST: Final = 10_000
"""Tasks that are remembered unless more are asked for; of those that never end, some may have to make room."""
AVOIDED: Final = ("reused", "found")
"""Words of `Settled` for what would have been bought a second time."""
TASK_SECONDS: Final = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 3600.0)
WAIT_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0)
READS: Final = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)


class Meters(Protocol):
    """Where the numbers go."""

    def in_flight(self, change: int, route: str) -> None:
        """So many tasks more, or fewer."""

    def ended(self, route: str, status: Status, reads: int, seconds: float | None) -> None:
        """A task was seen to be final; `seconds` since it was bought, when that was here."""

    def waited(self, why: str, seconds: float) -> None:
        """A creation has waited."""

    def settled(self, record: Settled) -> None:
        """A creation has come to something."""

    def anomaly(self, what: str) -> None:
        """Something was borne."""


@define
class _Task:
    route: str
    bought_at: float | None = None
    reads: int = 0
    counted: bool = False


@define(eq=False)
class Numbers:
    """Follows tasks and creations through records, as far as numbers need it."""

    meters: Meters
    at_most: int = AT_MOST
    clock: Clock = field(factory=SystemClock)
    _tasks: Recent[tuple[str, str], _Task] = field(init=False)
    _waits: Recent[str, tuple[str, float]] = field(init=False)
    """Why a creation waits, and since when, by its `external_task_id`."""

    def __attrs_post_init__(self) -> None:
        self._tasks = Recent(self.at_most, self._discount)
        self._waits = Recent(self.at_most)

    def take(self, record: Record) -> None:
        """Count it."""
        match record:
            case Exchange(paid=True):
                self._end_wait(record.subject, self.clock.now() - record.seconds)
            case Exchange():
                self._task(record.route, record.subject).reads += 1
            case Waiting():
                self._end_wait(record.external_task_id, now := self.clock.now())
                self._waits.put(record.external_task_id, (record.why, now))
            case Settled():
                self._end_wait(record.external_task_id, now := self.clock.now())
                if record.ref is not None and record.how != "reused":
                    self._task(*key_of(record.ref)).bought_at = now
                self.meters.settled(record)
            case StatusChange():
                self._change(record)
            case Anomaly():
                self.meters.anomaly(record.what)
            case _:  # files are no matter of numbers
                pass

    def _task(self, route: str, task_id: str) -> _Task:
        key = route, task_id
        return self._tasks.get(key) or self._tasks.put(key, _Task(route))

    def _change(self, record: StatusChange) -> None:
        route, task_id = key = key_of(record.ref)
        task = self._task(route, task_id)
        if not record.after.final:
            if not task.counted:
                task.counted = True
                self.meters.in_flight(1, route)
            return
        self._tasks.pop(key)
        self._discount(task)
        seconds = None if task.bought_at is None else self.clock.now() - task.bought_at
        self.meters.ended(route, record.after, task.reads, seconds)

    def _discount(self, task: _Task) -> None:
        if task.counted:
            self.meters.in_flight(-1, task.route)

    def _end_wait(self, key: str, now: float) -> None:
        wait = self._waits.pop(key)
        if wait is not None:
            why, since = wait
            self.meters.waited(why, max(0.0, now - since))
