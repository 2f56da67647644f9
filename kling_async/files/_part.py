"""A file under way: a private, locked temporary beside its target, which only a whole one replaces and a later try goes on with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import stat
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from attrs import define, field

from kling_async._containers import Inspector
from kling_async._links import fingerprint_of
from kling_async._locks import try_lock
from kling_async._ranges import Held
from kling_async.errors import DownloadError
from kling_async.files._disk import NO_FOLLOW, NO_WAIT, begin_with, remove, sync_directory, usual_mode
from kling_async.files._hand import Hand
from kling_async.media import extension_of
from kling_async.models import TaskRef

__all__ = ["EXTENSIONS", "Part"]

T = TypeVar("T")

EXTENSIONS: Final = (".mp4", ".mov", ".png", ".jpg", ".webp", ".gif", ".bmp", ".heif", ".mp3", ".wav", ".m4a", ".aac", ".flac", ".bin")
_BATCH: Final = 3 * 1024 * 1024
"""Bytes gathered before a thread writes them: fewer hops than pieces. Two buffers take turns, so memory stays flat."""
_FIRST: Final = 256 * 1024
"""Those of the first batch: many a file has no more, and it is soon under way."""
_AHEAD: Final = 8 * 1024 * 1024
"""Bytes until the disk is told to begin with them."""
_SIDECAR: Final = 1
_LONGEST_SIDECAR: Final = 4096
_TRIES: Final = 3


def _existing(stem: Path) -> Path | None:
    """The regular file that is there under that name; a link counts only when it stays in its directory."""
    directory = os.path.realpath(stem.parent)
    there = set(os.listdir(stem.parent)) if stem.parent.is_dir() else set()  # noqa: PTH208  exact names, whatever case the disk ignores
    for extension in EXTENSIONS:
        path = stem.with_name(stem.name + extension)
        if path.name in there and path.is_file() and Path(os.path.realpath(path)).parent == Path(directory):
            return path
    return None


def _seen(file: BinaryIO) -> Inspector:
    seen = Inspector()
    while data := file.read(_BATCH):
        seen.feed(data)
    return seen


@define(eq=False)
class Part:
    """One file on its way to the disk. What comes into its room is written in batches by a thread, while another one looks at it."""

    stem: Path
    url: str = field(repr=False)
    ref: TaskRef | None
    inspector: Inspector = field(factory=Inspector, init=False)
    """What is being written. It belongs to the eye until all has been looked at."""
    path: Path = field(init=False, default=Path())
    size: int = field(default=0, init=False)
    """Bytes taken, those not yet written among them."""
    _hand: Hand = field(factory=Hand, init=False)
    _eye: Hand = field(factory=Hand, init=False)
    """Hashing takes longer than writing, and neither needs the interpreter: two threads are done when the slower one is."""
    _buffer: bytearray = field(factory=bytearray, init=False, repr=False)
    """Where the next batch gathers; made when it is needed."""
    _spare: bytearray = field(factory=bytearray, init=False, repr=False)
    """That of the last batch."""
    _gathered: int = field(default=0, init=False)
    _under_way: tuple[asyncio.Future[None], ...] = field(default=(), init=False)
    """The last batch: its writing, and the look at it."""
    _left: asyncio.Future[None] | None = field(default=None, init=False)
    # What follows belongs to the hand.
    _file: BinaryIO | None = field(default=None, init=False)
    _unwritten: deque[memoryview] = field(factory=deque, init=False, repr=False)
    """What a write that failed has left."""
    _written: int = field(default=0, init=False)
    _begun: int = field(default=0, init=False)
    """Bytes that the disk has been told to begin with."""
    _safe: int = field(default=0, init=False)
    """Bytes that survive a loss of power, as the sidecar says."""

    async def existing(self) -> Path | None:
        """The file that is there already, if there is one; what a crash left beside it is cleared away."""

        def look() -> Path | None:
            found = _existing(self.stem)
            if found is not None:
                self._tries()
            return found

        return await self._heard(self._hand.tell(look))

    async def inspect(self, path: Path) -> Inspector:
        """A look at all of a file."""

        def look() -> Inspector:
            with path.open("rb", buffering=0) as file:
                return _seen(file)

        return await self._heard(self._hand.tell(look))

    async def begin(self) -> Held:
        """Go on with what a try before this one left, clearing away what cannot be gone on with."""
        return await self._heard(self._hand.tell(self._adopt))

    @property
    def room(self) -> memoryview:
        """Where the next bytes are to be put; there is always some."""
        size = _BATCH if self.size else _FIRST
        if not self._gathered and len(self._buffer) != size:
            self._buffer = bytearray(size)
        return memoryview(self._buffer)[self._gathered :]

    async def took(self, size: int) -> None:
        """Take what was put into the room. More may come while it goes to the disk, but not twice as much as there is room for."""
        self.size += size
        self._gathered += size
        if self._gathered == len(self._buffer):
            await self._meanwhile(lambda: None)

    async def restart(self, size: int) -> None:
        """Forget all that came before the bytes that are in the room."""
        self._buffer[:size] = self._buffer[self._gathered : self._gathered + size]
        self._gathered = self.size = 0
        for work in (self._eye.tell(self._forget), self._hand.tell(self._truncate)):
            await self._heard(work)

    async def secure(self, held: Held) -> None:
        """Make durable what there is and note how to go on with it; without a validator there is no way to go on."""
        if held.validator and self.size:
            await self._meanwhile(lambda: self._note(held))

    async def is_whole(self) -> bool | None:
        """What the structure of the file tells; `None` when it tells nothing."""
        await self._all()
        return await self._heard(self._eye.tell(self.inspector.is_whole))

    async def finish(self, *, overwrite: bool) -> tuple[Path, bool]:
        """Make the file durable, then give it its name. Unless that is to be overwritten, one that has appeared meanwhile stays.

        Gives the path, and whether it is this file.
        """
        await self._all()
        return await self._heard(self._hand.tell(lambda: self._settle(overwrite=overwrite)))

    def leave(self, *, resumable: bool) -> asyncio.Future[None]:
        """Keep what can be gone on with, and nothing else, once the thread has done what it is at. It need not be waited for."""
        if self._left is None:
            self._left = self._hand.tell(lambda: self._let_go(keep=resumable))
            self._hand.end()
            self._eye.end()
        return self._left

    async def _meanwhile(self, then: Callable[[], None]) -> None:
        buffer, batch, before = self._buffer, memoryview(self._buffer)[: self._gathered], self._under_way
        self._under_way = (self._hand.tell(lambda: self._take(batch, then)), self._eye.tell(lambda: self.inspector.feed(batch)))
        self._buffer, self._spare, self._gathered = self._spare, buffer, 0
        for work in before:  # only after that the spare one is free
            await self._heard(work)

    async def _all(self) -> None:
        await self._meanwhile(lambda: None)
        for work in self._under_way:
            await self._heard(work)

    async def _heard(self, work: asyncio.Future[T]) -> T:
        try:
            return await work
        except OSError as error:
            path, why = self.stem.with_name(f"{self.stem.name}.*"), error.strerror or type(error).__name__
            msg = f"cannot write {path} after {self._written} bytes: {why}"
            raise DownloadError(msg, url=self.url, ref=self.ref) from None

    def _forget(self) -> None:
        self.inspector = Inspector()

    def _take(self, batch: memoryview, then: Callable[[], None]) -> None:
        if batch:
            self._unwritten.append(batch)
        try:
            self._flush()
        finally:
            then()

    def _opened(self) -> BinaryIO:
        for _ in range(_TRIES):
            if self._file is None:
                self.path = self.stem.with_name(f".{self.stem.name}.{secrets.token_hex(4)}.part")
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | NO_FOLLOW, 0o600)
                self._file = os.fdopen(descriptor, "r+b", buffering=0)
                if not try_lock(descriptor) or not self.path.exists():  # taken for an old one, and cleared away
                    self._file.close()
                    self._file = None
        if self._file is None:
            raise OSError(0, "files cannot be locked here")
        return self._file

    def _flush(self) -> None:
        if not self._unwritten:
            return
        file = self._opened()
        file.seek(self._written)  # a write that failed may have left some of it behind
        while self._unwritten:
            taken = file.write(self._unwritten[0]) or 0
            self._written += taken
            if rest := self._unwritten.popleft()[taken:]:
                self._unwritten.appendleft(rest)
        if self._written >= self._begun + _AHEAD:
            begin_with(file.fileno(), self._begun, self._written)
            self._begun = self._written

    def _truncate(self) -> None:
        self._unwritten.clear()
        self._written = self._begun = self._safe = 0
        if self._file is not None:
            remove(_sidecar_of(self.path))
            self._file.seek(0)
            self._file.truncate()

    def _note(self, held: Held) -> None:
        if self._file is None:
            return
        os.fsync(self._file.fileno())
        facts = {
            "version": _SIDECAR,
            "link": fingerprint_of(self.url),
            "validator": held.validator,
            "total": held.total,
            "size": self._written,
        }
        fresh = _sidecar_of(self.path).with_suffix(".new")
        try:
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | NO_FOLLOW, 0o600), "w") as file:
                json.dump(facts, file)
            fresh.replace(_sidecar_of(self.path))
        finally:
            remove(fresh)
        self._safe = self._written

    def _adopt(self) -> Held:
        held = Held()
        for path in self._tries():
            with contextlib.suppress(OSError):
                held = self._tried(path, held)
        return held

    def _tries(self) -> list[Path]:
        """What tries before this one left; what belongs to no part any more is cleared away."""
        name = re.compile(rf"(\.{re.escape(self.stem.name)}\.[0-9a-f]{{8}}\.)(part|part\.json|part\.new|mode)")
        found = [match for match in map(name.fullmatch, os.listdir(self.stem.parent)) if match]  # noqa: PTH208  there may be thousands of others
        for match in found:
            if match[2] != "part" and not self.stem.with_name(f"{match[1]}part").exists():
                remove(self.stem.with_name(match[0]))
        return sorted(self.stem.with_name(match[0]) for match in found if match[2] == "part")

    def _tried(self, path: Path, held: Held) -> Held:
        descriptor = os.open(path, os.O_RDWR | NO_FOLLOW | NO_WAIT)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        facts = os.fstat(descriptor)
        # One that is locked is somebody's; one that has another name by now has become somebody's file.
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or not try_lock(descriptor) or not path.exists():
            file.close()
            return held
        found = Held() if held.size else _read_sidecar(_sidecar_of(path), fingerprint_of(self.url))
        seen = None
        if 0 < found.size <= facts.st_size:
            with contextlib.suppress(OSError):
                file.truncate(found.size)
                seen = _seen(file)
        if seen is None:
            remove(path, _sidecar_of(path))
            file.close()
            return held
        self.path, self._file, self._safe, self.inspector = path, file, found.size, seen
        self.size = self._written = self._begun = seen.size
        return found

    def _settle(self, *, overwrite: bool) -> tuple[Path, bool]:
        file = self._opened()
        target = self.stem.with_name(self.stem.name + extension_of(self.inspector.head))
        if not overwrite and (there := _existing(self.stem)):
            self._let_go(keep=False)
            return there, False
        if os.path.lexists(target) and not target.is_symlink() and target.name not in os.listdir(target.parent):  # noqa: PTH208
            raise FileExistsError(0, "another file has this name in other letters")
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), usual_mode(self.path.with_suffix(".mode")))
        os.fsync(file.fileno())
        if sys.platform == "win32":
            file.close()
        self.path.replace(target)
        self._let_go(keep=False)
        sync_directory(target.parent)
        return target, True

    def _let_go(self, *, keep: bool) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        keep = keep and self._safe > 0
        if not keep:
            remove(self.path, _sidecar_of(self.path))  # while it is locked: after that it may be somebody else's
        file.close()
        if not keep and sys.platform == "win32":  # where nothing is removed that is open
            remove(self.path, _sidecar_of(self.path))


def _sidecar_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_sidecar(path: Path, link: str) -> Held:
    try:
        with path.open("rb") as file:
            facts: Any = json.loads(file.read(_LONGEST_SIDECAR))
        size, total, validator = facts["size"], facts["total"], facts["validator"]
        known = facts["version"] == _SIDECAR and facts["link"] == link
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Held()
    well = isinstance(size, int) and isinstance(total, int | None) and isinstance(validator, str) and validator.isprintable()
    return Held(size=size, total=total, validator=validator) if known and well else Held()
