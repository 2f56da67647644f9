from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

import kling_async
from kling_async._pacing import Polling, Retry
from kling_async.emulator import Emulator
from kling_async.errors import SubmitOutcomeUnknown
from kling_async.jobs import Text2Video
from kling_async.journal import Journal, State
from kling_async.session import KlingSession

pytestmark = pytest.mark.exhaustive

CRASH = Path(__file__).with_name("crash.py")
TURNS = 50


@pytest.fixture
def anyio_backend() -> str:
    """Run in real time: other processes take part."""
    return "asyncio"


@pytest.fixture(params=["official", "gateway"])
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    """A server of either kind, whose tasks take a twentieth of a second."""
    async with Emulator(profile=request.param, durations=50, speed=1000, slots={"video": 1000}) as emulator:
        yield emulator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.db"


class Told(list[Any]):
    """A list that tells when something is added."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()

    def append(self, item: Any) -> None:
        super().append(item)
        self.told.set()


def findable(emulator: Emulator) -> bool:
    """Whether that server can be asked by key."""
    return bool(emulator.health["profile"] == "official")


async def runner(emulator: Emulator, path: Path, *deaths: str) -> asyncio.subprocess.Process:
    """The process in which customers die."""
    command = [sys.executable, str(CRASH), emulator.url, emulator.health["profile"], str(path), *deaths]
    env = {**os.environ, "PYTHONPATH": str(Path(kling_async.__file__).parents[1])}
    return await asyncio.create_subprocess_exec(*command, env=env, stdout=PIPE, start_new_session=True)


async def ends(process: asyncio.subprocess.Process) -> list[str]:
    """How each of its customers ended."""
    out, _ = await process.communicate()
    return out.decode().split()


def survivor(emulator: Emulator, path: Path) -> KlingSession:
    """The session after the crash."""
    polling, retry = Polling(first=0.01, interval=0.01, max_interval=0.02), Retry(reconcile_window=0.001)
    return KlingSession("k", base_url=emulator.url, profile=emulator.health["profile"], journal=path, polling=polling, retry=retry)


async def states(path: Path) -> dict[str, State]:
    """Where each creation stands on the disk."""
    async with Journal(path) as journal:
        return {row.key: row.state for row in await journal.rows()}


async def check(emulator: Emulator, path: Path, keys: list[str]) -> dict[str, str]:
    """Recover, ask for the same again, and check that nothing is lost or bought twice; gives what became of each key."""
    accepted = {task.external_task_id or "": task.id for task in emulator.log.tasks}
    done = {key for key, state in (await states(path)).items() if state is State.SUCCEEDED}
    became: dict[str, str] = {}
    async with survivor(emulator, path) as kling:
        handles = {handle.ref.external_task_id or "": handle for handle in await kling.recover()}
        unknown = {row.key for row in await kling.unknowns()}
        assert set(accepted) <= set(handles) | unknown | done, "an accepted task that recovery does not name"
        assert {key: handle.task_id for key, handle in handles.items()} == {key: accepted[key] for key in handles}
        for key in keys:
            try:
                again = await kling.submit(Text2Video(prompt="a fox", external_task_id=key))
            except SubmitOutcomeUnknown:
                assert key in unknown
                became[key] = "unknown"
                continue
            assert accepted.setdefault(key, again.task_id) == again.task_id, "two tasks for one key"
            became[key] = "recovered" if key in handles else "done" if key in done else "bought"
            assert len(await again) == 1
        assert await kling.recover() == ()
    assert all(len(emulator.log.posts_for(key)) <= 1 for key in keys)
    assert sorted(task.external_task_id or "" for task in emulator.log.tasks) == sorted(accepted)
    return became


@pytest.mark.row("J1")
@pytest.mark.parametrize(
    ("point", "left", "posts"),
    [
        ("before-intent", None, 0),
        ("intent", State.PREPARED, 0),
        ("sending", State.SENDING, 0),
        ("reply", State.SENDING, 1),
        ("before-accept", State.SENDING, 1),
        ("accepted", State.ACCEPTED, 1),
        ("read", State.ACCEPTED, 1),
        ("before-finish", State.ACCEPTED, 1),
        ("finished", State.SUCCEEDED, 1),
    ],
)
async def test_killed_at(emulator: Emulator, path: Path, point: str, left: State | None, posts: int) -> None:
    """Whoever is killed at a point of `reliability.md` 3.5 leaves what is said there, and the next session settles it."""
    assert await ends(await runner(emulator, path, f"{point}:ka-1")) == ["killed"]
    assert len(emulator.log.posts_for("ka-1")) == posts
    assert (await states(path)).get("ka-1") is left
    became = await check(emulator, path, ["ka-1"])
    match left:
        case None | State.PREPARED:
            expected = "bought"
        case State.SENDING:
            expected = "recovered" if posts and findable(emulator) else "unknown"
        case _:
            expected = "done" if left is State.SUCCEEDED else "recovered"
    assert became == {"ka-1": expected}


@pytest.mark.row("J1")
async def test_killed_while_the_service_thinks(emulator: Emulator, path: Path) -> None:
    """A request that was read when its sender is killed is found by its key, or listed as unknown."""
    emulator.fault("hang", method="POST", accepted=True)
    tasks = emulator.log.tasks = Told()
    process = await runner(emulator, path, "never:ka-1")
    await tasks.told.wait()
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    assert await check(emulator, path, ["ka-1"]) == {"ka-1": "recovered" if findable(emulator) else "unknown"}


@pytest.mark.row("J1")
async def test_killed_in_any_turn(emulator: Emulator, path: Path) -> None:
    """Fifty customers of one journal, each killed in another turn of its loop: nothing is lost, nothing bought twice."""
    keys = [f"ka-{turn}" for turn in range(1, TURNS + 1)]
    ended = await ends(await runner(emulator, path, *(f"{turn}:{key}" for turn, key in enumerate(keys, 1))))
    assert len(ended) == TURNS
    assert set(ended) <= {"killed", "0"}
    became = await check(emulator, path, keys)
    assert {"bought", "recovered"} <= set(became.values())
