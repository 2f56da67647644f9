"""Downloads, row by row: the disk, what is there already, crashes, many at once (`reliability.md` 4.9)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from aiohttp import web

from file_hosts import MP4, REF, Asked, ByteHost, FileHost, byte_host, clip, file_host, names, reply, rest, serving, whole
from kling_async import Expected
from kling_async.errors import DownloadError
from kling_async.models import Video
from kling_async.observers import Saved

pytestmark = pytest.mark.usefixtures("nothing_is_left")

host = pytest.fixture(byte_host)
web_host = pytest.fixture(file_host)

LARGE = clip(3_000_000)
TAG = 'ETag: "one"'
SHA256 = hashlib.sha256(LARGE).hexdigest()


def honest(asked: Asked) -> tuple[bytes]:
    """A host that can go on."""
    return (rest(LARGE, asked.start, TAG) if asked.start else whole(LARGE, TAG),)


@pytest.mark.row("N3")
@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
async def test_trouble_of_the_disk(host: ByteHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, trouble: int) -> None:
    """Whatever the disk refuses, and when: told with place, bytes and reason; there is no file under the final name."""
    host.answer = honest
    home: Any = Path if step == "replace" else os
    real = getattr(home, step)

    def refuse(path: str | Path | int, *rest: object) -> object:
        if step == "fsync" or (step == "open" and str(path).endswith(".part")) or (step == "replace" and str(rest[0]).endswith("mp4")):
            raise OSError(trouble, os.strerror(trouble))
        return real(path, *rest)

    monkeypatch.setattr(home, step, refuse)
    with pytest.raises(DownloadError, match=rf"cannot write .*8800\.\* after \d+ bytes: {os.strerror(trouble)}"):
        await host.files.save([host.video()], tmp_path, ref=REF)
    left = names(tmp_path)
    assert left == [] or (left[0].endswith(".part") and left[1:] == [f"{left[0]}.json"])
    monkeypatch.setattr(home, step, real)
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    assert path.read_bytes() == LARGE
    assert names(tmp_path) == ["8800.mp4"]


@pytest.mark.row("N3")
async def test_a_limit_of_file_sizes(host: ByteHost, tmp_path: Path) -> None:
    """A disk that is full in the middle leaves what is safe; with room again the download goes on there."""
    host.answer = honest
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, limits[1]))
    try:
        with pytest.raises(DownloadError, match="File too large"):
            await host.files.save([host.video()], tmp_path, ref=REF)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    part, sidecar = names(tmp_path)
    assert sidecar == f"{part}.json"
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    assert path.read_bytes() == LARGE
    assert host.asked[-1].start > 1_000_000
    assert names(tmp_path) == ["8800.mp4"]


class Filling:
    """A file on a disk that is full once, after a part of what was to be written, and then has room again."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.full = True

    def write(self, data: memoryview) -> int:
        if self.full and len(data) > 1000:
            self.full = False
            self.file.write(data[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.row("N3")
async def test_half_of_a_write(host: ByteHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that failed half-way leaves no trace in what is kept, when there is room again right after it."""
    host.answer = honest
    real = os.fdopen

    def filling(descriptor: int, mode: str, **more: Any) -> Any:
        file = real(descriptor, mode, **more)
        return Filling(file) if mode == "r+b" else file

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", filling)
        with pytest.raises(DownloadError, match="No space left"):
            await host.files.save([host.video()], tmp_path, ref=REF)
    part, _ = names(tmp_path)
    kept = (tmp_path / part).read_bytes()
    assert len(kept) > 1_000_000
    assert LARGE.startswith(kept)
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    assert path.read_bytes() == LARGE


@pytest.mark.parametrize("step", ["mkdir", "listdir", "fsync"])
@pytest.mark.parametrize("native", [True, False])
async def test_a_disk_that_is_stuck(host: ByteHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, *, native: bool) -> None:
    """Whoever gives up a save, in either way, leaves at once though the disk does not answer; its thread tidies up when it does."""
    host.answer = honest
    loop, stuck, end, late = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), threading.Event()
    home: Any = Path if step == "mkdir" else os
    real = getattr(home, step)

    def hang(*args: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and not end.is_set():
            loop.call_soon_threadsafe(stuck.set)
            if not end.wait(5):
                late.set()
        return real(*args, **options)

    monkeypatch.setattr(home, step, hang)
    scope = anyio.CancelScope()

    async def save() -> None:
        with scope:
            await host.files.save([host.video()], tmp_path / "out", ref=REF)

    saving = asyncio.ensure_future(save())
    await stuck.wait()
    saving.cancel() if native else scope.cancel()
    await asyncio.wait([saving])
    assert not late.is_set()
    end.set()
    (path,) = await host.files.save([host.video()], tmp_path / "out", ref=REF)
    assert path.read_bytes() == LARGE


@pytest.mark.row("N4")
async def test_who_was_faster(host: ByteHost, tmp_path: Path) -> None:
    """A file that appears during the download is kept and not taken for ours; of ours nothing is left, nor said."""
    kept: list[Saved] = []

    async def keep(saved: Saved, _index: int, _validator: str) -> None:
        kept.append(saved)

    host.files.keep = keep

    def answer(asked: Asked) -> Iterator[bytes]:
        (tmp_path / "8800.mp4").write_bytes(b"theirs")
        yield from honest(asked)

    host.answer = answer
    assert await host.files.save([host.video()], tmp_path, ref=REF) == (tmp_path / "8800.mp4",)
    assert names(tmp_path) == ["8800.mp4"]
    assert not any(isinstance(record, Saved) for record in host.records)
    assert kept == []


@pytest.mark.row("N4")
async def test_what_is_in_the_way(web_host: FileHost, tmp_path: Path) -> None:
    """Links out of the directory are neither followed nor counted, links inside it count, a linked directory is a directory."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "precious.mp4").write_bytes(b"precious")
    (target / "8800.mp4").symlink_to(outside / "precious.mp4")
    for overwrite in (False, True):
        (path,) = await web_host.files.save([web_host.video(serving())], target, ref=REF, overwrite=overwrite)
        assert not path.is_symlink()
        assert path.read_bytes() == MP4
    assert (outside / "precious.mp4").read_bytes() == b"precious"
    assert names(outside) == ["precious.mp4"]
    path.rename(target / "mine.mp4")
    (target / "8800.mp4").symlink_to("mine.mp4")
    assert await web_host.files.save([web_host.video(serving())], target, ref=REF) == (target / "8800.mp4",)
    assert (target / "8800.mp4").is_symlink()
    (tmp_path / "linked").symlink_to(outside)
    assert await web_host.files.save([web_host.video(serving())], tmp_path / "linked", ref=REF) == (tmp_path / "linked" / "8800.mp4",)
    assert names(outside) == ["8800.mp4", "precious.mp4"]


@pytest.mark.row("N4")
async def test_two_tasks_of_one_name(web_host: FileHost, tmp_path: Path) -> None:
    """Ids that are the same once they are reduced to harmless characters are not the same file."""
    url = web_host.video(serving()).url
    saved = [(await web_host.files.save([Video(id=name, url=url)], tmp_path))[0] for name in ("a/b", "a:b", "a_b", "a/b")]
    assert saved[0] == saved[3]
    assert len(set(saved)) == len(names(tmp_path)) == 3


@pytest.mark.row("N4")
async def test_parts_of_others(host: ByteHost, tmp_path: Path) -> None:
    """What somebody else is at is left alone; what a dead one left and nobody can go on with is cleared away."""
    host.answer = honest
    litter = [".8800.00000000.part", ".8800.11111111.part.json", ".8800.22222222.mode", ".8800.33333333.part"]
    for name in litter:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".8800.44444444.part").symlink_to("/dev/null")
    (tmp_path / ".88001.00000000.part").write_bytes(b"of another task")
    with (tmp_path / ".8800.33333333.part").open("rb") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        await host.files.save([host.video()], tmp_path, ref=REF)
    assert names(tmp_path) == [".8800.33333333.part", ".8800.44444444.part", ".88001.00000000.part", "8800.mp4"]


CHILD = """
import asyncio, itertools, os, pathlib, signal, sys
from kling_async._clock import SystemClock
from kling_async.files import Files
from kling_async.hosts import Hosts
from kling_async.models import TaskRef, Video

replace = pathlib.Path.replace
def mortal(path, target):
    final = str(target).endswith(".mp4")
    if final and sys.argv[3] == "before the name": os.kill(os.getpid(), signal.SIGKILL)
    done = replace(path, target)
    if final and sys.argv[3] == "after the name": os.kill(os.getpid(), signal.SIGKILL)
    return done
pathlib.Path.replace = mortal
ref = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="8800")
class Hasty(SystemClock):
    seconds = itertools.count()
    def now(self): return float(next(self.seconds))
files = Files(Hosts(public_only=False), Hasty(), lambda _: None)
asyncio.run(files.save([Video(id="900", url=sys.argv[1])], sys.argv[2], ref=ref))
"""


@pytest.mark.row("N12")
@pytest.mark.parametrize("stage", ["in the middle", "before the name", "after the name"])
async def test_killed(host: ByteHost, tmp_path: Path, stage: str) -> None:
    """A process that is killed leaves no file or the whole one, and the next one goes on where the disk was safe."""
    cut = reply(200, f"Content-Length: {len(LARGE)}", TAG, body=LARGE[:2_000_000])
    busy = reply(503, "Retry-After: 50")
    host.answer = lambda asked: (cut if not asked.number else busy,) if stage == "in the middle" else honest(asked)

    def watch() -> int:
        child = subprocess.Popen([sys.executable, "-c", CHILD, host.video().url, tmp_path, stage])
        while stage == "in the middle" and child.poll() is None and len(host.asked) < 2:
            time.sleep(0.01)
        if stage == "in the middle":
            child.send_signal(signal.SIGKILL)
        return child.wait()

    assert await anyio.to_thread.run_sync(watch) == -signal.SIGKILL
    final = tmp_path / "8800.mp4"
    assert final.exists() == (stage == "after the name")
    host.answer = honest
    host.asked.clear()
    assert await host.files.save([host.video()], tmp_path, ref=REF) == (final,)
    assert final.read_bytes() == LARGE
    assert [asked.start > 1_000_000 for asked in host.asked] == ([True] if stage == "in the middle" else [])
    assert names(tmp_path) == ["8800.mp4"]


@pytest.mark.row("N13")
@pytest.mark.parametrize("expected", [Expected(size=1), Expected(sha256="00" * 32), Expected(size=len(LARGE), sha256="ff" * 32)])
async def test_not_what_was_expected(host: ByteHost, tmp_path: Path, expected: Expected) -> None:
    """A file that is not what the caller expects is removed; one that is there already is left, and is an error as well."""
    host.answer = honest
    with pytest.raises(DownloadError, match="expected") as unfit:
        await host.files.save([host.video()], tmp_path, ref=REF, expected=[expected])
    assert not unfit.value.retryable
    assert names(tmp_path) == []
    right = Expected(size=len(LARGE), sha256=SHA256.upper())
    for _ in range(2):
        (path,) = await host.files.save([host.video()], tmp_path, ref=REF, expected=[right])
    assert host.records[-1] == Saved(path=path, size=len(LARGE), sha256=SHA256, verified="sha256", ref=REF)
    with pytest.raises(DownloadError, match="left as it is"):
        await host.files.save([host.video()], tmp_path, ref=REF, expected=[expected])
    assert path.read_bytes() == LARGE


@pytest.mark.row("N14")
async def test_a_hundred_at_once(web_host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for, eight are fetched at a time, and the event loop's thread never waits for the disk."""
    under_way = at_most = 0
    threads: set[int] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        threads.add(threading.get_ident())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    async def handle(_request: web.Request) -> web.Response:
        nonlocal under_way, at_most
        under_way += 1
        at_most = max(at_most, under_way)
        await asyncio.sleep(1)
        under_way -= 1
        return web.Response(body=MP4[:2000])

    entries = [web_host.video(handle, f"v{number}") for number in range(100)]
    saved = await asyncio.gather(*(web_host.files.save(entries[n : n + 10], tmp_path / str(n), ref=REF) for n in range(0, 100, 10)))
    assert sum(map(len, saved)) == 100
    assert at_most == 8
    assert threads
    assert threading.get_ident() not in threads
