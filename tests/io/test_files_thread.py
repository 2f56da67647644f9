"""What a thread does for a download: in its order, while more comes, and to its end when nobody waits any more."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from attrs import define, field

from file_hosts import REF, Asked, ByteHost, byte_host, clip, names, quiet, reply, rest, whole
from kling_async import Expected
from kling_async._clock import SystemClock
from kling_async._containers import Inspector
from kling_async._ranges import Held
from kling_async.errors import DownloadError
from kling_async.files._hand import Hand
from kling_async.files._part import Part
from kling_async.observers import Progress

pytestmark = pytest.mark.usefixtures("nothing_is_left")

host = pytest.fixture(byte_host)

MIB = 1 << 20
LARGE = clip(3_000_000)
TAG = 'ETag: "one"'


@define(eq=False)
class Disk:
    """A disk that does not answer to one kind of call until it is told to."""

    step: str
    real: Any = None
    stuck: threading.Event = field(factory=threading.Event)
    answers: threading.Event = field(factory=threading.Event)
    threads: set[int] = field(factory=set)
    waited_for: bool = False
    """Whether somebody waited for it who must not."""

    def fdopen(self, descriptor: int, mode: str, **more: Any) -> Any:
        file = self.real(descriptor, mode, **more)
        return File(self, file) if mode == "r+b" else file

    def wait(self) -> None:
        self.threads.add(threading.get_ident())
        self.stuck.set()
        self.waited_for |= not self.answers.wait(5)


@define(eq=False, slots=False)
class File:
    """A file on such a disk."""

    disk: Disk
    file: Any

    def __getattr__(self, name: str) -> Any:
        if name == self.disk.step:
            self.disk.wait()
        return getattr(self.file, name)


@pytest.fixture(params=["write"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk, under the files of downloads alone."""
    disk = Disk(request.param, os.fdopen)
    monkeypatch.setattr(os, "fdopen", disk.fdopen)
    yield disk
    assert not disk.waited_for


class Hasty(SystemClock):
    """A clock by which a second goes by between two looks at it."""

    seconds = 0.0

    def now(self) -> float:
        self.seconds += 1
        return self.seconds


async def put(part: Part, data: bytes) -> None:
    """Have it take these bytes."""
    while data:
        size = min(len(part.room), len(data))
        part.room[:size] = data[:size]
        await part.took(size)
        data = data[size:]


async def turns() -> None:
    """Let everything happen that waits for no thread."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_in_order() -> None:
    """A hand does what it is told in that order, tells who waits what came of it, and ends when it is told to."""
    hand, done = Hand(), list[int]()

    def fail() -> None:
        raise OSError(5, "no")

    for number in range(100):
        hand.tell(partial(done.append, number))
    hand.tell(fail)
    with pytest.raises(OSError, match="no"):
        await hand.tell(fail)
    assert await hand.tell(lambda: len(done)) == 100
    assert done == list(range(100))
    (thread,) = (each for each in threading.enumerate() if getattr(each, "hand", None) is hand)
    assert hand.idle
    hand.end()
    thread.join(5)
    assert not thread.is_alive()


async def test_more_comes_while_it_is_written(disk: Disk, tmp_path: Path) -> None:
    """While a batch is written the next one is taken, and no more than that: what is held stays bounded on a slow disk."""
    part, data = Part(tmp_path / "8800", "u", REF), random.Random(0).randbytes(5 * MIB)
    first = len(part.room)
    await put(part, data[:first])
    await anyio.to_thread.run_sync(disk.stuck.wait)
    both = first + len(part.room)
    await put(part, data[first : both - 1])
    more = asyncio.ensure_future(put(part, data[both - 1 :]))
    await turns()
    assert not more.done()
    assert part.size == both
    disk.answers.set()
    await more
    path, _ = await part.finish(overwrite=False)
    assert path.read_bytes() == data
    assert part.inspector.sha256 == hashlib.sha256(data).hexdigest()
    await part.leave(resumable=False)
    assert names(tmp_path) == ["8800.bin"]


async def test_looked_at_while_it_is_written(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing does not wait for the disk: a batch is looked at by another thread while it is written."""
    looked, feed = threading.Event(), Inspector.feed

    def look(self: Inspector, data: bytes) -> None:
        feed(self, data)
        looked.set()

    monkeypatch.setattr(Inspector, "feed", look)
    part = Part(tmp_path / "8800", "u", REF)
    size = len(part.room)
    await put(part, bytes(size))
    await anyio.to_thread.run_sync(disk.stuck.wait)
    assert await anyio.to_thread.run_sync(looked.wait, 5)
    disk.answers.set()
    assert await part.is_whole() is None
    assert part.inspector.size == size
    await part.leave(resumable=False)


