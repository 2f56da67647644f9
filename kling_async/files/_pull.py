"""One file, pulled until it is whole: goes on where it broke off, renews a dead link once, never mixes two versions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from attrs import define, field

from kling_async._clock import Clock
from kling_async._links import fingerprint_of, is_error_page
from kling_async._ranges import Body, Held, Move, headers_for, judge
from kling_async.errors import DownloadError, ResultExpiredError
from kling_async.hosts import Hosts, RefusedLink, Source
from kling_async.models import TaskRef
from kling_async.transport import FailedExchange

__all__ = ["Pull"]

_ATTEMPTS: Final = 4
"""Connections in a row that bring nothing to speak of."""
_PROGRESS: Final = 1024
"""Bytes that are something to speak of."""
_HEAD: Final = 4096
"""Bytes by which a page is told from a file."""
_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 20.0
_NEW: Final = 3600.0
"""Seconds since its creation in which a task's link cannot have expired: its file is not there yet, perhaps."""
_SOON: Final = 3.0
"""Seconds until such a file is asked for again."""
_PATIENCE: Final = 60.0
"""Seconds that a host may ask to wait."""


class _Trouble(Exception):  # noqa: N818  carries what to do from one line to the next
    def __init__(self, text: str, *, final: bool = False, expired: bool = False, pause: float = 0.0) -> None:
        super().__init__(text)
        self.final, self.expired, self.pause = final, expired, pause


@define(eq=False)
class Pull:
    """What is to be had from one link. `held` is what has been got of it, and says where it goes on."""

    hosts: Hosts
    clock: Clock
    roll: Callable[[], float]
    url: str = field(repr=False)
    ref: TaskRef | None
    max_size: int
    renew: Callable[[], Awaitable[str | None]]
    held: Held = field(factory=Held)
    ending: str = field(default="", init=False)
    """What says that this is all: `length`, `chunked`, or `close`, which says nothing."""
    _source: Source | None = field(default=None, init=False)
    _end: int | None = field(default=None, init=False)
    _renewed: bool = field(default=False, init=False)
    _failures: int = field(default=0, init=False)
    _best: int = field(default=0, init=False)

    async def fill(self, room: memoryview, patience: float = 0.0) -> tuple[int, int]:
        """Put the next bytes into `room`, as `Source.fill` does: their place, which is 0 where all that came before is void, and how many.

        Raises:
            DownloadError: it cannot be had, not now or not at all.
            ResultExpiredError: the link is dead, and so is a fresh one.
        """
        while not self.ending:
            try:
                if self._source is None:
                    await self._open()
                elif size := await self._source.fill(room, patience):
                    return self._taken(room[:size]), size
                else:
                    self._finish(framed=self._source.framed)
                continue
            except _Trouble as met:
                trouble = met
            except RefusedLink as refused:
                trouble = _Trouble(f"the result link is refused: {refused}", final=True)
            except FailedExchange as failed:
                trouble = _Trouble(f"the download broke off: {failed.failure.cause}", final=failed.failure.final)
            self.close()
            await self._overcome(trouble)
        return self.held.size, 0

    async def doubt(self, why: str, *, final: bool = False) -> None:
        """Do not believe that this is all: go on with `fill`.

        Raises:
            DownloadError: there is nothing left to be tried.
        """
        self.ending = ""
        await self._overcome(_Trouble(why, final=final))

    def error(self, why: str, *, final: bool = False) -> DownloadError:
        """The error that says so; a final one would be the same the next time."""
        error = DownloadError(why, url=self.url, ref=self.ref)
        error.retryable = not final
        return error

    def close(self) -> None:
        """Let go of the connection."""
        if self._source is not None:
            self._source.close()
            self._source = None

    async def _open(self) -> None:
        held = self.held
        if held.size and held.size == held.total:
            self.ending = "length"
            return
        self._source = source = await self.hosts.open(self.url, headers_for(held))
        verdict = judge(held, source.status, source.headers)
        if isinstance(verdict, Body):
            if (verdict.total or 0) > self.max_size:
                raise _Trouble(f"the file has {verdict.total} bytes, at most {self.max_size} are allowed", final=True)
            self.held = Held(size=verdict.start, total=verdict.total, validator=verdict.validator)
            self._end = verdict.end
        elif verdict is Move.COMPLETE:
            self.ending = "length"
            self.close()
        elif verdict is Move.AGAIN:
            self.held = Held()
            msg = "the file host contradicts itself"
            raise _Trouble(msg)
        elif verdict is Move.BUSY:
            raise _Trouble(f"the file host answered HTTP {source.status}", pause=_asked(source.headers))
        elif verdict is Move.EXPIRED:
            raise _Trouble("", expired=True)
        else:
            raise _Trouble(verdict.why, final=True)

    def _taken(self, piece: memoryview) -> int:
        place, size = self.held.size, self.held.size + len(piece)
        if place == 0 and is_error_page(piece[:_HEAD].tobytes()):
            raise _Trouble("", expired=True)
        if size > self.max_size:
            raise _Trouble(f"the file has more than the {self.max_size} bytes that are allowed", final=True)
        if self._end is not None and size > self._end:
            self.held = Held()
            msg = "the file host sent more than it said"
            raise _Trouble(msg)
        self.held = Held(size=size, total=self.held.total, validator=self.held.validator)
        if size >= self._best + _PROGRESS:
            self._best, self._failures = size, 0
        return place

    def _finish(self, *, framed: bool) -> None:
        self.close()
        if self._end is None:
            self.ending = "chunked" if framed else "close"
        elif self.held.size < self._end:
            msg = "the download broke off: cut-reply"
            raise _Trouble(msg)
        elif self.held.size == self.held.total:
            self.ending = "length"

    async def _overcome(self, trouble: _Trouble) -> None:
        if trouble.expired:
            await self._renew()
            return
        if not self.held.validator:
            self.held = Held()
        self._failures += 1
        if trouble.final or self._failures >= _ATTEMPTS or trouble.pause > _PATIENCE:
            raise self.error(str(trouble), final=trouble.final)
        pause = self.roll() * min(_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        await self.clock.sleep(max(pause, trouble.pause))

    async def _renew(self) -> None:
        url = None if self._renewed else await self.renew()
        self._renewed = True
        if url is None:
            age = None
            if self.ref is not None and self.ref.created_at is not None:
                age = max(0.0, self.clock.wall() - self.ref.created_at.timestamp())
            self._failures += 1
            if age is not None and age < _NEW and self._failures < _ATTEMPTS:
                await self.clock.sleep(_SOON)
                return
            raise ResultExpiredError("the link has expired and the service gives no fresh one", url=self.url, ref=self.ref, age=age)
        if fingerprint_of(url) != fingerprint_of(self.url):
            self.held = Held()
        self.url = url


def _asked(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(text) if text.isdecimal() and text.isascii() else 0.0
