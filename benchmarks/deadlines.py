"""How late deadlines are, measured: `python benchmarks/deadlines.py`, or `nox -s bench -- deadlines`.

First 10,000 waits of one session with bounds spread over two seconds, while their looks hang. Then submissions and waits
that hang in each phase, against a server on loopback. Lateness is from a call's bound to its end, by the loop's clock;
the loop's lag is how late a timer of its own is that goes off every 5 ms meanwhile, garbage collection included.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
import sqlite3
import statistics
import struct
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from kling_async import Image2Video, Job, KlingError, KlingSession, Polling, Retry, TaskHandle, TaskRef, Text2Video

WAITS: Final = 10_000
SPREAD: Final = 2.0
"""Seconds over which the bounds of the waits are spread."""
EACH: Final = 20
"""Calls per phase, all at once."""
BOUND: Final = 0.5
"""Seconds that each of them is given."""
PROMISED: Final = 0.1
ALLOWED: Final = 0.05
"""The promise is for a loop whose own lag is below this."""
JOB: Final = Text2Video(prompt="a red fox")
ACCEPTED: Final = b'{"code": 0, "data": {"task_id": "t%d", "task_status": "submitted"}}'


def reply(body: bytes, status: int = 200, length: int | None = None) -> bytes:
    """A reply, or the beginning of one that says it is longer."""
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body) if length is None else length, body)


class Server:
    """Hangs in looks; accepts creations, or answers them as it is told to, or reads nothing at all."""

    def __init__(self, answer: bytes | None = None, *, reads: bool = True) -> None:
        self.url = ""
        self._answer = answer
        self._reads = reads
        self._accepted = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._writers.append(writer)
        if self._reads and (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST"):
            self._accepted += 1
            writer.write(reply(ACCEPTED % self._accepted) if self._answer is None else self._answer)
        elif not self._reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of sockets, which can

    def hang_up(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()


@asynccontextmanager
async def serving(server: Server, scheme: str = "http", **options: Any) -> AsyncIterator[KlingSession]:
    """A session with that server, on loopback."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with shopping(server.url, **options) as kling:
        yield kling
        server.hang_up()  # first: a session waits for paid requests under way
    listening.close()


def shopping(url: str, **options: Any) -> KlingSession:
    """A session in which nobody waits for a slot, nor gives up before its time."""
    return KlingSession("sk-bench", base_url=url, **{"in_flight": EACH, "retry": Retry(attempts=100), **options})


async def lag(into: list[float]) -> None:
    """Note for ever how late this loop's timers are."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 0.005
        await asyncio.sleep(0.005)
        into.append(loop.time() - due)


async def lateness(call: Callable[[float], Awaitable[object]], bound: float) -> float:
    """Seconds from a call's bound to its end."""
    loop = asyncio.get_running_loop()
    due = loop.time() + bound
    try:
        await call(bound)
    except KlingError:
        return loop.time() - due
    sys.exit("a call ended well that should have hung")


async def measured(name: str, calls: list[tuple[Callable[[float], Awaitable[object]], float]]) -> None:
    """Make all calls at once, and print how late they ended."""
    loop, lags = asyncio.get_running_loop(), list[float]()
    running = [loop.create_task(lateness(call, bound)) for call, bound in calls]
    await asyncio.sleep(0)  # all have begun, and the burst of that is not what their ends are measured by
    meter = loop.create_task(lag(lags))
    late = await asyncio.gather(*running)
    meter.cancel()
    verdict = "kept" if max(late) <= PROMISED else "no promise: the loop lagged" if max(lags) > ALLOWED else "BROKEN"
    print(f"{name:<24}{len(late):>7}{figures(late)}{figures(lags)}  {verdict}", flush=True)


