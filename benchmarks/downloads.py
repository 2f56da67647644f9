"""What a large result costs to fetch, beside `curl`: `python benchmarks/downloads.py [--quick]`.

A server on the other core sends one clip of 200 MB of noise from memory. Each case runs in a fresh process, in turns with the others, on
every core (a save has a thread of its own, and `curl` may go where it likes), into a file that is not there yet. Of `curl` what counts is
the time of the transfer by its own clock, without the start of its process. It neither hashes what it gets nor waits until the disk has
it, as `save` does before it says that a file is there; so there is a second reference: `curl`, and after it SHA-256 (that of Python) and
`fsync` of the file. `hash` is the SHA-256 of as many bytes that are in memory already: nothing that hashes its file in one thread can be
faster. `least` receives into buffers that are used again, writes, hashes in a second thread and syncs, and does nothing else: no HTTP but
the end of the head, no event loop, no checks. Memory, lag and busy are those of `uploads.py`, of a file before the one that is timed: to
be woken a thousand times a second is a tenth of the work. The note tells where the CPU goes: `save` less `stream` is the file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Final, cast

from uploads import MIB, watched

from kit import Figure, Numbers, cpu, fresh, main, middle, started

HEAD: Final = b"\0\0\0\x18ftypisom\0\0\2\0isommp41\0\0\0\x10moov" + bytes(8)


def serve(megabytes: int) -> None:
    """Serve clips on loopback until killed, and say where: `/large` has that size, others a megabyte."""
    with tempfile.TemporaryFile() as file:
        file.write(HEAD + (megabytes * MIB - len(HEAD)).to_bytes(4, "big") + b"mdat" + os.urandom(MIB - len(HEAD) - 8))
        for _ in range(megabytes - 1):
            file.write(os.urandom(MIB))
        file.flush()
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection, file.fileno(), megabytes), daemon=True).start()


def answer(connection: socket.socket, file: int, megabytes: int) -> None:
    """Answer one request."""
    with connection:
        size = (megabytes if b"/large" in connection.recv(1 << 16) else 1) * MIB
        head = f'HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: "1"\r\nConnection: close\r\n\r\n'
        connection.sendall(head.encode())
        sent = 0
        while sent < size:
            sent += os.sendfile(connection.fileno(), file, sent, size - sent)


def curl(url: str, folder: str, megabytes: str) -> Numbers:
    """`curl` alone, and what hashing and syncing its file takes then."""
    everywhere()
    path = Path(folder, "curl")
    command = ["curl", "-sS", "-o", str(path), "-w", "%{time_total}", f"{url}/large"]
    took = float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)  # noqa: S603  whatever curl the user has
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    with path.open("r+b") as file:
        hashlib.file_digest(file, "sha256")
        os.fsync(file.fileno())
    after = time.perf_counter() - begun
    path.unlink()
    return {"speed": int(megabytes) / took, "same": int(megabytes) / (took + after), "cpu": used.ru_utime + used.ru_stime}


def hashed(_url: str, _folder: str, megabytes: str) -> Numbers:
    """The hash alone."""
    everywhere()
    digest, piece, used, begun = hashlib.sha256(), os.urandom(MIB), cpu(), time.perf_counter()
    for _ in range(int(megabytes)):
        digest.update(piece)
    return {"speed": int(megabytes) / (time.perf_counter() - begun), "cpu": cpu() - used}


def least(url: str, folder: str, megabytes: str) -> Numbers:
    """What whoever receives, writes, hashes and syncs cannot do without."""
    from kling_async.files._disk import begin_with

    everywhere()
    host, _, port = url.rpartition("/")[2].partition(":")
    path, digest, empty, full = Path(folder, "least"), hashlib.sha256(), SimpleQueue[bytearray](), SimpleQueue[memoryview | None]()
    for _ in range(8):
        empty.put(bytearray(MIB))

    def look() -> None:
        while (piece := full.get()) is not None:
            digest.update(piece)
            empty.put(cast("bytearray", piece.obj))

    eye = threading.Thread(target=look)
    used, begun = cpu(), time.perf_counter()
    with path.open("wb", buffering=0) as file, socket.create_connection((host, int(port))) as connection:
        eye.start()
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: bench\r\n\r\n")
        start = connection.recv(4096).partition(b"\r\n\r\n")[2]
        digest.update(start)
        size = told = file.write(start)
        while size < int(megabytes) * MIB:
            buffer = empty.get()
            piece = memoryview(buffer)[: connection.recv_into(buffer)]
            size += file.write(piece)
            full.put(piece)
            if size - told >= 8 * MIB:
                begin_with(file.fileno(), told, size)
                told = size
        full.put(None)
        eye.join()
        os.fsync(file.fileno())
        took = time.perf_counter() - begun
    path.unlink()
    return {"speed": int(megabytes) / took, "cpu": cpu() - used}


def save(url: str, folder: str, megabytes: str) -> Numbers:
    """Into a file."""
    from kling_async import KlingSession, Video

    async def run() -> Numbers:
        async with KlingSession("sk-benchmark-0123456789abcdef0123456789", base_url=url) as kling:
            return await measured(lambda name: kling.save([Video(id=name, url=f"{url}/{name}")], folder), megabytes)

    numbers = asyncio.run(run())
    for path in Path(folder).glob("*.mp4"):
        path.unlink()
    return numbers


def stream(url: str, _folder: str, megabytes: str) -> Numbers:
    """Piece by piece, and nothing done with them."""
    from kling_async import KlingSession, Video

    async def run() -> Numbers:
        async with KlingSession("sk-benchmark-0123456789abcdef0123456789", base_url=url) as kling:

            async def take(name: str) -> None:
                async for _ in kling.stream(Video(id=name, url=f"{url}/{name}")):
                    pass

            return await measured(take, megabytes)

    return asyncio.run(run())


def naive(url: str, folder: str, megabytes: str) -> Numbers:
    """Plain aiohttp, written in the loop; neither hashed nor synced."""
    import aiohttp

    async def run() -> Numbers:
        async with aiohttp.ClientSession() as http:

            async def get(name: str) -> None:
                async with http.get(f"{url}/{name}") as response:
                    with Path(folder, f"naive-{name}").open("wb") as file:  # noqa: ASYNC230  as people do
                        async for piece in response.content.iter_chunked(1 << 16):
                            file.write(piece)

            return await measured(get, megabytes)

    numbers = asyncio.run(run())
    for path in Path(folder).glob("naive-*"):
        path.unlink()
    return numbers


async def measured(fetch: Callable[[str], Awaitable[object]], megabytes: str) -> Numbers:
    """How the loop does and what memory it takes to fetch a large file, and then what another one costs that nothing watches."""
    everywhere()
    await fetch("small")
    numbers = await watched(lambda: fetch("large"))
    used, begun = cpu(), time.perf_counter()
    await fetch("larger")
    return {**numbers, "speed": int(megabytes) / (time.perf_counter() - begun), "cpu": cpu() - used}


def everywhere() -> None:
    """Use every core again."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def rows(quick: bool) -> Iterator[Figure]:  # noqa: FBT001  as `kit.main` calls it
    """The lines about files."""
    megabytes = 20 if quick else 200
    cases = [case for case in CASES if case != "curl" or shutil.which("curl")]
    with tempfile.TemporaryDirectory() as folder, started(__file__, "serve", megabytes) as url:
        runs: dict[str, list[Numbers]] = {case: [] for case in cases}
        for _ in range(1 if quick else 9):
            for case in cases:
                runs[case].append(fresh(__file__, case, url, folder, megabytes))
    saved, streamed = runs["save"], runs["stream"]
    if plain := runs.get("curl"):
        spent = ", ".join(f"{case} {middle(runs[case], 'cpu') * 1000:.0f}" for case in cases)
        speeds = f"as a stream {middle(streamed, 'speed'):.0f}, of SHA-256 alone {middle(runs['hash'], 'speed'):.0f}"
        speeds += f", the least that writes, hashes and syncs {middle(runs['least'], 'speed'):.0f}"
        for beside, what, limit in (("speed", "curl", 0.8), ("same", "(curl, then SHA-256 and fsync)", 1.0)):
            yield Figure(
                name=f"{megabytes} MB into a file, beside {what.strip('()')}",
                goal=f"≥ {limit} × {what}",
                limit=limit,
                value=middle(saved, "speed"),
                reference=middle(plain, beside),
                unit="MB/s",
                at_least=True,
                digits=0,
                note=f"CPU ms: {spent}; MB/s {speeds}",
            )
    least, own = min(run["lag"] for run in saved), middle(saved, "busy")
    note = f"least {least:.1f}, the loop's own CPU {own:.1f}; written in the loop {middle(runs['naive'], 'lag'):.1f}"
    lag, memory = middle(saved, "lag"), middle(saved, "memory")
    yield Figure(name=f"{megabytes} MB into a file: loop lag", goal="≤ 20 ms", limit=20, value=lag, unit="ms", digits=1, note=note)
    yield Figure(name=f"{megabytes} MB into a file: extra memory", goal="flat: ≤ 8 MB", limit=8, value=memory, unit="MB", digits=1)


CASES = {"curl": curl, "hash": hashed, "least": least, "save": save, "stream": stream, "naive": naive}

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", size]:
            serve(int(size))
        case _:
            main(rows, CASES)
