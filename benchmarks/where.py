"""Where the microseconds of a generation go: `python benchmarks/where.py [TASKS [WAY…]]`, or with `--write` into the page.

A way is the loop (`floor`), or a session: of a gateway, with lists (`official`), or called back (`called`). Each is sampled while it
runs: by part, where a sample counts for the innermost part of the stack that has a name here, and by function, where it counts
for every function on the stack, so that one includes what it calls.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import FrameType
from typing import Final

import floor
import ours
import page
import server
from kit import CLIENT, cpu, pin, started
from kling_async import Polling

MEDIAN: Final = 3.0
SHOWN: Final = 15
WAYS: Final = ("floor", "gateway")


class Samples:
    """What the program was at, a thousand times per second of CPU."""

    def __init__(self) -> None:
        self.parts: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()
        self.all = 0

    def take(self, _signal: int, frame: FrameType | None) -> None:
        """One."""
        self.all += 1
        stack = []
        while frame is not None:
            stack.append(named(frame))
            frame = frame.f_back
        self.parts[next((part for part, _ in stack if part), "the bench")] += 1
        self.functions.update({f"{part}: {function}" for part, function in stack if part.startswith(("kling_async.", "aiohttp"))})

    def by_task(self, micros: float) -> dict[str, dict[str, float]]:
        """Both counts, in microseconds for each task."""
        scale = micros / max(self.all, 1)
        counts = {"part": self.parts, "function, with what it calls": self.functions}
        return {title: {name: count * scale for name, count in counter.most_common(SHOWN)} for title, counter in counts.items()}


def named(frame: FrameType) -> tuple[str, str]:
    """Part and function that a frame is in: a module of ours, or another package; no part for what is the bench's own."""
    path, function = frame.f_code.co_filename, frame.f_code.co_qualname
    _, own, module = path.rpartition("/kling_async/")
    if own:
        return f"kling_async.{module.removesuffix('.py').replace('/', '.')}", function
    for place in ("/site-packages/", "/asyncio/", "/python3."):
        _, found, module = path.rpartition(place)
        if found:
            return {"/site-packages/": module.partition("/")[0], "/asyncio/": "asyncio"}.get(place, "other parts of Python"), function
    return "", function


async def sampled(url: str, tasks: int, generate: Callable[[], Awaitable[object]]) -> dict[str, dict[str, float]]:
    """Generations, sampled once everything is imported."""
    samples = Samples()
    for count in (20, tasks):
        await asyncio.to_thread(server.steer, url, "begin", median=MEDIAN)
        signal.signal(signal.SIGPROF, samples.take if count == tasks else signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
        before = cpu()
        await asyncio.gather(*(generate() for _ in range(count)))
        signal.setitimer(signal.ITIMER_PROF, 0)
    return samples.by_task((cpu() - before) / tasks * 1e6)


async def run(who: str, url: str, tasks: int) -> dict[str, dict[str, float]]:
    """One of them."""
    if who == "floor":
        async with floor.session(url) as http:
            return await sampled(url, tasks, lambda: floor.generate(http, 1.0))
    polling = Polling() if who == "called" else Polling(interval=1.0, max_interval=3.0)
    async with ours.session(url, polling, official=who == "official", called=who == "called") as kling:
        return await sampled(url, tasks, lambda: ours.generate(kling))


def lines(tasks: int, ways: Sequence[str]) -> Iterator[str]:
    """The tables, a line at a time."""
    with started(server.PATH) as url:
        for way in ways:
            command = [sys.executable, __file__, "run", way, url, str(tasks)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)  # noqa: S603  ourselves
            for title, counts in found.items():
                yield f"\n| {way}: {title} | µs per task |\n| --- | --- |"
                yield from (f"| {name} | {micros:.0f} |" for name, micros in counts.items())


def main(options: Sequence[str]) -> None:
    """Print them."""
    tasks, *ways = [option for option in options if option != "--write"] or ["1000"]
    found = []
    for line in lines(int(tasks), ways or WAYS):
        print(line, flush=True)
        found.append(line)
    if "--write" in options:
        page.put("where", f"{page.today()}.\n" + "\n".join(found))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", way, url, tasks]:
            pin(CLIENT)
            print(json.dumps(asyncio.run(run(way, url, int(tasks)))))
        case options:
            main(options)
