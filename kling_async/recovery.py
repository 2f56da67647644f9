"""What the journal remembers, made use of: unfinished tasks found again, unknown outcomes settled, ends recorded."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from attrs import define, field

from kling_async.errors import JournalError
from kling_async.jobs import Route
from kling_async.journal import Artifact, Creation, Journal, Owner, State
from kling_async.models import Audio, Image, Snapshot, Status, TaskRef, Video
from kling_async.observers import Anomaly, Record, Saved
from kling_async.reconcile import Reconciler

__all__ = ["Memory", "ref_of"]


def ref_of(row: Creation) -> TaskRef:
    """The task that the creation came to."""
    return TaskRef(
        origin=row.origin,
        action=row.action,
        action2=row.action2,
        task_id=row.task_id or "",
        external_task_id=row.key,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
    )


@define(eq=False)
class Memory:
    """One account's creations at one gateway, as the journal has them."""

    journal: Journal
    owner: Owner
    account: str
    origin: str
    reconciler: Reconciler
    tell: Callable[[Record], None]
    at_work: set[str] = field(factory=set, init=False)
    """The claims of this session's orders that have not ended."""
    _open: bool = field(default=False, init=False)

    async def is_at_work(self, claim: str) -> bool:
        """Whether somebody is at the creation that holds this claim."""
        return claim in self.at_work if claim.startswith(f"{self.owner.id}.") else await self.journal.is_alive(claim.partition(".")[0])

    async def open(self) -> None:
        """Open the journal and make this session's claim in it.

        Raises:
            JournalError: the file cannot be opened, or is no journal of ours.
        """
        if not self._open:
            await self.journal.open()
        try:
            self.owner.claim()
        except OSError as error:
            msg = f"journal {self.journal.path}: cannot make a file beside it: {error.strerror or type(error).__name__}"
            raise JournalError(msg) from None
        self._open = True

    async def unfinished(self) -> list[Creation]:
        """All that came to a task which is not final, after asking for what is unknown; what was never sent is withdrawn.

        All are asked for at the same time, each until the window since it was sent has passed: what died long ago is
        looked up once, and no number of creations makes it longer than that window and the look-ups themselves.
        """
        await self.open()
        rows = await self.journal.open_rows(self.account, self.origin)
        found = await asyncio.gather(*map(self._taken_over, rows))
        return [row for row in found if row is not None]

    async def unknowns(self) -> list[Creation]:
        """What nobody knows the outcome of."""
        rows = await self.journal.open_rows(self.account, self.origin)
        return [row for row in rows if row.state is State.UNKNOWN]

    async def expected(self) -> list[Creation]:
        """What is unfinished and was there before this process, as far as there is a record to tell."""
        return [] if not self.journal.lasting else await self.journal.open_rows(self.account, self.origin)

    async def find(self, key: str) -> Creation | None:
        """The creation under that key if it came to a task, asking for it when that is unknown."""
        await self.open()
        return await self._taken_over(await self.journal.get(key))

    async def adopt(self, key: str, task_id: str) -> Creation:
        """Take a user's word for it."""
        await self.journal.accept(key, task_id)
        row = await self.journal.get(key)
        if row.task_id != task_id:
            msg = f"creation {key} is task {row.task_id} already, not {task_id}"
            raise JournalError(msg)
        return row

    async def abandon(self, key: str) -> None:
        """Take a user's word that nothing came of it."""
        if not await self.journal.move(key, State.ABANDONED, "given up by hand"):
            msg = f"creation {key} is {(await self.journal.get(key)).state}: only what is unknown can be abandoned"
            raise JournalError(msg)

    async def finish(self, ref: TaskRef, snapshot: Snapshot, note: str) -> None:
        """Record that a task is final; trouble with that is told, and hurts nobody's wait."""
        if not self.journal.in_use:
            return
        state = State.SUCCEEDED if snapshot.status is Status.SUCCEED else State.FAILED
        try:
            await self.journal.finish(self.account, ref.task_id, state, note=note, result=_summary(snapshot))
        except JournalError as error:
            self.tell(Anomaly(what="journal", detail=str(error), ref=ref))

    async def keep(self, saved: Saved, idx: int, validator: str) -> None:
        """Record a file; trouble with that is told, and the file is no worse for it."""
        if saved.ref is None or saved.path is None or not self.journal.in_use:
            return
        artifact = Artifact(key="", idx=idx, path=_absolute(saved.path), size=saved.size, sha256=saved.sha256, validator=validator)
        try:
            await self.journal.keep(self.account, saved.ref.task_id, artifact)
        except JournalError as error:
            self.tell(Anomaly(what="journal", detail=str(error), ref=saved.ref))

    async def lacks(self, ref: TaskRef, idx: int) -> bool:
        """Whether the file of that entry should be recorded and is not; not so where that cannot be found out."""
        try:
            return self.journal.in_use and await self.journal.lacks(self.account, ref.task_id, idx)
        except JournalError as error:
            self.tell(Anomaly(what="journal", detail=str(error), ref=ref))
            return False

    async def _taken_over(self, row: Creation) -> Creation | None:
        last = row.updated_at
        if not await self.is_at_work(row.owner):
            if row.state is State.PREPARED:
                await self.journal.bury(row, State.WITHDRAWN)
            elif row.state is State.SENDING:
                await self.journal.bury(row, State.UNKNOWN)
                row = await self.journal.get(row.key)
        return await self._settled(row, age=self.reconciler.clock.wall() - last)

    async def _settled(self, row: Creation, *, age: float) -> Creation | None:
        if row.state is State.UNKNOWN:
            found = await self.reconciler.search(row.key, Route(action=row.action, action2=row.action2), age=age)
            if found is None:
                return None
            await self.journal.accept(row.key, found.task_id)
            return await self.journal.get(row.key)
        return None if row.task_id is None else row


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  the caller's directory may change later


def _summary(snapshot: Snapshot) -> str:
    # Without the queries of the links: they are signatures, and whoever wants the files reads the task again.
    entries: tuple[Video | Image | Audio, ...] = (*snapshot.videos, *snapshot.images, *snapshot.audios)
    return json.dumps([{"url": entry.url.partition("?")[0]} for entry in entries])
