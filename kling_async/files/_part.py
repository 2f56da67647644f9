"""A file under way: a private, locked temporary beside its target, which only a whole one replaces and a later try goes on with."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import anyio.to_thread
from attrs import define, field

from kling_async._containers import Inspector
from kling_async._links import fingerprint_of
from kling_async._locks import try_lock
from kling_async._ranges import Held
from kling_async.errors import DownloadError
from kling_async.media import extension_of
from kling_async.models import TaskRef

__all__ = ["EXTENSIONS", "Part"]

T = TypeVar("T")

EXTENSIONS: Final = (".mp4", ".mov", ".png", ".jpg", ".webp", ".gif", ".bmp", ".heif", ".mp3", ".wav", ".m4a", ".aac", ".flac", ".bin")
_BATCH: Final = 1024 * 1024
"""Bytes gathered before a thread writes them: fewer hops than pieces, and memory stays flat."""
_PIECES: Final = 256
"""Pieces gathered at most: a host that sends few bytes at a time must not cost more memory than another."""
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


@define(eq=False)
class Part:
    """One file on its way to the disk. What comes is written in batches by a thread, and looked at there."""

    stem: Path
    url: str = field(repr=False)
    ref: TaskRef | None
    inspector: Inspector = field(factory=Inspector, init=False)
    path: Path = field(init=False, default=Path())
    size: int = field(default=0, init=False)
    """Bytes taken, those not yet written among them."""
    _file: BinaryIO | None = field(default=None, init=False)
    _pieces: list[bytes] = field(factory=list, init=False)
    _safe: int = field(default=0, init=False)
    """Bytes that survive a loss of power, as the sidecar says."""
    _busy: threading.Lock = field(factory=threading.Lock, init=False)
    _left: bool = field(default=False, init=False)

    @property
    def _sidecar(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    async def existing(self) -> Path | None:
        """The file that is there already, if there is one; what a crash left beside it is cleared away."""

        def look() -> Path | None:
            found = _existing(self.stem)
            if found is not None:
                self._tries()
            return found

        return await self._in_thread(look)

    async def inspect(self, path: Path) -> Inspector:
        """A look at all of a file."""

        def look() -> Inspector:
            seen = Inspector()
            with path.open("rb") as file:
                while data := file.read(_BATCH):
                    seen.feed(data)
            return seen

        return await self._in_thread(look)

    async def begin(self) -> Held:
        """Go on with what a try before this one left, clearing away what cannot be gone on with."""
        return await self._in_thread(self._adopt)

    async def write(self, piece: bytes) -> bool:
        """Take the next bytes; whether they went to the disk now."""
        self._pieces.append(piece)
        self.size += len(piece)
        if self.size - self.inspector.size < _BATCH and len(self._pieces) < _PIECES:
            return False
        await self._in_thread(self._flush)
        return True

    async def restart(self) -> None:
        """Forget all that came."""
        await self._in_thread(self._truncate)

    async def secure(self, held: Held) -> None:
        """Make durable what there is and note how to go on with it; without a validator there is no way to go on."""
        if held.validator and self.size:
            await self._in_thread(lambda: self._note(held))

    async def is_whole(self) -> bool | None:
        """What the structure of the file tells; `None` when it tells nothing."""

        def look() -> bool | None:
            self._flush()
            return self.inspector.is_whole()

        return await self._in_thread(look)

    async def finish(self, *, overwrite: bool) -> tuple[Path, bool]:
        """Make the file durable, then give it its name. Unless that is to be overwritten, one that has appeared meanwhile stays.

        Gives the path, and whether it is this file.
        """
        return await self._in_thread(lambda: self._settle(overwrite=overwrite))

    def leave(self, *, resumable: bool) -> None:
        """Keep what can be gone on with, and nothing else. A thread that is still at work for somebody who was cancelled does it then."""
        if not resumable:
            self._safe = 0
        self._left = True
        if self._file is not None and self._busy.acquire(blocking=False):
            try:
                if not self._safe:
                    _remove(self.path)  # while it is locked: after that it may be somebody else's
                self._file.close()
                if not self._safe and sys.platform == "win32":  # where nothing is removed that is open
                    _remove(self.path)
            finally:
                self._busy.release()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                with self._busy:
                    return work()
            finally:
                if self._left:
                    self.leave(resumable=True)

        try:
            return await anyio.to_thread.run_sync(guarded, abandon_on_cancel=True)
        except OSError as error:
            path, why = self.stem.with_name(f"{self.stem.name}.*"), error.strerror or type(error).__name__
            msg = f"cannot write {path} after {self.inspector.size} bytes: {why}"
            raise DownloadError(msg, url=self.url, ref=self.ref) from None

    def _opened(self) -> BinaryIO:
        for _ in range(_TRIES):
            if self._file is None:
                self.path = self.stem.with_name(f".{self.stem.name}.{secrets.token_hex(4)}.part")
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | _NO_FOLLOW, 0o600)
                self._file = os.fdopen(descriptor, "r+b", buffering=0)
                if not try_lock(descriptor) or not self.path.exists():  # taken for an old one, and cleared away
                    self._file.close()
                    self._file = None
        if self._file is None:
            raise OSError(0, "files cannot be locked here")
        return self._file

    def _flush(self) -> None:
        file = self._opened()
        file.seek(self.inspector.size)  # a write that failed may have left some of it behind
        while self._pieces:
            view = memoryview(self._pieces[0])
            while view:
                view = view[file.write(view) or 0 :]
            self.inspector.feed(self._pieces.pop(0))

    def _truncate(self) -> None:
        self._pieces.clear()
        self.inspector, self.size, self._safe = Inspector(), 0, 0
        if self._file is not None:
            _unlink(self._sidecar)
            self._file.seek(0)
            self._file.truncate()

    def _note(self, held: Held) -> None:
        self._flush()
        os.fsync(self._opened().fileno())
        facts = {
            "version": _SIDECAR,
            "link": fingerprint_of(self.url),
            "validator": held.validator,
            "total": held.total,
            "size": self.inspector.size,
        }
        fresh = self._sidecar.with_suffix(".new")
        try:
            with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_FOLLOW, 0o600), "w") as file:
                json.dump(facts, file)
            fresh.replace(self._sidecar)
        finally:
            _unlink(fresh)
        self._safe = self.inspector.size

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
                _unlink(self.stem.with_name(match[0]))
        return sorted(self.stem.with_name(match[0]) for match in found if match[2] == "part")

    def _tried(self, path: Path, held: Held) -> Held:
        descriptor = os.open(path, os.O_RDWR | _NO_FOLLOW | _NO_WAIT)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        facts = os.fstat(descriptor)
        # One that is locked is somebody's; one that has another name by now has become somebody's file.
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or not try_lock(descriptor) or not path.exists():
            file.close()
            return held
        found = Held() if held.size else _read_sidecar(path.with_name(f"{path.name}.json"), fingerprint_of(self.url))
        if not 0 < found.size <= facts.st_size:
            _remove(path)
            file.close()
            return held
        self.path, self._file, self._safe = path, file, found.size
        file.truncate(found.size)
        while data := file.read(_BATCH):
            self.inspector.feed(data)
        self.size = self.inspector.size
        return found

    def _settle(self, *, overwrite: bool) -> tuple[Path, bool]:
        self._flush()
        file = self._opened()
        target = self.stem.with_name(self.stem.name + extension_of(self.inspector.head))
        if not overwrite and (there := _existing(self.stem)):
            self._safe = 0
            return there, False
        if os.path.lexists(target) and not target.is_symlink() and target.name not in os.listdir(target.parent):  # noqa: PTH208
            raise FileExistsError(0, "another file has this name in other letters")
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), _usual_mode(self.path.with_suffix(".mode")))
        os.fsync(file.fileno())
        if sys.platform == "win32":
            file.close()
        self.path.replace(target)
        self._safe = 0
        _unlink(self._sidecar)
        _sync_directory(target.parent)
        return target, True


_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)


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


def _remove(path: Path) -> None:
    _unlink(path)
    _unlink(path.with_name(f"{path.name}.json"))


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _usual_mode(probe: Path) -> int:
    # What a new file may be read by here: asking for the umask would change it for the whole process for a moment.
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_FOLLOW, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        _unlink(probe)


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
