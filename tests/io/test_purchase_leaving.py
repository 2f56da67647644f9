from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from kling_async._verdict import Failure
from kling_async._wire import Reply
from kling_async.errors import (
    ConcurrencyLimitError,
    ConfigurationError,
    KlingError,
    SubmitOutcomeUnknown,
)
from shops import (
    ACCEPTED,
    CUT,
    FULL,
    UNSENT,
    Shop,
    Step,
    cancelled,
    close_journals,
    now,
    outcome,
    refused,
    reply,
    shop,
)

pytestmark = [pytest.mark.exhaustive, pytest.mark.usefixtures("nothing_is_left", "journals_are_closed")]

journals_are_closed = pytest.fixture(close_journals)


SCRIPTS: dict[str, tuple[Step | Reply | Failure | str, ...]] = {
    "accepted": (ACCEPTED,),
    "full, accepted": (FULL, ACCEPTED),
    "unsent, accepted": (UNSENT, ACCEPTED),
    "re-signed": (refused(401, 1003), ACCEPTED),
    "full, unsent, full, accepted": (FULL, UNSENT, FULL, ACCEPTED),
    "cut after acceptance": (Step(CUT, accepts=True), ACCEPTED),
    "cut before acceptance": (CUT, ACCEPTED),
    "5xx": (Step(reply(502), accepts=True), ACCEPTED),
    "refused": (refused(400, 1201), ACCEPTED),
}
INSTANTS = [*(each / 4 for each in range(40))]


async def cancelled_twice(room: Shop, after: float) -> list[str]:
    """Cancel the caller, and once more before it has noticed."""
    caller = asyncio.ensure_future(room.buy())
    await asyncio.sleep(after)
    caller.cancel()
    caller.cancel()
    return await outcome(caller)


async def cancelled_first(room: Shop, after: float) -> list[str]:
    """Cancel the caller by a timer that was set before the request's own, and so comes first in a shared turn."""

    def leave() -> None:
        caller.cancel()

    asyncio.get_running_loop().call_later(after, leave)
    caller = asyncio.ensure_future(room.buy())
    return await outcome(caller)


async def timed_out(room: Shop, after: float) -> list[str]:
    """Let the caller's own bound run out."""
    return await outcome(asyncio.ensure_future(room.buy(timeout=after)))


async def out_of_scope(room: Shop, after: float) -> list[str]:
    """Have the caller's scope cancelled, again and again as such scopes do."""
    with anyio.move_on_after(after):
        return [(await room.buy()).task_id]
    return []


WAYS = (cancelled, cancelled_twice, cancelled_first, timed_out, out_of_scope)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("key", ["ka-1", None], ids=["two commits", "one commit"])
@pytest.mark.row("W1", "W4")
async def test_leaving_at_any_instant(script: str, way: Callable[[Shop, float], Any], key: str | None) -> None:
    """Whenever and however a caller leaves: nothing is bought twice, nothing leaves after it has gone, no known task is lost (P1 to P3)."""
    for after in INSTANTS:
        room = shop(*SCRIPTS[script])
        room.key = key
        begun = now()
        try:
            known = await way(room, after)
        except KlingError:
            known = []
        gone = now()
        assert gone - begun <= after
        await asyncio.sleep(600)
        where = f"{script}, after {after} s"
        answered = [task for task in room.transport.tasks if script not in {"5xx", "cut after acceptance"}]
        assert sorted(known + room.orphans) == answered, where
        assert len(room.transport.tasks) <= 1, where
        assert len({key for _, key in room.transport.posts}) <= 1, where
        if not known:
            assert all(when <= gone for when, _ in room.transport.posts), where
        assert not room.orders._owners


async def test_cancelled_at_once() -> None:
    """A caller cancelled before its order began sends nothing (W2)."""
    room = shop(ACCEPTED)
    caller = asyncio.ensure_future(room.buy())
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.sleep(60)
    assert room.posts == 0


@pytest.mark.row("S13")
async def test_cancelled_as_the_reply_arrives() -> None:
    """A task whose caller is cancelled in the very turn of its reply is listed, once (S13)."""
    room = shop(ACCEPTED)
    caller = asyncio.ensure_future(room.buy())
    room.transport.at_the_end = lambda: asyncio.get_running_loop().call_soon(caller.cancel)
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.sleep(60)
    assert room.orphans == ["t0"]


async def test_orphans_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A task without a caller is worth a warning with its id, and so is an outcome that nobody will hear."""
    room = shop(ACCEPTED)
    assert await cancelled(room, 1.5) == []
    await asyncio.sleep(60)
    assert [(record.levelno, "t0" in record.getMessage()) for record in caplog.records] == [(logging.WARNING, True)]
    caplog.clear()
    assert await cancelled(shop(CUT), 1.5) == []
    await asyncio.sleep(60)
    assert {(record.levelno, "ka-1" in record.getMessage()) for record in caplog.records} == {(logging.WARNING, True)}


async def test_closing_lets_settle() -> None:
    """What is under way when the session closes is settled, and its caller hears of it (P28)."""
    room = shop(Step(ACCEPTED, answering=20))
    caller = asyncio.ensure_future(room.buy())
    await asyncio.sleep(5)
    room.orders.withdraw()
    await room.orders.settle(30)
    assert (await caller).task_id == "t0"


async def test_closing_ends_waiting() -> None:
    """What is not settled within the grace is an unknown outcome, and not waited for."""
    room = shop(Step(ACCEPTED, answering=1e6))
    caller = asyncio.ensure_future(room.buy())
    await asyncio.sleep(5)
    begun = now()
    room.orders.withdraw()
    await room.orders.settle(30)
    assert now() - begun == pytest.approx(30)
    with pytest.raises(SubmitOutcomeUnknown) as unknown:
        await caller
    assert unknown.value.cause == "closed"


@pytest.mark.parametrize("script", [(Step(ACCEPTED, connecting=60),), (FULL, ACCEPTED), (UNSENT, ACCEPTED)])
@pytest.mark.parametrize("after", [0.0, 0.5, 1.1, 2.1])
async def test_closing_withdraws(script: tuple[Any, ...], after: float) -> None:
    """What has not left when the session closes never leaves, and what is refused then is not sent again (P28)."""
    room = shop(*script)
    caller = asyncio.ensure_future(room.buy())
    await asyncio.sleep(after)
    posts = room.posts
    room.orders.withdraw()
    await room.orders.settle(30)
    with pytest.raises((ConfigurationError, ConcurrencyLimitError)) as closed:
        await caller
    assert closed.value.billed is False
    await asyncio.sleep(600)
    assert room.posts == posts


async def test_the_loop_ends(caplog: pytest.LogCaptureFixture) -> None:
    """An owner that is killed with its loop tells its caller that the outcome is unknown, and complains about nothing (W11)."""
    room = shop(Step(ACCEPTED, answering=60))
    caller = asyncio.ensure_future(room.buy())
    await asyncio.sleep(5)
    for owner in room.orders._owners.values():
        owner.cancel()
    with pytest.raises(SubmitOutcomeUnknown):
        await caller
    assert not caplog.records