def figures(seconds: list[float]) -> str:
    """Median, 99th percentile and maximum in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return "".join(f"{1000 * value:>8.1f}" for value in (cuts[49], cuts[98], max(seconds)))


async def ten_thousand() -> None:
    """Waits for as many tasks, which end over two seconds."""
    async with serving(server := Server()) as kling:
        bounds = [2.0 + SPREAD * number / WAITS for number in range(WAITS)]
        await measured("10,000 waits", [(attached(kling, server.url, number).wait, bound) for number, bound in enumerate(bounds)])


def attached(kling: KlingSession, url: str, number: int) -> TaskHandle[Any]:
    """A handle of a task at that server."""
    return kling.attach(TaskRef(origin=url, action="videos", action2="text2video", task_id=f"t{number}"))


async def submissions(name: str, kling: KlingSession, job: Job[Any] = JOB, count: int = EACH) -> None:
    """So many submissions that never end well."""
    await measured(name, [(partial(submit, kling, job), BOUND)] * count)


async def submit(kling: KlingSession, job: Job[Any], bound: float) -> None:
    """One submission."""
    await kling.submit(job, timeout=bound)


async def before_it_is_sent() -> None:
    """The phases until the first byte of a request."""
    async with serving(Server(), in_flight=1) as kling:
        await kling.submit(JOB)
        await submissions("queue for a slot", kling)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal"
        async with serving(Server(), journal=path) as kling:
            await kling.submit(JOB)
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            await submissions("disk, locked", kling)
            other.execute("ROLLBACK")
            other.close()
    async with shopping("http://gateway.invalid:9", insecure=True) as kling:
        loop = asyncio.get_running_loop()
        loop.getaddrinfo = silence  # type: ignore[method-assign]  # a name server that never answers
        await submissions("look-up of the name", kling)
        del loop.getaddrinfo
    listening = socket.create_server(("127.0.0.1", 0), backlog=0)
    filling = [socket.socket() for _ in range(4)]
    for each in filling:
        each.setblocking(False)  # noqa: FBT003  as sockets have it
        each.connect_ex(listening.getsockname())
    async with shopping(f"http://127.0.0.1:{listening.getsockname()[1]}") as kling:
        await submissions("connection", kling)
    for each in (listening, *filling):
        each.close()
    async with shopping(f"http://127.0.0.1:{unused_port()}") as kling:
        await submissions("pause before a retry", kling)
    async with serving(Server(reads=False), "https") as kling:
        await submissions("TLS", kling)


async def once_it_is_sent() -> None:
    """The phases from the first byte of a request."""
    async with serving(Server(reads=False)) as kling:
        await submissions("sending 8 MB", kling, Image2Video(image=picture(6 << 20), prompt="run"), count=4)
    async with serving(Server(b"")) as kling:
        await submissions("head of the reply", kling)
    async with serving(Server(reply(b"{", length=100))) as kling:
        await submissions("body of the reply", kling)
    async with serving(server := Server()) as kling:
        await measured("look at a task", [(attached(kling, server.url, number).wait, BOUND) for number in range(EACH)])
    async with serving(Server(), polling=Polling.fixed(100)) as kling:
        handles = [await kling.submit(JOB) for _ in range(EACH)]
        await measured("between two looks", [(handle.wait, BOUND) for handle in handles])


async def silence(*_: object, **__: object) -> Any:
    """Never answer."""
    await asyncio.sleep(1e6)


def unused_port() -> int:
    """A port on loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def picture(size: int) -> bytes:
    """A PNG file of about that many bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 320, 320, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", bytes(size)) + chunk(b"IEND", b"")


async def main() -> None:
    """Measure all, and print a table."""
    logging.disable()  # the library says of every creation that its caller has gone
    print(__doc__)
    print(f"Python {platform.python_version()} on {platform.system()}, {os.cpu_count()} CPUs; milliseconds\n")
    print(f"{'what hangs':<24}{'calls':>7}{'late: p50':>10}{'p99':>7}{'max':>8}{'lag: p50':>9}{'p99':>7}{'max':>8}")
    await ten_thousand()
    await before_it_is_sent()
    await once_it_is_sent()


asyncio.run(main())
