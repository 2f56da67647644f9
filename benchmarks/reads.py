"""What a look at a task costs, beside a hand-written loop: `python benchmarks/reads.py [--quick]`.

Tasks that exist are followed to their end, each looked at about as often by both: CPU by number of looks. With lists, one read shows
very many tasks: there the tasks are what is counted.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import floor
import ours
import server
from kit import Figure, Numbers, cpu, main, middle, paired, started
from kling_async import Polling, TaskRef

TASKS: Final = 300
GAP: Final = 0.4
LASTS: Final = 4.0
"""Seconds that each task takes: ten looks."""
WINDOW: Final = 4.0


async def measured(url: str, count: int, follow: Callable[[str], Awaitable[object]]) -> Numbers:
    """CPU of a look at one of so many tasks that go on, and of following so many to their ends."""
    looks, spent = await window(url, count, follow)
    ask = asyncio.to_thread
    await ask(server.steer, url, "begin", median=LASTS, sigma=0.1)
    made = await ask(server.steer, url, "make", count=count)
    gc.collect()
    before = cpu()
    await asyncio.gather(*map(follow, made))
    whole = cpu() - before
    told = await ask(server.steer, url, "told")
    return {"look": spent / looks * 1e6, "task": whole / count * 1e6, "looks": (told["reads"] + told["lists"]) / count}


async def window(url: str, count: int, follow: Callable[[str], Awaitable[object]]) -> tuple[int, float]:
    """Looks at tasks that have been looked at before, in so many seconds, and their CPU."""
    ask = asyncio.to_thread
    await ask(server.steer, url, "begin", median=1e6, sigma=0.0)
    made = await ask(server.steer, url, "make", count=count)
    following = [asyncio.ensure_future(follow(task)) for task in made]
    await asyncio.sleep(2 * GAP)
    gc.collect()
    first = await ask(server.steer, url, "told")
    before = cpu()
    await asyncio.sleep(WINDOW)
    spent = cpu() - before
    last = await ask(server.steer, url, "told")
    for each in following:
        each.cancel()
    await asyncio.wait(following)
    return last["reads"] + last["lists"] - first["reads"] - first["lists"], spent


def by_hand(url: str, count: str) -> Numbers:
    """The loop."""

    async def run() -> Numbers:
        async with floor.session(url) as http:

            async def follow(task: str) -> None:
                while True:
                    await asyncio.sleep(GAP)
                    async with http.get(f"/kling/v1/videos/text2video/{task}") as response:
                        if (await response.json())["data"]["task_status"] in {"succeed", "failed"}:
                            return

            return await measured(url, int(count), follow)

    return asyncio.run(run())


def by_session(url: str, count: str, how: str = "gateway") -> Numbers:
    """A session of a gateway, or of a server with lists (`official`)."""

    async def run() -> Numbers:
        async with ours.session(url, Polling(first=GAP, interval=GAP, max_interval=GAP), official=how == "official") as kling:

            async def follow(task: str) -> None:
                await kling.attach(TaskRef(origin=url, action="videos", action2="text2video", task_id=task))

            return await measured(url, int(count), follow)

    return asyncio.run(run())


def with_lists(url: str, count: str) -> Numbers:
    """A session of a server with lists."""
    return by_session(url, count, "official")


def rows(quick: bool) -> Iterator[Figure]:  # noqa: FBT001  as `kit.main` calls it
    """The lines about looks."""
    with started(server.PATH) as url:
        runs = paired(__file__, list(CASES), url, 50 if quick else TASKS, times=1 if quick else 5)
    hand, each, lists = (runs[name] for name in CASES)
    looks = f"looks per task {middle(each, 'looks'):.1f} / {middle(hand, 'looks'):.1f}"
    yield Figure(
        name="CPU per look",
        goal="≤ 0.85 × floor",
        limit=0.85,
        value=middle(each, "look"),
        reference=middle(hand, "look"),
        unit="µs",
        digits=0,
        note=looks,
    )
    yield Figure(
        name="CPU per task, list reads (official)",
        goal="≤ 0.3 × floor",
        limit=0.3,
        value=middle(lists, "task"),
        reference=middle(hand, "task"),
        unit="µs",
        digits=0,
        note=f"looks per task {middle(lists, 'looks'):.2f} / {middle(hand, 'looks'):.1f}",
    )


CASES = {"floor": by_hand, "ours": by_session, "lists": with_lists}

if __name__ == "__main__":
    main(rows, CASES)
