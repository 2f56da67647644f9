"""A large journal, its copy, its old rows, and one that opens only at the second try: rows J2, J3, J9 and J10."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from attrs import evolve

from journals import ROW, filled, with_file
from kling_async._fault import ConfigurationError
from kling_async.errors import JournalError
from kling_async.journal import Journal, State

pytestmark = pytest.mark.usefixtures("nothing_is_left")

_MANY: Final = 10_000
_UNFINISHED: Final = 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal is to be."""
    return tmp_path / "kept" / "journal.db"


def _names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


async def _all_words(journal: Journal) -> None:
    """Everything that is asked of a journal in the course of a purchase and of a recovery."""
    row = evolve(ROW, key="ka-new", account="account-3", dedupe="new", created_at=time.time())
    assert (await journal.intend(row))[1]
    assert (await journal.intend(evolve(row, key="ka-other")))[0].key == "ka-new"
    assert await journal.claim(row, "you.1")
    assert await journal.send("ka-new", "you.1")
    assert await journal.move("ka-new", State.UNKNOWN)
    assert await journal.accept("ka-new", "task-100003") is None
    await journal.finish("account-3", "task-100003", State.SUCCEEDED)
    journal.withdraw("ka-new", "you.1", State.WITHDRAWN, "")
    assert len(await journal.open_rows("account-3", ROW.origin)) == _UNFINISHED // 10
    assert len(await journal.rows(most=10)) == 10


