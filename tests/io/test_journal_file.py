from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from attrs import evolve

from journals import ROW, child, said
from kling_async.errors import JournalError
from kling_async.journal import Journal, _writer

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal is to be."""
    return tmp_path / "kept" / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """A journal on disk, open."""
    async with Journal(path) as journal:
        yield journal


async def test_for_its_owners_eyes_only(journal: Journal, path: Path) -> None:
    """The directory made for it is 0700, and every file in it 0600, whatever the umask allows."""
    await journal.intend(ROW)
    owner = journal.owner()
    owner.claim()
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    owner.release()
    assert len(modes) == 4
    assert modes == dict.fromkeys(modes, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def contents(path: Path) -> dict[str, bytes]:
    """The bytes of the journal and what lies beside it, but for the index of the log, which holds nothing of its own."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")}


def spoiled(path: Path, spoil: Callable[[Path, bytes], object]) -> bytes:
    """What is left of the file."""
    spoil(path, path.read_bytes())
    return path.read_bytes()


def _newer(path: Path, _whole: bytes) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()


def _foreign(path: Path, _whole: bytes) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()


def _scribbled(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[:4096] + b"\xaa" * 4096 + whole[8192:])


DAMAGE: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "zero length": (lambda path, _: path.write_bytes(b""), "empty"),
    "header cut": (lambda path, whole: path.write_bytes(whole[:60]), "no journal"),
    "text": (lambda path, _: path.write_bytes(b"dear diary\n" * 100), "no journal"),
    "another program's": (_foreign, "another program"),
    "newer": (_newer, "version is 2"),
    "page scribbled": (_scribbled, "damaged|malformed"),
    "cut": (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), "damaged|malformed"),
}


@pytest.mark.row("J4")
@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_is_no_journal(path: Path, damage: str) -> None:
    """A file that is damaged, foreign or of a later version is refused by every use, and not a byte of it changes."""
    async with Journal(path) as journal:
        await asyncio.gather(*(journal.intend(evolve(ROW, key=f"ka-{number}", request="x" * 500)) for number in range(50)))
    spoil, words = DAMAGE[damage]
    before = spoiled(path, spoil)
    refused = Journal(path)
    for use in (refused.open, refused.rows, lambda: refused.intend(ROW)):
        with pytest.raises(JournalError, match=words):
            await use()
    await refused.aclose()
    assert contents(path)[path.name] == before
    assert not contents(path).get(f"{path.name}-wal")


LEAVE_A_LOG = """
async def main():
    journal = Journal(path)
    for number in range(20):
        await journal.intend(row(f"ka-{number}", request="x" * 3000, created_at=number))
    os._exit(0)
asyncio.run(main())
"""


