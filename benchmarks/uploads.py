"""What a large picture costs to send, in memory beside it and in delay of the loop: `python benchmarks/uploads.py [--quick]`.

Every case runs in a fresh process, sends one tiny picture to have everything imported, and then one of 10 MB to a server that swallows it.
Memory is how far the peak of the resident set rose above what was resident before sending (Linux), when the picture, where it is given as
bytes, was there already. Lag is the longest by which a task that sleeps a millisecond at a time woke up late: other programs only add to
it, and the note tells what they did to a loop that has nothing to do, and to one that does nothing but keep its core busy, as one that
sends does, in turns of a fifth of a millisecond. Busy is the most CPU that the loop's thread used during one such
sleep, a millisecond of work beside it included: what of the lag is the program's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from kit import Figure, Numbers, cpu, main, middle, paired, resident, started

MIB: Final = 2**20
REPLY: Final = '{"code": 0, "data": {"task_id": "%d", "task_status": "submitted"}}'
TASKS: Final = itertools.count(8800)


def picture(size: int) -> bytes:
    """So many bytes that begin like a picture."""
    start = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return start + os.urandom(size - len(start))


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read requests to their ends, and accept each."""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            left = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
            while left:
                left -= len(await reader.readexactly(min(left, 1 << 16)))
            reply = REPLY % next(TASKS)
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(reply)}\r\n\r\n{reply}".encode())
    writer.close()


async def serve() -> None:
    """Listen on loopback until killed, and say where."""
    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def lateness() -> tuple[float, float]:
    """Until cancelled: the longest lateness of a millisecond's sleep, and the most CPU the loop used during one, both in ms."""
    worst = busiest = 0.0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            begun, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            worst = max(worst, (time.perf_counter() - begun - 0.001) * 1000)
            busiest = max(busiest, (time.thread_time() - used) * 1000)
    return worst, busiest


async def watched(work: Callable[[], Awaitable[object]]) -> Numbers:
    """What it costs: memory in MB, lag and busy in ms, CPU in seconds."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # noqa: ASYNC240  the peak is what is resident now
    before, used, watch = resident(), cpu(), asyncio.create_task(lateness())
    await asyncio.sleep(0.01)
    await work()
    used = cpu() - used
    watch.cancel()
    memory = (resident("VmHWM") - before) / 1024
    lag, busy = await watch
    return {"memory": memory, "lag": lag, "busy": busy, "cpu": used}


def ours(url: str, image: bytes | Path) -> Numbers:
    """A creation with a picture."""
    from kling_async import Image2Video, KlingSession

    async def run() -> Numbers:
        async with KlingSession("sk-benchmark-0123456789abcdef0123456789", base_url=url) as kling:
            await kling.submit(Image2Video(image=picture(1_000), prompt="run"))
            return await watched(lambda: kling.submit(Image2Video(image=image, prompt="run")))

    return asyncio.run(run())


def by_hand(url: str, path: str) -> Numbers:
    """Plain aiohttp, and a text for `json=`."""
    import aiohttp

    async def run() -> Numbers:
        async with aiohttp.ClientSession() as http:

            async def post(image: bytes) -> object:
                async with http.post(url, json={"prompt": "run", "image": b64encode(image).decode()}) as response:
                    return await response.read()

            await post(picture(1_000))
            image = Path(path).read_bytes()  # noqa: ASYNC240  before it is measured
            return await watched(lambda: post(image))

    return asyncio.run(run())


def nothing(_url: str, _path: str) -> Numbers:
    """What the machine does to a loop that has nothing to do."""
    return asyncio.run(watched(lambda: asyncio.sleep(0.2)))


def turns(_url: str, _path: str) -> Numbers:
    """What it does to one that is busy, in turns far shorter than any lag."""

    async def spin() -> None:
        end = time.perf_counter() + 0.05
        while (now := time.perf_counter()) < end:
            while time.perf_counter() < now + 0.0002:
                pass
            await asyncio.sleep(0)

    return asyncio.run(watched(spin))


def rows(quick: bool) -> Iterator[Figure]:  # noqa: FBT001  as `kit.main` calls it
    """The lines about pictures."""
    megabytes = 2 if quick else 10
    with tempfile.TemporaryDirectory() as folder, started(__file__, "serve") as url:
        path = Path(folder, "picture.png")
        path.write_bytes(picture(megabytes * MIB))
        runs = paired(__file__, list(CASES), url, path, times=1 if quick else 7)
    naive = runs["naive"]
    loops = f"a loop with nothing to do {middle(runs['nothing'], 'lag'):.1f}, a busy one {middle(runs['turns'], 'lag'):.1f}"
    for case in ("bytes", "file"):
        of = f"{megabytes} MB picture from {'bytes' if case == 'bytes' else 'a file'}"
        own, least = middle(runs[case], "busy"), min(run["lag"] for run in runs[case])
        note = f"least {least:.1f}, the loop's own CPU {own:.1f}; {loops}, `json=` {middle(naive, 'lag'):.0f}"
        yield Figure(name=f"{of}: loop lag", goal="≤ 5 ms", limit=5, value=middle(runs[case], "lag"), unit="ms", digits=1, note=note)
        note = (
            f"`json=` {middle(naive, 'memory'):.0f} MB; CPU {middle(runs[case], 'cpu') * 1000:.0f} and {middle(naive, 'cpu') * 1000:.0f} ms"
        )
        yield Figure(name=f"{of}: extra memory", goal="≤ 1 MB", limit=1, value=middle(runs[case], "memory"), unit="MB", note=note)


CASES = {
    "bytes": lambda url, path: ours(url, Path(path).read_bytes()),
    "file": lambda url, path: ours(url, Path(path)),
    "naive": by_hand,
    "nothing": nothing,
    "turns": turns,
}

if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        main(rows, CASES)
