"""What the state machine of `test_machine` plays with: faults, callers, and processes that die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from kling_async.emulator import Emulator
from kling_async.journal import Creation, Journal, State, _owners
from kling_async.models import Snapshot
from kling_async.session import KlingSession
from kling_async.tasks import TaskHandle

T = TypeVar("T")
Handle = TaskHandle[tuple[Any, ...]]

WORDS: Final = ("red", "green", "blue [fail]")
"""Words to buy under, each also the prompt that it is for."""
REFUSALS: Final = {400, 401, 404, 429}
"""Statuses of the answers below that say: nothing was bought."""
FINAL: Final = {State.SUCCEEDED, State.FAILED}
SETTLED: Final = 2000.0
"""Virtual seconds in which every queue is served, every request answered and every look-up over."""

EITHER = st.booleans()
POST_FAULTS: Final = st.one_of(
    st.tuples(st.sampled_from(["drop", "reset", "hang", "html", "empty"]), EITHER, st.just({})),
    st.tuples(st.just("status"), EITHER, st.sampled_from([{"status": status} for status in (303, 408, 409, 500, 502, 504)])),
    st.tuples(st.sampled_from(["truncated", "garbage_json", "chunked"]), st.just(value=True), st.just({})),
    st.tuples(st.just("slow"), st.just(value=True), st.just({"seconds": 8, "pieces": 4})),
    st.tuples(st.just("code"), EITHER, st.sampled_from([{"code": code} for code in (5000, 5002)])),
    # What says "refused" is believed, so these do not carry the creation out.
    st.tuples(st.just("code"), st.just(value=False), st.sampled_from([{"code": code} for code in (1000, 1102, 1201, 1302, 1303)])),
    st.tuples(st.just("status"), st.just(value=False), st.just({"status": 429, "body": "empty"})),
)
CREATIONS: Final = st.fixed_dictionaries(
    {
        "number": st.integers(0, 1),
        "word": st.sampled_from([None, None, *WORDS]),
        "fails": EITHER,
        "timeout": st.sampled_from([None, None, None, 4, 100]),
        "waiters": st.integers(0, 3),
        "fault": st.none() | POST_FAULTS,
        "seconds": st.sampled_from([0.0, 0.5, 3.0, 70.0]),
    }
)
GET_FAULTS: Final = st.sampled_from(
    ["stale", "unknown_status", "not_found", "null_videos", "drop", "reset", "hang", "truncated", "empty", "html", "status"]
)
MOMENTS: Final = ("W1", "after W1", "W2", "after W2", "W3", "after W3", "W5", "after W5")


@define(eq=False)
class Mortal(Journal):
    """A journal whose process stops for good at a moment that was named."""

    stops_at: str = field(default="", kw_only=True)
    stopped: asyncio.Event = field(factory=asyncio.Event, init=False)

    async def _pass(self, moment: str) -> None:
        if moment == self.stops_at:
            self.stopped.set()
            await asyncio.get_running_loop().create_future()

    async def _around(self, moment: str, write: Coroutine[Any, Any, T]) -> T:
        try:
            await self._pass(moment)
        except asyncio.CancelledError:
            write.close()
            raise
        result = await write
        await self._pass(f"after {moment}")
        return result

    async def intend(self, creation: Creation) -> tuple[Creation, bool]:
        return await self._around("W1", super().intend(creation))

    async def send(self, key: str, owner: str) -> bool:
        return await self._around("W2", super().send(key, owner))

    async def accept(self, key: str, task_id: str) -> str | None:
        return await self._around("W3", super().accept(key, task_id))

    async def finish(self, account: str, task_id: str, state: State, *, note: str = "", result: str | None = None) -> None:
        await self._around("W5", super().finish(account, task_id, state, note=note, result=result))


@define(eq=False)
class Call:
    """Somebody who waits: for a purchase, or for the end of a task."""

    task: asyncio.Task[Any]
    prompt: str
    key: str | None = None
    handle: Handle | None = None
    left: bool = False
    waiters: int = 0
    """How many will await what was bought."""


@define(eq=False)
class Followed:
    """A handle, and the final snapshot it was first seen with."""

    handle: Handle
    end: Snapshot | None = None


@define(eq=False)
class Process:
    """A session that can die, and those who use it."""

    kling: KlingSession
    journal: Mortal
    calls: list[Call] = field(factory=list)
    handles: list[Followed] = field(factory=list)

    async def die(self) -> None:
        """What `kill -9` leaves: no word written any more, the lock gone, the sockets closed."""
        kling, writer = self.kling, self.journal._writer
        writer._closed = True
        writer._queue.put(None)
        owner = kling._memory.owner
        _owners._HERE.discard(owner.id)
        if owner._descriptor >= 0:
            os.close(owner._descriptor)
        kling._binding.closed = kling._poller._closed = True
        kling._poller._agenda.close()
        kling._admission.close()
        tasks = {*kling._orders._owners.values(), *kling._poller._crew._workers, *(call.task for call in self.calls)}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await kling._transport.aclose()
        if writer._thread is not None:
            writer._thread.join()


@define(frozen=True)
class Row:
    """What the file says of one creation."""

    state: State
    task_id: str | None
    attempt: int


def rows_of(path: Path) -> dict[str, Row]:
    """What the journal file says, by key."""
    if not path.exists():
        return {}
    with contextlib.closing(sqlite3.connect(path)) as file:
        return {key: Row(State(state), *rest) for key, state, *rest in file.execute("SELECT key, state, task_id, attempt FROM creation")}


class Street(RuleBasedStateMachine):
    """One service, one journal file, one or two processes."""

    def __init__(self, profile: str, directory: Path, loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(dir=directory)) / "journal.db"
        self.runner = asyncio.Runner(loop_factory=loops)
        self.complaints: list[dict[str, Any]] = []
        self.runner.get_loop().set_exception_handler(lambda _, context: self.complaints.append(context))
        self.profile = profile
        self.emulator = Emulator(profile=profile, slots={"video": 2}, durations=60, seed=3)
        self.run(self.emulator.__aenter__())
        self.processes = [self.process()]
        self.number = 0
        self.most: dict[str, int] = {}
        self.known: dict[str, Row] = {}
        self.liars: set[str] = set()
        self.last = ("W1", False)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def process(self) -> Process:
        journal = Mortal(self.path)
        options: dict[str, Any] = {"profile": self.profile, "journal": journal, "observers": [bool]}
        return Process(KlingSession(self.emulator.api_key, base_url=self.emulator.url, **options), journal)

    def rows(self) -> dict[str, Row]:
        return rows_of(self.path)

    def pick(self, things: Sequence[T], number: int) -> Iterator[T]:
        """One of them, if there is any: a rule that may not be drawn would make the draw depend on what threads did when."""
        yield from things[number % (len(things) or 1) :][:1]

    def calls(self, *, waits: bool) -> list[Call]:
        """Those who still wait for a task's end, or for a purchase."""
        return [call for process in self.processes for call in process.calls if (call.handle is not None) is waits and not call.left]

    def followed(self) -> list[tuple[Process, Followed]]:
        return [(process, each) for process in self.processes for each in process.handles]

    # Users
