"""What tests of callbacks share: a receiver that is served, by aiohttp.web or a real ASGI server, and ways to post to it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from aiohttp import web

from kling_async import KlingSession, Text2Video
from kling_async.callbacks import Receiver
from kling_async.callbacks._posts import Post
from kling_async.emulator import Emulator

FOX = Text2Video(prompt="a red fox", model_name="kling-v2-6", duration=5)
JSON = "application/json"
SERVERS = ("aiohttp", "asgi")


def body(status: str = "succeed", task_id: str = "someone-elses", **more: Any) -> bytes:
    """What a callback looks like."""
    return json.dumps({"task_id": task_id, "task_status": status, "created_at": 1, "updated_at": 2, **more}).encode()


FORGED = body(task_result={"videos": [{"id": "1", "url": "https://evil.example/v.mp4", "duration": "5"}]})
PROCESSING = body("processing")


@asynccontextmanager
async def served(server: str = "aiohttp", **options: Any) -> AsyncIterator[Receiver]:
    """A receiver on loopback, below `/hooks`."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        receiver = Receiver(f"http://127.0.0.1:{door.getsockname()[1]}/hooks", **options)
        async with _by_aiohttp(receiver, door) if server == "aiohttp" else by_uvicorn(receiver.asgi_app(), door):
            yield receiver


@asynccontextmanager
async def _by_aiohttp(receiver: Receiver, door: socket.socket) -> AsyncIterator[None]:
    root = web.Application()
    root.add_subapp("/hooks", receiver.aiohttp_app())
    runner = web.AppRunner(root, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.SockSite(runner, door).start()
    yield
    await asyncio.sleep(11)  # so long aiohttp goes on reading what nobody wants, before it ends a connection
    await runner.cleanup()


@asynccontextmanager
async def by_uvicorn(app: Any, door: socket.socket) -> AsyncIterator[None]:
    """Any ASGI application, served by uvicorn."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", ws="none", http="h11", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[door]))
    while not server.started and not serving.done():  # noqa: ASYNC110  it tells in no other way
        await asyncio.sleep(0.1)
    yield
    server.should_exit = True
    await serving


def session(emulator: Emulator, receiver: Receiver | None, **options: Any) -> KlingSession:
    """A session that is told."""
    official = emulator.health["profile"] == "official"
    return KlingSession("sk-test", base_url=emulator.url, profile="official" if official else "gateway", callbacks=receiver, **options)


def door_of(emulator: Emulator, number: int = -1) -> str:
    """The capability URL that a creation was sent with."""
    url = emulator.log.tasks[number].callback_url
    assert url is not None
    return url


async def post(url: str, data: bytes = FORGED, *, method: str = "POST", kind: str | None = JSON, **headers: str) -> int:
    """Send one request as it is, and give the status of the answer."""
    lines = {"Host": "receiver", "Content-Length": str(len(data)), "Connection": "close"}
    lines |= {} if kind is None else {"Content-Type": kind}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return await raw(url, head.encode() + b"\r\n", data)


async def answered(receiver: Receiver, door: str, *pieces: bytes, slow: bool = False, **head: Any) -> int:
    """What a post is answered, without a socket between; a slow one never ends."""
    left = iter(pieces)

    async def piece() -> bytes | None:
        if (data := next(left, None)) is None and slow:
            await asyncio.sleep(1e9)
        return data

    facts: dict[str, Any] = {"method": "POST", "path": door.rpartition("/")[2], "query": False, "headers": {"content-type": JSON}} | head
    return (await receiver._answer(Post(**facts), piece)).value


async def raw(url: str, *pieces: bytes, pause: float = 0.0, endless: bool = False) -> int:
    """Send bytes, the last piece for ever where `endless`, with a pause after each, until there is an answer; 0 is none."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    answer = asyncio.ensure_future(reader.readline())
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        while endless and not answer.done():
            writer.write(pieces[-1])
            await writer.drain()
            await asyncio.sleep(pause)
        line = await answer
    except ConnectionError:
        line = await answer if answer.done() and answer.exception() is None else b""
    finally:
        answer.cancel()
        writer.close()
    return int(line.split()[1]) if line else 0
