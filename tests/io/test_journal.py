from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from journals import ROW, Place, at, with_file
from kling_async._fault import ConfigurationError
from kling_async.errors import InvalidJobError, JournalError
from kling_async.journal import Artifact, Journal, PostgresJournal, State

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal is to be."""
    return tmp_path / "kept" / "journal.db"


@pytest.fixture(params=["file", "postgres"])
async def journal(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[Journal]:
    """A journal that lasts, of either kind, open."""
    place: Place = path if request.param == "file" else request.getfixturevalue("postgres").dsn()
    async with at(place) as journal:
        yield journal


def hold_up(journal: Journal) -> Callable[[], None]:
    """Let the journal's thread stand still until the function given is called."""
    gate = threading.Event()
    journal._writer.put(lambda _: gate.wait())
    return gate.set


async def state(journal: Journal, key: str = "ka-1") -> State:
    """Where a creation stands."""
    return (await journal.get(key)).state


LEGAL = """
prepared: sending rejected withdrawn
sending: prepared unknown rejected withdrawn
unknown: abandoned
accepted: succeeded failed
rejected withdrawn abandoned: prepared
"""


async def test_moves() -> None:
    """Of all pairs of states only those of the table are moves; what is none changes nothing, and says so."""
    legal = {(one, to) for line in LEGAL.strip().splitlines() for one in line.split(":")[0].split() for to in line.split(":")[1].split()}
    async with Journal() as journal:
        for before in State:
            for after in State:
                key = f"{before}-{after}"
                await journal.intend(evolve(ROW, key=key, state=before))
                assert await journal.move(key, after) is ((before, after) in legal), key
                assert await state(journal, key) is (after if (before, after) in legal else before)


async def test_an_id_is_a_fact() -> None:
    """A task's id is recorded whatever the state is, and none that is known is written over."""
    async with Journal() as journal:
        for before in State:
            await journal.intend(evolve(ROW, key=before, state=before, account=before))
            await journal.accept(before, "t1")
            known = before in {State.ACCEPTED, State.SUCCEEDED, State.FAILED}
            row = await journal.get(before)
            assert (row.state, row.task_id) == ((before, None) if known else (State.ACCEPTED, "t1"))


async def test_twins(journal: Journal) -> None:
    """An id that another creation of the account has already is recorded all the same, and the other is named."""
    await journal.intend(ROW)
    await journal.intend(evolve(ROW, key="ka-2"))
    await journal.intend(evolve(ROW, key="ka-3", account="b"))
    assert [await journal.accept(key, "t1") for key in ("ka-1", "ka-1", "ka-3", "ka-2")] == [None, None, None, "ka-1"]


@pytest.mark.row("J6")
async def test_only_its_owner_sends_a_creation_once(journal: Journal) -> None:
    """From prepared to sending leads one write, of the owner, once; who was overtaken while it slept sends nothing."""
    await journal.intend(ROW)
    assert not await journal.send("ka-1", "you.1")
    taken = await asyncio.gather(*(journal.claim(ROW, owner) for owner in ("you.1", "you.2")))
    assert sorted(taken) == [False, True]
    assert not await journal.send("ka-1", "me.1")
    assert [await journal.send("ka-1", "you.1") for _ in range(2)] == [True, False]
    assert (await journal.get("ka-1")).attempt == 1


@pytest.mark.parametrize("standing", State)
async def test_claims(standing: State) -> None:
    """What is prepared, or came to nothing, can be taken over to be sent; what may have been bought cannot."""
    async with Journal() as journal:
        row = evolve(ROW, state=standing)
        await journal.intend(row)
        free = {State.PREPARED, State.REJECTED, State.WITHDRAWN, State.ABANDONED}
        assert await journal.claim(row, "you.1", callback_hash=b"c") is (standing in free)
        assert (await journal.get("ka-1")).callback_hash == (b"c" if standing in free else None)
        assert await journal.send("ka-1", "you.1") is (standing in free)


@pytest.mark.row("J6")
async def test_only_its_owner_moves_a_creation(journal: Journal) -> None:
    """Whoever merely waited for a creation of another's, or was overtaken while it slept, leaves it as it is."""
    await journal.intend(ROW)
    await journal.send("ka-1", "me.1")
    journal.withdraw("ka-1", "me.2", State.WITHDRAWN, "gone")
    assert not await journal.move("ka-1", State.PREPARED, owner="me.2")
    assert await state(journal) is State.SENDING
    journal.withdraw("ka-1", "me.1", State.UNKNOWN, "gone")
    assert await state(journal) is State.UNKNOWN


@pytest.mark.row("V11")
@pytest.mark.parametrize(
    "other", [{"digest": "e"}, {"action2": "image2video"}, {"origin": "https://other.example"}, {"account": "b"}], ids=repr
)
async def test_a_key_is_one_request(journal: Journal, other: dict[str, Any]) -> None:
    """The same key or word for the same request is the same creation; for another request it is an error."""
    row = evolve(ROW, dedupe="order-17")
    assert (await journal.intend(row))[1]
    for again in (row, evolve(row, dedupe=None), evolve(row, key="ka-2")):
        standing, fresh = await journal.intend(again)
        assert (standing.key, fresh) == ("ka-1", False)
    with pytest.raises(InvalidJobError, match=r"external_task_id.*another request"):
        await journal.intend(evolve(ROW, **other))
    if "account" not in other:
        with pytest.raises(InvalidJobError, match=r"dedupe.*another request"):
            await journal.intend(evolve(row, key="ka-3", **other))
    assert len(await journal.rows()) == 1


