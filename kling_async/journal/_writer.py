"""Works are queued, done in order and committed in groups, by one thread that owns the database. In memory they are done at once.

A caller that is cancelled leaves its work in the queue: what was put is done. The shared thread pools
are no place for this, for slow disks and dead name servers fill them. Where there is no disk to wait for
no thread is needed: handing a work over to one costs several times what the work does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from attrs import define, field

from kling_async.errors import JournalError
from kling_async.journal._database import Database, Item, Work

__all__ = ["Writer"]

T = TypeVar("T")

_MOST: Final = 1000
"""Works in one commit."""
_GATHERING: Final = 0.003
"""Seconds for which works are waited for that can share a commit, while several come at a time: each commit costs more than a work."""


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
    """The thread, if there is to be one, and its queue. Touches the database with the first work."""

    database: Database
    _queue: queue.SimpleQueue[Item | None] = field(factory=queue.SimpleQueue, init=False)
    _thread: _Thread | None = field(default=None, init=False)
    _lock: threading.RLock = field(factory=threading.RLock, init=False)
    """Of whoever asks: loops of several threads may share a journal."""
    _crowded: bool = field(default=False, init=False)
    """Whether the last commit held more than one work."""
    _under_way: list[Item] = field(factory=list, init=False)
    _asked: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)
    _pid: int | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)
    _on_end: Callable[[], object] = field(default=lambda: None, init=False)

    @property
    def started(self) -> bool:
        """Whether there has been any work."""
        return self._pid is not None

    @property
    def idle(self) -> bool:
        """Whether all that was asked for has been answered."""
        return self._asked == self._answered

    def put(self, work: Work[Any]) -> None:
        """Have it done; do not wait, and hear of no failure."""
        self._submit(Item(work))

    async def run(self, work: Work[T]) -> T:
        """Have it done and committed; gives its result.

        Raises:
            JournalError: the database cannot be opened, read or written.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._submit(Item(work, future))
        return await future

    async def aclose(self) -> None:
        """Do what is queued, then let go of the file."""
        if self._is_taken_along:
            return
        with self._lock:  # behind the end of the queue nobody's work would ever be done
            closed, self._closed = self._closed, True
            if closed or self._pid is None:
                return
            if self._thread is None:
                self.database.close()
                return
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            self._on_end = lambda: loop.call_soon_threadsafe(ended.set)
            self._asked += 1
            self._queue.put(None)
        await ended.wait()
        self._thread.join()

    @property
    def _is_taken_along(self) -> bool:
        """Whether this is a copy in a forked child: without its thread, and with a lock that may be held for ever."""
        return self._pid not in {None, os.getpid()}

    def _submit(self, item: Item) -> None:
        if self._is_taken_along:
            msg = "the journal was opened before this process forked; open it again in the child"
            raise JournalError(msg)
        with self._lock:
            if self._closed:
                msg = "the journal is closed"
                raise JournalError(msg)
            if self._pid is None:
                if self.database.lasting:
                    self._thread = self._started()
                self._pid = os.getpid()
            if self._thread is None:
                self._do_now(item)
            else:
                self._asked += 1
                self._queue.put(item)

    def _started(self) -> _Thread:
        thread = _Thread(self)
        try:
            thread.start()
        except RuntimeError:  # of whom nobody would ever hear
            raise JournalError("journal: no thread can be started") from None
        return thread

    def _do_now(self, item: Item) -> None:
        self._under_way.append(item)
        if len(self._under_way) > 1:
            return  # a work is under way in this very thread: garbage that is collected amid it may be an order, which withdraws
        try:
            for each in self._under_way:
                self._commit([each])
                _settle([each])
        finally:
            self._under_way.clear()

    def work_off(self) -> None:
        """The life of the thread."""
        going = True
        while going:
            batch, going = self._gather()
            if batch or going:
                self._commit(batch)
            _deliver(batch)
            self._answered += len(batch)
        try:
            self.database.close()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is gone
                self._on_end()
            self._answered += 1

    def _commit(self, batch: list[Item]) -> None:
        try:
            self.database.commit(batch)
        except Exception as error:  # noqa: BLE001  for ever would they wait who are not told
            for item in batch:
                item.result, item.error = None, JournalError(f"journal: kling_async broke: {type(error).__name__}")

    def _gather(self) -> tuple[list[Item], bool]:
        batch: list[Item] = []
        try:
            item = self._queue.get(timeout=self.database.beat)
        except queue.Empty:
            return batch, True
        gathering = self._crowded
        while item is not None:
            batch.append(item)
            if len(batch) == _MOST:
                break
            if gathering and self._queue.empty():
                gathering = False
                time.sleep(_GATHERING)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
        self._crowded = len(batch) > 1
        return batch, item is not None


def _deliver(batch: list[Item]) -> None:
    """Wake each loop once: that costs a system call and the turn of this thread, which the works of a group can share."""
    waited_for: dict[asyncio.AbstractEventLoop, list[Item]] = {}
    for item in batch:
        if item.future is not None:
            waited_for.setdefault(item.future.get_loop(), []).append(item)
    for loop, items in waited_for.items():
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            loop.call_soon_threadsafe(_settle, items)


def _settle(items: list[Item]) -> None:
    for item in items:
        if item.future is None or item.future.done():
            continue
        if item.error is None:
            item.future.set_result(item.result)
        else:
            item.future.set_exception(item.error)
