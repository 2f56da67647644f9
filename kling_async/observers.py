"""What happens, told as it happens: one frozen record each, delivered at once, unable to change an outcome."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen

from kling_async._fault import ConfigurationError
from kling_async.models import Status, TaskRef

__all__ = ["Anomaly", "Exchange", "Observer", "Progress", "Record", "Saved", "Settled", "StatusChange", "Waiting", "log_records"]

_log = logging.getLogger("kling_async")


@frozen(kw_only=True)
class Exchange:
    """A request and what came of it."""

    method: str
    route: str
    """Such as `videos/text2video`."""
    subject: str
    """The task's id for a read, the `external_task_id` for a creation, `page 1` for a list."""
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
class Settled:
    """What a creation came to; told once for each, whether its caller is still there or not."""

    external_task_id: str
    route: str
    how: str
    """`accepted`; `reused` (bought before under the same `dedupe` or `external_task_id`) and `found` (the answer was lost, and the
    service was asked for the key instead of buying again): duplicates avoided; `rejected` and `withdrawn`: nothing was bought;
    `unknown`: nobody can tell."""
    seconds: float
    """Since it was asked for, waits included."""
    model: str | None = None
    """The job's `model_name`, when it has one."""
    error: str | None = None
    """Why there is no task: the name of the error's class, such as `ContentPolicyError`."""
    ref: TaskRef | None = None


@frozen(kw_only=True)
class Anomaly:
    """Something that should not be, and was borne."""

    what: str
    """One word or two, such as `orphan`, `twin-task-id`, `unknown-status`, `outcome-unknown`."""
    detail: str
    ref: TaskRef | None = None


@frozen(kw_only=True)
class Progress:
    """How far a download is; told a few times a second."""

    name: str
    """The file's name, without its ending."""
    received: int
    """Bytes; fewer than before when the download had to begin again."""
    total: int | None
    """`None` when the file host does not tell."""
    ref: TaskRef | None = None


@frozen(kw_only=True)
class Saved:
    """An entry of a result is here, whole."""

    path: Path | None
    """`None` when it went into a stream or a writer."""
    size: int
    sha256: str
    """Hex."""
    verified: str
    """What says that it is whole: `length`, the file's own structure (`container`), `chunked` (the framing of the reply; the
    type of the file does not tell), or the caller's `sha256`."""
    ref: TaskRef | None = None
    seconds: float = field(default=0.0, eq=False)
    """From the first request on; of no account when two are compared."""


_FOR_DEBUGGING: Final = (Exchange, Waiting, Progress)
Record = Exchange | StatusChange | Waiting | Settled | Anomaly | Progress | Saved
Observer = Callable[[Record], Any]
"""Called from the event loop with every record, and not awaited: an `async def` is refused.

What it raises is logged and goes no further; it runs as nobody's task, so that it cannot cancel the one
whose record it gets. It must be quick: while it works everything else stands still, deadlines included.
Whoever has more to do puts the record into a queue.
"""


def log_records(record: Record) -> None:
    """The default observer: anomalies as warnings, changes for information, the rest for debugging."""
    match record:
        case Anomaly():
            _log.warning("%s: %s%s", record.what, record.detail, f" [{record.ref}]" if record.ref else "")
        case StatusChange():
            _log.info("task %s is %s [%s]", record.ref.task_id, record.after, record.ref)
        case Settled(ref=TaskRef() as ref, how="reused" | "found"):
            _log.info("creation %s is task %s: %s, not bought again [%s]", record.external_task_id, ref.task_id, record.how, ref)
        case Settled():
            _log.debug("creation %s: %s after %.3f s", record.external_task_id, record.error or record.how, record.seconds)
        case Saved():
            place = "a stream" if record.path is None else record.path
            _log.info("saved %s: %d bytes, SHA-256 %s (%s)", place, record.size, record.sha256, record.verified)
        case Progress():
            _log.debug("%s: %d of %s bytes", record.name, record.received, record.total if record.total is not None else "unknown")
        case Waiting():
            _log.debug("creation %s waits for its %s", record.external_task_id, record.why)
        case Exchange():
            outcome = record.http_status if record.http_status is not None else record.cause
            _log.debug("%s %s %s: %s after %.3f s", record.method, record.route, record.subject, outcome, record.seconds)


def _listed(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    listed = tuple(observers) or (log_records,)
    for observer in listed:
        given: Any = observer
        if not callable(given) or any(map(inspect.iscoroutinefunction, (given, type(given).__call__))):
            name = getattr(given, "__qualname__", type(given).__qualname__)
            msg = f"observers: {name} is no plain function: observers are called, not awaited; let it put the record into a queue"
            raise ConfigurationError(msg)
    return listed


@contextlib.contextmanager
def _as_nobody() -> Generator[None]:
    # A hook that cancels "the current task" would else hit the owner of a paid request, or the poller.
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs here
        task = None
    if task is None:
        yield
        return
    loop = task.get_loop()
    asyncio.tasks._leave_task(loop, task)  # noqa: SLF001  documented for those who run tasks themselves
    try:
        yield
    finally:
        asyncio.tasks._enter_task(loop, task)  # noqa: SLF001  likewise


_OURS: Final = contextlib.nullcontext()
"""Around an observer that cancels nobody."""


@define(eq=False)
class Audience:
    """All observers of a session."""

    observers: tuple[Observer, ...] = field(converter=_listed)

    @property
    def listens(self) -> bool:
        """Whether anybody hears what is told for debugging only, such as each of very many looks."""
        return self.observers != (log_records,) or _log.isEnabledFor(logging.DEBUG)

    def tell(self, record: Record) -> None:
        """Tell everybody."""
        if isinstance(record, _FOR_DEBUGGING) and not self.listens:
            return
        for observer in self.observers:
            try:
                with _OURS if observer is log_records else _as_nobody():
                    late = observer(record)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001  a hook of the user's must not hurt an outcome that costs money
                _log.exception("an observer failed")
            else:
                if inspect.iscoroutine(late):
                    late.close()
                    _log.error("an observer gave a coroutine, which nobody awaits: observers must be plain functions")
