"""What tests of the journal share: a row, other processes, disks that fail, and purchases as a dead process leaves them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from attrs import define, field

import kling_async
from kling_async._codec import encode, to_canonical_json
from kling_async.emulator import Emulator
from kling_async.errors import JournalError
from kling_async.jobs import Text2Video
from kling_async.journal import Creation, Journal, PostgresJournal, State
from kling_async.session import KlingSession
from kling_async.testing import assert_bought_once

T = TypeVar("T")

ROUTE: Final = "videos/text2video"
FOX: Final = Text2Video(prompt="a fox", external_task_id="ka-fox")
ROW: Final = Creation(
    key="ka-1",
    account="a",
    origin="https://gateway.example",
    action="videos",
    action2="text2video",
    request="{}",
    digest="d",
    owner="me.1",
    created_at=1.0,
)
_PRELUDE: Final = """
import asyncio, os, resource, sys
from kling_async.errors import JournalError
from kling_async.journal import Creation, Journal, State
path = sys.argv[1]
def row(key, **facts):
    return Creation(**{**dict(key=key, account="a", origin="https://gateway.example", action="videos", action2="text2video",
                              request="{}", digest="d", owner="child.1"), **facts})
"""


def child(code: str, path: Path) -> subprocess.Popen[str]:
    """Another process, which runs `code` after the names it needs."""
    root = str(Path(kling_async.__file__).parents[1])
    command = [sys.executable, "-W", "ignore", "-c", _PRELUDE + code, str(path)]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root})


def said(process: subprocess.Popen[str]) -> list[str]:
    """What it printed until it ended, by words."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.split()


async def with_file(journal: Journal, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do something with SQLite's own connection, in the journal's thread."""
    return await journal._writer.run(cast("Callable[[Any], T]", work))


class Told(list[Any]):
    """A list that tells when something is added."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()

    def append(self, item: Any) -> None:
        super().append(item)
        self.told.set()


Place = Path | str
"""Where a journal is: a file, or what PostgreSQL calls a connection string."""


def at(place: Place) -> Journal:
    """The journal there."""
    return Journal(place) if isinstance(place, Path) else PostgresJournal(place)


def session(emulator: Emulator, journal: Journal | Place | None = None, **options: Any) -> KlingSession:
    """A session with the emulator, of the emulator's kind."""
    kling = KlingSession(
        emulator.api_key,
        base_url=emulator.url,
        journal=at(journal) if isinstance(journal, str) else journal,
        **{"profile": emulator.health["profile"], "observers": [bool], **options},
    )
    kling._closes_journal = not isinstance(journal, Journal)
    return kling


def posts(emulator: Emulator) -> int:
    """How many creations arrived."""
    return sum(seen.method == "POST" for seen in emulator.log.requests)


async def bought(emulator: Emulator) -> str:
    """Come back as soon as the one task exists."""
    tasks = emulator.log.tasks = Told()
    await tasks.told.wait()
    return str(tasks[0].id)


def impatient(journal: Journal) -> None:
    """Give it no time to wait for a server."""
    journal._writer.database.patience = 0.1


async def recorded(journal: Journal, key: str) -> None:
    """Come back as soon as there is such a creation."""
    for _ in range(1000):
        if key in {row.key for row in await journal.rows()}:
            return
    raise AssertionError


async def bought_once(emulator: Emulator, journal: Journal) -> None:
    """What must hold whatever happened: one request for each key, and every task known."""
    for task in emulator.log.tasks:
        assert task.external_task_id is not None
        assert_bought_once(emulator, task.external_task_id)
        assert len(emulator.log.posts_for(task.external_task_id)) == 1
        assert (await journal.get(task.external_task_id)).task_id == task.id


@define(eq=False)
class Failing(Journal):
    """A journal on a disk that fails for the writes named."""

    fails: set[str] = field(factory=set, kw_only=True)

    def _check(self, write: str) -> None:
        if write in self.fails:
            msg = "journal: no space left on device"
            raise JournalError(msg)

    async def intend(self, creation: Creation) -> tuple[Creation, bool]:
        self._check("W1")
        return await super().intend(creation)

    async def send(self, key: str, owner: str) -> bool:
        self._check("W2")
        return await super().send(key, owner)

    def withdraw(self, key: str, owner: str, state: State, note: str) -> None:
        self._check("W2")
        super().withdraw(key, owner, state, note)

    async def accept(self, key: str, task_id: str) -> str | None:
        self._check("W3")
        return await super().accept(key, task_id)

    async def finish(self, account: str, task_id: str, state: State, *, note: str = "", result: str | None = None) -> None:
        self._check("W5")
        await super().finish(account, task_id, state, note=note, result=result)


async def leave(kling: KlingSession, journal: Journal, state: State, key: str, *, owner: str = "dead", at: float = 1.0) -> None:
    """As a process that died, or sleeps, leaves a purchase of `FOX`, last changed at that Unix time."""
    asked = to_canonical_json(encode(FOX, external_task_id=key))
    row = Creation(
        key=key,
        account=kling._memory.account,
        origin=kling._memory.origin,
        action="videos",
        action2="text2video",
        request=asked,
        digest=hashlib.sha256(asked.encode()).hexdigest(),
        state=state,
        owner=f"{owner}.1",
        created_at=at,
        updated_at=at,
    )
    await journal.intend(row)


async def filled(journal: Journal, many: int, *, unfinished: int) -> None:
    """Give the journal that many creations of ten accounts, the last of them unfinished, all of the year 1970."""

    def work(db: sqlite3.Connection) -> None:
        numbers = f"WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < {many - 1})"
        state = f"CASE WHEN i < {many - unfinished} THEN 'succeeded' ELSE 'accepted' END"
        names = "key, account, origin, action, action2, request, digest, dedupe, state, attempt, owner, task_id, note,"
        names += " created_at, updated_at"
        row = f"""'ka-' || i, 'account-' || (i % 10), '{ROW.origin}', 'videos', 'text2video', '{{}}', 'd', 'order-' || i,
            {state}, 1, 'me.1', 'task-' || i, '', i, i"""
        db.execute(f"INSERT INTO creation ({names}) {numbers} SELECT {row} FROM n")
        db.execute(f"INSERT INTO event (key, at, to_state, note) {numbers} SELECT 'ka-' || i, i, 'accepted', '' FROM n")

    await with_file(journal, work)
