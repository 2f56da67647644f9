"""Results out: into files under names made here, into a writer, or piece by piece. The key never goes to a file host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

import anyio.to_thread
from attrs import define, field

from kling_async._clock import Clock
from kling_async._containers import Expected, Inspector
from kling_async._fault import KlingError
from kling_async._links import Entry, stem_of, twin_of
from kling_async.errors import DownloadError
from kling_async.files._checks import AsyncWriter, check_found, verify
from kling_async.files._part import Part
from kling_async.files._pull import Pull
from kling_async.hosts import Hosts
from kling_async.models import TaskRef
from kling_async.observers import Progress, Record, Saved

__all__ = ["MAX_SIZE", "Files", "Keep", "Refresh"]

Lacks: TypeAlias = Callable[[TaskRef, int], Awaitable[bool]]
"""Whether such a record should be there and is not."""
Refresh: TypeAlias = Callable[[], Awaitable[tuple[Entry, ...]]]
Keep: TypeAlias = Callable[[Saved, int, str], Awaitable[None]]
"""Records a file: what it is, which entry of its result, and its validator."""

MAX_SIZE: Final = 2 * 1024**3
"""Bytes of one file, unless more are allowed."""
_PARALLEL: Final = 8
_SECURED_EVERY: Final = 1.0
"""Seconds of work that a loss of power or a kill may cost."""
_WORTH_KEEPING: Final = 1024 * 1024
"""Bytes; less is fetched again."""
_TOLD_EVERY: Final = 0.25
_PIECE: Final = 256 * 1024
"""Bytes that a stream gives at once at most."""


async def _nobody(_saved: Saved, _index: int, _validator: str) -> None:
    """Record nothing."""


async def _nothing(_ref: TaskRef, _index: int) -> bool:
    """Miss no record."""
    return False


@define(eq=False)
class _Renewal:
    """Fresh links for a whole result, read once however many of the old ones have expired."""

    refresh: Refresh | None
    _lock: asyncio.Lock = field(factory=asyncio.Lock, init=False)
    _fresh: tuple[Entry, ...] | None = field(default=None, init=False)

    async def fresh(self) -> tuple[Entry, ...]:
        async with self._lock:
            if self._fresh is None:
                self._fresh = await self.refresh() if self.refresh is not None else ()
        return self._fresh

    async def nth(self, number: int) -> str | None:
        fresh = await self.fresh()
        return fresh[number].url if number < len(fresh) else None

    async def twin(self, entry: Entry) -> str | None:
        found = twin_of(entry, await self.fresh())
        return found.url if found is not None else None


@define(eq=False)
class _Talk:
    """Tells observers how far one file is, a few times a second."""

    tell: Callable[[Record], None]
    clock: Clock
    name: str
    ref: TaskRef | None
    _next: float = field(default=0.0, init=False)

    def so_far(self, pull: Pull) -> None:
        now = self.clock.now()
        if now >= self._next:
            self._next = now + _TOLD_EVERY
            self.tell(Progress(name=self.name, received=pull.held.size, total=pull.held.total, ref=self.ref))


@define(eq=False)
class Files:
    """Saves the entries of results."""

    hosts: Hosts
    clock: Clock
    tell: Callable[[Record], None]
    keep: Keep = _nobody
    lacks: Lacks = _nothing
    roll: Callable[[], float] = random.random
    _slots: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(_PARALLEL), init=False)
    _leaving: WeakValueDictionary[Path, asyncio.Future[None]] = field(factory=WeakValueDictionary, init=False)
    """Parts that threads may still have in hand; who wants to go on with one waits for that."""

    async def save(
        self,
        entries: Iterable[Entry],
        directory: str | os.PathLike[str],
        *,
        ref: TaskRef | None = None,
        overwrite: bool = False,
        refresh: Refresh | None = None,
        expected: Sequence[Expected | None] = (),
        max_size: int = MAX_SIZE,
    ) -> tuple[Path, ...]:
        """Download every entry into `directory`; gives the paths in order.

        Raises:
            DownloadError: one could not be fetched or written; the others are complete or absent.
            ResultExpiredError: its link is dead, also after `refresh`.
        """
        chosen = tuple(entries)
        folder = Path(directory)
        if chosen:
            try:
                await anyio.to_thread.run_sync(partial(folder.mkdir, parents=True, exist_ok=True), abandon_on_cancel=True)
            except OSError as error:
                msg = f"cannot make the directory {folder}: {error.strerror or type(error).__name__}"
                raise DownloadError(msg, url=chosen[0].url, ref=ref) from None
        renewal = _Renewal(refresh)
        wanted = (*expected, *(None,) * len(chosen))
        saving = (
            self._save(
                Part(folder / stem_of(entry, number, len(chosen), ref), entry.url, ref),
                number,
                self._pull(entry.url, ref, max_size, partial(renewal.nth, number)),
                wanted[number] or Expected(),
                overwrite=overwrite,
            )
            for number, entry in enumerate(chosen)
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

    async def stream(
        self,
        entry: Entry,
        *,
        ref: TaskRef | None = None,
        refresh: Refresh | None = None,
        max_size: int = MAX_SIZE,
        done: Callable[[Saved], None] = lambda _: None,
    ) -> AsyncGenerator[bytes]:
        """The bytes of an entry, piece by piece, as fast as they are taken; ends without an error only when that was all.

        `done` is told what it was.

        Raises:
            DownloadError: it could not be fetched, or changed in between; what came before is void.
            ResultExpiredError: its link is dead, also after `refresh`.
        """
        renewal = _Renewal(refresh)
        pull = self._pull(entry.url, ref, max_size, partial(renewal.twin, entry))
        talk = _Talk(self.tell, self.clock, stem_of(entry, 0, 1, ref), ref)
        begun, given, digest, verified = self.clock.now(), 0, "", ""
        seen, room = Inspector(), memoryview(bytearray(_PIECE))
        try:
            while not verified:
                async with self._slots:
                    place, size = await pull.fill(room)
                piece = bytes(room[:size])
                if place != seen.size:
                    # From zero again: what was given out already is compared, and left out.
                    digest = seen.sha256 if seen.size == given else digest
                    seen = Inspector()
                known = piece[: max(0, given - seen.size)]
                seen.feed(known)
                if seen.size <= given and ((known and seen.size == given and seen.sha256 != digest) or (not piece and seen.size < given)):
                    msg = "the file changed while it was read"
                    raise DownloadError(msg, url=entry.url, ref=ref)
                if fresh := piece[len(known) :]:
                    seen.feed(fresh)
                    given = seen.size
                    talk.so_far(pull)
                    yield fresh
                elif not piece:
                    verified = await verify(pull, seen, seen.is_whole(), Expected())
        except KlingError as error:
            raise error.with_traceback(None)  # noqa: B904  the same error, without frames that hold signed links
        finally:
            pull.close()
        saved = Saved(path=None, size=seen.size, sha256=seen.sha256, verified=verified, ref=ref, seconds=self.clock.now() - begun)
        done(saved)
        self.tell(saved)

    async def copy(
        self, entry: Entry, writer: AsyncWriter, *, ref: TaskRef | None = None, refresh: Refresh | None = None, max_size: int = MAX_SIZE
    ) -> Saved:
        """Write the bytes of an entry into `writer`, each piece when the one before it was taken; raises as `stream` does."""
        done: list[Saved] = []
        async with contextlib.aclosing(self.stream(entry, ref=ref, refresh=refresh, max_size=max_size, done=done.append)) as pieces:
            async for piece in pieces:
                await writer.write(piece)
        return done[0]

    async def _save(self, part: Part, number: int, pull: Pull, expected: Expected, *, overwrite: bool) -> Path:
        async with self._slots:
            begun = self.clock.now()
            if before := self._leaving.get(part.stem):
                await asyncio.wait([before])
            try:
                if not overwrite and (there := await part.existing()):
                    await self._found(there, part, number, expected)
                    return there
                pull.held = await part.begin()
                verified = await self._fill(part, pull, expected)
                path, ours = await part.finish(overwrite=overwrite)
                if not ours:
                    await self._found(path, part, number, expected)
                    return path
            except KlingError as error:
                failed = isinstance(error, DownloadError)
                fit = pull.held.size == part.size and (error.retryable or not failed)
                if fit and failed:
                    with contextlib.suppress(DownloadError):
                        await part.secure(pull.held)
                await part.leave(resumable=fit)
                raise
            finally:
                pull.close()
                self._leaving[part.stem] = part.leave(resumable=pull.held.size == part.size)
            seconds = self.clock.now() - begun
            saved = Saved(path=path, size=part.size, sha256=part.inspector.sha256, verified=verified, ref=part.ref, seconds=seconds)
            await self.keep(saved, number, pull.held.validator)
            self.tell(saved)
            return path

    async def _found(self, path: Path, part: Part, number: int, expected: Expected) -> None:
        # A crash between the name and the record leaves a file that nobody knows of (`reliability.md` 3.5).
        lacking = part.ref is not None and await self.lacks(part.ref, number)
        if lacking or expected != Expected():
            saved = await check_found(path, part, expected)
            if lacking and saved is not None:
                await self.keep(saved, number, "")

    async def _fill(self, part: Part, pull: Pull, expected: Expected) -> str:
        talk = _Talk(self.tell, self.clock, part.stem.name, part.ref)
        secured, verified = self.clock.now(), ""
        while not verified:
            place, size = await pull.fill(part.room, _TOLD_EVERY)
            if place != part.size:
                await part.restart(size)
            if not size:
                verified = await verify(pull, part.inspector, await part.is_whole(), expected)
                continue
            await part.took(size)
            talk.so_far(pull)
            if part.size >= _WORTH_KEEPING and self.clock.now() >= secured + _SECURED_EVERY:
                await part.secure(pull.held)
                secured = self.clock.now()
        return verified

    def _pull(self, url: str, ref: TaskRef | None, max_size: int, renew: Callable[[], Awaitable[str | None]]) -> Pull:
        return Pull(self.hosts, self.clock, self.roll, url, ref, max_size, renew)