@pytest.mark.row("J9")
async def test_a_large_journal(path: Path, say: Callable[[str], None]) -> None:
    """Every statement of a purchase, a recovery and a pruning finds its rows by an index and sorts nothing, however many there are."""
    async with Journal(path) as journal:
        await filled(journal, _MANY, unfinished=_UNFINISHED)
        statements: list[str] = []
        steps: list[int] = []
        await with_file(journal, lambda db: db.set_trace_callback(statements.append))
        await with_file(journal, lambda db: db.set_progress_handler(lambda: steps.append(100), 100))
        await _all_words(journal)
        assert await journal.prune(time.time() - 2.5) == 3
        worked = sum(steps)
        await with_file(journal, lambda db: db.set_trace_callback(None))
        asked = {text for text in statements if text.startswith(("SELECT", "UPDATE", "DELETE"))}
        assert len(asked) >= 10
        for text in asked:

            def plan(db: sqlite3.Connection, text: str = text) -> list[str]:
                return [str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {text}")]

            for line in await with_file(journal, plan):
                assert line.startswith("SEARCH") or (line.startswith("SCAN") and "LIMIT" in text and "USING INDEX" in line), (text, line)
        say(f"J9: a purchase and a recovery in a journal of {_MANY} creations took {worked} steps of SQLite's machine")
        assert worked < _MANY / 5


@pytest.mark.row("J9")
async def test_pruning(path: Path) -> None:
    """What ended long ago is deleted with its history, in small steps; what is unfinished or unknown never is, nor what ended lately."""
    async with Journal(path) as journal:
        await filled(journal, 1200, unfinished=120)
        old = await _made(journal, "old", 1.0)
        commits: list[str] = []
        await with_file(journal, lambda db: db.set_trace_callback(commits.append))
        ended = sum(state.final for state in old)
        assert await journal.prune() == 1080 + ended
        assert commits.count("COMMIT") > 2
        left = await journal.rows()
        assert {row.state for row in left if row.key.startswith("old")} == {state for state in State if not state.final}
        assert [row.state.final for row in left if row.key.startswith("ka-")] == [False] * 120
        news = await _made(journal, "new", time.time())
        assert await journal.prune() == 0
        assert await journal.prune(older_than=0) == sum(state.final for state in news)
        events = await with_file(journal, lambda db: db.execute("SELECT DISTINCT key FROM event").fetchall())
        assert {key for (key,) in events} == {row.key for row in await journal.rows()}
        for wrong in (-1, float("nan")):
            with pytest.raises(ConfigurationError, match="older_than"):
                await journal.prune(wrong)


async def _made(journal: Journal, name: str, at: float) -> list[State]:
    for state in State:
        await journal.intend(evolve(ROW, key=f"{name}-{state}", state=state, created_at=at, updated_at=at))
    return list(State)


async def test_a_word_that_was_pruned_is_free(path: Path) -> None:
    """Pruning forgets what a `dedupe` stood for: the same word is a new creation then."""
    row = evolve(ROW, dedupe="order-17", state=State.SUCCEEDED)
    async with Journal(path) as journal:
        assert (await journal.intend(row))[1]
        assert not (await journal.intend(evolve(row, key="ka-2")))[1]
        assert await journal.prune() == 1
        assert (await journal.intend(evolve(row, key="ka-2")))[1]


@pytest.mark.row("J10")
async def test_backup(path: Path, tmp_path: Path) -> None:
    """A copy taken amid writes is one moment of the journal: whole, with all that was committed before, for its owner only."""
    copies = tmp_path / "copies"
    copies.mkdir()
    copy = copies / "copy.db"
    done: list[str] = []
    async with Journal(path) as journal:

        async def write(number: int) -> None:
            await journal.intend(evolve(ROW, key=f"ka-{number}", request="x" * 2000, created_at=float(number)))
            done.append(f"ka-{number}")

        for number in range(50):
            await write(number)
        assert path.with_name("journal.db-wal").stat().st_size > 0
        before = len(done)
        copying = asyncio.ensure_future(journal.backup(copy))
        while not copying.done():
            await write(len(done))
        await copying
        with pytest.raises(JournalError, match=r"copy\.db.*already"):
            await journal.backup(copy)
        assert _names(copies) == ["copy.db"]
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        async with Journal(copy) as restored:
            kept = [row.key for row in reversed(await restored.rows(most=100_000))]
            (mode,) = await with_file(restored, lambda db: db.execute("PRAGMA journal_mode").fetchone())
        assert mode == "wal"
        assert before <= len(kept) <= len(done)
        assert kept == done[: len(kept)]
        assert len(await journal.rows(most=100_000)) == len(done)


@pytest.mark.row("J10")
async def test_no_backup(path: Path, tmp_path: Path) -> None:
    """A copy that cannot be made is an error that says so, leaves nothing behind, and hurts neither what is there nor the journal."""
    (tmp_path / "there").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    async with Journal(path) as journal, Journal() as in_memory:
        for name, words in {"there": "already", "dangling": "already", "no/such": "No such file", "nul\0": "null"}.items():
            with pytest.raises(JournalError, match=words):
                await journal.backup(tmp_path / name)
        with pytest.raises(JournalError, match="in memory"):
            await in_memory.backup(tmp_path / "new")
        assert (await journal.intend(ROW))[1]
    assert (tmp_path / "there").read_text() == "mine"
    assert _names(tmp_path) == ["dangling", "kept", "there"]


@pytest.mark.row("J10")
async def test_moving(path: Path, tmp_path: Path) -> None:
    """A journal that a dead process left is moved with its log beside it: every commit comes along."""
    async with Journal(path) as journal:
        await journal.intend(ROW)
        for name in ("", "-wal"):  # as they would lie there had the process died now
            shutil.copy(f"{path}{name}", f"{tmp_path / 'moved.db'}{name}")
    async with Journal(tmp_path / "moved.db") as moved:
        assert [row.key for row in await moved.rows()] == ["ka-1"]


def _in_the_way(path: Path) -> Callable[[], object]:
    path.parent.write_text("a file where a directory should be")
    return path.parent.unlink


def _foreign(path: Path) -> Callable[[], object]:
    path.parent.mkdir()
    path.write_text("dear diary" * 20)
    return path.unlink


def _locked(path: Path) -> Callable[[], object]:
    path.parent.mkdir()
    db = sqlite3.connect(path, check_same_thread=False)
    db.executescript("PRAGMA application_id = 0x4B4C494E; PRAGMA user_version = 1; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")

    def away() -> None:
        with closing(db):
            db.rollback()
        path.unlink()

    return away


@pytest.mark.row("J2", "J3")
@pytest.mark.parametrize("trouble", [_in_the_way, _foreign, _locked])
async def test_a_later_try(path: Path, trouble: Callable[[Path], Callable[[], object]]) -> None:
    """Whoever waits for a journal that cannot be opened hears why; once the reason is gone the same journal opens."""
    mend = trouble(path)
    journal = Journal(path)
    journal._writer.database.patience = 0.02
    waiters = [journal.open(), journal.intend(ROW), journal.rows()]
    for outcome in await asyncio.gather(*waiters, return_exceptions=True):
        assert isinstance(outcome, JournalError), outcome
        assert str(path) in str(outcome)
    with pytest.raises(JournalError):
        await journal.intend(ROW)
    mend()
    assert (await journal.intend(ROW))[1]
    assert [row.key for row in await journal.rows()] == ["ka-1"]
    await journal.aclose()


async def test_no_path() -> None:
    """A path that no file can have is an error to whoever waits, and ends nothing."""
    journal = Journal("kept\0")
    with pytest.raises(JournalError, match="null"):
        await journal.open()
    await journal.aclose()
