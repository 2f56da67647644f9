"""Whole generations, from the paid request to the result, beside a hand-written loop: `python benchmarks/generations.py [--quick]`.

The loop looks once per interval. What is compared must bring its results as soon: the pace of the session is set so that the mean lag,
from a task's end at the server to the return of the `await`, is that of the loop in the same pair of runs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Final

from attrs import frozen

import floor
import ours
import server
from kit import Figure, Numbers, fresh, main, middle, started
from kling_async import Polling


@frozen(kw_only=True)
class Load:
    """How many tasks at once, how long they take, how often the loop looks, in seconds; and how often both are run."""

    tasks: int
    median: float
    interval: float
    times: int

    def loop(self, url: str, how: str = "floor") -> Numbers:
        """A run of the loop, as it is or at its `best`."""
        return fresh(floor.__file__, how, url, self.tasks, self.median, self.interval)

    def ours(self, url: str, pace: float, how: str = "gateway") -> Numbers:
        """A run of a session."""
        return fresh(__file__, "ours", url, self.tasks, self.median, f"{pace:.3f}", how)


SMALL = Load(tasks=1000, median=3.0, interval=1.0, times=3)
LONG = Load(tasks=1000, median=10.0, interval=1.0, times=3)
MANY = Load(tasks=5000, median=10.0, interval=1.0, times=2)
QUICK = Load(tasks=200, median=1.0, interval=0.3, times=1)


def paces(url: str, load: Load) -> float:
    """The pace, as a part of the mean lag that comes of it: that of the try whose lag came closest to the loop's."""
    wanted, pace, tries = load.loop(url)["lag"], load.interval, list[tuple[float, float]]()
    for _ in range(3):
        lag = load.ours(url, pace)["lag"]
        tries.append((abs(math.log(lag / wanted)), pace / lag))
        pace = max(pace * wanted / lag, load.interval / 5)
    return min(tries)[1]


def by_session(url: str, tasks: str, median: str, pace: str, how: str = "gateway") -> Numbers:
    """A session: of a gateway, of a server with lists (`official`), or one that is called back (`called`)."""
    polling = Polling() if how == "called" else Polling(interval=float(pace), max_interval=3 * float(pace))

    async def run() -> Numbers:
        async with ours.session(url, polling, official=how == "official", called=how == "called") as kling:
            return await floor.measured(url, int(tasks), float(median), lambda: ours.generate(kling), lessons=50)

    return asyncio.run(run())


def rows(quick: bool) -> Iterator[Figure]:  # noqa: FBT001  as `kit.main` calls it
    """The lines about whole generations."""
    with started(server.PATH) as url:
        yield from few(url, QUICK if quick else SMALL)
        if not quick:
            yield from more(url)


def run(url: str, load: Load, *ways: str) -> dict[str, list[Numbers]]:
    """Loop and sessions in turns, at the pace that gives the lag which the loop has just had."""
    part = paces(url, load)
    runs: dict[str, list[Numbers]] = {way: [] for way in (*floor.CASES, *ways)}
    for _ in range(load.times):
        for way in floor.CASES:
            runs[way].append(load.loop(url, way))
        for way in ways:
            runs[way].append(load.ours(url, part * middle(runs["floor"], "lag"), way))
    return runs


def few(url: str, load: Load) -> Iterator[Figure]:
    """Tasks that end after a few looks; and the two ways to look less."""
    runs = run(url, load, "gateway", "official", "called")
    yield per_task(f"CPU per task, {load.tasks:,} tasks", "≤ 0.75 × floor", 0.75, runs["gateway"], runs)
    yield per_task(f"list reads (official), {load.tasks:,} whole generations", "≤ 0.3 × floor", 0.3, runs["official"], runs)
    called = runs["called"]
    lag = middle(called, "median lag") * 1000
    yield Figure(name="callbacks: median lag", goal="≤ 5 ms", limit=5, value=lag, unit="ms", digits=1)
    yield Figure(name="callbacks: reads per task", goal="< 2", limit=1.999, value=middle(called, "reads"))


def more(url: str) -> Iterator[Figure]:
    """Tasks that take many looks, and very many tasks."""
    runs = run(url, LONG, "gateway")
    yield per_task(f"CPU per task, {LONG.tasks:,} long tasks", "≤ 0.6 × floor", 0.6, runs["gateway"], runs)
    runs = run(url, MANY, "gateway")
    yield per_task(f"CPU per task, {MANY.tasks:,} tasks", "≤ 0.6 × floor", 0.6, runs["gateway"], runs)
    sockets = middle(runs["gateway"], "sockets")
    yield Figure(name=f"sockets at {MANY.tasks:,} tasks", goal="≤ 100", limit=100, value=sockets, digits=0)


def per_task(name: str, goal: str, limit: float, runs: list[Numbers], others: dict[str, list[Numbers]]) -> Figure:
    """CPU per task beside the loop's, and what else differs."""
    beside, best = others["floor"], others["best"]
    said = (("reads per task", "reads", 1), ("mean lag s", "lag", 2), ("sockets", "sockets", 0), ("memory MB", "memory", 0))
    note = ", ".join(f"{words} {middle(runs, key):.{digits}f} / {middle(beside, key):.{digits}f}" for words, key, digits in said)
    note += f"; the loop at its best {middle(best, 'cpu'):.2f} ms, {middle(best, 'reads'):.1f} reads, lag {middle(best, 'lag'):.2f}"
    return Figure(name=name, goal=goal, limit=limit, value=middle(runs, "cpu"), reference=middle(beside, "cpu"), unit="ms", note=note)


CASES: Final = {"ours": by_session}

if __name__ == "__main__":
    main(rows, CASES)
