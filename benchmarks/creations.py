"""What a purchase costs, beside a raw POST: `python benchmarks/creations.py [--quick]`.

Very many creations at once, each on a connection of its own, which the server's acceptance ends. The raw POST has a connector that
closes each connection after its reply, `json=` and `.json()`, and remembers nothing; the session writes down in a journal, on disk,
what it is about to buy and what came of it.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import aiohttp

import server
from floor import PROMPT
from kit import Figure, Numbers, cpu, main, middle, paired, started
from kling_async import KlingSession, Text2Video

CREATIONS: Final = 1000
KEY: Final = "sk-benchmark-0123456789abcdef0123456789"


async def measured(create: Callable[[], Awaitable[str]], count: int) -> Numbers:
    """CPU of a creation, among so many at once, after a few that have everything imported and opened."""
    await asyncio.gather(*(create() for _ in range(20)))
    gc.collect()
    before = cpu()
    made = await asyncio.gather(*(create() for _ in range(count)))
    spent = cpu() - before
    assert len(set(made)) == count  # noqa: S101  each has bought one
    return {"cpu": spent / count * 1e6}


def raw(url: str, count: str) -> Numbers:
    """POSTs, each on a fresh connection."""

    async def run() -> Numbers:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(url, connector=connector, headers={"Authorization": f"Bearer {KEY}"}) as http:

            async def create() -> str:
                body = {"model_name": "kling-v2-6", "prompt": PROMPT, "duration": "5"}
                async with http.post("/kling/v1/videos/text2video", json=body) as response:
                    return str((await response.json())["data"]["task_id"])

            return await measured(create, int(count))

    return asyncio.run(run())


def recorded(url: str, count: str, on_disk: str = "yes") -> Numbers:
    """A session with room for all of them, and a journal on disk."""

    async def run() -> Numbers:
        with tempfile.TemporaryDirectory() as directory:
            journal = Path(directory) / "journal.db" if on_disk == "yes" else None
            async with KlingSession(KEY, base_url=url, in_flight=2 * int(count) + 20, journal=journal) as kling:

                async def create() -> str:
                    job = Text2Video(model_name="kling-v2-6", prompt=PROMPT, duration=5)
                    return (await kling.submit(job)).task_id

                return await measured(create, int(count))

    return asyncio.run(run())


def remembered(url: str, count: str) -> Numbers:
    """The same with a journal in memory."""
    return recorded(url, count, "no")


def rows(quick: bool) -> Iterator[Figure]:  # noqa: FBT001  as `kit.main` calls it
    """Creations per second and core, with the journal on disk and in memory."""
    with started(server.PATH) as url:
        runs = paired(__file__, list(CASES), url, 100 if quick else CREATIONS, times=1 if quick else 7)
    posts, disk, memory = (1e6 / middle(runs[name], "cpu") for name in CASES)
    yield Figure(
        name="creations per second and core, journal on disk",
        goal="≥ 0.5 × raw POSTs",
        limit=0.5,
        value=disk,
        reference=posts,
        at_least=True,
        digits=0,
        note=f"{CREATIONS} at once, each on a fresh connection; with a journal in memory {memory:,.0f}",
    )


CASES: Final = {"raw": raw, "disk": recorded, "memory": remembered}

if __name__ == "__main__":
    main(rows, CASES)
