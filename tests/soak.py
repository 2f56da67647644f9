"""Buys for a while while everything goes wrong at random, then compares what was sold with what was written down (row L5).

`python tests/soak.py --seconds 600` (`nox -s soak`). One process is the gateway, which spoils one request in a hundred for each way it
knows; one buys in session after session on one journal; others do so until they are killed. At the end the gateway's books must be
the journal's, no key may have two tasks, and the buyer may have no more open, running or in memory than it had early on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from crowds import descriptors, memory
from kling_async import KlingError, KlingSession, Polling, Retry, TaskFailedError, Text2Video
from kling_async.emulator import Emulator
from kling_async.emulator._faults import TRICKS, Fault, Faults
from kling_async.journal import Creation, Journal
from kling_async.testing import duplicates

PROFILES: Final = ("official", "gateway")
"""Which kind of server it is, by the seed: one can be asked what became of a request, the other takes a key twice."""
SHARE: Final = 0.01
POLLING: Final = Polling(first=0.05, interval=0.05, max_interval=0.1)
RETRY: Final = Retry(base=0.01, cap=0.05, probe=0.02, reconcile_window=0.5)
AT_ONCE: Final = 20
"""Purchases in the life of a session."""
MOST_MEMORY: Final = 24 * 2**20
"""Bytes that a buyer may grow by from an early session to its last; pages, not objects, decide about the first of them."""
_BOTH: Final = (True, False)
_POSTS: Final[tuple[tuple[str, tuple[bool, ...], dict[str, Any]], ...]] = (
    ("drop", _BOTH, {}),
    ("reset", _BOTH, {}),
    ("hang", _BOTH, {"seconds": 0.2}),
    ("truncated", (True,), {}),
    ("garbage_json", (True,), {}),
    ("empty", _BOTH, {}),
    ("html", _BOTH, {}),
    ("slow", (True,), {"seconds": 0.1}),
    ("status", _BOTH, {"status": 502}),
    ("code", _BOTH, {"code": 5000}),
    # What says "refused" is believed, so these do not carry the creation out; what shuts the account for a minute is left out.
    ("code", (False,), {"code": 1303}),
    ("code", (False,), {"code": 1302}),
    ("code", (False,), {"code": 1201}),
)
_GETS: Final = (
    *[fault for fault in _POSTS if fault[0] != "code"],
    ("not_found", (False,), {}),
    ("retry_after", (False,), {"seconds": 0.1}),
)


@define
class Weather(Faults):
    """Faults that nobody ordered."""

    dice: random.Random = field(factory=random.Random)
    met: Counter[str] = field(factory=Counter)
    clear: bool = False

    def take(self, route: str, method: str) -> Fault | None:
        for name, accepted, options in () if self.clear else _POSTS if method == "POST" else _GETS:
            if self.dice.random() < SHARE:
                self.met[name] += 1
                known = {**TRICKS[name].options, **options}
                return Fault(name=name, route=route, method=method, accepted=self.dice.choice(accepted), options=known, left=0)
        return None


@define
class Buyer:
    """Buys in session after session."""

    url: str
    profile: str
    path: str
    dice: random.Random
    bought: int = 0
    lives: int = 0
    ends: Counter[str] = field(factory=Counter)
    words: itertools.count[int] = field(factory=itertools.count)

    async def live(self) -> None:
        """One session: go on with what there is, buy, leave."""
        async with KlingSession(
            "k", base_url=self.url, profile=self.profile, journal=self.path, in_flight=10, polling=POLLING, retry=RETRY, observers=[bool]
        ) as kling:
            await asyncio.gather(*[self._await(handle) for handle in await kling.recover()])
            await asyncio.gather(*[self._buy(kling) for _ in range(AT_ONCE)])
        self.lives += 1

    async def _buy(self, kling: KlingSession) -> None:
        roll = self.dice.random()
        word = f"order-{next(self.words) // 2}-{self.dice.random()}" if roll < 0.2 else None
        job = Text2Video(prompt="a fox [fail]" if roll > 0.95 else "a fox")
        leaves = self.dice.uniform(0, 0.2) if self.dice.random() < 0.1 else None
        bound = self.dice.uniform(0, 0.2) if self.dice.random() < 0.1 else None
        self.bought += 1
        for _ in range(2 if word else 1):  # the same word is the same task
            buying = asyncio.ensure_future(kling.submit(job, timeout=bound, dedupe=word))
            done, _ = await asyncio.wait([buying], timeout=leaves)
            if not done:
                buying.cancel()
                await asyncio.wait([buying])
            if buying.cancelled():
                self.ends["left"] += 1
            elif (error := buying.exception()) is not None:
                self._note(error)
            elif self.dice.random() < 0.7:
                await self._await(buying.result())

    async def _await(self, handle: Any) -> None:
        try:
            await handle.wait(timeout=30)
        except KlingError as error:
            self._note(error)
        else:
            self.ends["succeeded"] += 1

    def _note(self, error: BaseException) -> None:
        if not isinstance(error, KlingError):
            raise error
        self.ends[type(error).__name__] += 1


def in_use() -> dict[str, int]:
    """What this process holds on to."""
    gc.collect()
    return {"descriptors": descriptors(), "threads": threading.active_count(), "tasks": len(asyncio.all_tasks()), "memory": memory()}


async def work(url: str, profile: str, path: str, *, seconds: float, most: int, seed: int) -> int:
    """Buy until the time or the number is up; say what has grown."""
    buyer, end = Buyer(url, profile, path, random.Random(seed)), time.monotonic() + seconds
    early: dict[str, int] | None = None
    while time.monotonic() < end and buyer.bought < most:
        await buyer.live()
        await asyncio.sleep(0.05)  # connections that were closed are gone after some turns
        share = max(buyer.bought / most, 1 - (end - time.monotonic()) / seconds)
        early = early or (in_use() if share > 0.2 else None)
    late = in_use()
    say(f"bought {buyer.bought} in {buyer.lives} sessions; {dict(buyer.ends.most_common())}")
    say(f"in use early: {early}; at the end: {late}")
    if early is None:
        return 0
    grown = [name for name in ("descriptors", "threads", "tasks") if late[name] > early[name]]
    if late["memory"] > early["memory"] + MOST_MEMORY:
        grown.append("memory")
    if grown:
        say(f"GROWN: {', '.join(grown)}")
    return len(grown)


async def die(url: str, profile: str, path: str, seed: int) -> None:
    """Buy until killed."""
    buyer = Buyer(url, profile, path, random.Random(seed))
    print("up", flush=True)  # noqa: T201  what the killer waits for
    while True:
        await buyer.live()


def say(line: str) -> None:
    """Tell people."""
    print(line, flush=True)  # noqa: T201  a script


async def soak(*, seconds: float, most: int, kills: int, seed: int, path: Path) -> list[str]:
    """Run it; gives what is wrong at the end."""
    dice, weather = random.Random(seed), Weather(dice=random.Random(seed + 1))
    profile = PROFILES[seed % 2]
    emulator = Emulator(profile=profile, slots={"video": 40}, durations=0.3, seed=seed)
    emulator._faults = weather
    async with emulator:
        command = [sys.executable, __file__]
        common = ["--journal", str(path), "--url", emulator.url, "--profile", profile]
        buyer = await asyncio.create_subprocess_exec(
            *command, "--seconds", str(seconds), "--purchases", str(most), "--seed", str(seed), *common, "--role", "work"
        )
        ending = asyncio.ensure_future(buyer.wait())
        died = 0
        while not ending.done() and died < kills:
            mortal = await asyncio.create_subprocess_exec(
                *command, "--seed", str(seed + 2 + died), *common, "--role", "die", stdout=asyncio.subprocess.PIPE
            )
            assert mortal.stdout is not None
            await mortal.stdout.readline()
            await asyncio.wait([ending], timeout=dice.uniform(0.05, 1.5))
            mortal.send_signal(signal.SIGKILL)
            await mortal.wait()
            died += 1
            await asyncio.wait([ending], timeout=seconds / 100)
        wrong = ["the buyer complained" for _ in range(await ending)]
        weather.clear = True
        rows = await _settled(emulator, profile, path)
    say(f"{died} others killed; {weather.met.total()} of {len(emulator.log.requests)} requests spoilt: {dict(weather.met.most_common())}")
    say(f"sold {len(emulator.log.tasks)}; written down: {dict(Counter(row.state.value for row in rows))}")
    return [*wrong, *_differences(emulator, rows, findable=profile == "official")]


async def _settled(emulator: Emulator, profile: str, path: Path) -> list[Creation]:
    """Follow all that is left to its end, in fair weather; gives what the journal says then."""
    async with Journal(path) as journal:
        async with KlingSession("k", base_url=emulator.url, profile=profile, journal=journal, polling=POLLING, retry=RETRY) as kling:
            for handle in await kling.recover():
                with contextlib.suppress(TaskFailedError):
                    await handle
        return await journal.rows(most=10**9)


def _differences(emulator: Emulator, rows: list[Creation], *, findable: bool) -> list[str]:
    sold = {task.external_task_id: task for task in emulator.log.tasks}
    written = {row.key: row for row in rows}
    wrong = [f"{key} was bought twice" for key in duplicates(emulator)]
    wrong += [f"{key} was sold, and the journal does not know of it" for key in sold if key not in written]
    for key, row in written.items():
        task = sold.get(key)
        if row.state == "unknown" and not findable:
            continue  # listed as what it is: behind a gateway nobody can be asked
        if row.task_id != (task and task.id):
            wrong.append(f"{key} is {row.state} as {row.task_id}, and was sold as {task and task.id}")
        elif task is not None and row.state != ("failed" if "[fail]" in str(task.body["prompt"]) else "succeeded"):
            wrong.append(f"{key} has ended, and is {row.state}")
    return wrong


def main() -> int:
    """What is asked for on the command line; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--purchases", type=int, default=10**9, help="how many at the most")
    parser.add_argument("--kills", type=int, default=10**9, help="how many other buyers are killed, at the most")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--role", choices=["work", "die"], help=argparse.SUPPRESS)
    parser.add_argument("--profile", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--journal", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    seed = random.randrange(10**6) if asked.seed is None else asked.seed
    if asked.role == "work":
        return asyncio.run(work(asked.url, asked.profile, asked.journal, seconds=asked.seconds, most=asked.purchases, seed=seed))
    if asked.role == "die":
        asyncio.run(die(asked.url, asked.profile, asked.journal, seed))
    say(f"seed {seed}, profile {PROFILES[seed % 2]}")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.db"
        wrong = asyncio.run(soak(seconds=asked.seconds, most=asked.purchases, kills=asked.kills, seed=seed, path=path))
    say("\n".join(wrong) if wrong else "the books agree, and nothing has grown")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
