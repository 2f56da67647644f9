"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is to be done."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

import anyio.to_thread

from kling_async.files._hand import Hand
from kling_async.journal._writer import Writer

__all__ = ["VirtualLoop", "run", "workers_at_work"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Impatient(selectors.DefaultSelector):
    """A selector that never waits: when nothing is ready it moves the loop's clock to the next timer instead.

    What threads are working on is waited for really, and so is what is on its way between loopback sockets: a datagram
    that is sent to oneself queues behind it, and has arrived when it has.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._self = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._self.bind(("127.0.0.1", 0))
        self._self.connect(self._self.getsockname())
        self._self.settimeout(1.0)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            return super().select(0)
        busy = self._loop.threads_at_work()  # asked first: what was delivered before is in the selector by now
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None or busy:
            return super().select(0.005 if busy else 0.05)
        if len(self.get_map()) > 1:  # more than the loop's own
            for _ in range(3):  # packets make packets: a connection begins with three
                self._self.send(b".")
                self._self.recv(1)
            ready = super().select(0)
        if not ready:
            self._loop.now += timeout
        return ready

    def close(self) -> None:
        self._self.close()
        super().close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which a timer is due as soon as nothing else is to be done, and no time passes otherwise.

    A wait of hours takes no time, and always the same: moments may be compared exactly. The server must run in the same
    loop, as an `Emulator` does: answers of another process or machine are not waited for, and come too late. Threads are
    waited for when they were started by `asyncio.to_thread`, `anyio.to_thread`, `run_in_executor`, or are a journal's or a download's.
    """

    now: float
    """Seconds of its clock. May be moved on: then all that is due in between is late, as after a process was stopped."""

    def __init__(self) -> None:
        self.now = 1_000_000.0  # as if the machine had been up for days: a time that was never set must look long past
        self._jobs = 0
        super().__init__(_Impatient(self))

    def time(self) -> float:
        """The moment, as `now` has it."""
        return self.now

    def threads_at_work(self) -> bool:
        """Whether a thread is doing something that somebody in this loop may wait for."""
        if self._jobs or workers_at_work():
            return True
        try:
            return anyio.to_thread.current_default_thread_limiter().borrowed_tokens > 0
        except anyio.NoEventLoopError:
            return False

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """End the threads of `run_in_executor`, however long they take."""
        del timeout  # from Python 3.12 on there is a bound, and virtual time would reach it before a thread has ended
        await super().shutdown_default_executor()

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Have a thread do it, and let no time pass until it has."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_ended)
        return future

    def _job_ended(self, _: asyncio.Future[Any]) -> None:
        self._jobs -= 1


def run(main: Coroutine[Any, Any, T]) -> T:
    """Do what `asyncio.run` does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def workers_at_work() -> bool:
    """Whether a journal or a download has something to do."""
    return any(not worker.idle for worker in map(_worker_of, threading.enumerate()) if worker)


def _worker_of(thread: threading.Thread) -> Writer | Hand | None:
    worker = getattr(thread, "writer", None) or getattr(thread, "hand", None)
    return worker if isinstance(worker, Writer | Hand) else None
