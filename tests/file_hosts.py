"""What tests of downloads share: a host of result files on loopback, and looks into a directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web
from attrs import define, field

from kling_async._auth import ApiKey
from kling_async._clock import SystemClock
from kling_async.files import Files
from kling_async.models import TaskRef, Video
from kling_async.transport import Transport

MP4 = b"\0\0\0\x18ftypisom" + bytes(300_000)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(1000)
REF = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="8800")
CANARY = "sig-c4n4ry"
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


async def file_host() -> AsyncIterator[FileHost]:
    """A file host, and a saver that may talk to it."""
    transport = Transport(ApiKey("sk-c4n4ry"), SystemClock(), public_only=False)
    made = FileHost(Files(transport))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.over.set()
    await transport.aclose()
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
