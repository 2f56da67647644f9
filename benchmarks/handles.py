"""What a handle costs, and how late ten thousand that wait make everybody else: `python benchmarks/handles.py [--quick]`.

Lag is by how much a task that sleeps a millisecond at a time woke up late. It is taken from when ten thousand waits for tasks have begun,
of which many end meanwhile, and which are looked at as often as the session thinks fit; the server is on the other core. Python's own
collector of garbage goes through all objects of the process now and then: that is the longest lag, and the note has it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, Final

import ours
import server
from kit import Figure, Numbers, cpu, fresh, main, started
from kling_async import KlingSession, Polling, TaskHandle, TaskRef
from kling_async._wire import Reply, Request

MANY: Final = 20_000
URL: Final = "http://127.0.0.1:1"
CROWD: Final = 10_000
LASTS: Final = 30.0
"""Seconds: the median of what the tasks of the crowd take, and how long it is watched."""
HOUR: Final = Polling(first=3600.0, interval=3600.0, max_interval=3600.0, timeout=86400.0)
RUNNING: Final = {"task_status": "processing", "task_status_msg": "", "created_at": 1774805076166, "updated_at": 1774805076166}


async def read(_transport: object, request: Request) -> Reply:
    """Any task is running."""
    data = {"task_id": request.url.rpartition("/")[2], **RUNNING}
    return Reply(status=200, headers={}, body=json.dumps({"code": 0, "message": "SUCCEED", "request_id": "r", "data": data}).encode())


def handles(kling: KlingSession, count: int) -> list[TaskHandle[Any]]:
    """So many tasks that were made elsewhere."""
    refs = (TaskRef(origin=URL, action="videos", action2="text2video", task_id=f"8672{number:014}") for number in range(count))
    return [kling.attach(ref) for ref in refs]


async def tasks(count: int, waiting: list[Any]) -> list[asyncio.Task[Any]]:
    """Callers that wait, each in a task of its own."""
    made = [asyncio.ensure_future(each) for each in waiting]
    await asyncio.sleep(0)
    assert len(made) == count  # noqa: S101  nothing has ended
    return made


def memory(count: str = str(MANY)) -> Numbers:
    """Bytes per handle: not awaited; awaited, less the caller's own task; and the same after its first look."""

    async def run() -> Numbers:
        many = int(count)
        found: Numbers = {}
        async with KlingSession("sk-benchmark-0123456789abcdef0123456789", base_url=URL, polling=HOUR) as kling:
            kling._transport.__class__.read = read  # type: ignore[method-assign,assignment]  # noqa: SLF001  a gateway that costs nothing
            handles(kling, 10)
            gc.collect()
            tracemalloc.start()
            kept = handles(kling, many)
            gc.collect()
            found["idle"] = tracemalloc.get_traced_memory()[0] / many
            before = tracemalloc.get_traced_memory()[0]
            bare = await tasks(many, [wait_bare() for _ in range(many)])
            gc.collect()
            own = (tracemalloc.get_traced_memory()[0] - before) / many
            for each in bare:
                each.cancel()
            await asyncio.wait(bare)
            del bare
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for handle in kept:
                handle._watch.next_look = asyncio.get_running_loop().time() + 3600.0  # noqa: SLF001  not due yet
            waits = await tasks(many, [handle.wait() for handle in kept])
            gc.collect()
            found["waiting"] = (tracemalloc.get_traced_memory()[0] - before) / many - own + found["idle"]
            found["own"] = own
            for handle in kept:
                await handle.refresh()
            gc.collect()
            found["looked at"] = (tracemalloc.get_traced_memory()[0] - before) / many - own + found["idle"]
            tracemalloc.stop()
            before_cpu, began = cpu(), time.monotonic()
            await asyncio.sleep(5)
            found["quiet"] = (cpu() - before_cpu) / (time.monotonic() - began) * 100
            for each in waits:
                each.cancel()
            await asyncio.wait(waits)
        return found

    return asyncio.run(run())


def crowd(url: str, count: str, lasts: str) -> Numbers:
    """How late the loop is, in ms, and how much of the core is in use, while so many tasks are waited for."""

    async def run() -> Numbers:
        ask, waits = asyncio.to_thread, list[asyncio.Future[Any]]()
        await ask(server.steer, url, "begin", median=float(lasts))
        made = await ask(server.steer, url, "make", count=int(count))
        async with ours.session(url, Polling()) as kling:
            refs = [TaskRef(origin=url, action="videos", action2="text2video", task_id=task_id) for task_id in made]
            await kling.attach(refs[0]).refresh()
            for ref in refs:
                waits.append(asyncio.ensure_future(kling.attach(ref).wait()))
                await asyncio.sleep(0)
            gc.collect()
            before = cpu()
            lags = sorted(await lateness(float(lasts)))
            used, told = cpu() - before, await ask(server.steer, url, "told")
            done = sum(wait.done() for wait in waits)
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        found = {"p99": lags[len(lags) * 99 // 100], "p50": lags[len(lags) // 2], "most": lags[-1]}
        return {**found, "done": done, "reads": told["reads"] / float(lasts), "cpu": used / float(lasts) * 100}

    return asyncio.run(run())


async def lateness(seconds: float) -> list[float]:
    """By how many ms each sleep of a millisecond ended late, for so many seconds."""
    loop, late = asyncio.get_running_loop(), list[float]()
    begun = now = loop.time()
    while now < begun + seconds:
        await asyncio.sleep(0.001)
        late.append((loop.time() - now - 0.001) * 1000)
        now = loop.time()
    return late


async def wait_bare() -> None:
    """A caller's coroutine that awaits, by way of one more, something that has a future."""

    async def inner() -> None:
        await asyncio.get_running_loop().create_future()

    await inner()


def rows(quick: bool) -> Iterator[Figure]:  # noqa: FBT001  as `kit.main` calls it
    """The lines about handles."""
    found = fresh(__file__, "memory", 1000 if quick else MANY)
    note = f"the caller's own task {found['own']:,.0f} B; after its first look {found['looked at']:,.0f} B"
    yield Figure(name="memory per handle, awaited", goal="≤ 0.8 KB", limit=800, value=found["waiting"], unit="B", digits=0, note=note)
    yield Figure(name="memory per handle, not awaited", goal="≤ 0.5 KB", limit=512, value=found["idle"], unit="B", digits=0)
    yield Figure(name=f"{MANY:,} waits, nothing due: CPU", goal="≤ 0.1 %", limit=0.1, value=found["quiet"], unit="%", digits=3)
    many, lasts = (1000, 3.0) if quick else (CROWD, LASTS)
    with started(server.PATH) as url:
        late, idle = fresh(__file__, "crowd", url, many, lasts), fresh(__file__, "crowd", url, 1, lasts)
    note = f"median {late['p50']:.1f}, longest {late['most']:.1f}; {late['reads']:.0f} looks a second, {late['cpu']:.0f} % of a core"
    note += f", {late['done']:.0f} ended; of a loop that waits for one task {idle['p99']:.1f}, longest {idle['most']:.1f}"
    yield Figure(name=f"{many:,} waits: loop lag, p99", goal="< 20 ms", limit=20, value=late["p99"], unit="ms", digits=1, note=note)


CASES: Final[dict[str, Callable[..., Numbers]]] = {"memory": memory, "crowd": crowd}

if __name__ == "__main__":
    main(rows, CASES)
