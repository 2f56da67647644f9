"""A caller leaves at every suspension point of its purchase, under every fault: nothing is bought twice, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen

from kling_async import Creation, Journal, KlingError, KlingSession, Retry, Text2Video
from kling_async.emulator import Emulator
from kling_async.journal import State
from kling_async.testing import CancelAt

pytestmark = pytest.mark.exhaustive

_SETTLED: Final = 1000.0
"""Virtual seconds in which every request has its answer and every look-up is over."""
_RUNS: Final = list[str]()
_COMMITS: Final = set[tuple[str, ...]]()
"""First moves that creations were seen to make."""


@frozen
class Fault:
    """A fault of the emulator, by the order that makes it."""

    name: str
    accepted: bool | None = None
    options: tuple[tuple[str, Any], ...] = ()
    times: int = 1

    def __str__(self) -> str:
        words = (self.name, *(f"{value}" for _, value in self.options), "accepted" if self.accepted else "", f"x{self.times}")
        return " ".join(word for word in words if word)


def _both(name: str, **options: Any) -> list[Fault]:
    return [Fault(name, accepted, tuple(options.items())) for accepted in (False, True)]


FAULTS: Final = [
    None,
    *_both("drop"),
    *_both("reset"),
    *_both("hang", seconds=600),
    *(fault for status in (303, 408, 409, 500, 502, 503, 504, 524) for fault in _both("status", status=status, body="html")),
    *_both("status", status=500, body="json"),
    *_both("html"),
    *_both("empty"),
    Fault("truncated"),
    Fault("garbage_json"),
    Fault("chunked"),
    Fault("slow", options=(("seconds", 2), ("pieces", 3))),
    *(Fault("code", accepted=False, options=(("code", code),)) for code in (1000, 1101, 1201, 1301, 1303)),
    *(Fault("code", accepted=False, options=(("code", code),), times=3) for code in (1302, 1303)),
    *_both("code", code=5000),
    *_both("code", code=5002, http=200),
    Fault("status", accepted=False, options=(("status", 429), ("body", "empty")), times=2),
    Fault("status", accepted=False, options=(("status", 404), ("body", "html"))),
    Fault("status", accepted=False, options=(("status", 307), ("body", "empty"))),
]


def _driving_owners(leave: CancelAt) -> Callable[..., asyncio.Task[Any]]:
    """A task factory: the suspension points are those of the purchase's owner, whoever its caller is."""

    def task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        owner = getattr(work, "__qualname__", "") == "Orders._own"
        return asyncio.Task(leave.drive(work) if owner else work, loop=loop, **options)

    return task


async def _row(journal: Journal, known: list[Creation]) -> Creation | None:
    """What the journal has got to know: nothing, when the caller left before it was asked to."""
    rows = [row for row in await journal.rows() if row.key not in {each.key for each in known}]
    if not rows:
        return None
    (row,) = rows
    moves = await journal._writer.run(
        lambda db: [str(to) for (to,) in db.execute("SELECT to_state FROM event WHERE key = ? ORDER BY seq", (row.key,))]
    )
    _COMMITS.add(tuple(moves[:2]))
    return row


async def _leave(emulator: Emulator, fault: Fault | None, leave: CancelAt, profile: str, journal: Journal, *, keyed: bool) -> None:
    """One run."""
    job = Text2Video(prompt="a fox", external_task_id=f"k.{len(_RUNS)}" if keyed else None)
    emulator.log.clear()
    emulator.clear_faults()
    if fault is not None:
        emulator.fault(fault.name, method="POST", accepted=fault.accepted, times=fault.times, **dict(fault.options))
    loop = asyncio.get_running_loop()
    known = await journal.rows()
    session = KlingSession(emulator.api_key, base_url=emulator.url, profile=profile, journal=journal, retry=Retry(probe=1.0))
    async with session as kling:
        loop.set_task_factory(_driving_owners(leave))
        try:
            caller = asyncio.ensure_future(kling.submit(job, timeout=900.0))
            leave.cancel = caller.cancel
            outcome = (await asyncio.gather(caller, return_exceptions=True))[0]
            left = sum(seen.method == "POST" for seen in emulator.log.requests)
            await asyncio.sleep(_SETTLED)
        finally:
            loop.set_task_factory(None)
        posts, tasks = [seen for seen in emulator.log.requests if seen.method == "POST"], list(emulator.log.tasks)
        row = await _row(journal, known)
        assert {post.external_task_id for post in posts} <= {row.key if row else None}
        orphans = {ref.task_id for ref in kling.orphans()}
    where = f"{profile}, {fault}, point {leave.at}: {outcome!r}, {row}"
    refused = [post for post in posts if post.fault in {"code", "status"} and not any(task.id == post.task_id for task in tasks)]
    assert len(posts) <= 1 + len(refused), where
    assert len(tasks) <= 1, where
    for task in tasks:
        assert row is not None, where
        assert row.task_id == task.id or row.state in {State.UNKNOWN, State.SENDING}, where
        if isinstance(outcome, asyncio.CancelledError) and row.task_id:
            assert orphans == {task.id}, where
    if isinstance(outcome, asyncio.CancelledError):
        assert len(posts) <= left + 1, where  # the one that may have been on its way
    else:
        assert not isinstance(outcome, BaseException) or isinstance(outcome, KlingError), where
    _RUNS.append(where)


@pytest.mark.usefixtures("nothing_is_left")
@pytest.mark.row("W1", "W4", "C9", "C10", "S1")
@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("profile", ["gateway", "official"])
@pytest.mark.parametrize("keyed", [True, False], ids=["two commits", "one commit"])
async def test_leaving_at_every_suspension_point(tmp_path: Path, profile: str, fault: Fault | None, *, keyed: bool) -> None:
    """At most one send that could be accepted per key, and every accepted id is known or its key is listed (P1 to P3)."""
    async with Emulator(profile=profile, slots={"video": 1000}) as emulator, Journal(tmp_path / "journal") as journal:
        for leave in CancelAt.every():
            leave.twice = leave.at % 3 == 0
            await _leave(emulator, fault, leave, profile, journal, keyed=keyed)
        assert leave.at > 3


def test_that_is_enough(say: Callable[[str], None]) -> None:
    """The combinations add up to what was promised, with what is asked for and sent in one commit as with what takes two."""
    say(f"{len(_RUNS)} combinations of fault, profile, commits and suspension point")
    assert len(_RUNS) >= 500
    assert {("sending", "accepted"), ("sending", "withdrawn"), ("prepared", "sending"), ("prepared", "withdrawn")} <= _COMMITS