@pytest.mark.row("J4")
async def test_a_log_cut_off(path: Path) -> None:
    """Of a log that lost its end every commit before the cut is there, and the journal goes on from it."""
    said(child(LEAVE_A_LOG, path))
    log = path.with_name(f"{path.name}-wal")
    os.truncate(log, log.stat().st_size // 2)
    async with Journal(path) as journal:
        kept = [row.key for row in reversed(await journal.rows())]
        assert 0 < len(kept) < 20
        assert kept == [f"ka-{number}" for number in range(len(kept))]
        await journal.intend(ROW if "ka-1" not in kept else evolve(ROW, key="ka-x"))


@pytest.mark.row("J4")
async def test_damaged_with_a_log(path: Path) -> None:
    """A damaged file is left as it is also where a log of late commits lies beside it."""
    async with Journal(path) as journal:
        await asyncio.gather(*(journal.intend(evolve(ROW, key=f"old-{number}", request="x" * 500)) for number in range(50)))
    said(child(LEAVE_A_LOG, path))
    spoiled(path, lambda path, whole: path.write_bytes(whole[:4096] + b"\xaa" * (len(whole) - 4096)))
    before = contents(path)
    journal = Journal(path)
    with pytest.raises(JournalError):
        await journal.open()
    await journal.aclose()
    assert contents(path) == before


@pytest.mark.row("J2")
async def test_no_place_for_it(tmp_path: Path) -> None:
    """A journal that cannot be made is an error with its path and the reason."""
    (tmp_path / "file").touch()
    journal = Journal(tmp_path / "file" / "journal.db")
    with pytest.raises(JournalError, match=r"file/journal\.db: .*(directory|exists)"):
        await journal.open()
    await journal.aclose()


@pytest.mark.row("J3")
@pytest.mark.usefixtures("journal")
async def test_locked_by_another_process(path: Path) -> None:
    """A database that another process keeps locked is waited for, then an error; after that all is as before."""
    locker = child(
        "import sqlite3; db = sqlite3.connect(path); db.execute('BEGIN IMMEDIATE'); print('locked', flush=True); input(); db.rollback()",
        path,
    )
    assert locker.stdout is not None
    assert locker.stdout.readline() == "locked\n"
    short = Journal(path)
    short._writer.database.patience = 0.05
    with pytest.raises(JournalError, match="locked"):
        await short.intend(ROW)
    locker.communicate("\n", timeout=60)
    assert (await short.intend(ROW))[1]
    await short.aclose()


@pytest.mark.row("J2")
async def test_a_full_disk(path: Path) -> None:
    """A write for which there is no room is an error, and undone; once there is room the journal goes on."""
    code = """
async def main():
    async with Journal(path) as journal:
        await journal.intend(row("ka-1"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            await journal.intend(row("ka-2", request="x" * 100_000))
        except JournalError:
            print("refused")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        await journal.intend(row("ka-3"))
        print(*sorted(each.key for each in await journal.rows()))
asyncio.run(main())
"""
    assert said(child(code, path)) == ["refused", "ka-1", "ka-3"]


@pytest.mark.row("J7")
async def test_fork(path: Path) -> None:
    """In a forked child an open journal says that it is the parent's, closing it ends, and the parent's goes on."""
    code = """
async def main():
    journal = Journal(path)
    await journal.intend(row("ka-1"))
    if (pid := os.fork()) == 0:
        asyncio._set_running_loop(None)
        async def in_child():
            try:
                await journal.rows()
            except JournalError as error:
                print("forked" if "forked" in str(error) else error, flush=True)
            await journal.aclose()
        asyncio.run(in_child())
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(len(await journal.rows()))
    await journal.aclose()
asyncio.run(main())
"""
    assert said(child(code, path)) == ["forked", "0", "1"]


@pytest.mark.row("J5")
async def test_two_processes(journal: Journal, path: Path) -> None:
    """Processes that share a file lose nothing of each other's, and of one word each creation is fresh for one of them."""
    code = """
async def main():
    async with Journal(path) as journal:
        print("ready", flush=True); input()
        kept = await asyncio.gather(*(journal.intend(row(f"child-{n}", dedupe=f"order-{n}")) for n in range(50)))
        print(*(int(fresh) for _, fresh in kept))
asyncio.run(main())
"""
    other = child(code, path)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    assert other.stdin is not None
    other.stdin.write("\n")
    other.stdin.flush()
    mine = [(await journal.intend(evolve(ROW, key=f"ka-{number}", dedupe=f"order-{number}")))[1] for number in range(50)]
    theirs = [word == "1" for word in said(other)]
    assert all(one is not two for one, two in zip(mine, theirs, strict=True))
    assert len(await journal.rows()) == 50


@pytest.mark.row("J6")
async def test_owners(journal: Journal, path: Path) -> None:
    """A session is alive as long as its process is, also when that is stopped; kill -9 ends it, and what it left is cleared."""
    mine = journal.owner()
    mine.claim()
    assert await journal.is_alive(mine.id)
    mine.release()
    assert not await journal.is_alive(mine.id)
    other = child("owner = Journal(path).owner(); owner.claim(); print(owner.id, flush=True); input()", path)
    assert other.stdout is not None
    theirs = other.stdout.readline().strip()
    assert await journal.is_alive(theirs)
    other.send_signal(signal.SIGSTOP)
    assert await journal.is_alive(theirs)
    other.kill()
    other.communicate(timeout=60)
    assert not await journal.is_alive(theirs)
    assert not list(path.parent.glob("*-owner-*"))
    assert [await journal.is_alive(odd) for odd in ("", "nobody", "../../etc/passwd")] == [False] * 3


async def test_threads_that_begin_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops of several threads may share it from the first word on: one thread comes to write for all of them."""
    journal, start, begun = Journal(path), _writer._Thread.start, threading.Barrier(2)

    def with_another(thread: _writer._Thread) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            begun.wait(0.02)
        start(thread)

    def begin(number: int) -> None:
        asyncio.run(journal.intend(evolve(ROW, key=f"ka-{number}")))

    monkeypatch.setattr(_writer._Thread, "start", with_another)
    await asyncio.gather(*(asyncio.to_thread(begin, number) for number in range(2)))
    assert len(await journal.rows()) == 2
    await journal.aclose()
