"""`TaskHandle`: how a user follows and awaits one task."""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from attrs import define

from kling_async._clock import Deadline
from kling_async._pacing import check_timeout
from kling_async._watch import Watch, entries_of, snapshot_from
from kling_async.models import Audio, Image, Snapshot, Status, TaskRef, Video
from kling_async.poller import Poller

__all__ = ["Saver", "TaskHandle"]

R = TypeVar("R", covariant=True)


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

    @property
    def usual(self) -> float | None:
        """Seconds that such tasks usually take, as far as is known: half of them take longer. An estimate; no I/O."""
        forecast = self._watch.pace.forecast
        return None if forecast is None else forecast.quantile(0.5)

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
            await self._poller.wait(self._watch, self._deadline(bound if timeout is not None else self._watch.polling.timeout).at)
        return self._result()

    async def updates(self) -> AsyncIterator[Snapshot]:
        """Every change as it is seen, from the present state on, the final one last.

        A failed task is a final snapshot here, not an exception.

        Raises:
            TaskTimeoutError: as for `wait`, with the same default bound for the whole iteration.
            ApiError: as for `wait`.
        """
        deadline = self._deadline(self._watch.polling.timeout)
        change = self._watch.follow()
        if change.snapshot is not None:
            yield change.snapshot
        while True:
            if change.following is not None:
                change = change.following
                yield cast("Snapshot", change.snapshot)  # none is missing but the first
            elif self._watch.done:
                return
            else:
                await self._poller.wait(self._watch, deadline.at, any_change=True)

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

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(timeout, self._poller.clock)

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
