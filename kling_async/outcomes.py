"""Many jobs at once: outcomes as they come, and no failure that hides another's task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Generic, Self, TypeVar

from attrs import define, field, frozen

from kling_async._fault import ConfigurationError, KlingError
from kling_async.jobs import Job
from kling_async.tasks import TaskHandle

__all__ = ["Outcome", "Outcomes"]

R = TypeVar("R")


@frozen(kw_only=True)
class Outcome(Generic[R]):
    """One job of a batch, and what became of it."""

    job: Job[R]
    handle: TaskHandle[R] | None = None
    """`None` when no task came of the job."""
    result: R | None = None
    """What awaiting the handle gives, such as `tuple[Video, ...]`; `None` where there is an error."""
    error: KlingError | None = None
    """What ended the job, or the waiting for it: a `TaskTimeoutError` leaves a task that goes on. `None` where there is a result."""

    def unwrap(self) -> R:
        """The result.

        Raises:
            KlingError: the error, when there is one instead.
        """
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # there is a result where there is no error


@define(eq=False)
class Outcomes(Generic[R]):
    """The outcomes of a batch, in the order of their completion.

    Leaving the block early detaches: what has not been sent is withdrawn, tasks that exist go on, and
    stand in `started`.
    """

    _jobs: Iterable[Job[R]] | AsyncIterable[Job[R]]
    _submit: Callable[[Job[R]], Awaitable[TaskHandle[R]]]
    _at_once: int
    started: list[TaskHandle[R]] = field(factory=list, init=False)
    """A handle for every task that exists, in the order of acceptance."""
    _finished: asyncio.Queue[Outcome[R] | None] = field(factory=asyncio.Queue, init=False)
    _running: set[asyncio.Task[None]] = field(factory=set, init=False)
    _feeder: asyncio.Task[None] | None = field(default=None, init=False)
    _left: bool = field(default=False, init=False)
    _broken: BaseException | None = field(default=None, init=False)
    _room: asyncio.Semaphore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._room = _room_for(self._at_once)

    async def __aenter__(self) -> Self:
        """Begin to take jobs."""
        self._feeder = asyncio.get_running_loop().create_task(self._feed())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Detach from whatever is left."""
        self._left = True
        tasks = {*self._running, *([self._feeder] if self._feeder else [])}
        for task in tasks:
            task.cancel()
        self._finished.put_nowait(None)  # for whoever still asks
        if tasks:
            await asyncio.wait(tasks)

    def __aiter__(self) -> AsyncIterator[Outcome[R]]:
        """Itself."""
        return self

    async def __anext__(self) -> Outcome[R]:
        """The next outcome.

        Raises:
            Exception: what the iterable of jobs raised, once all outcomes of the jobs before are given.
        """
        if self._feeder is None:
            msg = "use `async with kling.map(…) as outcomes`"
            raise RuntimeError(msg)
        outcome = await self._finished.get()
        if outcome is not None:
            return outcome
        self._finished.put_nowait(None)  # whoever asks again is told again
        if self._broken is not None:
            raise self._broken
        raise StopAsyncIteration

    async def _feed(self) -> None:
        try:
            jobs = _each(self._jobs)
            while await self._room.acquire():  # first: a job that was taken and has no room would be lost on leaving
                task = asyncio.get_running_loop().create_task(self._one(await anext(jobs)))
                self._running.add(task)
                task.add_done_callback(self._ended)
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError as error:
            if self._left:
                raise
            self._broken = error  # the iterable's own, as of something that it awaited
        except Exception as error:  # noqa: BLE001  whatever the user's iterable raises: it is given on, after what was begun before
            self._broken = error
        if self._running:
            await asyncio.wait(self._running)
        self._finished.put_nowait(None)

    async def _one(self, job: Job[R]) -> None:
        handle: TaskHandle[R] | None = None
        try:
            handle = await self._submit(job)
            self.started.append(handle)
            outcome = Outcome(job=job, handle=handle, result=await handle)
        except KlingError as error:
            outcome = Outcome(job=job, handle=handle, error=error)
        self._finished.put_nowait(outcome)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.release()
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._broken = defect


def _room_for(jobs: object) -> asyncio.Semaphore:
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        msg = f"in_flight: {jobs!r} is no number of jobs, from 1"
        raise ConfigurationError(msg)
    return asyncio.Semaphore(jobs)


async def _each(jobs: Iterable[Job[R]] | AsyncIterable[Job[R]]) -> AsyncIterator[Job[R]]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield job
    else:
        for job in jobs:
            yield job
