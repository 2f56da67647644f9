"""Ten thousand waits, ten thousand purchases, a thousand sessions: rows L1, L2, L6."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from crowds import Crowded, Timed, memory
from journals import with_file
from kling_async._pacing import Polling
from kling_async.jobs import Text2Video
from kling_async.journal import Journal, State
from kling_async.models import TaskRef
from kling_async.observers import Exchange
from kling_async.session import KlingSession
from kling_async.testing import no_leaks

MANY: Final = 10_000


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time, with the turns of the loop timed."""
    return "asyncio", {"loop_factory": Timed}


@pytest.fixture
async def gateway() -> AsyncIterator[Crowded]:
    """A gateway that answers after 250 ms: all at once over a hundred connections would take longer than a read may."""
    async with Crowded(takes=0.25) as gateway:
        yield gateway


def session(gateway: Crowded, **options: Any) -> KlingSession:
    """A session with that gateway."""
    return KlingSession("k", base_url=gateway.url, **options)


@pytest.mark.row("L1")
async def test_ten_thousand_waits(gateway: Crowded, say: Callable[[str], None]) -> None:
    """10,000 handles share at most a hundred connections: no read fails, none waits for a connection, and memory hardly grows."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Timed)
    bad: Counter[str | None] = Counter()

    def heard(record: object) -> None:
        if isinstance(record, Exchange) and record.http_status != 200:
            bad[record.cause] += 1

    async with session(gateway, observers=[heard]) as kling:
        before = memory()
        refs = [TaskRef(origin=gateway.url, action="videos", action2="text2video", task_id=f"task-{number}") for number in range(MANY)]
        handles = [kling.attach(ref) for ref in refs]
        waits = [asyncio.ensure_future(handle.wait()) for handle in handles]
        await asyncio.sleep(0.05)  # all are due at once, and nobody has been answered
        grown = memory() - before
        assert not any(wait.done() for wait in waits)
        results = await asyncio.gather(*waits)
        most = max(grown, memory() - before)
    assert len(results) == MANY
    assert (bad, gateway.reads) == ({}, MANY)
    assert gateway.most_open <= 100
    assert most < 100 * 2**20
    turns = sorted(loop.turns)
    say(
        f"L1: {MANY} handles, {gateway.most_open} connections: {grown / MANY / 1024:.1f} KiB each, tasks that wait included;"
        f" a turn of the loop, gateway included, took {turns[len(turns) * 99 // 100] * 1000:.1f} ms of the core at p99"
    )


@pytest.mark.row("L2")
@pytest.mark.parametrize("many", [1_000, pytest.param(10_000, marks=[pytest.mark.exhaustive, pytest.mark.timeout(600)])])
async def test_thousands_of_purchases(gateway: Crowded, tmp_path: Path, say: Callable[[str], None], many: int) -> None:
    """So many creations at once on a quota of 20: each is bought once and recorded, commits are shared, and memory is linear."""
    gateway.lasts = 60.0
    async with Journal(tmp_path / "journal.db") as journal:
        commits: list[str] = []

        def slow_disk(statement: str) -> None:
            if statement == "COMMIT":
                commits.append(statement)
                time.sleep(0.003)

        await with_file(journal, lambda db: db.set_trace_callback(slow_disk))
        polling = Polling(first=60.5, interval=5.0, max_interval=5.0, jitter=0.0)
        async with session(gateway, journal=journal, in_flight=20, polling=polling, observers=[bool]) as kling:
            tracemalloc.start()
            sizes = [0]
            buying: list[asyncio.Future[Any]] = []
            for _ in range(2):
                buying += [asyncio.ensure_future(kling.text2video(prompt="a fox")) for _ in range(many // 2)]
                while kling._admission.queued < len(buying) - 20:  # noqa: ASYNC110  nothing tells of it
                    await asyncio.sleep(0)
                sizes.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()
            intents = len(commits)
            handles = await asyncio.gather(*buying)
            await asyncio.gather(*handles)
            rows = await journal.rows(most=2 * many)
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    assert len(commits) < 4 * many / 4, "of four writes each"
    assert {row.state for row in rows} == {State.SUCCEEDED}
    assert sorted(row.task_id or "" for row in rows) == sorted(gateway.made)
    assert len(gateway.made) == gateway.posts == many
    assert gateway.most_running <= 20
    assert second < 1.5 * first
    say(
        f"L2: {many} purchases on a quota of 20: {intents} commits for all the intents, {len(commits)} in all,"
        f" {(first + second) / many / 1024:.1f} KiB for each that waits, its caller's task included"
    )


@pytest.mark.row("L6")
async def test_a_thousand_sessions(gateway: Crowded) -> None:
    """A thousand sessions, opened, used and closed one after the other, leave no task, thread, file or socket, and warn of nothing."""
    gateway.takes = 0.0
    ref = TaskRef(origin=gateway.url, action="videos", action2="text2video", task_id="task-0")
    left: list[int] = []
    async with no_leaks():
        for number in range(1000):
            async with session(gateway, observers=[bool]) as kling:
                if number % 10:
                    await kling.get(ref)
                else:
                    await kling.run(Text2Video(prompt="a fox"))
            if number in {99, 999}:
                await asyncio.sleep(1)
                gc.collect()
                left.append(len(gc.get_objects()))
                assert gateway.open == 0
    assert left[1] - left[0] < 900, "not one object for each"
    assert gateway.posts == 100
