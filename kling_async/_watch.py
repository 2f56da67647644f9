"""What is known of one task, and what each look changes. Pure: the time and the dice are arguments.

Only a listed final word ends a task. A look that fails is neither news nor an end: it counts against
the error budget until a good one comes (`reliability.md` P8 to P10).
"""

from __future__ import annotations

import logging
import math
from typing import Final

from attrs import define, evolve, field

from kling_async._doubts import CONFIRMATIONS, NO_NEWS, Doubts, News
from kling_async._durations import Kind
from kling_async._fault import KlingError
from kling_async._pacing import Pace, Paces, Polling, backoff, next_gap
from kling_async._verdict import Failure
from kling_async._wire import Blank, Refusal
from kling_async.errors import ApiError, ProtocolError, RateLimitError, ResultMissingError, TaskFailedError, TaskTimeoutError
from kling_async.models import Audio, Image, Snapshot, Status, TaskRef, Video

__all__ = ["Change", "News", "Seen", "Watch", "entries_of", "snapshot_from"]

Seen = Snapshot | Blank | Refusal | ProtocolError | Failure
"""All that a look can bring."""

_log = logging.getLogger(__name__)

_ERROR_CAP: Final = 20.0
"""The longest pause in seconds after a look that failed."""
_LONGEST_WISH: Final = 600.0
"""Seconds to the next look that a server's wish may come to: an odd header must not hide a paid result for days."""
_APART: Final = 1.0
"""Seconds between two looks that others ask for, however often they ask (`reliability.md` P27)."""
_CACHED: Final = 30.0
"""Seconds after word of the end in which a gateway that answers from a cache may still deny it; most hold theirs for 15."""
_AT_END: Final = 5.0
"""Seconds between two looks in that time."""
_FRESH: Final = 1.0
"""A time of update so many seconds before a look, or fewer, is taken for that of the look: some gateways move it with each."""


@define(eq=False, weakref_slot=False)
class Change:
    """One link of the chain of changes, so that any number of readers can follow at their own pace."""

    snapshot: Snapshot | None
    following: Change | None = None


def entries_of(snapshot: Snapshot, action: str) -> tuple[Video | Image | Audio, ...]:
    """The entries of a result that its kind of task is for, else whatever there is."""
    if action == "images":
        return snapshot.images or snapshot.videos or snapshot.audios
    if action == "audio":
        return snapshot.audios or snapshot.videos
    return snapshot.videos or snapshot.images or snapshot.audios


def snapshot_from(seen: Seen, ref: TaskRef) -> Snapshot:
    """What one look showed, for people who asked for that look.

    Raises:
        ApiError: the service refused.
        ProtocolError: the reply cannot be read, or is about another task.
        TransportError: there was no reply.
    """
    match _about(ref, seen):
        case Snapshot() as snapshot:
            return snapshot
        case (Refusal() | Failure()) as trouble:
            raise trouble.error()
        case ProtocolError() as error:
            raise error
        case Blank():
            return Snapshot(task_id=ref.task_id, status=Status.UNKNOWN, external_task_id=ref.external_task_id)


def _about(ref: TaskRef, seen: Seen) -> Seen:
    # Some cache has mixed up two replies: nothing in it may be used.
    if isinstance(seen, Snapshot) and seen.task_id != ref.task_id:
        return ProtocolError("the reply is about another task", path="task_id")
    return seen


