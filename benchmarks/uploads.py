"""What a large picture costs to send: memory beside it, and how long the event loop stands still.

    python benchmarks/uploads.py [MEGABYTES]

A server in a process of its own swallows each request. Every case runs in a fresh process, sends one tiny picture to
have everything imported, and then the large one; the table shows medians of five processes, and of the lag also the
least, as other programs only add to it. Memory is how far the peak of the resident set (VmHWM, Linux) rose above what
was resident before sending, when the picture, where it is given as bytes, was there already. Lag is the longest by
which a task that sleeps a millisecond at a time woke up late; the row `nothing` tells what the machine does to that.
Busy is the most CPU that the loop's thread used during one such sleep: what of the lag is the program's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path

RUNS = 5
REPLY = '{"code": 0, "data": {"task_id": "%d", "task_status": "submitted"}}'
TASKS = itertools.count(8800)
CASES = {
    "bytes": "kling_async, bytes",
    "file": "kling_async, path",
    "naive": "aiohttp, json= with base64",
    "nothing": "nothing, for 0.2 s",
}


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


def resident(name: str) -> float:
    """A figure of this process's memory, such as VmHWM, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def begin_peak_anew() -> None:
    """Make VmHWM what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def read(path: Path) -> bytes:
    """What is in the file, all at once."""
    return path.read_bytes()


async def lateness() -> tuple[float, float]:
    """Until cancelled: the longest lateness of a millisecond's sleep, and the most CPU the loop used during one, both in ms."""
    worst = busiest = 0.0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            begun, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            worst = max(worst, (time.perf_counter() - begun - 0.001) * 1000)
            busiest = max(busiest, (time.thread_time() - cpu) * 1000)
    return worst, busiest


async def measured(send: Callable[[bytes | Path], Awaitable[object]], image: bytes | Path) -> dict[str, float]:
    """What sending costs the second time."""
    await send(picture(1_000))
    begin_peak_anew()
    before, cpu, watch = resident("VmRSS"), time.process_time(), asyncio.create_task(lateness())
    await asyncio.sleep(0.01)
    begun = time.perf_counter()
    await send(image)
    took, spent = time.perf_counter() - begun, time.process_time() - cpu
    watch.cancel()
    memory = resident("VmHWM") - before
    late, busy = await watch
    return {"memory": memory, "lag": late, "busy": busy, "cpu": spent * 1000, "took": took * 1000}


async def run(case: str, url: str, path: Path) -> dict[str, float]:
    """One case in this process."""
    image = path if case == "file" else read(path)
    if case == "nothing":
        return await measured(lambda _: asyncio.sleep(0.2), image)
    if case == "naive":
        import aiohttp

        async with aiohttp.ClientSession() as http:

            async def post(image: bytes | Path) -> object:
                data = image if isinstance(image, bytes) else read(image)
                async with http.post(url, json={"prompt": "run", "image": b64encode(data).decode()}) as response:
                    return await response.read()

            return await measured(post, image)
    from kling_async import Image2Video, KlingSession

    async with KlingSession("sk-benchmark", base_url=url) as kling:
        return await measured(lambda image: kling.submit(Image2Video(image=image, prompt="run")), image)


def main(megabytes: int) -> None:
    """Run all cases against one server, and print the table."""
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE) as server:  # noqa: S603  ourselves
        try:
            assert server.stdout  # noqa: S101  it was asked for
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            path = Path(folder) / "picture.png"
            path.write_bytes(picture(megabytes * 2**20))
            print(f"| {megabytes} MB picture | memory MB | lag ms | least | busy ms | CPU ms | took ms |\n|{' --- |' * 7}")
            for case, name in CASES.items():
                command = [sys.executable, __file__, "run", case, url, str(path)]
                rows = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(RUNS)]  # noqa: S603  ourselves
                middle = {figure: statistics.median(row[figure] for row in rows) for figure in rows[0]}
                least = min(row["lag"] for row in rows)
                figures = (middle["memory"], middle["lag"], least, middle["busy"], middle["cpu"], middle["took"])
                print(f"| {name} | {' | '.join(f'{figure:.1f}' for figure in figures)} |", flush=True)
        finally:
            server.kill()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            asyncio.run(serve())
        case ["run", case, url, path]:
            print(json.dumps(asyncio.run(run(case, url, Path(path)))))
        case [*size]:
            main(int(size[0]) if size else 10)
