"""What tests of load share: a gateway lean enough for ten thousand of everything, and what this process has in use."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Self

from attrs import define, field

from kling_async.testing import VirtualLoop

STATUSES: Final = Path("/proc/self/statm")
REPLY: Final = '{"code":0,"message":"SUCCEED","request_id":"r","data":{"task_id":"%s","task_status":"%s","task_result":{"videos":%s}}}'
VIDEOS: Final = '[{"id":"1","url":"http://127.0.0.1:9/v.mp4","duration":"5"}]'


def memory() -> int:
    """Bytes of this process that are in memory now; the most there ever were, where the system does not tell."""
    if STATUSES.exists():
        return int(STATUSES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def descriptors() -> int:
    """Files and sockets that are open."""
    return len(list(Path("/dev/fd").iterdir()))


@define(eq=False)
class Crowded:
    """Keeps the truth: tasks made, requests read, connections open."""

    takes: float = 0.0
    """Seconds until a request is answered."""
    lasts: float = 0.0
    """Seconds until a task has succeeded."""
    made: dict[str, float] = field(factory=dict)
    """Task → when it was made."""
    posts: int = 0
    reads: int = 0
    open: int = 0
    most_open: int = 0
    most_running: int = 0
    numbers: itertools.count[int] = field(factory=itertools.count)
    url: str = ""
    _stack: AsyncExitStack = field(factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        server = await asyncio.get_running_loop().create_server(lambda: _Line(self), "127.0.0.1", 0, backlog=1000)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._stack.callback(server.close)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    def running(self, now: float) -> int:
        """Tasks that run at that moment; they end in the order they were made."""
        return sum(1 for _ in itertools.takewhile(lambda made: now < made + self.lasts, reversed(self.made.values())))

    def answer(self, method: str, path: str) -> bytes:
        now = asyncio.get_running_loop().time()
        if method == "POST":
            self.posts += 1
            task = f"task-{next(self.numbers)}"
            self.made[task] = now
            self.most_running = max(self.most_running, self.running(now))
        else:
            self.reads += 1
            task = path.rpartition("/")[2]
        over = now >= self.made.setdefault(task, now) + self.lasts and method == "GET"
        return (REPLY % (task, "succeed" if over else "processing", VIDEOS if over else "[]")).encode()


class _Line(asyncio.Protocol):
    """The gateway's end of a connection."""

    def __init__(self, gateway: Crowded) -> None:
        self.gateway, self.data = gateway, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.gateway.open += 1
        self.gateway.most_open = max(self.gateway.most_open, self.gateway.open)

    def connection_lost(self, _: Exception | None) -> None:
        self.gateway.open -= 1

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not end or len(body) < int(length or 0):
            return
        self.data = b""
        method, path, _ = head.partition(b"\r\n")[0].decode().split()
        if self.gateway.takes:
            asyncio.get_running_loop().call_later(self.gateway.takes, self.reply, method, path)
        else:
            self.reply(method, path)

    def reply(self, method: str, path: str) -> None:
        body = self.gateway.answer(method, path)
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


class Timed(VirtualLoop):
    """Virtual time, and for each turn of the loop how long it kept this thread's core, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[float] = []

    def _run_once(self) -> None:
        begun = time.thread_time()
        super()._run_once()  # type: ignore[misc]  # the loop's own, which no stub tells of
        self.turns.append(time.thread_time() - begun)


class Turning(VirtualLoop):
    """Virtual time, and something that is done in every turn of the loop."""

    each: Callable[[], object] = staticmethod(lambda: None)

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]  # the loop's own, which no stub tells of
        self.each()
