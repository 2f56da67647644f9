from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import pytest

from kling_async import Journal, JournalError, KlingError, KlingSession, SubmitOutcomeUnknown, TaskTimeoutError, TransportTimeoutError
from kling_async.journal import State
from kling_async.testing import VirtualLoop
from scripted import FOX, KEY, Client, Gateway, listening, refusal, whole

pytestmark = pytest.mark.usefixtures("nothing_is_left")


gateway = pytest.fixture(listening)


class Disk:
    """A disk under a journal, which stops answering when it is told to. No time passes by itself then: the test lets it pass."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._answers = threading.Event()
        self.stuck = asyncio.Event()

    def stick(self) -> None:
        self._journal._writer.put(lambda _: self._answers.wait(5))
        self.stuck.set()

    def free(self) -> None:
        self._answers.set()


async def state(journal: Journal) -> State | None:
    """Where the creation of these tests stands; `None` when the journal has not even heard of it."""
    try:
        return (await journal.get(KEY)).state
    except JournalError:
        return None


async def turns() -> None:
    """Let everything happen that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def ends(call: Awaitable[Any], bound: float, stuck: asyncio.Event | None = None) -> KlingError:
    """How a call ends, whose disk is stuck at some point; that it does so at its bound and neither before nor after."""
    loop = cast("VirtualLoop", asyncio.get_running_loop())
    begun, task = loop.now, asyncio.ensure_future(call)
    if stuck is not None:
        await stuck.wait()
    await turns()
    loop.now = begun + bound - 0.001
    await turns()
    assert not task.done()
    loop.now = begun + bound
    await turns()
    assert task.done()
    error = task.exception()
    assert isinstance(error, KlingError)
    return error


@pytest.mark.row("D1")
@pytest.mark.parametrize("at", ["intent", "refusal", "acceptance"])
async def test_submissions_end_on_time_when_the_disk_does_not_answer(gateway: Gateway, tmp_path: Path, at: str) -> None:
    """A journal that hangs holds no caller beyond its bound, wherever it hangs; nothing is bought twice for it, and nothing lost."""
    async with Journal(tmp_path / "journal") as journal, KlingSession("sk-x", base_url=gateway.url, journal=journal) as kling:
        disk = Disk(journal)

        async def answer(client: Client) -> None:
            await client.read()
            disk.stick()
            client.say(refusal(429, 1302) if at == "refusal" else whole(client.accept()))

        gateway.script.append(answer)
        if at == "intent":
            disk.stick()
        error = await ends(kling.submit(FOX, timeout=5.0), 5.0, disk.stuck)
        assert type(error) is (SubmitOutcomeUnknown if at == "acceptance" else TransportTimeoutError)
        disk.free()
        await asyncio.sleep(100)
        assert await state(journal) is {"intent": None, "refusal": State.WITHDRAWN, "acceptance": State.ACCEPTED}[at]
        assert [ref.task_id for ref in kling.orphans()] == list(gateway.tasks)
        assert gateway.posts == (0 if at == "intent" else 1)


@pytest.mark.row("D1")
async def test_submissions_end_on_time_when_another_process_holds_the_file(gateway: Gateway, tmp_path: Path) -> None:
    """A journal that somebody else has locked holds no caller beyond its bound, and nothing is sent."""
    path = tmp_path / "journal"
    async with Journal(path) as journal, KlingSession("sk-x", base_url=gateway.url, journal=journal) as kling:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        error = await ends(kling.submit(FOX, timeout=0.5), 0.5)
        assert type(error) is TransportTimeoutError
        other.execute("ROLLBACK")
        other.close()
        assert await state(journal) is None
    assert gateway.connections == 0


@pytest.mark.row("D1")
async def test_waits_end_on_time_when_the_disk_does_not_answer(gateway: Gateway, tmp_path: Path) -> None:
    """A wait whose result cannot be recorded ends at its bound; once the disk answers again the result is there."""
    gateway.lasts = 5.0
    async with Journal(tmp_path / "journal") as journal, KlingSession("sk-x", base_url=gateway.url, journal=journal) as kling:
        disk = Disk(journal)
        handle = await kling.submit(FOX)
        gateway.rule = lambda _: None if disk.stuck.is_set() else disk.stick()
        assert type(await ends(handle.wait(30.0), 30.0, disk.stuck)) is TaskTimeoutError
        disk.free()
        assert await handle
        assert await state(journal) is State.SUCCEEDED