@pytest.mark.parametrize("journal", ["file"], indirect=True)
async def test_group_commit(journal: Journal) -> None:
    """What piles up while the disk is busy is one durable commit, and one bad work in it spoils no other."""
    await journal.intend(evolve(ROW, key="ka-0", dedupe="mine"))
    lines: list[str] = []
    await with_file(journal, lambda db: db.set_trace_callback(lines.append))
    go_on = hold_up(journal)
    works = [asyncio.ensure_future(journal.intend(evolve(ROW, key=f"ka-{number}"))) for number in range(1, 201)]
    works.append(asyncio.ensure_future(journal.intend(evolve(ROW, key="ka-x", dedupe="mine", digest="e"))))
    works.append(asyncio.ensure_future(journal.intend(evolve(ROW, key="ka-y", dedupe="\ud800"))))
    await asyncio.sleep(0)
    lines.clear()
    go_on()
    *good, conflict, surrogate = await asyncio.gather(*works, return_exceptions=True)
    assert (type(conflict), type(surrogate)) == (InvalidJobError, JournalError)
    assert all(not isinstance(outcome, BaseException) and outcome[1] for outcome in good)
    assert lines.count("COMMIT") <= 2  # the work that stood still may have been one by itself
    assert await with_file(journal, lambda db: db.execute("PRAGMA synchronous").fetchone()) == (2,)  # FULL
    assert len(await journal.rows()) == 201


async def test_order_is_kept_and_nothing_lost(journal: Journal) -> None:
    """However much is queued, also as the journal closes: all is done, in the order in which it came."""
    done: list[int] = []

    def note(number: int, _: object) -> None:
        done.append(number)

    go_on = hold_up(journal)
    for number in range(2500):
        journal._writer.put(partial(note, number))
    closing = asyncio.ensure_future(journal.aclose())
    await asyncio.sleep(0)
    go_on()
    await closing
    assert done == list(range(2500))


async def test_a_cancelled_caller_has_it_written(journal: Journal) -> None:
    """What was handed to the journal is written, though whoever waited for it has gone."""
    go_on = hold_up(journal)
    waiting = asyncio.ensure_future(journal.intend(ROW))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on()
    assert await state(journal) is State.PREPARED


async def test_closed(path: Path) -> None:
    """Closing twice is harmless; a journal never used makes no file; a closed one says that it is."""
    journal = Journal(path)
    await journal.aclose()
    await journal.aclose()
    assert not path.parent.exists()
    with pytest.raises(JournalError, match="closed"):
        await journal.rows()
    with pytest.raises(JournalError, match="closed"):
        journal.withdraw("ka-1", "me.1", State.WITHDRAWN, "")


async def test_no_such_creation(journal: Journal) -> None:
    """A key the journal does not know is said to be unknown."""
    with pytest.raises(JournalError, match="no creation ka-7"):
        await journal.get("ka-7")


async def test_lone_surrogates(journal: Journal) -> None:
    """A note that is no text in Unicode is written in a form that is."""
    await journal.intend(ROW)
    await journal.move("ka-1", State.REJECTED, "no \ud83e fox")
    assert (await journal.get("ka-1")).note == "no \\ud83e fox"


async def test_what_comes_after(journal: Journal) -> None:
    """Results, files and learnt durations are kept anew when they are told again, and a pruned creation takes its files along."""
    await journal.intend(ROW)
    await journal.accept("ka-1", "t1")
    assert await journal.lacks("a", "t1", 0)
    file = Artifact(key="", idx=0, path="fox.mp4", size=3_000_000_000, sha256="e3", validator="")
    for size in (1, file.size):
        await journal.keep("a", "t1", evolve(file, size=size))
    assert await journal.artifacts("ka-1") == [evolve(file, key="ka-1")]
    assert not await journal.lacks("a", "t1", 0)
    for learnt in ("slow", "quick"):
        await journal.learn(ROW.origin, {"videos": learnt})
    assert await journal.learnt(ROW.origin) == {"videos": "quick"}
    await journal.finish("a", "t1", State.SUCCEEDED, result='[{"url": "x"}]')
    row = await journal.get("ka-1")
    assert (row.state, row.result, row.callback_hash) == (State.SUCCEEDED, '[{"url": "x"}]', None)
    assert await journal.open_rows("a", ROW.origin) == []
    assert (await journal.prune(), await journal.prune(older_than=0)) == (0, 1)
    assert (await journal.rows(), await journal.artifacts("ka-1")) == ([], [])


async def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the driver a journal in PostgreSQL says how to get it, where it is named; nothing else needs it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "kling_async.journal._server", raising=False)
    with pytest.raises(ConfigurationError, match=re.escape("pip install 'kling-async[postgres]'")):
        PostgresJournal("postgresql://host/database")
