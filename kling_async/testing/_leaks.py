"""Leaks: what a piece of a program has left running, open or unheard when it says it is done."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from attrs import define, field

from kling_async.files._hand import Hand

__all__ = ["no_leaks"]

_PATIENCE: Final = 10
"""Turns of the loop until what was closed must be gone: transports close after their sessions, and tell their peers."""
_POOLS: Final = ("asyncio", "AnyIO worker thread", "ThreadPoolExecutor")
"""How threads are called that belong to a pool or to asyncio, and outlive the work they were started for."""
_GRACE: Final = 0.5
"""Seconds for the thread of a download that was given up: nobody waits for it."""
_RUNNER: Final = "TestRunner."
"""How the coroutines of anyio's plugin for pytest are called, which drive a test and its fixtures."""
_DESCRIPTORS: Final = "/dev/fd"
_SLOW: Final = "Executing "
"""How asyncio begins to tell of a slow callback in its debug mode: that is no leak."""


@contextlib.asynccontextmanager
async def no_leaks() -> AsyncGenerator[None]:
    """Check that nothing which the block began is left when it ends, unless it fails anyway.

    Looked for are tasks, threads (those of pools apart), open files and sockets (where the system lists them), and
    what asyncio complains of: exceptions that nobody has looked at, tasks and transports that nobody has ended.
    Made for asyncio's own loops: others, such as uvloop's, may open sockets for themselves at any time.

    Raises:
        AssertionError: something is left; names all of it.
    """
    complaints = _Complaints()
    logger = logging.getLogger("asyncio")
    logger.addHandler(complaints)
    try:
        before = _Belongings()
        yield
        left = await _what_is_left(before)
    finally:
        logger.removeHandler(complaints)
    if left or complaints.heard:
        raise AssertionError("left behind: " + "; ".join([*left, *complaints.heard]))


class _Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if not message.startswith(_SLOW):
            self.heard.append(message)


def _open_files() -> dict[tuple[int, int], str]:
    # By file, not by descriptor: SQLite keeps descriptors of a database until the last connection to it is closed.
    files: dict[tuple[int, int], str] = {}
    with contextlib.suppress(OSError):  # a system that has no such list
        for place in Path(_DESCRIPTORS).iterdir():
            with contextlib.suppress(OSError):  # the one that the list was read through
                known = os.fstat(int(place.name))
                files[known.st_dev, known.st_ino] = _target_of(place)
    return files


def _target_of(place: Path) -> str:
    try:
        return str(place.readlink())
    except OSError:
        return str(place)


@define(eq=False)
class _Belongings:
    """What there is at a moment."""

    tasks: set[asyncio.Task[object]] = field(factory=lambda: set(asyncio.all_tasks()))
    threads: set[threading.Thread] = field(factory=lambda: set(threading.enumerate()))
    files: dict[tuple[int, int], str] = field(factory=_open_files)

    def beyond(self, other: _Belongings) -> list[str]:
        """What was not there at that other moment."""
        mine = asyncio.current_task()
        tasks = [task for task in self.tasks - other.tasks if task is not mine and not _name(task).startswith(_RUNNER)]
        threads = [thread for thread in self.threads - other.threads if thread.is_alive() and not thread.name.startswith(_POOLS)]
        files = [name for file, name in self.files.items() if file not in other.files]
        return [
            *(f"task {task}" for task in tasks),
            *(f"thread {thread.name}" for thread in threads),
            *(f"open {name}" for name in files),
        ]


async def _what_is_left(before: _Belongings) -> list[str]:
    left: list[str] = []
    for _ in range(_PATIENCE):
        if not (left := _Belongings().beyond(before)):
            break
        await asyncio.sleep(0)
    for thread in set(threading.enumerate()) - before.threads:
        if isinstance(getattr(thread, "hand", None), Hand):  # told to end by now, or left behind
            thread.join(_GRACE)
    gc.collect()  # errors that nobody has looked at say so as they go, and what belongs to them closes
    return left and _Belongings().beyond(before)


def _name(task: asyncio.Task[object]) -> str:
    return str(getattr(task.get_coro(), "__qualname__", ""))
