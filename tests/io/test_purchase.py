from __future__ import annotations

import asyncio
import itertools
import traceback
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from kling_async._clock import NEVER
from kling_async._order import mint_key
from kling_async._pacing import Retry
from kling_async._verdict import Failure
from kling_async._wire import Reply
from kling_async.errors import (
    ApiError,
    AuthenticationError,
    InvalidJobError,
    InvalidRequestError,
    KlingError,
    RateLimitError,
    SubmitOutcomeUnknown,
    TransportError,
    TransportTimeoutError,
)
from kling_async.jobs import Image2Video, Text2Video
from kling_async.models import Snapshot, Status
from shops import (
    ACCEPTED,
    CUT,
    FULL,
    JOB,
    UNSENT,
    Step,
    close_journals,
    now,
    refused,
    reply,
    shop,
)

pytestmark = pytest.mark.usefixtures("nothing_is_left", "journals_are_closed")

journals_are_closed = pytest.fixture(close_journals)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\x90\0\0\x01\x90"


async def test_accepted() -> None:
    """An order that is accepted is one request, under its key, and gives what the service said."""
    room = shop(ACCEPTED)
    snapshot = await room.buy(key="ka-7")
    assert (snapshot.task_id, snapshot.status) == ("t0", Status.SUBMITTED)
    assert [key for _, key in room.transport.posts] == ["ka-7"]
    assert room.orphans == []


async def test_keys_are_new() -> None:
    """Every minted key is another, and fits where the service takes one."""
    keys = {mint_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(Text2Video(prompt="a fox", external_task_id=key).external_task_id == key for key in keys)


@pytest.mark.parametrize("answer", [UNSENT, evolve(UNSENT, cause="dns"), evolve(UNSENT, cause="timeout", slow=True)], ids=repr)
@pytest.mark.row("C1", "C4")
async def test_what_never_left_is_sent_again(answer: Failure) -> None:
    """A request of which nothing left is tried again, with growing pauses, under the same key."""
    room = shop(answer, answer, ACCEPTED)
    begun = now()
    assert (await room.buy()).task_id == "t0"
    assert now() - begun == pytest.approx(3 * 1.0 + 1.0 + 0.25 + 0.5)
    assert room.posts == 1


@pytest.mark.parametrize(("attempts", "slow"), [(1, False), (5, False), (5, True)])
async def test_trying_ends(attempts: int, *, slow: bool) -> None:
    """After its attempts an order ends with the failure, and nothing was sent."""
    room = shop(evolve(UNSENT, slow=slow), retry=Retry(attempts=attempts))
    begun = now()
    with pytest.raises(TransportTimeoutError if slow else TransportError, match="connect") as failed:
        await room.buy()
    assert failed.value.billed is False
    pauses = sum(min(20.0, 0.5 * 2**each) / 2 for each in range(attempts - 1))
    assert now() - begun == pytest.approx(attempts + pauses)
    assert room.posts == 0


@pytest.mark.row("C5")
async def test_a_bad_certificate_is_not_tried_again() -> None:
    """What cannot get better is not tried again."""
    room = shop(evolve(UNSENT, cause="certificate", final=True), ACCEPTED)
    with pytest.raises(TransportError, match="certificate"):
        await room.buy()
    assert room.posts == 0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(refused(400, 1201), InvalidRequestError), (refused(401, 1000), AuthenticationError), (reply(404), ApiError), (reply(302), ApiError)],
)
async def test_a_final_no(answer: Reply, kind: type[ApiError]) -> None:
    """A refusal that would be repeated is told at once."""
    room = shop(answer, ACCEPTED)
    with pytest.raises(kind):
        await room.buy()
    assert room.posts == 1


@pytest.mark.parametrize("answer", [FULL, refused(429, 1302), reply(429)])
async def test_a_full_service_is_asked_later(answer: Reply) -> None:
    """When all slots are taken, or requests come too fast, the same order is sent again after a second or more."""
    room = shop(answer, answer, ACCEPTED)
    assert (await room.buy()).task_id == "t0"
    (first, one), (second, two), (third, three) = room.transport.posts
    assert one == two == three
    assert second - first - 2 >= 1.0
    assert third - second - 2 >= 1.0


async def test_a_full_service_is_waited_for_as_long_as_the_caller_likes() -> None:
    """A slot frees in minutes, so attempts are no bound: the caller's timeout is, and its error tells the last answer (P12)."""
    room = shop(FULL)
    with pytest.raises(TransportTimeoutError, match="1303"):
        await room.buy(timeout=100.0)
    assert 5 <= room.posts <= 8


@pytest.mark.row("K4")
async def test_an_unexplained_429_is_waited_for_only_so_long() -> None:
    """A 429 without a code may mean an empty account: with nothing of ours running it is believed after five minutes (K4)."""
    room = shop(reply(429))
    begun = now()
    with pytest.raises(RateLimitError):
        await room.buy()
    assert 300 <= now() - begun < 360


