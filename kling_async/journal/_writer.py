"""One thread that owns the database: work is queued, done in order, and committed in groups.

A caller that is cancelled leaves its work in the queue: what was put is done. The shared thread pools
are no place for this, for slow disks and dead name servers fill them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from attrs import define, field

from kling_async._fault import KlingError
from kling_async.errors import JournalError
from kling_async.journal._file import open_database

__all__ = ["Work", "Writer"]

T = TypeVar("T")

Work = Callable[[sqlite3.Connection], T]
"""Something to be done inside a transaction."""

_MOST: Final = 1000
"""Works in one commit."""


@define(eq=False)
class _Item:
    work: Work[Any]
    durable: bool
    deliver: Callable[[Any, Exception | None], None]
    result: Any = None
    error: Exception | None = None


class _Thread(threading.Thread):
    """The writer's thread. A daemon: a process that ends without closing its session must not hang on it."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(name="kling_async journal", daemon=True)
        self.writer = writer

    def run(self) -> None:
        """Do what is queued until told to stop."""
        self.writer.work_off()


@define(eq=False)
class Writer:
    """The thread and its queue. Opens the database with the first work."""

    path: str | None
    """`None` keeps everything in memory."""
    patience: float = 5.0
    """Seconds to wait for another process that holds the database."""
    _queue: queue.SimpleQueue[_Item | None] = field(factory=queue.SimpleQueue, init=False)
    _thread: _Thread | None = field(default=None, init=False)
    _asked: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)
    _pid: int = field(default=0, init=False)
    _closed: bool = field(default=False, init=False)
    _on_end: Callable[[], object] = field(default=lambda: None, init=False)

    @property
    def started(self) -> bool:
        """Whether there has been any work."""
        return self._thread is not None

    @property
    def idle(self) -> bool:
        """Whether all that was asked for has been answered."""
        return self._asked == self._answered

    def put(self, work: Work[Any], *, durable: bool = True) -> None:
        """Have it done; do not wait, and hear of no failure."""
        self._submit(_Item(work, durable, lambda _result, _error: None))

    async def run(self, work: Work[T], *, durable: bool = True) -> T:
        """Have it done and committed; gives its result.

        Raises:
            JournalError: the database cannot be opened, read or written.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def deliver(result: Any, error: Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
                loop.call_soon_threadsafe(settle, result, error)

        self._submit(_Item(work, durable, deliver))
        return await future

    async def aclose(self) -> None:
        """Do what is queued, then let go of the file."""
        if self._closed or self._thread is None or self._pid != os.getpid():  # a fork takes no threads along
            self._closed = True
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        self._on_end = lambda: loop.call_soon_threadsafe(ended.set)
        self._asked += 1
        self._queue.put(None)
        await ended.wait()
        self._thread.join()

    def _submit(self, item: _Item) -> None:
        if self._closed:
            msg = "the journal is closed"
            raise JournalError(msg)
        if self._thread is None:
            self._pid = os.getpid()
            self._thread = _Thread(self)
            self._thread.start()
        elif self._pid != os.getpid():
            msg = "the journal was opened before this process forked; open it again in the child"
            raise JournalError(msg)
        self._asked += 1
        self._queue.put(item)

    def work_off(self) -> None:
        """The life of the thread."""
        connection: sqlite3.Connection | None = None
        going = True
        while going:
            batch, going = self._gather()
            try:
                # What keeps it from opening may pass, as a full disk does: each batch tries anew.
                if batch and connection is None:
                    connection = open_database(self.path, self.patience)
            except JournalError as error:
                for item in batch:
                    item.error = JournalError(str(error))
            if connection is not None:
                _commit(connection, batch, self.path)
            for item in batch:
                item.deliver(item.result, item.error)
                self._answered += 1
        if connection is not None:
            connection.close()
        with contextlib.suppress(RuntimeError):  # the loop is gone
            self._on_end()
        self._answered += 1

    def _gather(self) -> tuple[list[_Item], bool]:
        item = self._queue.get()
        batch: list[_Item] = []
        while item is not None:
            batch.append(item)
            if len(batch) == _MOST:
                return batch, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False


def _commit(connection: sqlite3.Connection, batch: list[_Item], path: str | None) -> None:
    if not batch:
        return
    durable = any(item.durable for item in batch)
    try:
        # NORMAL may lose the last commits with the power; FULL may not (`reliability.md` 3.3, 3.4).
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        for item in batch:
            _do(connection, item)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        for item in batch:
            item.result, item.error = None, JournalError(f"journal {path or 'in memory'}: {error}")


def _do(connection: sqlite3.Connection, item: _Item) -> None:
    connection.execute("SAVEPOINT work")
    try:
        item.result = item.work(connection)
    except (KlingError, ValueError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError) as error:
        # Its own fault: the others of the group are none the worse.
        connection.execute("ROLLBACK TO work")
        item.error = error if isinstance(error, KlingError) else JournalError(f"journal: {type(error).__name__}: {error}")
    connection.execute("RELEASE work")
