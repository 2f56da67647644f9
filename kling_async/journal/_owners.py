"""Which sessions are alive: each holds a lock on a file beside the journal, and a lock dies with its process.

A lock and not a lease: a process that is stopped or suspended still owns what it was sending, so nobody
can take it over and have it sent twice when the process wakes. A file gets its name only once it is locked:
one that can be locked by its name is a dead session's, and cleared away.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Final
from weakref import WeakSet

from attrs import define, field

from kling_async._locks import try_lock

__all__ = ["Owner", "is_alive"]

if sys.platform == "win32":

    def _take(place: Path) -> int:
        descriptor = os.open(place, os.O_CREAT | os.O_RDWR, 0o600)  # an open file can be neither renamed nor cleared away here
        try_lock(descriptor)
        return descriptor
else:

    def _take(place: Path) -> int:
        hidden = place.with_name(f".{place.name}.new")
        descriptor = os.open(hidden, os.O_CREAT | os.O_RDWR, 0o600)
        try_lock(descriptor)
        hidden.rename(place)
        return descriptor


_ID: Final = re.compile("[0-9a-f]{16}")
_HERE: Final[set[str]] = set()
"""The claims of this process, which need no file to be known."""
_HOLDERS: Final[WeakSet[Owner]] = WeakSet()
"""Those of them that hold a lock."""


@define(eq=False)
class Owner:
    """One session's claim to what it is sending."""

    path: str | None
    id: str = field(factory=lambda: secrets.token_hex(8))
    _descriptor: int = field(default=-1, init=False)

    def claim(self) -> None:
        """Take the lock, and clear away what dead sessions left; raises `OSError`."""
        _HERE.add(self.id)
        if self.path is not None and self._descriptor < 0:
            self._descriptor = _take(_place(self.path, self.id))
            _HOLDERS.add(self)
            _clear(self.path)

    def release(self) -> None:
        """Give it back."""
        _HERE.discard(self.id)
        if self.path is not None and self._descriptor >= 0:
            _place(self.path, self.id).unlink(missing_ok=True)
            self.let_go()

    def let_go(self) -> None:
        """Close the file; the lock ends with the last process that has it open."""
        _HOLDERS.discard(self)
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
        if not try_lock(descriptor, shared=True):  # two who ask at once must not take each other for the owner
            return True
        with contextlib.suppress(OSError):
            place.unlink()
        return False
    finally:
        os.close(descriptor)


def _forked() -> None:
    # A lock lives until the last process that has its file open is gone: a worker would keep its dead parent's for ever.
    _HERE.clear()
    for owner in list(_HOLDERS):
        with contextlib.suppress(OSError):
            owner.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _clear(path: str) -> None:
    if sys.platform == "win32":
        return  # a file there is not yet locked when it gets its name
    prefix = _place(path, "").name
    with contextlib.suppress(OSError), os.scandir(Path(path).parent) as files:  # whoever may not list them leaves them
        names = [file.name.removeprefix(prefix) for file in files if file.name.startswith(prefix)]
        for owner in filter(_ID.fullmatch, names):
            is_alive(path, owner)


def _place(path: str, owner: str) -> Path:
    return Path(f"{path}-owner-{owner}")
