"""What is asked of the file system beyond reading and writing, where systems differ."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Final

__all__ = ["NO_FOLLOW", "NO_WAIT", "begin_with", "remove", "sync_directory", "usual_mode"]

NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)


def remove(*paths: Path) -> None:
    """Remove what is there of them, as far as that can be done."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def usual_mode(probe: Path) -> int:
    """What a new file may be read by here. To ask for the umask would change it for the whole process for a moment."""
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | NO_FOLLOW, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        remove(probe)


def begin_with(descriptor: int, start: int, end: int) -> None:
    """Have the disk begin with these bytes, and wait for nothing, so that a sync finds little left to do; where there is a way to."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            # Linux writes out what it is told to drop, and keeps it until that is done.
            os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def sync_directory(directory: Path) -> None:
    """Make durable which names there are in it, where that is a thing of its own."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
