"""Which sessions are alive: each holds a lock on a file beside the journal, and a lock dies with its process.

A lock and not a lease: a process that is stopped or suspended still owns what it was sending, so nobody
can take it over and have it sent twice when the process wakes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path
from typing import Final

from attrs import define, field

__all__ = ["Owner", "is_alive"]

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


_HERE: Final[set[str]] = set()
"""The claims of this process, which need no file to be known."""


@define(eq=False)
class Owner:
    """One session's claim to what it is sending."""

    path: str | None
    id: str = field(factory=lambda: secrets.token_hex(8))
    _descriptor: int = field(default=-1, init=False)

    def claim(self) -> None:
        """Take the lock; raises `OSError`."""
        _HERE.add(self.id)
        if self.path is not None and self._descriptor < 0:
            self._descriptor = os.open(_place(self.path, self.id), os.O_CREAT | os.O_RDWR, 0o600)
            _lock(self._descriptor)

    def release(self) -> None:
        """Give it back."""
        _HERE.discard(self.id)
        if self.path is not None and self._descriptor >= 0:
            _place(self.path, self.id).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def is_alive(path: str | None, owner: str) -> bool:
    """Whether that session still runs, somewhere on this machine; clears away what a dead one left."""
    if owner in _HERE:
        return True
    if path is None or not owner.isalnum():
        return False
    place = _place(path, owner)
    try:
        descriptor = os.open(place, os.O_RDWR)
    except OSError:
        return False
    try:
        if not _lock(descriptor):
            return True
        with contextlib.suppress(OSError):
            place.unlink()
        return False
    finally:
        os.close(descriptor)


def _place(path: str, owner: str) -> Path:
    return Path(f"{path}-owner-{owner}")
