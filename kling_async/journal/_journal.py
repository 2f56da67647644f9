"""The journal's words: what is written when, each a move of one creation from state to state."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final, Self

import anyio.to_thread
from attrs import define, field
from attrs.converters import optional

from kling_async._fault import ConfigurationError
from kling_async.errors import InvalidJobError, JournalError
from kling_async.journal._database import Transaction
from kling_async.journal._file import FileDatabase, copy_database
from kling_async.journal._moves import ARTIFACT, LEARNT, SELECT, asked, found, get, insert, move, prune, put, record, standing
from kling_async.journal._owners import Owner, is_alive
from kling_async.journal._rows import ARTIFACT_COLUMNS, UNFINISHED, Artifact, Creation, State, creation_of
from kling_async.journal._writer import Writer

__all__ = ["Journal"]

_KEPT: Final = 45 * 86400.0


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.fspath(path))  # noqa: PTH100  the caller's directory may change later


@define(eq=False)
class Journal:
    """The durable record of creations: an SQLite file that several processes of one machine may share.

    Args:
        path: the file, on a local disk; made if it does not exist, readable by its owner only. `None`
            keeps the record in memory: nothing survives the process then.

    Raises:
        JournalError: from every use, when the file is damaged, not a journal, locked or full.
    """

    path: str | None = field(default=None, converter=optional(_absolute))
    _writer: Writer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._writer = Writer(FileDatabase(self.path))

    async def __aenter__(self) -> Self:
        """Open the file, so that trouble shows now."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it; see `aclose`."""
        await self.aclose()

    async def open(self) -> None:
        """Open the file now rather than with the first use.

        Raises:
            JournalError: it cannot be opened, or is no journal of ours.
        """
        await self._writer.run(lambda _: None, durable=False)

    @property
    def in_use(self) -> bool:
        """Whether it has been opened, or outlives the process and so should be."""
        return self.lasting or self._writer.started

    @property
    def lasting(self) -> bool:
        """Whether what it holds outlives the process."""
        return self._writer.database.lasting

    async def aclose(self) -> None:
        """Write what is queued and let go of the file."""
        await self._writer.aclose()

    def owner(self) -> Owner:
        """A new claim, for one session."""
        return Owner(self.path)

    async def is_alive(self, owner: str) -> bool:
        """Whether the session of that claim still runs."""
        return is_alive(self.path, owner)

    async def intend(self, creation: Creation) -> tuple[Creation, bool]:
        """Record what is about to be bought (W1). Gives the row as it stands, and whether it is this one and not an earlier.

        Raises:
            InvalidJobError: its `dedupe` or `external_task_id` was used for another request, or one without the other.
        """

        def work(db: Transaction) -> tuple[Creation, bool]:
            if insert(db, creation):
                return creation, True
            by_key = found(db, "key = ?", creation.key)
            by_word = found(db, "account = ? AND dedupe = ?", creation.account, creation.dedupe)  # no word is equal to none
            known = by_word or get(db, creation.key)
            if asked(known) != asked(creation):
                raise InvalidJobError("dedupe" if creation.dedupe else "external_task_id", "it was used for another request before")
            if by_key is not None and creation.dedupe not in {None, by_key.dedupe}:
                if by_word is not None or by_key.dedupe is not None:
                    raise InvalidJobError("dedupe", "its external_task_id was used under another word before")
                db.execute("UPDATE creation SET dedupe = ? WHERE key = ?", (creation.dedupe, by_key.key))
            return known, False

        return await self._writer.run(work)

    async def claim(self, row: Creation, owner: str, *, callback_hash: bytes | None = None) -> bool:
        """Take over what nobody is sending, as it was seen; false when somebody else was faster."""

        def work(db: Transaction) -> bool:
            now = get(db, row.key)
            if now.state is State.SENDING or (now.state, now.owner) != (row.state, row.owner):
                return False
            db.execute("UPDATE creation SET callback_hash = ? WHERE key = ?", (callback_hash, row.key))
            if now.state is State.PREPARED:
                db.execute("UPDATE creation SET owner = ? WHERE key = ?", (owner, row.key))
                return True
            return move(db, row.key, State.PREPARED, owner=owner, note="asked for again")

        return await self._writer.run(work)

    async def send(self, key: str, owner: str) -> bool:
        """From `prepared` to `sending` (W2), durably; false when the creation is no longer this owner's to send."""

        def work(db: Transaction) -> bool:
            row = get(db, key)
            if row.state is not State.PREPARED or row.owner != owner:
                return False
            put(db, key, row.state, State.SENDING, "", attempt=row.attempt + 1)
            return True

        return await self._writer.run(work)

    async def accept(self, key: str, task_id: str) -> str | None:
        """The task exists (W3). Unconditional, for an id is a fact; gives the key of another creation with the same id."""

        def work(db: Transaction) -> str | None:
            state, known, account = standing(db, key)
            if state not in {State.ACCEPTED, State.SUCCEEDED, State.FAILED}:
                put(db, key, state, State.ACCEPTED, "", task_id=task_id)
            elif known != task_id:
                record(db, key, state, state, f"said to be task {task_id}, too")
            twin = db.execute("SELECT key FROM creation WHERE account = ? AND task_id = ? AND key <> ?", (account, task_id, key)).fetchone()
            return None if twin is None else str(twin[0])

        return await self._writer.run(work)

    def withdraw(self, key: str, owner: str, state: State, note: str) -> None:
        """Move a creation on if it is still this owner's, without waiting: what is queued is written whatever becomes of the caller."""

        def work(db: Transaction) -> None:
            if get(db, key).owner == owner:
                move(db, key, state, note=note)

        self._writer.put(work)

    async def move(self, key: str, state: State, note: str = "", *, owner: str | None = None) -> bool:
        """Move a creation on, durably; false when it was past that, or is not that owner's any more."""

        def work(db: Transaction) -> bool:
            now = get(db, key)
            # One that was settled without its owner, by hand or by those who took that for dead, is its no more.
            its = now.owner == owner and now.state in {State.PREPARED, State.SENDING}
            return (owner is None or its) and move(db, key, state, note=note)

        return await self._writer.run(work)

    async def bury(self, row: Creation, state: State) -> bool:
        """Move on what a dead session left; false when it is not as it was seen any more, for others may be at it by now."""

        def work(db: Transaction) -> bool:
            now = get(db, row.key)
            return (now.state, now.owner) == (row.state, row.owner) and move(db, row.key, state, note="its session died")

        return await self._writer.run(work)

    async def finish(self, account: str, task_id: str, state: State, *, note: str = "", result: str | None = None) -> None:
        """The task is final (W5)."""

        def work(db: Transaction) -> None:
            rows = db.execute("SELECT key FROM creation WHERE account = ? AND task_id = ?", (account, task_id)).fetchall()
            for (key,) in rows:
                move(db, key, state, note=note, result=result)

        await self._writer.run(work)

    async def keep(self, account: str, task_id: str, artifact: Artifact) -> None:
        """A file of that task is whole and has its name (W6); its `key` is found here. Of a task made elsewhere nothing is recorded."""

        def work(db: Transaction) -> None:
            rows = db.execute("SELECT key FROM creation WHERE account = ? AND task_id = ?", (account, task_id)).fetchall()
            db.executemany(ARTIFACT, [(key, *(getattr(artifact, name) for name in ARTIFACT_COLUMNS[1:])) for (key,) in rows])

        await self._writer.run(work)

    async def lacks(self, account: str, task_id: str, idx: int) -> bool:
        """Whether a creation that came to that task has no file recorded for that entry."""
        known = "SELECT 1 FROM artifact WHERE key = creation.key AND idx = ?"
        sql = f"SELECT 1 FROM creation WHERE account = ? AND task_id = ? AND NOT EXISTS ({known})"  # noqa: S608  constants of this package

        def work(db: Transaction) -> bool:
            return db.execute(sql, (account, task_id, idx)).fetchone() is not None

        return await self._writer.run(work, durable=False)

    async def artifacts(self, key: str) -> list[Artifact]:
        """The files that hold the result of that creation, in the order of its entries."""
        sql = f"SELECT {', '.join(ARTIFACT_COLUMNS)} FROM artifact WHERE key = ? ORDER BY idx"  # noqa: S608  constants of this package

        def work(db: Transaction) -> list[Artifact]:
            return [Artifact(**dict(zip(ARTIFACT_COLUMNS, row, strict=True))) for row in db.execute(sql, (key,))]

        return await self._writer.run(work, durable=False)

    async def learnt(self, origin: str, *, most: int = 128) -> dict[str, str]:
        """What is known of how long tasks take at that gateway, by kind: what was learnt last, and no more than `most`."""
        sql = "SELECT kind, learnt FROM pace WHERE origin = ? ORDER BY updated_at DESC LIMIT ?"
        return await self._writer.run(lambda db: dict(db.execute(sql, (origin, most)).fetchall()), durable=False)

    async def learn(self, origin: str, texts: Mapping[str, str]) -> None:
        """Keep what is known now of how long tasks of those kinds take."""
        rows = [(origin, kind, text, time.time()) for kind, text in texts.items()]
        await self._writer.run(lambda db: db.executemany(LEARNT, rows) and None, durable=False)

    async def get(self, key: str) -> Creation:
        """The creation under that key.

        Raises:
            JournalError: there is none.
        """
        return await self._writer.run(lambda db: get(db, key), durable=False)

    async def open_rows(self, account: str, origin: str) -> list[Creation]:
        """Everything of an account at a gateway that is not final, oldest first."""
        where = f"WHERE account = ? AND origin = ? AND {UNFINISHED} ORDER BY created_at"
        return await self._read(f"{SELECT} {where}", (account, origin))

    async def rows(self, *, most: int = 1000) -> list[Creation]:
        """The latest creations, newest first."""
        return await self._read(f"{SELECT} ORDER BY created_at DESC LIMIT ?", (most,))

    async def prune(self, older_than: float = _KEPT) -> int:
        """Delete creations that are final and have not changed for `older_than` seconds, of every account; gives how many.

        Nothing unfinished or unknown is deleted, however old. Never runs by itself, for it forgets `dedupe`: the
        same word is a new purchase afterwards. Done in small steps, between which others get their turn.

        Raises:
            ConfigurationError: `older_than` is negative or not a number.
            JournalError: the file cannot be read or written.
        """
        if not older_than >= 0:
            msg = f"older_than must be seconds, zero or more; got {older_than!r}"
            raise ConfigurationError(msg)
        limit, pruned = time.time() - older_than, 0
        while step := await self._writer.run(lambda db: prune(db, limit), durable=False):
            pruned += step
        return pruned

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy what is committed into a new file at `path`, readable by its owner only, while everybody goes on.

        The copy is one moment of the journal and needs no other file. Open it *instead of* the original, never
        beside it: two records of one purchase may each have it sent.

        Raises:
            JournalError: there is something at `path` already, it cannot be written, or the journal is in memory.
        """
        if self.path is None:
            msg = "a journal in memory has no backup; give it a path"
            raise JournalError(msg)
        target = _absolute(path)
        await self.open()  # what was handed over before is committed then
        # Not in the journal's thread: while a large file is copied nobody's purchase may wait.
        await anyio.to_thread.run_sync(copy_database, self.path, target)

    async def _read(self, sql: str, values: tuple[Any, ...]) -> list[Creation]:
        return await self._writer.run(lambda db: [creation_of(row) for row in db.execute(sql, values)], durable=False)
