"""What a journal in PostgreSQL is besides what every journal is: leases, tables of its own, and a password that nobody sees."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from journals import FOX, ROW, at, bought_once, impatient, posts, recorded, session
from kling_async._fault import ConfigurationError
from kling_async.emulator import Emulator
from kling_async.errors import JournalError
from kling_async.journal import Journal, PostgresJournal, State
from postgres import PASSWORD, Server, Wire

pytestmark = pytest.mark.usefixtures("nothing_is_left")

psycopg = pytest.importorskip("psycopg", reason="kling-async[postgres] is not installed")


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway, whose tasks take a minute of a time that costs none."""
    async with Emulator(durations=60, seed=7) as emulator:
        yield emulator


@pytest.fixture
async def journal(postgres: Server) -> AsyncIterator[Journal]:
    """A journal, open."""
    async with PostgresJournal(postgres.dsn()) as journal:
        yield journal


async def test_a_lease_that_ran_out(emulator: Emulator, postgres: Server) -> None:
    """A session that was suspended for so long that another took its purchase over does not send it when it wakes."""
    async with session(emulator, postgres.dsn(), in_flight=1) as asleep, session(emulator, postgres.dsn()) as awake:
        first = await asleep.submit(evolve(FOX, external_task_id="ka-first"))
        waiting = asyncio.ensure_future(asleep.submit(FOX))
        await recorded(asleep._journal, "ka-fox")
        following = asyncio.ensure_future(awake.submit(FOX))
        await asyncio.sleep(5)
        assert not following.done()
        postgres.query("UPDATE kling_async.lease SET until = now() - interval '1 second'")
        handle = await following
        await first
        with pytest.raises(JournalError, match="taken creation ka-fox over; nothing was sent"):
            await waiting
        assert len(await handle) == 1
        await bought_once(emulator, awake._journal)
    assert posts(emulator) == 2


async def test_signs_of_life(postgres: Server, journal: Journal) -> None:
    """A claim is alive from its session's first write until it is given back; it is renewed with each write, and without any."""
    owner, other = journal.owner(), PostgresJournal(postgres.dsn())
    async with other:
        owner.claim()
        assert [await other.is_alive(owner.id)] == [False]
        await journal.intend(ROW)
        assert [await each.is_alive(owner.id) for each in (journal, other)] == [True, True]
        assert postgres.query("SELECT max(until - now()) BETWEEN '50 seconds' AND '60 seconds' FROM kling_async.lease") == [(True,)]
        lapse = "UPDATE kling_async.lease SET until = now() - interval '1 second'"
        for renew in (lambda: journal.move("ka-1", State.REJECTED), lambda: asyncio.to_thread(journal._writer.database.commit, [])):
            postgres.query(lapse)
            assert [await other.is_alive(owner.id)] == [False]
            journal._writer.database._sign_at = 0.0  # type: ignore[attr-defined]  # as if twenty seconds had passed
            await renew()
            assert [await other.is_alive(owner.id)] == [True]
        assert [journal._writer.database.beat] == [20]
        owner.release()
        assert [await journal.is_alive(owner.id)] == [False]
        assert [journal._writer.database.beat] == [None]
        assert [await other.is_alive("")] == [False]


async def test_no_right_to_it(postgres: Server) -> None:
    """A schema that its user may not use is an error, and not made elsewhere."""
    for right in ("", "; CREATE TABLE kling_async.journal (version int)"):
        postgres.query(f"DROP SCHEMA IF EXISTS kling_async CASCADE; CREATE SCHEMA kling_async{right}")
        async with contextlib.aclosing(PostgresJournal(postgres.dsn())) as journal:
            with pytest.raises(JournalError, match=r"permission denied|no schema"):
                await journal.intend(ROW)


async def test_a_sign_that_was_lost(postgres: Server) -> None:
    """A session whose first sign of life got lost with its connection gives it once more, though it has nothing to write."""
    async with Wire(postgres) as wire, PostgresJournal(wire.dsn) as journal:
        owner = journal.owner()
        owner.claim()
        wire.words, wire.how = b"INSERT INTO lease", "unheard"
        assert await journal.rows() == []
        assert (wire.struck, await journal.is_alive(owner.id)) == (True, True)
        owner.release()


