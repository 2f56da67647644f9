from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import anyio.to_thread
import pytest
from attrs import frozen

import kling_async
from journals import Told
from kling_async._pacing import Polling, Retry
from kling_async.emulator import Emulator
from kling_async.errors import SubmitOutcomeUnknown
from kling_async.jobs import Text2Video
from kling_async.journal import Journal, State
from kling_async.session import KlingSession
from kling_async.testing import assert_bought_once, duplicates

pytestmark = pytest.mark.exhaustive

CRASH: Final = Path(__file__).with_name("crash.py")
TURNS: Final = 50
"""Turns of its loop in which a customer has bought, and waits or is done."""
LIFE: Final = 0.15
"""Seconds in which a customer has its result, about."""
KILLS: Final = 50
"""Of each kind of server."""
SEED: Final = int(os.environ.get("KLING_CRASH_SEED", random.SystemRandom().getrandbits(32)))


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


@frozen
class Customers:
    """The process whose children buy and die."""

    process: subprocess.Popen[str]

    async def dies(self, emulator: Emulator, path: Path, key: str, when: str) -> str:
        """How a customer ended that was to be killed then."""
        self.say(emulator.url, emulator.health["profile"], path, key, when)
        return await self.ended()

    def say(self, *words: object) -> None:
        """Tell it something."""
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)

    async def ended(self) -> str:
        """How the last customer ended."""
        assert self.process.stdout is not None
        return (await anyio.to_thread.run_sync(self.process.stdout.readline)).strip()


@pytest.fixture(scope="module")
def customers() -> Iterator[Customers]:
    """One for all tests: children start at once, while an interpreter needs most of a second."""
    env = {**os.environ, "PYTHONPATH": str(Path(kling_async.__file__).parents[1])}
    command = [sys.executable, str(CRASH)]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield Customers(process)


def findable(emulator: Emulator) -> bool:
    """Whether that server can be asked by key."""
    return bool(emulator.health["profile"] == "official")


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
    assert duplicates(emulator) == {}
    assert {assert_bought_once(emulator, key).id for key in accepted} == {task.id for task in emulator.log.tasks}
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
async def test_killed_at(customers: Customers, emulator: Emulator, path: Path, *, point: str, left: State | None, posts: int) -> None:
    """Whoever is killed at a point of `reliability.md` 3.5 leaves what is said there, and the next session settles it."""
    assert await customers.dies(emulator, path, "ka-1", point) == "killed"
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
async def test_killed_after_its_one_write(customers: Customers, emulator: Emulator, path: Path) -> None:
    """Of a creation that was asked for and sent in one write nobody knows whether it was sent; it is never sent again."""
    assert await customers.dies(emulator, path, "-", "intent") == "killed"
    ((key, state),) = (await states(path)).items()
    assert state is State.SENDING
    assert await check(emulator, path, [key]) == {key: "unknown"}
    assert emulator.log.tasks == []


@pytest.mark.row("J1")
async def test_killed_while_the_service_thinks(customers: Customers, emulator: Emulator, path: Path) -> None:
    """A request that was read when its sender is killed is found by its key, or listed as unknown."""
    emulator.fault("hang", method="POST", accepted=True)
    tasks = emulator.log.tasks = Told()
    customers.say(emulator.url, emulator.health["profile"], path, "ka-1", "told")
    await tasks.told.wait()
    customers.say("now")
    assert await customers.ended() == "killed"
    assert await check(emulator, path, ["ka-1"]) == {"ka-1": "recovered" if findable(emulator) else "unknown"}


@pytest.mark.row("J1")
async def test_killed_at_random(customers: Customers, emulator: Emulator, path: Path, say: Callable[[str], None]) -> None:
    """Fifty customers of one journal, killed in any turn of their loop or at any moment: nothing is lost, nothing bought twice."""
    profile, kills, keys = emulator.health["profile"], 0, list[str]()
    dice = random.Random(f"{SEED} {profile}")
    while kills < KILLS:
        keys.append(f"ka-{len(keys)}")
        when = dice.choice([f"turn-{dice.randint(1, TURNS)}", f"after-{dice.uniform(0, LIFE):.4f}"])
        ended = await customers.dies(emulator, path, keys[-1], when)
        assert ended in {"killed", "0"}, when
        kills += ended == "killed"
    try:
        became = Counter((await check(emulator, path, keys)).values())
    except AssertionError as error:
        error.add_note(f"KLING_CRASH_SEED={SEED}")
        raise
    say(f"{kills} random kills -9 at {profile} (seed {SEED}): {', '.join(f'{number} {what}' for what, number in sorted(became.items()))}")
    assert {"bought", "recovered"} <= set(became)
