"""What happens, told as it happens: one frozen record each, delivered at once, unable to change an outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from attrs import define, field, frozen

from kling_async.models import Status, TaskRef

__all__ = ["Anomaly", "Exchange", "Observer", "Record", "StatusChange", "Waiting", "log_records"]

_log = logging.getLogger("kling_async")


@frozen(kw_only=True)
class Exchange:
    """A request and what came of it."""

    method: str
    route: str
    """Such as `videos/text2video`."""
    subject: str
    """The task's id for a read, the `external_task_id` for a creation."""
    paid: bool
    seconds: float
    http_status: int | None = None
    """`None` when there was no complete reply."""
    cause: str | None = None
    """Why there was none: one word, such as `connect` or `timeout`."""


@frozen(kw_only=True)
class StatusChange:
    """A task was seen to stand elsewhere than before."""

    ref: TaskRef
    before: Status | None
    after: Status


@frozen(kw_only=True)
class Waiting:
    """A creation waits: for its turn (`slot`), or before it is sent again (`retry`)."""

    why: str
    external_task_id: str
    seconds: float | None = None
    """How long at most, when that is known."""


@frozen(kw_only=True)
class Anomaly:
    """Something that should not be, and was borne."""

    what: str
    """One word or two, such as `orphan`, `twin-task-id`, `unknown-status`, `outcome-unknown`."""
    detail: str
    ref: TaskRef | None = None


Record = Exchange | StatusChange | Waiting | Anomaly
Observer = Callable[[Record], Any]
"""Called from the event loop with every record; must be quick. What it raises is logged and goes no further."""


def log_records(record: Record) -> None:
    """The default observer: anomalies as warnings, changes for information, the rest for debugging."""
    match record:
        case Anomaly():
            _log.warning("%s: %s%s", record.what, record.detail, f" [{record.ref}]" if record.ref else "")
        case StatusChange():
            _log.info("task %s is %s [%s]", record.ref.task_id, record.after, record.ref)
        case Waiting():
            _log.debug("creation %s waits for its %s", record.external_task_id, record.why)
        case Exchange():
            outcome = record.http_status if record.http_status is not None else record.cause
            _log.debug("%s %s %s: %s after %.3f s", record.method, record.route, record.subject, outcome, record.seconds)


def _listed(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    return tuple(observers) or (log_records,)


@define(eq=False)
class Audience:
    """All observers of a session."""

    observers: tuple[Observer, ...] = field(converter=_listed)

    def tell(self, record: Record) -> None:
        """Tell everybody."""
        for observer in self.observers:
            try:
                observer(record)
            except Exception:  # noqa: BLE001  a hook of the user's must not hurt an outcome that costs money
                _log.exception("an observer failed")