async def test_many_begin_at_once(postgres: Server) -> None:
    """However many machines open the first journal of a server at the same moment, the tables are made once, and all go on."""
    journals = [PostgresJournal(postgres.dsn()) for _ in range(4)]
    await asyncio.gather(*(journal.intend(evolve(ROW, key=f"ka-{number}")) for number, journal in enumerate(journals)))
    assert len(await journals[0].rows()) == 4
    for journal in journals:
        await journal.aclose()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("CREATE TABLE kling_async.diary (dear text)", "another program"),
        ("CREATE TABLE kling_async.journal (dear text)", "version"),
        ("CREATE TABLE kling_async.journal (version int); INSERT INTO kling_async.journal VALUES (77)", "version is 77"),
    ],
)
async def test_not_ours(postgres: Server, made: str, words: str) -> None:
    """Tables of another program, or of a later version, are refused at once and left as they are."""
    rights = "GRANT USAGE ON SCHEMA kling_async TO app; GRANT SELECT ON ALL TABLES IN SCHEMA kling_async TO app"
    postgres.query(f"CREATE SCHEMA kling_async; {made}; {rights}")
    before = postgres.query("SELECT relname FROM pg_class WHERE relnamespace = 'kling_async'::regnamespace")
    async with contextlib.aclosing(PostgresJournal(postgres.dsn())) as journal:
        with pytest.raises(JournalError, match=words):
            await journal.intend(ROW)
    assert postgres.query("SELECT relname FROM pg_class WHERE relnamespace = 'kling_async'::regnamespace") == before


@pytest.mark.parametrize(
    "dsn", [f"postgresql://app:{PASSWORD}@oops@127.0.0.1/x", f"postgresql://app:7/{PASSWORD}@h/x", f"postgresql://app:x/{PASSWORD}@h/x",
            f"postgresql://app:%{PASSWORD}@h/x", f"password={PASSWORD} oops", f"{PASSWORD}", "mysql://h/x"]
)  # fmt: skip
async def test_no_connection_string(dsn: str) -> None:
    """What cannot be understood as a place is refused where it is given, without being repeated."""
    with pytest.raises(ConfigurationError, match="connection string") as refused:
        PostgresJournal(dsn)
    shown = "".join(traceback.TracebackException.from_exception(refused.value, capture_locals=True).format())
    assert PASSWORD not in shown.partition("Error: no connection")[2] + str(refused.value)


@pytest.mark.parametrize("place", ["127.0.0.1:1", "nowhere.invalid", "127.0.0.1:{port}"], ids=["nobody", "no name", "no database"])
async def test_the_password_stays_secret(postgres: Server, place: str) -> None:
    """A server that cannot be reached, or refuses, is named without the password, in no message, repr or traceback."""
    async with contextlib.aclosing(
        PostgresJournal(f"postgresql://app:{PASSWORD}@{place.format(port=postgres.port)}/{PASSWORD}")
    ) as journal:
        impatient(journal)
        with pytest.raises(JournalError, match="journal in PostgreSQL") as failed:
            await journal.open()
    shown = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
    assert PASSWORD not in shown + repr(journal) + repr(journal.owner())
    with pytest.raises(JournalError, match="pg_dump"):
        await PostgresJournal(postgres.dsn()).backup("x")


async def test_what_no_row_can_hold(journal: Journal) -> None:
    """A text that PostgreSQL cannot keep spoils its own write only; a note of that kind is kept in other words."""
    bad: list[dict[str, Any]] = [{"dedupe": "a\0b"}, {"dedupe": "\ud800"}, {"dedupe": "".join(map(chr, range(256, 9000)))}]
    works = [journal.intend(evolve(ROW, key=f"ka-{number}", **facts)) for number, facts in enumerate([*bad, {}])]
    *refused, kept = await asyncio.gather(*works, return_exceptions=True)
    assert [type(each) for each in refused] == [JournalError] * 3
    assert not isinstance(kept, BaseException)
    await journal.move("ka-3", State.REJECTED, "no\0te")
    assert [(row.key, row.note) for row in await journal.rows()] == [("ka-3", "no\\0te")]


async def test_the_page(emulator: Emulator, postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page about many machines shows works, with the address of a server."""
    monkeypatch.setenv("KLING_BASE_URL", emulator.url)
    monkeypatch.setenv("KLING_API_KEY", emulator.api_key)
    page = Path(__file__).parents[2] / "docs" / "how-to" / "many-machines.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    code = re.sub('"postgresql://.*?"', repr(postgres.dsn()), code)
    for _ in range(2):
        await eval(compile(code, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})
    assert postgres.query("SELECT dedupe, state FROM kling_async.creation") == [("order-17", "succeeded")]
    assert posts(emulator) == 1


async def test_the_same_place(postgres: Server) -> None:
    """A journal says of itself that it lasts, and where it is not."""
    journal = at(postgres.dsn())
    assert (journal.lasting, journal.in_use, journal.path) == (True, True, None)
    await journal.aclose()
