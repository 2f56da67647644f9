"""The journal's words: what is written when, each a move of one creation from state to state."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Final, Self, TypeAlias, TypeVar

import anyio.to_thread
from attrs import define, evolve, field
from attrs.converters import optional

from kling_async._fault import ConfigurationError
from kling_async.errors import InvalidJobError, JournalError
from kling_async.journal._database import Database, Transaction
from kling_async.journal._owners import Owner, is_alive
from kling_async.journal._rows import MOVES, Artifact, Creation, Row, State
from kling_async.journal._shelf import MemoryDatabase, Shelf
from kling_async.journal._tables import Tables
from kling_async.journal._writer import Writer

__all__ = ["Journal"]

T = TypeVar("T")

Book: TypeAlias = Tables | Shelf
"""Where the rows stand, for those who are at them alone."""

_KEPT: Final = 45 * 86400.0
_PRUNED_AT_ONCE: Final = 500
"""Creations; a purchase waits for no more than these to be deleted."""


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.fspath(path))  # noqa: PTH100  the caller's directory may change later


def _in_file(path: str) -> Database:
    from kling_async.journal._file import FileDatabase  # and sqlite3, only where there is a file

    return FileDatabase(path)


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
        self._writer = Writer(MemoryDatabase() if self.path is None else _in_file(self.path))

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
        await self._writer.run(lambda _: None)

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

        def rule(book: Book) -> tuple[Creation, bool]:
            if book.add(creation):
                return creation, True
            by_key = book.find(creation.key)
            by_word = None if creation.dedupe is None else book.named(creation.account, creation.dedupe)
            known = by_word or _get(book, creation.key)
            if _asked(known) != _asked(creation):
                raise InvalidJobError("dedupe" if creation.dedupe else "external_task_id", "it was used for another request before")
            if by_key is not None and creation.dedupe not in {None, by_key.dedupe}:
                if by_word is not None or by_key.dedupe is not None:
                    raise InvalidJobError("dedupe", "its external_task_id was used under another word before")
                book.change(by_key.key, dedupe=creation.dedupe)
            return known, False

        return await self._do(rule)

    async def claim(self, row: Creation, owner: str, *, callback_hash: bytes | None = None) -> bool:
        """Take over what nobody is sending, as it was seen; false when somebody else was faster."""

        def rule(book: Book) -> bool:
            now = _standing(book, row.key)
            if now.state is State.SENDING or (now.state, now.owner) != (row.state, row.owner):
                return False
            if now.state is State.PREPARED:
                book.change(row.key, owner=owner, callback_hash=callback_hash)
                return True
            return _move(book, now, State.PREPARED, "asked for again", owner=owner, callback_hash=callback_hash)

        return await self._do(rule)

    async def send(self, key: str, owner: str) -> bool:
        """From `prepared` to `sending` (W2), durably; false when the creation is no longer this owner's to send."""

        def rule(book: Book) -> bool:
            row = _standing(book, key)
            if row.state is not State.PREPARED or row.owner != owner:
                return False
            return _move(book, row, State.SENDING, "", attempt=row.attempt + 1)

        return await self._do(rule)

    async def accept(self, key: str, task_id: str) -> str | None:
        """The task exists (W3). Unconditional, for an id is a fact; gives the key of another creation with the same id."""

        def rule(book: Book) -> str | None:
            row = _standing(book, key)
            twins = [twin.key for twin in book.of_task(row.account, task_id) if twin.key != key]
            if row.state not in {State.ACCEPTED, State.SUCCEEDED, State.FAILED}:
                book.put(row, State.ACCEPTED, "", task_id=task_id)
            elif row.task_id != task_id:
                book.remark(row, f"said to be task {task_id}, too")
            return twins[0] if twins else None

        return await self._do(rule)

    def withdraw(self, key: str, owner: str, state: State, note: str) -> None:
        """Move a creation on if it is still this owner's, without waiting: what is queued is written whatever becomes of the caller."""

        def rule(book: Book) -> None:
            row = _standing(book, key)
            if row.owner == owner:
                _move(book, row, state, note)

        self._writer.put(_work(rule))

    async def move(self, key: str, state: State, note: str = "", *, owner: str | None = None) -> bool:
        """Move a creation on, durably; false when it was past that, or is not that owner's any more."""

        def rule(book: Book) -> bool:
            row = _standing(book, key)
            # One that was settled without its owner, by hand or by those who took that for dead, is its no more.
            its = row.owner == owner and row.state in {State.PREPARED, State.SENDING}
            return (owner is None or its) and _move(book, row, state, note)

        return await self._do(rule)

    async def bury(self, row: Creation, state: State) -> bool:
        """Move on what a dead session left; false when it is not as it was seen any more, for others may be at it by now."""

        def rule(book: Book) -> bool:
            now = _standing(book, row.key)
            return (now.state, now.owner) == (row.state, row.owner) and _move(book, now, state, "its session died")

        return await self._do(rule)

    async def finish(self, account: str, task_id: str, state: State, *, note: str = "", result: str | None = None) -> None:
        """The task is final (W5)."""

        def rule(book: Book) -> None:
            for row in book.of_task(account, task_id):
                _move(book, row, state, note, result=result)

        await self._do(rule)

    async def keep(self, account: str, task_id: str, artifact: Artifact) -> None:
        """A file of that task is whole and has its name (W6); its `key` is found here. Of a task made elsewhere nothing is recorded."""

        def rule(book: Book) -> None:
            for row in book.of_task(account, task_id):
                book.keep(evolve(artifact, key=row.key))

        await self._do(rule)

    async def lacks(self, account: str, task_id: str, idx: int) -> bool:
        """Whether a creation that came to that task has no file recorded for that entry."""

        def rule(book: Book) -> bool:
            return any(idx not in {file.idx for file in book.kept(row.key)} for row in book.of_task(account, task_id))

        return await self._do(rule)

    async def artifacts(self, key: str) -> list[Artifact]:
        """The files that hold the result of that creation, in the order of its entries."""
        return await self._do(lambda book: book.kept(key))

    async def learnt(self, origin: str, *, most: int = 128) -> dict[str, str]:
        """What is known of how long tasks take at that gateway, by kind: what was learnt last, and no more than `most`."""
        return await self._do(lambda book: book.learnt(origin, most))

    async def learn(self, origin: str, texts: Mapping[str, str]) -> None:
        """Keep what is known now of how long tasks of those kinds take."""
        known = dict(texts)

        def rule(book: Book) -> None:
            for kind, text in known.items():
                book.learn(origin, kind, text)

        await self._do(rule)

    async def get(self, key: str) -> Creation:
        """The creation under that key.

        Raises:
            JournalError: there is none.
        """
        return await self._do(lambda book: _get(book, key))

    async def open_rows(self, account: str, origin: str) -> list[Creation]:
        """Everything of an account at a gateway that is not final, oldest first."""
        return await self._do(lambda book: book.unfinished(account, origin))

    async def rows(self, *, most: int = 1000) -> list[Creation]:
        """The latest creations, newest first."""
        return await self._do(lambda book: book.latest(most))

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
        while step := await self._do(lambda book: book.prune(limit, _PRUNED_AT_ONCE)):
            pruned += step
            await asyncio.sleep(0)  # in memory nobody else would get a turn
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
        from kling_async.journal._file import copy_database

        target = _absolute(path)
        await self.open()  # what was handed over before is committed then
        # Not in the journal's thread: while a large file is copied nobody's purchase may wait.
        await anyio.to_thread.run_sync(copy_database, self.path, target)

    async def _do(self, rule: Callable[[Book], T]) -> T:
        return await self._writer.run(_work(rule))


def _work(rule: Callable[[Book], T]) -> Callable[[Transaction | Shelf], T]:
    return lambda place: rule(place if isinstance(place, Shelf) else Tables(place))


def _get(book: Book, key: str) -> Creation:
    row = book.find(key)
    if row is None:
        raise _missing(key)
    return row


def _standing(book: Book, key: str) -> Row:
    row = book.standing(key)
    if row is None:
        raise _missing(key)
    return row


def _missing(key: str) -> JournalError:
    return JournalError(f"the journal knows no creation {key}")


def _move(book: Book, row: Row, state: State, note: str, **facts: object) -> bool:
    """Move a creation on, with what else is new; false when there is no such move from where it stands."""
    if state not in MOVES[row.state]:
        return False
    book.put(row, state, note, **facts)
    return True


def _asked(creation: Creation) -> tuple[str, ...]:
    """By what two requests are told apart: the same words to another endpoint, or account, are another request."""
    return creation.account, creation.origin, creation.action, creation.action2, creation.digest
