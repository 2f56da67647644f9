"""The purchase that is asked for and sent in one commit, when something goes wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from attrs import evolve

from journals import ROUTE, Failing, Place, at, bought_once, posts, session
from kling_async.emulator import Emulator
from kling_async.errors import ConfigurationError, JournalError, SubmitOutcomeUnknown, TransportTimeoutError
from kling_async.jobs import Text2Video
from kling_async.journal import Journal, PostgresJournal, State
from kling_async.session import KlingSession
from postgres import Server, Wire

pytestmark = pytest.mark.usefixtures("nothing_is_left")

FOX = Text2Video(prompt="a fox")
CAT = Text2Video(prompt="a cat", external_task_id="ka-cat")


@pytest.fixture(params=["gateway"])
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    """A service whose tasks take a minute of a time that costs none."""
    async with Emulator(profile=request.param, durations=60, seed=7) as emulator:
        yield emulator


async def until(what: Callable[[], bool]) -> None:
    """Come back as soon as that is so."""
    for _ in range(100_000):
        if what():
            return
        await asyncio.sleep(0)
    raise AssertionError


async def arrived(emulator: Emulator, many: int) -> None:
    """Come back as soon as so many creations have arrived."""
    await until(lambda: posts(emulator) >= many)


def states(path: Path) -> list[list[str]]:
    """Through which states the creations have gone, each by itself, the first one first."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT key, to_state FROM event ORDER BY seq").fetchall()
    return [[state for other, state in rows if other == key] for key in dict(rows)]


def sending(kling: KlingSession) -> int:
    """Slots of requests that are being sent, or about to be."""
    return kling._admission._door(kling._admission.ticket(FOX)).gate._sending


@pytest.mark.parametrize("emulator", ["official"], indirect=True)
@pytest.mark.parametrize(("ago", "found"), [(0.0, True), (1000.0, False)])
async def test_killed_right_after_it(emulator: Emulator, tmp_path: Path, ago: float, *, found: bool) -> None:
    """What a process that is killed then leaves is looked up until the window since that commit has passed, and never sent again."""
    emulator.fault("hang", route=ROUTE, method="POST", seconds=1e6, accepted=False)
    async with Journal(tmp_path / "journal") as journal, session(emulator, journal) as kling:
        dying = asyncio.ensure_future(kling.submit(FOX))
        await arrived(emulator, 1)
        await journal.backup(tmp_path / "left")
        dying.cancel()
        with contextlib.closing(sqlite3.connect(tmp_path / "left")) as database, database:
            database.execute("UPDATE creation SET owner = 'dead.1', updated_at = updated_at - ?", (ago,))
        async with session(emulator, tmp_path / "left") as heir, session(emulator) as buyer:
            ((key, state, written),) = [(row.key, row.state, row.updated_at) for row in await heir._journal.rows()]
            assert state is State.SENDING
            assert written == pytest.approx(time.time() - ago, abs=60)
            recovering = asyncio.ensure_future(heir.recover())
            await asyncio.sleep(45)  # the task is not listed at once
            there = await buyer.submit(evolve(FOX, external_task_id=key))
            assert [handle.task_id for handle in await recovering] == ([there.task_id] if found else [])
            assert [row.key for row in await heir.unknowns()] == ([] if found else [key])
    assert posts(emulator) == 2


@pytest.mark.parametrize("job", [FOX, CAT], ids=["one commit", "two commits"])
@pytest.mark.parametrize("how", ["cancelled", "timed out", "closed"])
async def test_leaving_while_there_is_no_room(emulator: Emulator, tmp_path: Path, job: Text2Video, how: str) -> None:
    """One request too many is not in the journal as being sent; whoever leaves then has sent nothing, and holds neither room nor slot."""
    emulator.fault("hang", route=ROUTE, method="POST", seconds=1e6, accepted=True)
    async with Journal(tmp_path / "journal") as journal, session(emulator, journal, in_flight=5) as kling:
        kling._orders.buyer._room = room = asyncio.Semaphore(1)
        first = asyncio.ensure_future(kling.submit(FOX))
        await arrived(emulator, 1)
        waiting = asyncio.ensure_future(kling.submit(job, timeout=5 if how == "timed out" else None))
        await until(lambda: sending(kling) == 2 and bool(room._waiters))
        assert [row.state for row in await journal.rows()].count(State.SENDING) == 1
        closing = asyncio.ensure_future(kling.aclose()) if how == "closed" else None
        if how == "cancelled":
            waiting.cancel()
        with pytest.raises((asyncio.CancelledError, TransportTimeoutError, ConfigurationError)):
            await waiting
        assert sending(kling) == 1
        with pytest.raises(SubmitOutcomeUnknown):
            await first
        assert (sending(kling), room._value, posts(emulator)) == (0, 1, 1)
        if closing is not None:
            await closing
        else:
            await kling.submit(FOX)
    assert [each for each in states(tmp_path / "journal") if each not in (["sending", "unknown"], ["sending", "accepted"])] == (
        [] if job is FOX else [["prepared", "withdrawn"]]
    )


async def test_the_disk_is_full(emulator: Emulator) -> None:
    """What cannot be recorded is not sent, and leaves its slot; once there is room the next goes through."""
    async with Failing(fails={"W1"}) as journal, session(emulator, journal, in_flight=1) as kling:
        for _ in range(2):
            with pytest.raises(JournalError, match="no space"):
                await kling.submit(FOX, timeout=60)
        assert (posts(emulator), sending(kling), await journal.rows()) == (0, 0, [])
        journal.fails.clear()
        assert len(await kling.run(FOX, timeout=600)) == 1
        await bought_once(emulator, journal)