async def test_the_servers_wish_is_a_floor() -> None:
    """`Retry-After` is waited for, however short the own pause would be."""
    room = shop(refused(429, 1302, retry_after="77"), ACCEPTED)
    await room.buy()
    (first, _), (second, _) = room.transport.posts
    assert second - first - 2 >= 77


@pytest.mark.parametrize("code", [1003, 1004])
@pytest.mark.row("D6")
async def test_a_token_is_signed_anew_once(code: int) -> None:
    """A token whose time was wrong is signed by the server's clock and sent once more, at once, and no oftener."""
    room = shop(refused(401, code), ACCEPTED)
    await room.buy()
    (first, _), (second, _) = room.transport.posts
    assert second - first == pytest.approx(2.0)
    assert room.transport.corrections == 1
    room = shop(refused(401, code))
    with pytest.raises(AuthenticationError):
        await room.buy()
    assert (room.posts, room.transport.corrections) == (2, 1)


async def test_too_early_is_sent_once_more() -> None:
    """425 is worth one more request."""
    room = shop(reply(425), ACCEPTED)
    assert (await room.buy()).task_id == "t0"
    room = shop(reply(425))
    with pytest.raises(ApiError):
        await room.buy()
    assert room.posts == 2


UNKNOWN: list[tuple[Reply | Failure, str]] = [
    *((evolve(CUT, cause=cause), cause) for cause in ("disconnected", "reset", "timeout", "malformed-reply", "cut-reply", "broken")),
    (Failure(cause="certificate", sent=True, final=True), "certificate"),
    *((reply(status), f"http-{status}") for status in (303, 408, 409, 500, 502, 503, 504, 524)),
    *((refused(status, code), f"http-{status}") for status, code in ((500, 5000), (503, 5001), (504, 5002))),
    *((reply(200, body), "malformed-reply") for body in (b"", b"<html>", b'{"code": 0, "da')),
    (reply(200, {"code": 0, "data": None}), "no-task-id"),
    (reply(200, {"code": 0, "data": {"task_id": "t9", "task_info": {"external_task_id": "ka-2"}}}), "other-key"),
]


@pytest.mark.parametrize(("answer", "cause"), UNKNOWN)
@pytest.mark.row("C7", "C8", "S2", "S4", "S8")
async def test_what_nobody_can_tell_is_not_sent_again(answer: Reply | Failure, cause: str) -> None:
    """An unknown outcome is told as one, with what is needed to look for it, and nothing is sent again (P1, P4)."""
    room = shop(Step(answer, accepts=True), ACCEPTED)
    with pytest.raises(SubmitOutcomeUnknown) as unknown:
        await room.buy(key="ka-9")
    assert (unknown.value.external_task_id, unknown.value.cause) == ("ka-9", cause)
    assert unknown.value.job == evolve(JOB, external_task_id="ka-9")
    assert unknown.value.billed is None
    assert "ka-9" in str(unknown.value)
    assert room.posts == 1


async def test_unknown_after_refusals() -> None:
    """A refusal before it makes an unknown outcome no better."""
    room = shop(FULL, UNSENT, CUT, ACCEPTED)
    with pytest.raises(SubmitOutcomeUnknown):
        await room.buy()
    assert room.posts == 2


@pytest.mark.row("V15", "D7")
async def test_no_time_at_all() -> None:
    """A bound of nothing sends nothing, however quick the connection."""
    room = shop(Step(ACCEPTED, connecting=0))
    with pytest.raises(TransportTimeoutError):
        await room.buy(timeout=0)
    await asyncio.sleep(60)
    assert room.posts == 0


@pytest.mark.row("D7")
async def test_time_runs_out_before_the_request_left() -> None:
    """Out of time before anything left is a timeout that bought nothing, on time, and nothing leaves later."""
    room = shop(Step(ACCEPTED, connecting=60))
    begun = now()
    with pytest.raises(TransportTimeoutError, match="before anything was sent"):
        await room.buy(timeout=30)
    assert now() - begun == pytest.approx(30)
    await asyncio.sleep(600)
    assert room.posts == 0


@pytest.mark.row("S13")
async def test_time_runs_out_under_way() -> None:
    """Out of time with the request under way is an unknown outcome, on time; the request is settled, and its task listed."""
    room = shop(Step(ACCEPTED, answering=60))
    begun = now()
    with pytest.raises(SubmitOutcomeUnknown) as unknown:
        await room.buy(timeout=30)
    assert now() - begun == pytest.approx(30)
    assert unknown.value.cause == "caller-timeout"
    assert room.orphans == []
    await asyncio.sleep(60)
    assert room.orphans == ["t0"]