@define(eq=False, kw_only=True, weakref_slot=True)
class Watch:
    """One task as this session knows it; shared by all handles of the task."""

    ref: TaskRef
    pace: Pace
    polling: Polling
    next_look: float = 0.0
    """When to look next, by the clock's `now`."""
    snapshot: Snapshot | None = None
    done: bool = False
    looked_at: float = -math.inf
    """When the last look began."""
    kind: Kind | None = None
    paces: Paces | None = field(default=None, repr=False)
    """Where `pace` is taken from anew at each look, as more becomes known of such tasks; `None` leaves it as it is."""
    called: bool = False
    """Whether callbacks are expected."""
    born: float | None = None
    """When the task was created, by the clock's `now`; `None` when nobody knows."""
    hurried: bool = field(default=False, init=False)
    """Whether something is said to have happened that no look has shown yet."""
    _told: float | None = field(default=None, init=False)
    """When somebody last said that the task is over."""
    _began: float | None = field(init=False)
    """Since when it may have run, as far as the pace is concerned: its creation, or the last look that found it queued for long."""
    _running_at: float = field(default=-math.inf, init=False)
    """When the last look began that found it not final."""
    _latest: Change | None = field(default=None, init=False)
    """The end of the chain of changes, from when somebody follows them."""
    _doubts: Doubts | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._began = self.born

    @property
    def failure(self) -> KlingError | None:
        """Why the task, now final, brings nothing."""
        return None if self._doubts is None else self._doubts.failure

    def follow(self) -> Change:
        """The present end of the chain of changes."""
        if self._latest is None:
            self._latest = Change(self.snapshot)
        return self._latest

    def begin(self, now: float, roll: float) -> None:
        """Count from now: the task was created this moment."""
        self._began = self.born = now
        if self.polling.queued_timeout is not None:
            self._doubting().queued_since = now
        self.next_look = now + self._gap(now, roll)

    def resume(self) -> None:
        """Somebody waits again: failures of an earlier wait are not held against this one."""
        if self._doubts is not None:
            self._doubts.failing_since = None

    def looking(self, now: float) -> None:
        """A look begins: what was heard before is answered by it."""
        self.looked_at, self.hurried = now, False

    def hurry(self, now: float, *, final: bool = False) -> None:
        """Something is said to have happened: look now, but not twice in a second, and not sooner after a look that failed.

        Where it is the end and cannot be seen yet, as gateways answer from a cache, looks go on at an even pace.
        """
        self.hurried = True
        if final:
            self._told, self.called = now, False
        if not self.done and (self._doubts is None or not self._doubts.streak):
            self.next_look = min(self.next_look, max(now, self.looked_at + _APART))

    def keep_pace(self, now: float, roll: float, stretch: float = 1.0) -> None:
        """Look again no sooner than if the last look had been good."""
        self.next_look = max(self.next_look, now + self._gap(now, roll, stretch))

    def spread(self, now: float, roll: float) -> None:
        """Look again at any time within one gap: what came due together is taken apart."""
        self.next_look = now + roll * min(self._gap(now, 0.5), self.pace.max_interval)

    def gain(self, now: float) -> float:
        """What a look now is worth beside looks at other tasks: for how many seconds its end is expected to have gone unseen."""
        if self.hurried or self._began is None:
            return math.inf
        last, age = max(self._running_at - self._began, 0.0), now - self._began
        return max(0.0, age - last) if self.pace.forecast is None else self.pace.forecast.unseen(last, age)

    def took(self, now: float) -> tuple[float, float] | None:
        """Between how many seconds lies what the task took that was just found done, long queueing apart; `None` teaches nothing."""
        done = self.snapshot if self.done and self.failure is None else None
        if done is None or self._began is None or self.born is None:
            return None
        high, unsure = now - self._began, self._doubts.unsure if self._doubts is not None else 0.0
        low = max(0.0, self._running_at - self._began - unsure, 0.0 if self._told is None else high - _FRESH)
        if done.created_at is not None and done.updated_at is not None:
            said = (done.updated_at - done.created_at).total_seconds() - (self._began - self.born)
            if low < said < high - _FRESH:
                return said, said
        return low, high

    def note(self, seen: Seen, *, now: float, roll: float, hint: float | None = None, stretch: float = 1.0) -> News:
        """Take in what a look brought.

        `hint` is the server's own wish in seconds to the next look, obeyed up to ten minutes; `stretch` makes our own
        gaps so many times longer, and not that one.
        """
        seen = _about(self.ref, seen)
        match seen:
            case Snapshot() | Blank():
                if self._doubts is not None:
                    self._doubts.answered()
                self._place(seen, now)
                self.next_look = now + max(self._gap(now, roll, stretch), _heard(hint))
                if self.hurried:
                    self.hurry(now)
                return self._take(seen, now) if isinstance(seen, Snapshot) else NO_NEWS
            case Refusal():
                error = seen.error()
                hint = max(hint or 0.0, error.retry_after or 0.0)
                return self._refused(error, now=now) or self._failed(error, now=now, roll=roll, hint=hint, stretch=stretch)
            case Failure():
                return self._failed(seen.error(), now=now, roll=roll, hint=hint, stretch=stretch)
            case ProtocolError():
                return self._failed(seen, now=now, roll=roll, hint=hint, stretch=stretch)

    def _place(self, seen: Snapshot | Blank, now: float) -> None:
        """How old the task is, as its pace counts."""
        if self._began is None:  # of one that is attached to, nobody knows: it may end at any time
            self._began = now - self.pace.first
        if isinstance(seen, Snapshot) and seen.status.final:
            return
        looked_at = self._running_at = min(self.looked_at, now) if math.isfinite(self.looked_at) else now
        if isinstance(seen, Snapshot) and seen.status is Status.SUBMITTED:
            # A short time in the queue is part of what such tasks take; a long one tells of the queue, and not of them.
            if self.pace.queued is not None and looked_at - self._began >= self.pace.first / 2:
                self._doubting().queued, self._began = True, looked_at
        elif self._doubts is not None and self._doubts.queued:
            self._doubts.queued, self._doubts.unsure = False, now - self._began

    def _gap(self, now: float, roll: float, stretch: float = 1.0) -> float:
        if self.paces is not None and self.kind is not None:
            self.pace = self.paces.of(self.kind, called=self.called)
        pace, jitter = self.pace, self.polling.jitter
        age = now - self._began if self._told is None and self._began is not None else pace.first
        gap = next_gap(pace, age, jitter=jitter, roll=roll)
        if pace.queued is not None and self._doubts is not None and self._doubts.queued:
            gap = min(gap, pace.queued * (1 + jitter * (2 * roll - 1)))
        if self._told is not None and now - self._told < _CACHED and self.polling.interval is None:
            gap = min(gap, _AT_END * (1 + jitter * (2 * roll - 1)))
        # Longer gaps are for a gateway that is asked too often: what is far off anyway is not put off.
        return max(gap, min(gap, pace.interval) * stretch)

    def _take(self, seen: Snapshot, now: float) -> News:
        if self.done:
            self._take_again(seen)
            return NO_NEWS
        if self._doubts is not None and not seen.status.final:
            self._doubts.empty_handed = 0
        if seen is self.snapshot and not seen.status.final and self.polling.queued_timeout is None:
            return NO_NEWS
        if seen.status is Status.SUCCEED and not entries_of(seen, self.ref.action):
            doubts = self._doubting()
            doubts.empty_handed += 1
            if doubts.empty_handed < CONFIRMATIONS:
                return NO_NEWS
            doubts.failure = ResultMissingError("the task succeeded without a result", ref=self.ref)
        elif seen.status is Status.FAILED:
            self._doubting().failure = TaskFailedError(seen.message, ref=self.ref)
        elif seen.status is Status.UNKNOWN and seen.raw_status != self._doubting().unknown_word:
            self._doubting().unknown_word = seen.raw_status
            _log.warning("unknown status %r of task %s: waiting on", seen.raw_status[:64], self.ref.task_id)
        self.done = seen.status.final
        changed = self._differs(seen)
        self.snapshot = seen
        if changed and self._latest is not None:
            self._latest.following = Change(seen)
            self._latest = self._latest.following
        # The end is news, though the reply to the creation may have told of it.
        return News(changed=changed or self.done, error=self._queued_too_long(seen, now))

    def _take_again(self, seen: Snapshot) -> None:
        # Final is final, except that a fresh read of a finished task may sign its links anew.
        known = self.snapshot.status if self.snapshot else seen.status
        if seen.status is known is Status.SUCCEED and entries_of(seen, self.ref.action):
            self.snapshot = seen
            if self._doubts is not None:
                self._doubts.failure = None
            if self._latest is not None:
                self._latest.snapshot = seen
        elif seen.status.final and seen.status is not known:
            _log.warning("task %s was %s and is now said to be %s: the first word counts", self.ref.task_id, known, seen.status)

    def _differs(self, seen: Snapshot) -> bool:
        known = self.snapshot
        if known is None or known.status is not seen.status:
            return True
        # The time of the last update moves with every look on some gateways; it is no news by itself.
        return known is not seen and evolve(known, updated_at=seen.updated_at) != seen

    def _queued_too_long(self, seen: Snapshot, now: float) -> KlingError | None:
        bound = self.polling.queued_timeout
        if bound is None or seen.status is not Status.SUBMITTED:
            return None
        doubts = self._doubting()
        if doubts.queued_since is None:
            doubts.queued_since = now
        if now - doubts.queued_since < bound:
            return None
        doubts.queued_since = now
        return TaskTimeoutError(f"still queued after {bound:g} s; the task goes on", ref=self.ref)

    def _refused(self, error: ApiError, *, now: float) -> News | None:
        doubts = self._doubting()
        met = self.snapshot is not None or math.isfinite(self._running_at) or doubts.empty_handed > 0
        if not doubts.refused(error, age=math.inf if self.born is None else now - self.born, met=met):
            return None
        error.ref = self.ref
        return News(error=error)

    def _failed(self, error: KlingError, *, now: float, roll: float, hint: float | None, stretch: float) -> News:
        doubts = self._doubting()
        doubts.streak += 1
        base = 2.0 if isinstance(error, RateLimitError) else 1.0
        self.next_look = now + max(backoff(doubts.streak, base=base, cap=_ERROR_CAP, roll=roll) * stretch, _heard(hint))
        return doubts.failed(error, self.ref, now=now, budget=self.polling.error_budget)

    def _doubting(self) -> Doubts:
        if self._doubts is None:
            self._doubts = Doubts()
        return self._doubts


def _heard(hint: float | None) -> float:
    return min(hint or 0.0, _LONGEST_WISH)