async def test_the_id_cannot_be_recorded(emulator: Emulator) -> None:
    """An id that the disk has no room for is in the error, and in the journal once there is room; its slot is held until its end."""
    async with Failing(fails={"W3"}) as journal, session(emulator, journal, in_flight=1) as kling:
        with pytest.raises(JournalError) as caught:
            await kling.submit(FOX)
        journal.fails.clear()
        second = await kling.submit(FOX)
        assert caught.value.ref is not None
        assert caught.value.ref.task_id == emulator.log.tasks[0].id
        assert emulator.log.tasks[0].id != second.task_id
        await bought_once(emulator, journal)
        assert [ref.task_id for ref in kling.orphans()] == [caught.value.ref.task_id]


@pytest.mark.parametrize("code", [1302, 1303])
async def test_refused(emulator: Emulator, tmp_path: Path, code: int) -> None:
    """A refused one is asked for again under its key, and each time that is recorded before it is sent."""
    emulator.fault("code", route=ROUTE, method="POST", code=code, times=2)
    async with Journal(tmp_path / "journal") as journal, session(emulator, journal) as kling:
        handle = await kling.submit(FOX)
        row = await journal.get(handle.ref.external_task_id or "")
        assert (row.attempt, posts(emulator), len(emulator.log.posts_for(row.key))) == (3, 3, 3)
    assert states(tmp_path / "journal") == [["sending", "prepared"] * 2 + ["sending", "accepted"]]


async def test_no_time_for_the_pause(emulator: Emulator, tmp_path: Path) -> None:
    """A service that asks for a longer pause than is left ends it at once, withdrawn, and it leaves its slot."""
    emulator.fault("retry_after", route=ROUTE, method="POST", seconds=100, status=429)
    async with Journal(tmp_path / "journal") as journal, session(emulator, journal, in_flight=1) as kling:
        with pytest.raises(TransportTimeoutError) as caught:
            await kling.submit(FOX, timeout=50)
        assert (caught.value.retry_after, sending(kling), posts(emulator)) == (100, 0, 1)
    assert states(tmp_path / "journal") == [["sending", "prepared", "withdrawn"]]


async def test_no_time_at_all(emulator: Emulator) -> None:
    """With no second left nothing is written, sent or taken."""
    async with session(emulator, in_flight=1) as kling:
        with pytest.raises(TransportTimeoutError):
            await kling.submit(FOX, timeout=0)
        assert (posts(emulator), sending(kling), kling._journal._writer.started) == (0, 0, False)


@pytest.mark.parametrize("trouble", ["unheard", "unanswered", "restart"])
async def test_a_server_away(emulator: Emulator, postgres: Server, trouble: str) -> None:
    """A lost COMMIT of it is found out: it is there once, and one request is sent."""
    async with Wire(postgres) as wire, PostgresJournal(wire.dsn) as journal, session(emulator, journal) as kling:
        strikes: dict[str, Callable[[], object]] = {"restart": postgres.restart}
        wire.words, wire.how, wire.strike = b"sending", trouble, strikes.get(trouble, lambda: None)
        assert len(await (await kling.submit(FOX))) == 1
        assert wire.struck
        await bought_once(emulator, journal)
    history = postgres.query("SELECT to_state FROM kling_async.event ORDER BY seq")
    assert [state for (state,) in history] == ["sending", "accepted", "succeeded"]


async def test_a_server_that_stays_away(emulator: Emulator, postgres: Server) -> None:
    """With no server to record it nothing is sent, its slot is left, and once there is one the next goes through."""
    async with PostgresJournal(postgres.dsn()) as journal, session(emulator, journal, in_flight=1) as kling:
        journal._writer.database.patience = 0.1
        await kling.unknowns()
        postgres.stop()
        try:
            with pytest.raises(JournalError):
                await kling.submit(FOX)
            assert (posts(emulator), sending(kling)) == (0, 0)
        finally:
            postgres.start()
        journal._writer.database.patience = 30
        await kling.submit(FOX, timeout=60)
        await bought_once(emulator, journal)


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where the journal is: of either kind."""
    return tmp_path / "journal" if request.param == "file" else str(request.getfixturevalue("postgres").dsn())


async def test_a_defect(emulator: Emulator, place: Place) -> None:
    """A work that breaks as none should neither ends the journal's thread nor stays half done: who waits is told, who comes is served."""

    def broken(db: object) -> None:
        db.execute("DELETE FROM creation")  # type: ignore[attr-defined]  # either kind's
        raise MemoryError

    async with at(place) as journal, session(emulator, journal) as kling:
        await kling.submit(FOX)
        calls: list[Awaitable[object]] = [journal._writer.run(broken), journal.rows()]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, JournalError | list)
        with pytest.raises(JournalError, match="MemoryError"):
            await journal._writer.run(broken)
        await kling.submit(FOX, timeout=60)
        assert len(await journal.rows()) == 2


async def test_no_thread_left(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started that is an error, each time, and no wait without end; once one can, all is well."""

    def none_left(_: object) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    async with session(emulator, tmp_path / "journal") as kling:
        with monkeypatch.context() as patched:
            patched.setattr("threading.Thread.start", none_left)
            for _ in range(2):
                with pytest.raises(JournalError, match="no thread"):
                    await kling.submit(FOX, timeout=60)
        await kling.submit(FOX, timeout=60)
    assert posts(emulator) == 1
