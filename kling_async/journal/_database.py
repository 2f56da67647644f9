"""What the journal asks of a database: works done in one transaction, each of them whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from attrs import define

from kling_async._fault import KlingError
from kling_async.errors import JournalError

__all__ = ["OWN", "Database", "Item", "Transaction", "Work", "do"]

T = TypeVar("T")

OWN: Final = (KlingError, ValueError, OverflowError)
"""Errors of a work that are its own fault, whatever the database."""


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows it has written."""
        ...

    def fetchone(self) -> Any:
        """The next row, as a tuple; `None` after the last."""

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Row by row."""
        ...


class Transaction(Protocol):
    """One that is under way. Values stand as `?` in its statements, whatever the database."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Rows:
        """Do one statement."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Do one statement for each row of values."""


Work = Callable[[Any], T]
"""Something to be done inside a `Transaction`, or on what a journal in memory has in its place.

It may be done again from its beginning, when the one before came to nothing."""


@define(eq=False)
class Item:
    """A work, and what becomes of it."""

    work: Work[Any]
    future: asyncio.Future[Any] | None = None
    """Of whoever waits for it, in an event loop of its own."""
    result: Any = None
    error: Exception | None = None


class Database(Protocol):
    """Where a journal is kept, for one caller at a time: if it lasts, it may take its time, and only the journal's own thread uses it."""

    patience: float
    """Seconds to wait for one that others hold, or that is away."""

    @property
    def lasting(self) -> bool:
        """Whether what it holds outlives the process."""
        ...

    @property
    def beat(self) -> float | None:
        """Seconds after which it wants to commit, even nothing; `None` is never."""
        ...

    def commit(self, batch: list[Item]) -> None:
        """Do the works in one transaction, and leave the outcome of each in its item; what lasts is safe from a loss of power then."""

    def close(self) -> None:
        """Let go of it."""


def do(transaction: Transaction, item: Item, own: tuple[type[Exception], ...]) -> None:
    """Do one work; of an error that is its `own` fault the others of the group are none the worse."""
    transaction.execute("SAVEPOINT work")
    try:
        item.error, item.result = None, item.work(transaction)
    except own as error:
        transaction.execute("ROLLBACK TO work")
        item.error = error if isinstance(error, KlingError) else JournalError(f"journal: {type(error).__name__}: {error}")
    transaction.execute("RELEASE work")
