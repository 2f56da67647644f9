"""The journal in memory: by the same rules as in a file, without a thread, whoever shares or interrupts it."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict, evolve

from journals import ROW
from kling_async._fault import KlingError
from kling_async.errors import JournalError
from kling_async.journal import Artifact, Creation, Journal, State

pytestmark = pytest.mark.usefixtures("nothing_is_left")

FILE = Artifact(key="", idx=0, path="fox.mp4", size=1, sha256="e3", validator="")


def words(dice: random.Random, seen: list[Creation]) -> Callable[[Journal], Coroutine[Any, Any, object]]:
    """Something that is asked of a journal: about few creations, so that they meet."""
    key, account, owner = dice.choice(["ka-1", "ka-2", "ka-3", "ka-4"]), dice.choice("ab"), dice.choice(["me.1", "you.1"])
    task, state, idx = dice.choice(["t1", "t2"]), dice.choice(list(State)), dice.randrange(3)
    word, origin = dice.choice([None, "x", "y"]), dice.choice([ROW.origin, "https://other.example"])
    row = evolve(ROW, key=key, account=account, owner=owner, state=state, origin=origin, dedupe=word, digest=dice.choice("dde"))
    row = evolve(row, created_at=dice.random())
    known = dice.choice(seen) if seen else row

    async def withdraw(journal: Journal) -> None:
        journal.withdraw(key, owner, state, "gone")

    asked: list[tuple[int, Callable[[Journal], Coroutine[Any, Any, object]]]] = [
        (5, lambda journal: journal.intend(row)),
        (2, lambda journal: journal.claim(known, owner, callback_hash=b"c")),
        (3, lambda journal: journal.send(key, owner)),
        (5, lambda journal: journal.accept(key, task)),
        (2, lambda journal: journal.move(key, state, "no \ud83e fox\0", owner=dice.choice([None, owner]))),
        (2, lambda journal: journal.bury(known, state)),
        (2, lambda journal: journal.finish(account, task, state, note="over", result="[]")),
        (4, lambda journal: journal.keep(account, task, evolve(FILE, idx=idx))),
        (2, lambda journal: journal.lacks(account, task, idx)),
        (1, lambda journal: journal.learn(ROW.origin, {task: owner})),
        (1, lambda journal: journal.prune(0)),
        (1, withdraw),
    ]
    return dice.choices([word for _, word in asked], [weight for weight, _ in asked])[0]


async def outcome(word: Coroutine[Any, Any, object]) -> object:
    """What came of it, as far as two journals can agree on it."""
    try:
        found = await word
    except KlingError as error:
        return type(error), str(error)
    return (timeless(found[0]), found[1]) if isinstance(found, tuple) else found


def timeless(row: Creation) -> dict[str, Any]:
    """All of it but when it changed."""
    return {**asdict(row), "updated_at": None}


async def contents(journal: Journal) -> object:
    """All that it tells."""
    rows, learnt = await journal.rows(), await journal.learnt(ROW.origin)
    unfinished = [timeless(row) for account in "ab" for row in await journal.open_rows(account, ROW.origin)]
    return [timeless(row) for row in rows], unfinished, [await journal.artifacts(row.key) for row in rows], list(learnt.items())


@pytest.mark.parametrize("seed", range(4))
async def test_the_same_rules(tmp_path: Path, seed: int) -> None:
    """Whatever is asked of it in whatever order, a journal in memory answers and holds what one in a file does."""
    seen: list[Creation] = []
    async with Journal() as memory, Journal(tmp_path / "journal") as file:
        for number in range(150):
            told = [await outcome(words(random.Random(f"{seed}.{number}"), seen)(journal)) for journal in (memory, file)]
            assert told[0] == told[1], number
            if number % 5 == 0:
                assert await contents(memory) == await contents(file), number
            seen = await memory.rows()


async def test_no_thread_and_no_turn() -> None:
    """Its words are done at once, in the thread that asks, and what is cancelled at the next word has been written."""
    before = set(threading.enumerate())  # a test that was killed may have left one
    async with Journal() as journal:
        await journal.intend(ROW)
        task = asyncio.ensure_future(asyncio.sleep(0))
        await journal.send("ka-1", "me.1")
        assert not task.done()
        assert set(threading.enumerate()) <= before
        await task


async def test_asked_amid_a_word() -> None:
    """What garbage asks for that is collected amid a word comes after it, and is done though the word breaks."""
    states: list[State] = []

    def collect(shelf: Any) -> None:
        journal.withdraw("ka-1", "me.1", State.WITHDRAWN, "gone")
        states.append(shelf.find("ka-1").state)
        raise ZeroDivisionError

    async with Journal() as journal:
        await journal.intend(ROW)
        with pytest.raises(JournalError, match="ZeroDivisionError"):
            await journal._writer.run(collect)
        states.append((await journal.get("ka-1")).state)
    assert states == [State.PREPARED, State.WITHDRAWN]


async def test_loops_of_several_threads() -> None:
    """Loops of several threads may share it: each creation is there once, and fresh for one of them."""
    fresh: list[bool] = []

    async def ask(journal: Journal) -> None:
        for number in range(200):
            _, new = await journal.intend(evolve(ROW, key=f"ka-{number}"))
            fresh.append(new)

    async with Journal() as journal:
        threads = [threading.Thread(target=lambda: asyncio.run(ask(journal))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert (fresh.count(True), len(await journal.rows())) == (200, 200)


async def test_closed_and_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed one says so, and so does one that a fork took along: what it holds are its parent's purchases."""
    journal = Journal()
    await journal.intend(ROW)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        with pytest.raises(JournalError, match="forked"):
            await journal.rows()
    await journal.aclose()
    with pytest.raises(JournalError, match="closed"):
        await journal.rows()
