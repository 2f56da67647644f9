from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from journals import Place, posts, session, with_file
from kling_async.emulator import Emulator
from kling_async.jobs import Text2Video
from kling_async.journal import Journal
from kling_async.session import KlingSession

pytestmark = pytest.mark.usefixtures("nothing_is_left")

FOX = Text2Video(prompt="a fox")
MANY = 30


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A service with room for all."""
    async with Emulator(speed=1000, slots={"video": 2 * MANY}) as emulator:
        yield emulator


@asynccontextmanager
async def shop(emulator: Emulator, path: Path, *, in_flight: int) -> AsyncGenerator[tuple[KlingSession, Journal]]:
    """A session with a journal on disk that has been used before."""
    async with Journal(path) as journal, session(emulator, journal, in_flight=in_flight) as kling:
        assert len(await kling.run(FOX)) == 1
        yield kling, journal


def hold_up(journal: Journal) -> Callable[[], None]:
    """Let the journal's thread stand still until the function given is called."""
    gate = threading.Event()
    journal._writer.put(lambda _: gate.wait())
    return gate.set


async def turns(count: int) -> None:
    """Let everything happen that waits for nobody else."""
    for _ in range(count):
        await asyncio.sleep(0)


async def events(place: Place, key: str | None) -> list[tuple[str | None, str]]:
    """Through which states a creation has gone."""
    database = sqlite3.connect(place)
    try:
        return database.execute("SELECT from_state, to_state FROM event WHERE key = ? ORDER BY seq", (key,)).fetchall()
    finally:
        database.close()


async def test_nothing_queues(emulator: Emulator, tmp_path: Path) -> None:
    """Where a slot is free one commit holds that a new creation is asked for and that it is sent, and one that it was accepted."""
    async with shop(emulator, tmp_path / "journal", in_flight=2) as (kling, journal):
        statements: list[str] = []
        await with_file(journal, lambda db: db.set_trace_callback(statements.append))
        statements.clear()
        handle = await kling.submit(FOX)
        assert statements.count("COMMIT") == 2
        assert not any(text.startswith("SAVEPOINT") for text in statements)
        assert await events(tmp_path / "journal", handle.ref.external_task_id) == [(None, "sending"), ("sending", "accepted")]


async def test_all_at_once(emulator: Emulator, tmp_path: Path, say: Callable[[str], None]) -> None:
    """Creations that come at once share a commit, before which none of them is sent."""
    async with shop(emulator, tmp_path / "journal", in_flight=2 * MANY) as (kling, journal):
        statements: list[str] = []
        await with_file(journal, lambda db: db.set_trace_callback(statements.append))
        go_on = hold_up(journal)
        submitting = [asyncio.ensure_future(kling.submit(FOX)) for _ in range(MANY)]
        await turns(10)
        assert posts(emulator) == 1  # of the first, long ago
        statements.clear()
        go_on()
        await asyncio.gather(*submitting)
        written = [text for text in statements if text == "COMMIT" or text.startswith("INSERT INTO creation")]
        assert written[:MANY].count("COMMIT") <= 1  # of what held it up
        assert statements.count("COMMIT") <= MANY + 3  # each acceptance has one, where nothing else comes with it
        say(f"{MANY} creations at once: {statements.count('COMMIT')} commits on disk")


@pytest.mark.parametrize("how", ["a word", "a key"])
async def test_what_may_be_known_is_looked_up_first(emulator: Emulator, tmp_path: Path, *, how: str) -> None:
    """Of what may have been bought before, that it is sent is a write of its own."""
    job = FOX if how == "a word" else Text2Video(prompt="a fox", external_task_id="order-17")
    async with shop(emulator, tmp_path / "journal", in_flight=2) as (kling, _):
        handle = await kling.submit(job, dedupe="order-17" if how == "a word" else None)
        expected = [(None, "prepared"), ("prepared", "sending"), ("sending", "accepted")]
        assert await events(tmp_path / "journal", handle.ref.external_task_id) == expected


async def test_one_write_is_no_way_past_two(emulator: Emulator, tmp_path: Path) -> None:
    """Whoever comes while an earlier creation is still being written down waits for its turn behind it."""
    async with shop(emulator, tmp_path / "journal", in_flight=1) as (kling, journal):
        go_on = hold_up(journal)
        first = asyncio.ensure_future(kling.run(Text2Video(prompt="the first", external_task_id="ka-first")))
        await turns(5)
        second = asyncio.ensure_future(kling.run(Text2Video(prompt="the second")))
        await turns(5)
        go_on()
        await asyncio.gather(first, second)
        assert emulator.log.tasks[1].external_task_id == "ka-first"


async def test_a_slot_is_not_lost_with_the_journal(emulator: Emulator, tmp_path: Path) -> None:
    """Whoever is cancelled while its one write is under way leaves its slot to the next, and nothing was sent."""
    async with shop(emulator, tmp_path / "journal", in_flight=1) as (kling, journal):
        go_on = hold_up(journal)
        gone = asyncio.ensure_future(kling.submit(FOX))
        await turns(5)
        gone.cancel()
        await turns(5)
        go_on()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert len(await kling.run(FOX)) == 1
        assert posts(emulator) == 2
        assert [row.state.value for row in await journal.rows()].count("withdrawn") == 1


async def test_what_is_known_takes_no_turn(emulator: Emulator, tmp_path: Path) -> None:
    """Whoever asks for what was bought before leaves the only slot to the next."""
    async with shop(emulator, tmp_path / "journal", in_flight=1) as (kling, _):
        bought = [await kling.submit(FOX, dedupe="order-17", timeout=60)]
        await bought[0]
        bought.append(await kling.submit(FOX, dedupe="order-17", timeout=60))
        assert bought[0].task_id == bought[1].task_id
        assert len(await kling.run(FOX, timeout=60)) == 1
