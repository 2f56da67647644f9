"""A journal in PostgreSQL through everything that happens to servers and connections (J8): tried again, and there once or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest
from attrs import evolve

from journals import FOX, ROUTE, ROW, bought_once, impatient, posts, recorded, session
from kling_async.emulator import Emulator
from kling_async.errors import JournalError
from kling_async.jobs import Text2Video
from kling_async.journal import Journal, PostgresJournal, State
from postgres import PASSWORD, Server, Wire

pytestmark = pytest.mark.usefixtures("nothing_is_left")

psycopg = pytest.importorskip("psycopg", reason="kling-async[postgres] is not installed")

WRITES = {"W1": b"prepared", "W2": b"sending", "W3": b"accepted"}
"""What is said in each of the three writes that guard money."""
GONE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway, whose tasks take a minute of a time that costs none."""
    async with Emulator(durations=60, seed=7) as emulator:
        yield emulator


@pytest.fixture
async def wire(postgres: Server) -> AsyncIterator[Wire]:
    """The way to the server."""
    async with Wire(postgres) as wire:
        yield wire


@pytest.fixture
async def journal(postgres: Server) -> AsyncIterator[Journal]:
    """A journal, open."""
    async with PostgresJournal(postgres.dsn()) as journal:
        yield journal


def refuse(server: Server, when: str, many: int) -> None:
    """Let the server fail that many times to serialize that."""
    server.query(
        f"""
        SET search_path = kling_async;
        CREATE SEQUENCE tries;
        GRANT ALL ON tries TO app;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('kling_async.tries') <= {many} THEN RAISE EXCEPTION 'not now' USING ERRCODE = 'serialization_failure'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE {when} FOR EACH ROW EXECUTE FUNCTION refuse()
        """
    )


REFUSED = {"W1": "INSERT ON creation", "W2": "UPDATE OF attempt ON creation", "W3": "UPDATE OF task_id ON creation"}


@pytest.mark.row("J8")
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("trouble", ["unheard", "unanswered", "terminated", "restart", "not serializable"])
async def test_trouble_at_each_write(emulator: Emulator, wire: Wire, write: str, trouble: str) -> None:
    """Whatever becomes of the connection or the server at a write that guards money, it is made once, and one request is sent."""
    async with PostgresJournal(wire.dsn) as journal, session(emulator, journal) as kling:
        if trouble == "not serializable":
            refuse(wire.server, REFUSED[write], 2)
        else:
            strikes: dict[str, Callable[[], object]] = {"terminated": lambda: wire.server.query(GONE), "restart": wire.server.restart}
            wire.words, wire.how, wire.strike = WRITES[write], trouble, strikes.get(trouble, lambda: None)
        handle = await kling.submit(FOX)
        assert len(await handle) == 1
        row = await journal.get("ka-fox")
        assert (row.state, row.attempt, row.task_id) == (State.SUCCEEDED, 1, handle.task_id)
        assert trouble == "not serializable" or wire.struck
        await bought_once(emulator, journal)
    history = wire.server.query("SELECT to_state FROM kling_async.event ORDER BY seq")
    assert [state for (state,) in history] == ["prepared", "sending", "accepted", "succeeded"]


@pytest.mark.row("J8")
@pytest.mark.parametrize("how", ["unheard", "unanswered"])
async def test_failover(emulator: Emulator, wire: Wire, how: str) -> None:
    """A server that takes over without the last transaction is not believed to have it, though another has its number."""
    async with PostgresJournal(wire.dsn) as journal, session(emulator, journal, in_flight=1) as kling:
        first = await kling.submit(evolve(FOX, external_task_id="ka-first"))
        second = asyncio.ensure_future(kling.submit(FOX))
        await recorded(journal, "ka-fox")
        await asyncio.to_thread(wire.server.copy)
        wire.words, wire.how, wire.strike = WRITES["W2"], how, wire.server.fail_over
        await first
        await (await second)
        assert wire.struck
        row = await journal.get("ka-fox")
        assert (row.state, row.attempt) == (State.SUCCEEDED, 1)
        await bought_once(emulator, journal)
    assert posts(emulator) == 2


