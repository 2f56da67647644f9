"""What tests of downloads share: a host of result files on loopback, and looks into a directory."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from attrs import define, field

from kling_async._clock import SystemClock
from kling_async.files import Files
from kling_async.hosts import LARGE, Hosts
from kling_async.models import TaskRef, Video
from kling_async.observers import Record

MP4 = b"\0\0\0\x18ftypisom" + bytes(300_000)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(1000)
REF = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="8800")
CANARY = "sig-c4n4ry"
WAYS = [pytest.param(LARGE, id="parsed"), pytest.param(1, id="past the parser")]
"""From how many bytes on a body is received past the parser: both ways take the same files."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serving(data: bytes = MP4, **options: Any) -> Handler:
    """A handler that serves these bytes."""

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=data, **options)

    return handle


@define(eq=False)
class FileHost:
    """A host of result files on loopback; keeps the requests it got."""

    files: Files
    records: list[Record] = field(factory=list)
    """What observers were told."""
    handlers: dict[str, Handler] = field(factory=dict)
    requests: list[web.Request] = field(factory=list)
    url: str = ""
    over: asyncio.Event = field(factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.handlers[request.path](request)

    async def stall(self, request: web.Request) -> web.StreamResponse:
        """Send something, then nothing."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(MP4[:200_000])
        await self.over.wait()
        return response

    def video(self, handler: Handler, name: str = "v") -> Video:
        """A clip whose file is served so."""
        self.handlers[f"/{name}"] = handler
        return Video(id="900", url=f"{self.url}/{name}?sign={CANARY}")


def clip(size: int, seed: int = 0) -> bytes:
    """An MP4 of that many bytes, as far as its boxes tell; the media is noise."""
    start = b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + (16).to_bytes(4, "big") + b"moov" + bytes(8)
    return start + (size - len(start)).to_bytes(4, "big") + b"mdat" + random.Random(seed).randbytes(size - len(start) - 8)


@define(eq=False)
class Asked:
    """A request for a file."""

    number: int
    """From 0."""
    start: int
    """Where the range begins that was asked for; 0 without one."""
    headers: dict[str, str]


Answer = Callable[[Asked], Iterable[bytes]]


@define(eq=False)
class ByteHost:
    """A host that answers byte by byte as each test says, and closes; keeps what it was asked."""

    files: Files
    records: list[Record]
    answer: Answer = lambda _: ()
    asked: list[Asked] = field(factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            start = int(headers.get("range", "bytes=0-")[6:-1])
            self.asked.append(Asked(len(self.asked), start, headers))
            for piece in self.answer(self.asked[-1]):
                writer.write(piece)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has had enough
        finally:
            writer.close()

    def video(self) -> Video:
        """A clip whose file is here."""
        return Video(id="900", url=f"{self.url}/v?sign={CANARY}")


@asynccontextmanager
async def bytes_from(*, large: int = LARGE, tls: ssl.SSLContext | None = None) -> AsyncGenerator[ByteHost]:
    """A host of bytes, and a saver that may talk to it; with `tls` one that trusts whom the environment does."""
    records: list[Record] = []
    hosts = Hosts(trust_env=tls is not None, public_only=False, large=large)
    made = ByteHost(Files(hosts, SystemClock(), records.append), records)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        await hosts.aclose()
        server.close()
        await asyncio.sleep(0)


async def byte_host(request: pytest.FixtureRequest) -> AsyncIterator[ByteHost]:
    """As `bytes_from`, for fixtures: with one of the `WAYS` or, without parameters, the usual one."""
    async with bytes_from(large=getattr(request, "param", LARGE)) as made:
        yield made


def reply(status: int, *headers: str, body: bytes = b"") -> bytes:
    """A reply as bytes."""
    return "\r\n".join((f"HTTP/1.1 {status} X", "Connection: close", *headers, "", "")).encode() + body


def whole(data: bytes, *headers: str) -> bytes:
    """A reply with all of the file."""
    return reply(200, f"Content-Length: {len(data)}", *headers, body=data)


def rest(data: bytes, start: int, *headers: str, end: int | None = None) -> bytes:
    """A reply with what was asked for."""
    end = len(data) if end is None else end
    span = f"Content-Range: bytes {start}-{end - 1}/{len(data)}"
    return reply(206, span, f"Content-Length: {end - start}", *headers, body=data[start:end])


async def file_host(request: pytest.FixtureRequest) -> AsyncIterator[FileHost]:
    """A file host, and a saver that may talk to it; with parameters, as `byte_host`."""
    records: list[Record] = []
    hosts = Hosts(public_only=False, large=getattr(request, "param", LARGE))
    made = FileHost(Files(hosts, SystemClock(), records.append), records)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.over.set()
    await hosts.aclose()
    await runner.cleanup()


def names(directory: Path) -> list[str]:
    """All there is in a directory."""
    return sorted(path.name for path in directory.iterdir())


def contents(directory: Path) -> list[tuple[str, bytes]]:
    """The files one level down, by name."""
    return [(path.name, path.read_bytes()) for path in directory.glob("*/*")]


def unfinished(directory: Path) -> bool:
    """Whether a part of a file lies about."""
    return any(path.suffix == ".part" for path in directory.rglob(".*"))


async def quiet(directory: Path) -> None:
    """Let threads end that are still at work for a save that was given up."""
    for _ in range(500):
        if not unfinished(directory):
            break
        await anyio.to_thread.run_sync(time.sleep, 0.01)