async def test_time_runs_out_between_attempts() -> None:
    """Out of time after a refusal bought nothing, tells the refusal, and sends nothing more."""
    room = shop(FULL, ACCEPTED)
    with pytest.raises(TransportTimeoutError, match="code 1303"):
        await room.buy(timeout=2.5)
    await asyncio.sleep(600)
    assert room.posts == 1


async def test_a_timeout_ends_the_attempts() -> None:
    """A request that outlives its caller's bound and is refused then is not sent again."""
    room = shop(FULL, ACCEPTED)
    with pytest.raises(SubmitOutcomeUnknown):
        await room.buy(timeout=1.5)
    await asyncio.sleep(600)
    assert (room.posts, room.orphans) == (1, [])


async def test_nothing_to_settle() -> None:
    """Closing with nothing under way takes no time."""
    begun = now()
    await shop(ACCEPTED).orders.settle(30)
    assert now() == begun


async def test_closing_is_cancelled() -> None:
    """Whoever cannot wait for what is under way to settle takes it down at once: no request is left that nobody will ever hear of."""
    room = shop(Step(ACCEPTED, answering=20.0))
    buying = asyncio.ensure_future(room.buy())
    await asyncio.sleep(5)
    begun = now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await room.orders.settle(30)
    with pytest.raises(SubmitOutcomeUnknown, match="closed"):
        await buying
    assert now() == begun + 1


@pytest.mark.parametrize("connecting", [True, False])
async def test_a_defect(caplog: pytest.LogCaptureFixture, *, connecting: bool) -> None:
    """A defect before the request left is raised as it is; after that it is an unknown outcome; it is logged both times."""
    room = shop(KeyError("a defect"))
    if connecting:
        room.transport.script = [Step("accepted", connecting="soon")]  # type: ignore[arg-type]  # the defect
        with pytest.raises(TypeError):
            await room.buy()
    else:
        with pytest.raises(SubmitOutcomeUnknown) as unknown:
            await room.buy()
        assert unknown.value.cause == "defect"
    assert [record.exc_info is not None for record in caplog.records] == [True]
    room.transport.script = [Step(ACCEPTED)]
    assert (await room.buy(key="ka-2", timeout=60)).task_id in room.transport.tasks, "its slot is free again"


async def test_local_media_are_read_when_sent(tmp_path: Path) -> None:
    """A file is read when its order goes out; one that has gone by then is an invalid job, and nothing was sent."""
    path = tmp_path / "fox.png"
    path.write_bytes(PNG + bytes(2000))
    job = Image2Video(image=path, prompt="run")
    room = shop(ACCEPTED)
    assert (await room.buy(job)).task_id == "t0"
    path.unlink()
    with pytest.raises(InvalidJobError, match="image"):
        await room.buy(job)
    assert room.posts == 1


async def test_orders_do_not_disturb_each_other() -> None:
    """Many orders at once each have their own outcome, whatever becomes of the others."""
    steps: list[Step | Reply | Failure | str] = [ACCEPTED, refused(400, 1201), CUT, Step(ACCEPTED, answering=30)]
    rooms = [shop(step) for step in itertools.chain.from_iterable([steps] * 25)]
    callers = [asyncio.ensure_future(room.buy(key=f"ka-{number}")) for number, room in enumerate(rooms)]
    await asyncio.sleep(3)
    for caller in callers[3::4]:
        caller.cancel()
    kinds = [type(each) for each in await asyncio.gather(*callers, return_exceptions=True)]
    assert kinds == [Snapshot, InvalidRequestError, SubmitOutcomeUnknown, asyncio.CancelledError] * 25
    await asyncio.sleep(60)
    assert sum(len(room.orphans) for room in rooms) == 25


@pytest.mark.parametrize("word", ["", "\ud800", "order\0 17", 17, b"17", ["17"]], ids=repr)
async def test_a_word_must_be_one(word: Any) -> None:
    """A word that is not the same in every journal, or none at all, is refused before anything is recorded or sent."""
    room = shop(ACCEPTED)
    with pytest.raises(InvalidJobError, match="dedupe: must be text"):
        await room.orders.submit(JOB, dedupe=word, deadline=NEVER)
    assert (room.posts, await room.orders.buyer.memory.journal.rows()) == (0, [])


@pytest.mark.parametrize("answer", [refused(400, 1201), FULL, UNSENT, CUT, reply(502), reply(200, b"{")])
async def test_no_error_holds_the_request(answer: Reply | Failure) -> None:
    """Not even a traceback with all local values shows what was sent: a callback URL is a secret (P15)."""
    job = Text2Video(prompt="a fox", callback_url="https://me.example/hook?token=c4n4ry")
    with pytest.raises(KlingError) as failed:
        await shop(answer).buy(job, timeout=60)
    shown = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
    assert "test_no_error_holds_the_request" in shown
    assert "c4n4ry" not in shown.replace(repr(answer), "")
