"""What the tests share: an event loop whose time jumps, so that a wait of minutes takes no time at all, and a check for leaks."""

from __future__ import annotations

import asyncio
import gc
import selectors
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

import anyio.to_thread
import pytest

pytest_plugins = ("matrix",)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Impatient:
    """A selector that never waits: when nothing is ready it moves the loop's clock to the next timer instead.

    What threads are working on is waited for really, and so is what is on its way between loopback sockets: a datagram
    that is sent to oneself queues behind it, and has arrived when it has.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self._inner = selectors.DefaultSelector()
        self._loop = loop
        self._self = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._self.bind(("127.0.0.1", 0))
        self._self.connect(self._self.getsockname())
        self._self.settimeout(1.0)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        busy = self._loop.threads_at_work()  # asked first: what was delivered before is in the selector by now
        ready = self._inner.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or busy:
            return self._inner.select(0.005 if busy else 0.05)
        if len(self._inner.get_map()) > 1:  # more than the loop's own
            for _ in range(3):  # packets make packets: a connection begins with three
                self._self.send(b".")
                self._self.recv(1)
            ready = self._inner.select(0)
        if not ready:
            self._loop.now += timeout
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.get_key(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._self.close()
        self._inner.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which a timer is due as soon as nothing else is to be done, and no time passes otherwise."""

    def __init__(self) -> None:
        self.now = 1_000_000.0  # as if the machine had been up for days: a time that was never set must look long past
        self._jobs = 0
        super().__init__(_Impatient(self))  # type: ignore[arg-type]  # a selector in all that the loop uses

    def time(self) -> float:
        return self.now

    def threads_at_work(self) -> bool:
        try:
            borrowed = anyio.to_thread.current_default_thread_limiter().borrowed_tokens
        except anyio.NoEventLoopError:
            borrowed = 0
        writers = (getattr(thread, "writer", None) for thread in threading.enumerate())
        return bool(self._jobs or borrowed or any(writer and not writer.idle for writer in writers))

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        del timeout  # from Python 3.12 on there is a bound, and virtual time would reach it before a thread has ended
        await super().shutdown_default_executor()

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(lambda _: setattr(self, "_jobs", self._jobs - 1))
        return future


def pytest_collection_finish() -> None:
    """Take all that was imported out of the garbage collector's sight: tests that collect would look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run asynchronous tests in a `VirtualLoop`."""
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def nothing_is_left(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Fail a test that leaves tasks behind, or exceptions that nobody has looked at."""
    yield
    for _ in range(3):  # transports close a turn after their sessions
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if not getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")]
    gc.collect()
    complaints = [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"]
    assert not left, f"{request.node.name} left {left}"
    assert not complaints, f"{request.node.name}: {complaints}"
