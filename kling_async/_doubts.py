"""What few tasks bring and most do not: looks that fail, replies that are not believed yet, long queueing. Pure."""

from __future__ import annotations

from typing import Final

from attrs import define, frozen

from kling_async._fault import KlingError
from kling_async.errors import ApiError, NotFoundError, RateLimitError, ServiceError, TaskTimeoutError
from kling_async.models import TaskRef

__all__ = ["CONFIRMATIONS", "NO_NEWS", "Doubts", "News"]

CONFIRMATIONS: Final = 3
"""Looks that must agree before "not found", or a success without a result, is believed."""
_VISIBLE_WITHIN: Final = 60.0
"""Seconds after its creation in which a task may still be "not found" (`reliability.md` 2.7)."""
_PASSING: Final = {408, 425, 429}
"""Refusals by status that a wait sits out, besides 5xx."""


@frozen
class News:
    """What a look changed: whether the snapshot is another, and an error that ends the present waits."""

    changed: bool = False
    error: KlingError | None = None
    lost: bool = False
    """Whether there has been no good look for the whole error budget, whoever waited meanwhile."""


NO_NEWS: Final = News()


@define(eq=False, weakref_slot=False)
class Doubts:
    """Made on the first of them, so that tasks without any are small."""

    failure: KlingError | None = None
    """Why the task, now final, brings nothing."""
    streak: int = 0
    """Looks in a row that have failed."""
    failing_since: float | None = None
    lost_since: float | None = None
    absences: int = 0
    empty_handed: int = 0
    """Looks in a row that have shown a success without a result."""
    unknown_word: str | None = None
    queued: bool = False
    """Whether it has been found queued for long."""
    queued_since: float | None = None
    unsure: float = 0.0
    """By how much later than the pace counts from it may have begun to run."""

    def answered(self) -> None:
        """A good look has come."""
        self.streak, self.absences, self.failing_since, self.lost_since = 0, 0, None, None

    def failed(self, error: KlingError, ref: TaskRef, *, now: float, budget: float) -> News:
        """A look has brought nothing; it ends the waits once there has been no other for the whole budget."""
        if self.failing_since is None:
            self.failing_since = now
        if self.lost_since is None:
            self.lost_since = now
        lost = now - self.lost_since >= budget
        if now - self.failing_since < budget:
            return News(lost=lost)
        self.failing_since = None
        message = f"no good answer for {budget:g} s, the last: {error}; the task goes on"
        return News(error=TaskTimeoutError(message, ref=ref), lost=lost)

    def refused(self, error: ApiError, *, age: float, met: bool) -> bool:
        """Whether a refusal is believed at once; `met` is whether there has ever been a good look."""
        if isinstance(error, NotFoundError):
            if age >= _VISIBLE_WITHIN:
                self.absences += 1
            if self.absences < CONFIRMATIONS:
                return False
            self.absences = 0
            return True
        passing = isinstance(error, ServiceError | RateLimitError) or (error.http_status or 0) in _PASSING
        # Never had a good answer: the key or the reference is wrong, and waiting will not mend it.
        return not passing and not met
