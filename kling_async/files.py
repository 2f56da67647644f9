"""Result links in, files out: streamed, atomic, under names made here. The key never goes to a file host."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import os
import re
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Final, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from attrs import define, field

from kling_async._fault import KlingError
from kling_async.errors import DownloadError, ResultExpiredError
from kling_async.media import extension_of
from kling_async.models import Audio, Image, TaskRef, Video
from kling_async.transport import FailedExchange, Transport

__all__ = ["Entry", "Files"]

Entry = Video | Image | Audio
Refresh = Callable[[], Awaitable[tuple[Entry, ...]]]

T = TypeVar("T")

_BATCH: Final = 1024 * 1024
"""Bytes gathered before a thread writes them: fewer hops than pieces, and memory stays flat."""
_HEAD: Final = 64
"""Bytes that are enough to tell the type of a file."""
_PARALLEL: Final = 8
_GONE: Final = {403, 404, 410}
_EXTENSIONS: Final = (".mp4", ".mov", ".png", ".jpg", ".webp", ".gif", ".bmp", ".heif", ".mp3", ".wav", ".m4a", ".aac", ".flac", ".bin")


class _ExpiredError(Exception):
    """The link is dead; a fresh one may not be."""


@define(eq=False)
class _Part:
    """A download under way: a new file beside its target, which only a complete one replaces."""

    stem: Path
    url: str = field(repr=False)
    ref: TaskRef | None
    temporary: Path = field(init=False)
    _file: BinaryIO | None = field(default=None, init=False)
    _head: bytes = field(default=b"", init=False)
    _batch: bytearray = field(factory=bytearray, init=False)
    _busy: threading.Lock = field(factory=threading.Lock, init=False)
    _discarded: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.temporary = self.stem.with_name(f".{self.stem.name}.{secrets.token_hex(4)}.part")

    def begin(self, status: int, content_type: str) -> None:
        if status in _GONE or (status == 200 and content_type.endswith(("html", "xml"))):  # noqa: PLR2004
            raise _ExpiredError
        if status != 200:  # noqa: PLR2004
            msg = f"the file host answered HTTP {status}"
            raise DownloadError(msg, url=self.url, ref=self.ref)

    async def write(self, piece: bytes) -> None:
        self._batch += piece
        if len(self._batch) >= _BATCH:
            await self._in_thread(self._flush)

    async def finish(self, *, overwrite: bool) -> Path:
        """Make the file durable, then give it its name."""
        return await self._in_thread(lambda: self._settle(overwrite=overwrite))

    async def existing(self) -> Path | None:
        """The file that is there already."""
        named = [self.stem.with_name(self.stem.name + extension) for extension in _EXTENSIONS]
        return await self._in_thread(lambda: next((path for path in named if path.is_file()), None))

    def discard(self) -> None:
        """Leave nothing behind. A thread that is still at work, for somebody who was cancelled, does it when it ends."""
        self._discarded = True
        if self._busy.acquire(blocking=False):
            try:
                if self._file is not None:
                    self._file.close()
                with contextlib.suppress(OSError):
                    self.temporary.unlink()
            finally:
                self._busy.release()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                with self._busy:
                    return work()
            finally:
                if self._discarded:
                    self.discard()

        try:
            return await anyio.to_thread.run_sync(guarded)
        except OSError as error:
            msg = f"cannot write {self.temporary.parent / (self.stem.name + '.*')}: {error.strerror or type(error).__name__}"
            raise DownloadError(msg, url=self.url, ref=self.ref) from None

    def _flush(self) -> None:
        if self._file is None:
            self._file = self.temporary.open("xb")
            self._head = bytes(self._batch[:_HEAD])
        self._file.write(self._batch)
        self._batch.clear()

    def _settle(self, *, overwrite: bool) -> Path:
        self._flush()
        assert self._file is not None  # noqa: S101  flushing has opened it
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if not self._head:
            msg = "the file host sent an empty file"
            raise DownloadError(msg, url=self.url, ref=self.ref)
        target = self.stem.with_name(self.stem.name + extension_of(self._head))
        if overwrite or not target.is_file():
            self.temporary.replace(target)
            _sync_directory(target.parent)
        return target


@define(eq=False)
class _Renewal:
    """Fresh links for a whole result, read once however many of the old ones have expired."""

    refresh: Refresh | None
    _lock: asyncio.Lock = field(factory=asyncio.Lock, init=False)
    _fresh: tuple[Entry, ...] | None = field(default=None, init=False)

    async def url(self, number: int) -> str | None:
        async with self._lock:
            if self._fresh is None:
                self._fresh = await self.refresh() if self.refresh is not None else ()
        return self._fresh[number].url if number < len(self._fresh) else None


@define(eq=False)
class Files:
    """Saves the entries of results."""

    transport: Transport
    _slots: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(_PARALLEL), init=False)

    async def save(
        self,
        entries: Iterable[Entry],
        directory: str | os.PathLike[str],
        *,
        ref: TaskRef | None = None,
        overwrite: bool = False,
        refresh: Refresh | None = None,
    ) -> tuple[Path, ...]:
        """Download every entry into `directory`; gives the paths in order.

        Raises:
            DownloadError: one could not be fetched or written; the others are complete or absent.
            ResultExpiredError: its link is dead, also after `refresh`.
        """
        chosen = tuple(entries)
        folder = anyio.Path(directory)
        if chosen:
            try:
                await folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                msg = f"cannot make the directory {folder}: {error.strerror or type(error).__name__}"
                raise DownloadError(msg, url=chosen[0].url, ref=ref) from None
        stems = [Path(folder) / _stem(entry, number, len(chosen), ref) for number, entry in enumerate(chosen)]
        renewal = _Renewal(refresh)
        saving = (
            self._save(_Part(stem, entry.url, ref), number, renewal, overwrite=overwrite)
            for number, (stem, entry) in enumerate(zip(stems, chosen, strict=True))
        )
        try:
            saved = await asyncio.gather(*saving, return_exceptions=True)
        except asyncio.CancelledError as cancelled:
            raise cancelled.with_traceback(None) from None  # as below: a timeout around this call keeps it as its cause
        for outcome in saved:
            if isinstance(outcome, KlingError):
                raise outcome.with_traceback(None)  # the frames in between hold signed links
            if isinstance(outcome, BaseException):
                raise outcome
        return tuple(outcome for outcome in saved if isinstance(outcome, Path))

    async def _save(self, part: _Part, number: int, renewal: _Renewal, *, overwrite: bool) -> Path:
        async with self._slots:
            if not overwrite and (there := await part.existing()):
                return there
            with contextlib.suppress(_ExpiredError):
                return await self._fetch(part, overwrite=overwrite)
            fresh = await renewal.url(number)
            if fresh is not None:
                with contextlib.suppress(_ExpiredError):
                    return await self._fetch(_Part(part.stem, fresh, part.ref), overwrite=overwrite)
            msg = "the link has expired and the service gives no fresh one"
            raise ResultExpiredError(msg, url=part.url, ref=part.ref)

    async def _fetch(self, part: _Part, *, overwrite: bool) -> Path:
        if fault := _fault_of(part.url, public_only=self.transport.public_only):
            msg = f"the result link is refused: {fault}"
            raise DownloadError(msg, url=part.url, ref=part.ref)
        try:
            await self.transport.download(part.url, part)
            return await part.finish(overwrite=overwrite)
        except FailedExchange as failed:
            msg = f"the download broke off: {failed.failure.cause}"
            error = DownloadError(msg, url=part.url, ref=part.ref)
        finally:
            part.discard()
        raise error


def _stem(entry: Entry, number: int, count: int, ref: TaskRef | None) -> str:
    # Never from the link or a header: `..%2F` decodes to a path (`reliability.md` P24).
    own = entry.id if isinstance(entry, Video | Audio) else ""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", ref.task_id if ref else own)[:96]
    if not name:
        name = hashlib.sha256(entry.url.partition("?")[0].encode(errors="replace")).hexdigest()[:16]
    return f"{name}-{number}" if count > 1 else name


def _fault_of(url: str, *, public_only: bool) -> str:
    """Why a result link is not followed; empty when it is (`reliability.md` P25)."""
    try:
        link = urlsplit(url)
        host = link.hostname or ""
    except ValueError:
        return "it is no address"
    if not host or "@" in link.netloc or link.scheme not in ({"https"} if public_only else {"https", "http"}):
        return "it must be https without credentials"
    try:
        # Names are checked where they are looked up; an address written out is not looked up.
        private = not ipaddress.ip_address(host).is_global
    except ValueError:
        private = False
    return "it points into a private network" if public_only and private else ""


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