async def test_safe_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at before the disk had it is not noted as safe."""
    part, looked = Part(tmp_path / "8800", "u", REF), threading.Event()
    feed, fsync = Inspector.feed, os.fsync

    def look(self: Inspector, data: bytes) -> None:
        feed(self, data)
        if self.size > MIB:
            looked.set()

    def sync(descriptor: int) -> None:
        assert looked.wait(5)
        fsync(descriptor)

    monkeypatch.setattr(Inspector, "feed", look)
    monkeypatch.setattr(os, "fsync", sync)
    await put(part, bytes(MIB))
    await part.secure(Held(size=MIB, validator='"one"'))
    await put(part, bytes(len(part.room)))
    await part.leave(resumable=True)
    assert json.loads(part.path.with_name(f"{part.path.name}.json").read_bytes())["size"] == MIB


async def test_from_zero_again(tmp_path: Path) -> None:
    """What came before a restart is neither in the file nor in its hash."""
    part = Part(tmp_path / "8800", "u", REF)
    await put(part, bytes(2 * MIB + 500))
    part.room[:3] = b"new"
    await part.restart(3)
    await part.took(3)
    path, _ = await part.finish(overwrite=False)
    assert path.read_bytes() == b"new"
    assert (part.inspector.size, part.inspector.sha256) == (3, hashlib.sha256(b"new").hexdigest())
    await part.leave(resumable=False)


@pytest.mark.parametrize("place", [1, 2 * MIB, len(LARGE)])
async def test_a_look_that_fails(host: ByteHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """There is no file whose hash is not that of its bytes: a look that fails once fails the save, whichever byte it was at."""
    host.answer = lambda _: (whole(LARGE),)
    failed, feed = threading.Event(), Inspector.feed

    def look(self: Inspector, data: bytes) -> None:
        if not failed.is_set() and self.size < place <= self.size + len(data):
            failed.set()
            raise MemoryError
        feed(self, data)

    monkeypatch.setattr(Inspector, "feed", look)
    with pytest.raises(MemoryError):
        await host.files.save([host.video()], tmp_path, ref=REF)
    await quiet(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("disk", ["write", "close"], indirect=True)
@pytest.mark.parametrize("native", [True, False])
async def test_a_thread_that_outlives_its_save_cleans_up(host: ByteHost, disk: Disk, tmp_path: Path, *, native: bool) -> None:
    """Whoever gives up a save leaves at once, whatever the disk does; what cannot be gone on with its thread removes, when it can."""
    stalled = asyncio.Event()

    def answer(_asked: Asked) -> Iterator[bytes]:
        yield reply(200, f"Content-Length: {len(LARGE)}", body=LARGE[:2_500_000])
        asyncio.get_running_loop().call_later(0.0001, stalled.set)  # before the pause after which a cut download goes on
        yield b""

    host.answer = answer
    scope = anyio.CancelScope()

    async def save() -> None:
        with scope:
            await host.files.save([host.video()], tmp_path, ref=REF)

    saving = asyncio.ensure_future(save())
    if disk.step == "write":
        await anyio.to_thread.run_sync(disk.stuck.wait)
    else:
        await stalled.wait()
    saving.cancel() if native else scope.cancel()
    await asyncio.wait([saving])
    assert not disk.answers.is_set()
    await anyio.to_thread.run_sync(disk.stuck.wait)
    assert disk.threads.isdisjoint({threading.get_ident()})
    disk.answers.set()
    await quiet(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("disk", ["close"], indirect=True)
async def test_what_is_unfit_is_gone_with_the_error(host: ByteHost, disk: Disk, tmp_path: Path) -> None:
    """A file that is not wanted is removed by a thread before the error is told, and the loop goes on meanwhile."""
    host.answer = lambda _: (whole(LARGE, TAG),)
    saving = asyncio.ensure_future(host.files.save([host.video()], tmp_path, ref=REF, expected=[Expected(size=1)]))
    await anyio.to_thread.run_sync(disk.stuck.wait)
    await turns()
    assert not saving.done()
    disk.answers.set()
    with pytest.raises(DownloadError, match="expected"):
        await saving
    assert names(tmp_path) == []
    assert disk.threads.isdisjoint({threading.get_ident()})


@pytest.mark.parametrize("disk", ["close"], indirect=True)
async def test_again_right_after_giving_up(host: ByteHost, disk: Disk, tmp_path: Path) -> None:
    """A save that follows one which was given up goes on with its part, however long the disk takes to let go of that."""

    def answer(asked: Asked) -> Iterator[bytes]:
        if asked.start:
            yield rest(LARGE, asked.start, TAG)
        else:
            yield reply(200, f"Content-Length: {len(LARGE)}", TAG, body=LARGE[:2_500_000])

    host.answer = answer
    host.files.clock = Hasty()
    host.files.roll = lambda: 1.0  # it is given up before it tries again
    begun = asyncio.Event()
    host.files.tell = lambda record: begun.set() if isinstance(record, Progress) else None
    saving = asyncio.ensure_future(host.files.save([host.video()], tmp_path, ref=REF))
    await begun.wait()
    await asyncio.sleep(0.001)  # until the part is safe
    saving.cancel()
    await asyncio.wait([saving])
    again = asyncio.ensure_future(host.files.save([host.video()], tmp_path, ref=REF))
    await anyio.to_thread.run_sync(time.sleep, 0.02)
    disk.answers.set()
    (path,) = await again
    assert path.read_bytes() == LARGE
    assert host.asked[-1].start > MIB
    assert names(tmp_path) == ["8800.mp4"]
    del saving, again
    for thread in threading.enumerate():
        if thread.name == "kling_async file":
            thread.join(5)
    await turns()
    gc.collect()
    assert not host.files._leaving  # a session that saves for weeks does not remember every file


async def test_a_part_that_cannot_be_read(host: ByteHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a disk does not give back is not gone on with: the download begins again, and no byte of the old part is in the file."""
    cut = reply(200, f"Content-Length: {len(LARGE)}", TAG, body=LARGE[:2_500_000])
    host.answer = lambda asked: (reply(503, "Retry-After: 100") if asked.number else cut,)
    with pytest.raises(DownloadError, match="503"):
        await host.files.save([host.video()], tmp_path, ref=REF)
    assert len(names(tmp_path)) == 2
    shorter = clip(1_500_000, seed=1)
    host.answer = lambda _: (whole(shorter, TAG),)
    disk = Disk("", os.fdopen)

    def unreadable(descriptor: int, mode: str, **more: Any) -> Any:
        file = disk.fdopen(descriptor, mode, **more)
        if mode == "r+b" and os.fstat(descriptor).st_size:
            file.read = lambda _: os.read(-1, 1)
        return file

    monkeypatch.setattr(os, "fdopen", unreadable)
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    assert path.read_bytes() == shorter
    assert host.asked[-1].start == 0
    assert names(tmp_path) == ["8800.mp4"]
