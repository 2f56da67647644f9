"""What a large result costs to fetch: speed beside `curl`, memory, and how long the event loop stands still.

    python benchmarks/downloads.py [MEGABYTES]

A server in a process of its own serves one clip of zeros. Every case runs in a fresh process, fetches a small clip to have
everything imported, and then the large one; `curl` (without it, a loop around `recv` and `write`) runs right before each, as
the machine is not the same from one minute to the next, and the ratio is that of the two. Figures are medians of five pairs,
of the lag also the least. Memory is how far the peak of the resident set rose (VmHWM, Linux); lag and busy as in `uploads.py`.
The row `sha256` is what hashing alone takes, which `curl` does not do.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from uploads import begin_peak_anew, lateness, resident

PAIRS = 5
CASES = {
    "save": "kling_async, save",
    "stream": "kling_async, stream, bytes dropped",
    "naive": "aiohttp, `iter_chunked`, write in the loop",
    "sha256": "sha256 of as much",
}
HEAD = b"\0\0\0\x18ftypisom\0\0\2\0isommp41\0\0\0\x10moov" + bytes(8)


def serve(megabytes: int) -> None:
    """Serve clips on loopback until killed, and say where: `/large` has that size, others a megabyte."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, megabytes), daemon=True).start()


def answer(connection: socket.socket, megabytes: int) -> None:
    """Answer one request."""
    with connection, tempfile.TemporaryFile() as file:
        size = (megabytes if b"/large" in connection.recv(1 << 16) else 1) * 2**20
        file.write(HEAD + (size - len(HEAD)).to_bytes(4, "big") + b"mdat")
        file.truncate(size)
        file.seek(0)
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode())
        connection.sendfile(file)


def plainly(url: str, path: Path) -> float:
    """Megabytes a second of a program that does nothing else."""
    begun = time.perf_counter()
    if shutil.which("curl"):
        subprocess.run(["curl", "-sSo", path, url], check=True)  # noqa: S603, S607  whatever curl the user has
    else:
        host, _, port = url.split("/")[2].partition(":")
        with socket.create_connection((host, int(port))) as connection, path.open("wb", buffering=0) as file:
            connection.sendall(f"GET {url} HTTP/1.1\r\n\r\n".encode())
            while data := connection.recv(1 << 20):
                file.write(data)
    return path.stat().st_size / 2**20 / (time.perf_counter() - begun)


async def measured(fetch: Callable[[str], Awaitable[object]], url: str, megabytes: int) -> dict[str, float]:
    """What fetching costs the second time."""
    await fetch(f"{url}/small")
    begin_peak_anew()
    before, cpu, watch = resident("VmRSS"), time.process_time(), asyncio.create_task(lateness())
    await asyncio.sleep(0.01)
    begun = time.perf_counter()
    await fetch(f"{url}/large")
    took, spent = time.perf_counter() - begun, time.process_time() - cpu
    watch.cancel()
    memory = resident("VmHWM") - before
    late, busy = await watch
    return {"speed": megabytes / took, "memory": memory, "lag": late, "busy": busy, "cpu": spent * 1000}


async def run(case: str, url: str, folder: Path, megabytes: int) -> dict[str, float]:
    """One case in this process."""
    if case == "sha256":
        return await measured(lambda _: asyncio.to_thread(hash_zeros, megabytes), url, megabytes)
    if case == "naive":
        import aiohttp

        async with aiohttp.ClientSession() as http:

            async def get(link: str) -> None:
                async with http.get(link) as response:
                    with (folder / "naive").open("wb") as file:
                        async for piece in response.content.iter_chunked(1 << 16):
                            file.write(piece)

            return await measured(get, url, megabytes)
    from kling_async import KlingSession, Video

    async with KlingSession("sk-benchmark", base_url=url) as kling:

        async def stream(link: str) -> None:
            async for _ in kling.stream(Video(id="900", url=link)):
                pass

        async def save(link: str) -> None:
            await kling.save([Video(id="900", url=link)], folder, overwrite=True)

        return await measured(save if case == "save" else stream, url, megabytes)


def hash_zeros(megabytes: int) -> str:
    """The hash of so many zeros."""
    digest, piece = hashlib.sha256(), bytes(2**20)
    for _ in range(megabytes):
        digest.update(piece)
    return digest.hexdigest()


def main(megabytes: int) -> None:
    """Run all cases against one server, and print the table."""
    ourselves = [sys.executable, __file__]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*ourselves, "serve", str(megabytes)], stdout=subprocess.PIPE) as server,  # noqa: S603
    ):
        try:
            assert server.stdout  # noqa: S101  it was asked for
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            print(f"| {megabytes} MB clip | MB/s | of curl | memory MB | lag ms | least | busy ms | CPU ms |\n|{' --- |' * 8}")
            for case, name in CASES.items():
                rows, ratios = [], []
                for _ in range(PAIRS):
                    plain = plainly(f"{url}/large", Path(folder) / "plain")
                    command = [*ourselves, "run", case, url, folder, str(megabytes)]
                    rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))  # noqa: S603
                    ratios.append(rows[-1]["speed"] / plain)
                middle = {figure: statistics.median(row[figure] for row in rows) for figure in rows[0]}
                least = min(row["lag"] for row in rows)
                figures = (middle["memory"], middle["lag"], least, middle["busy"], middle["cpu"])
                shown = " | ".join(f"{figure:.1f}" for figure in figures)
                print(f"| {name} | {middle['speed']:.0f} | {statistics.median(ratios):.2f} | {shown} |", flush=True)
        finally:
            server.kill()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", size]:
            serve(int(size))
        case ["run", case, url, folder, size]:
            print(json.dumps(asyncio.run(run(case, url, Path(folder), int(size)))))
        case [*size]:
            main(int(size[0]) if size else 200)
