"""What a session learns of how long tasks take, and where that is kept. Nothing waits for it, and no trouble with it hurts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field

from kling_async._clock import Clock
from kling_async._durations import kind_asked, kind_of
from kling_async._pacing import Paces
from kling_async._watch import Watch
from kling_async.errors import JournalError
from kling_async.jobs import Job
from kling_async.journal import Creation, Journal
from kling_async.models import Snapshot, TaskRef
from kling_async.observers import Anomaly, Record

__all__ = ["Learning"]

_UNSAVED: Final = 8
"""Lessons that a process which dies may take with it."""


@define(eq=False)
class Learning:
    """The paces of a session, and the journal they survive it in."""

    paces: Paces
    journal: Journal
    origin: str
    clock: Clock
    roll: Callable[[], float]
    """A number from 0 to 1."""
    tell: Callable[[Record], object]
    _unsaved: int = field(default=0, init=False)
    _recalled: bool = field(default=False, init=False)
    _at_work: asyncio.Task[None] | None = field(default=None, init=False)

    def watch(self, ref: TaskRef, asked: Job[Any] | Creation | None, snapshot: Snapshot | None, *, called: bool) -> Watch:
        """What is known of a task, with the pace of its kind, as far as what was asked for is known.

        With a snapshot it was created this moment; else it is to be looked at, at once.
        """
        match asked:
            case Job():
                kind = kind_of(asked)
            case Creation():
                kind = kind_asked(ref.route, json.loads(asked.request))
            case None:
                kind = kind_asked(ref.route, {})
        born = None
        if snapshot is None and ref.created_at is not None:
            with contextlib.suppress(RuntimeError):  # attached to before any loop runs: then it may be of any age
                born = self.clock.now() - max(0.0, self.clock.wall() - ref.created_at.timestamp())
        pace = self.paces.of(kind, called=called)
        watch = Watch(
            ref=ref, pace=pace, polling=self.paces.polling, snapshot=snapshot, kind=kind, paces=self.paces, called=called, born=born
        )
        if snapshot is not None:
            watch.begin(self.clock.now(), self.roll())
            if not self._recalled and self.journal.lasting:
                self._start()
        return watch

    def ended(self, watch: Watch) -> None:
        """A task is final: learn from it."""
        if watch.kind is None:
            return
        took = watch.took(self.clock.now())
        if took is not None:
            self.paces.durations.learn(watch.kind, *took)
            self._unsaved += 1
        elif watch.failure is not None:
            self.paces.durations.alarm(watch.kind)
        if self._unsaved >= _UNSAVED and self.journal.lasting:
            self._start()

    async def aclose(self) -> None:
        """Keep what has not been kept yet."""
        if self._at_work is not None:
            await asyncio.wait([self._at_work])
        if self._unsaved and self.journal.lasting:
            await self._keep()

    def _start(self) -> None:
        if self._at_work is None or self._at_work.done():
            self._at_work = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        durations = self.paces.durations
        try:
            if not self._recalled:
                texts = await self.journal.learnt(self.origin)
                self._recalled = True  # whatever of it can be read
                durations.recall(texts)
            if self._unsaved:
                self._unsaved = 0
                await self.journal.learn(self.origin, durations.changes())
        except (JournalError, ValueError) as error:
            self.tell(Anomaly(what="journal", detail=f"what is known of durations could not be read or kept: {error}"))
