"""The same with `kling_async`: one session, `submit` and `await`."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from floor import PROMPT
from kling_async import KlingSession, Polling
from kling_async.callbacks import Receiver


@asynccontextmanager
async def session(url: str, polling: Polling, *, official: bool = False, called: bool = False) -> AsyncIterator[KlingSession]:
    """A session as a user has it; with callbacks received in the same process where they are wanted."""
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(receiving()) if called else None
        profile = "official" if official else "gateway"
        kling = KlingSession("sk-benchmark-0123456789abcdef0123456789", base_url=url, profile=profile, polling=polling, callbacks=receiver)
        yield await stack.enter_async_context(kling)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver of callbacks, served on loopback."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    receiver = Receiver(f"http://127.0.0.1:{listening.getsockname()[1]}/kling")
    app = web.Application()
    app.add_subapp("/kling", receiver.aiohttp_app())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    yield receiver
    await runner.cleanup()


async def generate(kling: KlingSession) -> tuple[str, float]:
    """One generation; gives the task's id and when its result was there."""
    handle = await kling.text2video(model_name="kling-v2-6", prompt=PROMPT, duration=5)
    videos = await handle
    assert videos[0].url  # noqa: S101  it has a result
    return handle.task_id, time.monotonic()
