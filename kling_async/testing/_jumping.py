"""A clock that jumps: real time goes on, and whatever is left to wait for is there as soon as nobody has anything to do."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import selectors
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread
from attrs import define, field

from kling_async.testing._time import workers_at_work

__all__ = ["Home", "JumpingClock"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_ROUNDS: Final = 16
"""Turns that all loops take without a byte from anybody until it is quiet. What an exchange sets off was over in 8."""
_PAUSE: Final = 0.001
"""Real seconds until it is looked again whether those who were at work are done."""
_ABSENT: Final = 0.1
"""Real seconds for a loop to take its turn: one that is held up, or stands still, lets no time pass."""


class _Ear(selectors.DefaultSelector):
    """A selector that counts what it hears from others than its own loop."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = 0
        self._own: int | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        if self._own is None:  # by which other threads wake the loop: the first thing that one registers
            self._own = key.fd
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        self.heard += sum(key.fd != self._own for key, _ in ready)
        return ready


class Home(asyncio.SelectorEventLoop):
    """The loop of the server: tells whether anything is going on there."""

    def __init__(self) -> None:
        self._ear = _Ear()
        self.jobs = 0
        """What threads are doing for it."""
        super().__init__(self._ear)

    @property
    def heard(self) -> int:
        """How often its sockets had something to say; a number that grows."""
        return self._ear.heard

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Have a thread do it."""
        future = super().run_in_executor(executor, func, *args)
        self.jobs += 1
        future.add_done_callback(self._job_ended)
        return future

    def _job_ended(self, _: asyncio.Future[Any]) -> None:
        self.jobs -= 1


@define(eq=False)
class _Timer:
    loop: asyncio.AbstractEventLoop
    callback: Callable[[], object]
    over: bool = field(default=False, init=False)
    handle: asyncio.TimerHandle | None = field(default=None, init=False)
    """It by real time, should that be sooner."""
    context: contextvars.Context = field(factory=contextvars.copy_context, init=False)

    def cancel(self) -> None:
        self.over = True
        if self.handle is not None:
            self.handle.cancel()

    def fire(self) -> None:
        if not self.over:
            self.cancel()
            self.callback()


class JumpingClock:
    """The clock of sessions whose waits take no time: it jumps to whatever comes next when nobody has anything to do until then.

    For sessions, in any number of loops and threads, that talk to one `ThreadedEmulator`, which has the same clock and moves it.
    Until it runs, the time is real. Whatever does not ask this clock takes as long as it takes: `asyncio.sleep`,
    and the bounds within which one request is to be answered.
    """

    def __init__(self) -> None:
        self._skipped = 0.0
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._limiters: WeakKeyDictionary[asyncio.AbstractEventLoop, anyio.CapacityLimiter] = WeakKeyDictionary()
        self._home: Home | None = None
        self._bell = asyncio.Event()

    def now(self) -> float:
        """Monotonic seconds, with those it has skipped."""
        return time.monotonic() + self._skipped

    def wall(self) -> float:
        """Unix seconds, with those it has skipped: later than on the wall."""
        return time.time() + self._skipped

    async def sleep(self, seconds: float) -> None:
        """Let so many seconds pass for all who have this clock; what is due in between happens in its order."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        timer = self.call_at(self.now() + seconds, lambda: _tell(done, True))  # noqa: FBT003  positional, as a callback gets it
        try:
            await done
        finally:
            timer.cancel()

    def call_at(self, when: float, callback: Callable[[], object]) -> _Timer:
        """Call it from the running loop once `now()` has reached the moment."""
        timer = _Timer(asyncio.get_running_loop(), callback)
        timer.handle = timer.loop.call_later(max(0.0, when - self.now()), timer.fire)
        with self._lock:
            heapq.heappush(self._timers, (when, next(self._order), timer))
            with contextlib.suppress(anyio.NoEventLoopError):  # only tasks are told
                self._limiters[timer.loop] = anyio.to_thread.current_default_thread_limiter()
        if self._home is not None:
            _post(self._home, self._bell.set)
        return timer

    async def keep_jumping(self, home: Home) -> None:
        """Jump as long as this runs, which must be in the server's loop."""
        self._home = home
        try:
            while True:
                self._bell.clear()
                if self._next() is None:
                    await self._bell.wait()
                elif await self._is_quiet(home):
                    self._jump()
                else:
                    await asyncio.sleep(_PAUSE)
        finally:
            self._home = None

    def _next(self) -> tuple[float, _Timer] | None:
        with self._lock:
            while self._timers:
                when, _, timer = self._timers[0]
                if not timer.over and not timer.loop.is_closed():
                    return when, timer
                heapq.heappop(self._timers)
        return None

    def _jump(self) -> None:
        coming = self._next()
        if coming is not None:
            when, timer = coming
            self._skipped += max(0.0, when - self.now())
            _post(timer.loop, timer.fire, timer.context)

    async def _is_quiet(self, home: Home) -> bool:
        with self._lock:
            others = {timer.loop for _, _, timer in self._timers if not timer.over and timer.loop.is_running()} - {home}
            limiters = list(self._limiters.values())
        for _ in range(_ROUNDS):
            heard = home.heard
            if home.jobs or workers_at_work() or any(limiter.borrowed_tokens for limiter in limiters):
                return False
            for loop in others:
                if not await _has_turned(loop, home):
                    return False
            await asyncio.sleep(0)
            if home.heard != heard:
                return False
        return True


async def _has_turned(loop: asyncio.AbstractEventLoop, home: Home) -> bool:
    turned: asyncio.Future[bool] = home.create_future()
    late = home.call_later(_ABSENT, _tell, turned, False)  # noqa: FBT003
    _post(loop, lambda: _post(home, lambda: _tell(turned, True)))  # noqa: FBT003
    try:
        return await turned
    finally:
        late.cancel()


def _tell(turned: asyncio.Future[bool], has: bool) -> None:  # noqa: FBT001
    if not turned.done():
        turned.set_result(has)


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[[], object], context: contextvars.Context | None = None) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile, and nobody is there any more
        loop.call_soon_threadsafe(callback, context=context)