@pytest.mark.row("J8")
async def test_a_deadlock(postgres: Server, journal: Journal) -> None:
    """A transaction that the server gives up, in favour of another's, is done again when that has ended."""

    def in_the_way() -> None:
        with psycopg.connect(host="127.0.0.1", port=postgres.port, user="admin", dbname="postgres") as other:
            other.execute("SET deadlock_timeout = '10s'")
            other.execute("LOCK TABLE kling_async.event")
            locked.set()
            for _ in range(1000):
                if postgres.query("SELECT 1 FROM pg_locks WHERE NOT granted"):
                    break
                time.sleep(0.005)
            other.execute("LOCK TABLE kling_async.creation")  # which the journal holds, and it waits for the other

    locked = threading.Event()
    blocking = asyncio.ensure_future(asyncio.to_thread(in_the_way))
    await asyncio.to_thread(locked.wait)
    assert (await journal.intend(ROW))[1]
    await blocking
    assert postgres.query("SELECT count(*) FROM kling_async.event") == [(1,)]
    assert postgres.query("SELECT sum(deadlocks) FROM pg_stat_database") != [(0,)]


@pytest.mark.row("J8")
async def test_a_full_server(emulator: Emulator, postgres: Server) -> None:
    """A purchase waits for a server that has no connection left, and is made once it has one."""
    with contextlib.ExitStack() as others:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                connection = others.enter_context(contextlib.closing(psycopg.connect(postgres.dsn())))
        async with session(emulator, postgres.dsn()) as kling:
            buying = asyncio.ensure_future(kling.submit(FOX))
            await asyncio.to_thread(time.sleep, 0.1)
            assert not buying.done()
            assert posts(emulator) == 0
            connection.close()
            await buying
            await bought_once(emulator, kling._journal)
    assert posts(emulator) == 1


@pytest.mark.row("J8")
@pytest.mark.parametrize("write", ["W1", "W2"])
async def test_a_server_that_stays_away(emulator: Emulator, wire: Wire, write: str) -> None:
    """When patience ends nothing has been sent, and that is said; once the server is back, the same session buys."""
    async with PostgresJournal(wire.dsn) as journal, session(emulator, journal) as kling:
        impatient(journal)
        wire.words, wire.how, wire.strike = WRITES[write], "unanswered", wire.server.stop
        try:
            with pytest.raises(JournalError) as failed:
                await kling.submit(FOX)
            assert (failed.value.ref, posts(emulator)) == (None, 0)
            assert PASSWORD not in str(failed.value)
        finally:
            await asyncio.to_thread(wire.server.start)
        handle = await kling.submit(Text2Video(prompt="a cat"))
        assert len(await handle) == 1
        await bought_once(emulator, journal)
    assert posts(emulator) == 1


@pytest.mark.row("J8")
async def test_no_word_from_the_other(emulator: Emulator, postgres: Server) -> None:
    """Sessions that never hear of each other buy what they ask for at the same time once, and both see its end."""
    emulator.fault("slow", route=ROUTE, method="POST", seconds=30)
    async with session(emulator, postgres.dsn()) as one, session(emulator, postgres.dsn()) as two:
        jobs = [kling.submit(Text2Video(prompt="a fox"), dedupe="order-17") for kling in (one, two, one, two)]
        handles = await asyncio.gather(*jobs)
        assert {len(await handle) for handle in handles} == {1}
        async with PostgresJournal(postgres.dsn()) as journal:
            assert [row.state for row in await journal.rows()] == [State.SUCCEEDED]
            await bought_once(emulator, journal)
        assert (await one.recover(), await two.recover()) == ((), ())
    assert posts(emulator) == 1
    assert postgres.query("SELECT * FROM pg_listening_channels()") == []
