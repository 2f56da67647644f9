"""The floor: what a careful engineer writes by hand with aiohttp. A coroutine per task, `while`, `get().json()`, `sleep`.

`measured` is how its cost is taken, and that of all others.
"""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

import server
from kit import Numbers, cpu, main, resident

SIGMA: Final = 0.3
"""Of the durations that the server rolls."""
PROMPT: Final = "a red fox in fresh snow, morning light, slow pan from left to right"


@asynccontextmanager
async def session(url: str, *, fresh: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    """The client, with the pool that aiohttp has by default: a hundred connections; or with a fresh one for each request."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0) if fresh else None
    headers = {"Authorization": "Bearer sk-benchmark-0123456789abcdef0123456789"}
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as http:
        yield http


async def generate(
    http: aiohttp.ClientSession, interval: float, *, first: float | None = None, paid: aiohttp.ClientSession | None = None
) -> tuple[str, float]:
    """One generation; gives the task's id and when its result was there."""
    body = {"model_name": "kling-v2-6", "prompt": PROMPT, "duration": "5"}
    pause = first or interval
    async with (paid or http).post("/kling/v1/videos/text2video", json=body) as response:
        task = (await response.json())["data"]["task_id"]
    while True:
        await asyncio.sleep(pause)
        pause = interval
        async with http.get(f"/kling/v1/videos/text2video/{task}") as response:
            data = (await response.json())["data"]
        if data["task_status"] in {"succeed", "failed"}:
            assert data["task_result"]["videos"][0]["url"]  # noqa: S101  it has a result
            return task, time.monotonic()


async def measured(
    url: str, tasks: int, median: float, generate: Callable[[], Awaitable[tuple[str, float]]], *, lessons: int = 0
) -> Numbers:
    """What so many generations at once cost, after a few that have everything imported, or as many as teach how long they take."""
    ask = asyncio.to_thread
    await ask(server.steer, url, "begin", median=median if lessons else 0.1)
    await asyncio.gather(*(generate() for _ in range(lessons or 20)))
    await ask(server.steer, url, "begin", median=median, seed=1)
    gc.collect()
    before, alone, memory, begun = cpu(), time.thread_time(), resident("VmRSS"), time.monotonic()
    done = await asyncio.gather(*(generate() for _ in range(tasks)))
    spent, loop, took = cpu() - before, time.thread_time() - alone, time.monotonic() - begun
    told = await ask(server.steer, url, "told")
    lags = [at - told["ends"][task] for task, at in done]
    return {
        "cpu": spent / tasks * 1000,
        "loop": loop / tasks * 1000,
        "memory": (resident("VmHWM") - memory) / 1024,
        "lag": statistics.mean(lags),
        "median lag": statistics.median(lags),
        "reads": told["reads"] / tasks,
        "lists": told["lists"] / tasks,
        "sockets": told["sockets"],
        "took": took,
    }


def by_hand(url: str, tasks: str, median: str, interval: str) -> Numbers:
    """The loop."""

    async def run() -> Numbers:
        async with session(url) as http:
            return await measured(url, int(tasks), float(median), lambda: generate(http, float(interval)))

    return asyncio.run(run())


def at_best(url: str, tasks: str, median: str, interval: str) -> Numbers:
    """The least that a client on aiohttp can do: a fresh connection for what is paid, and a first look when fewest come of it."""

    async def run() -> Numbers:
        # As `_before_the_middle` of `_pacing` has it, told the truth about the durations.
        early = max(0.0, min(1.5, 0.1 - 0.85 * math.log(float(interval) / (SIGMA * float(median)))))
        first = float(median) * math.exp(-early * SIGMA)
        async with session(url) as http, session(url, fresh=True) as paid:
            return await measured(url, int(tasks), float(median), lambda: generate(http, float(interval), first=first, paid=paid))

    return asyncio.run(run())


CASES: Final = {"floor": by_hand, "best": at_best}

if __name__ == "__main__":
    main(lambda _: (), CASES)
