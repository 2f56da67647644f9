from __future__ import annotations

import asyncio
import itertools
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import define, evolve, field, frozen

from kling_async._clock import SystemClock
from kling_async._pacing import Retry
from kling_async._profile import GATEWAY
from kling_async._verdict import Failure
from kling_async._wire import Reply, Request
from kling_async.admission import Admission
from kling_async.errors import (
    ApiError,
    AuthenticationError,
    ConcurrencyLimitError,
    ConfigurationError,
    InvalidJobError,
    InvalidRequestError,
    KlingError,
    RateLimitError,
    SubmitOutcomeUnknown,
    TransportError,
    TransportTimeoutError,
)
from kling_async.jobs import Image2Video, Job, Text2Video
from kling_async.journal import Journal
from kling_async.models import Snapshot, Status
from kling_async.observers import Audience
from kling_async.orders import Orders
from kling_async.purchase import Buyer, Receipt, mint_key
from kling_async.reconcile import Reconciler
from kling_async.recovery import Memory
from kling_async.transport import FailedExchange

pytestmark = pytest.mark.usefixtures("journals_are_closed", "nothing_is_left")

_OPENED: list[Journal] = []


@pytest.fixture
async def journals_are_closed() -> AsyncIterator[None]:
    """Close the journals of all shops of a test."""
    yield
    while _OPENED:
        await _OPENED.pop().aclose()


JOB = Text2Video(prompt="a fox")
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\x90\0\0\x01\x90"


def reply(status: int, body: dict[str, Any] | bytes = b"", **headers: str) -> Reply:
    """A complete reply."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=data)


def refused(status: int, code: int, **headers: str) -> Reply:
    """The service's no."""
    return reply(status, {"code": code, "message": "no", "request_id": "r"}, **headers)


ACCEPTED = "accepted"
FULL = refused(429, 1303)
UNSENT = Failure(cause="connect", sent=False)
CUT = Failure(cause="disconnected", sent=True)


@frozen
class Step:
    """What becomes of one request: a second until its first byte leaves, a second until the answer comes."""

    answer: Reply | Failure | Exception | str
    connecting: float = 1.0
    answering: float = 1.0
    accepts: bool = False
    """Whether the service makes a task of it, whatever it answers."""


@define
class FakeTransport:
    """Answers paid requests by a script, the last step for ever, and keeps the ground truth."""

    script: list[Step]
    posts: list[tuple[float, str]] = field(factory=list)
    """When a request was read, and under which key."""
    tasks: list[str] = field(factory=list)
    """The tasks that exist."""
    corrections: int = 0
    at_the_end: Callable[[], object] = bool
    """Called in the turn in which a request is answered."""

    async def pay(self, request: Request, *, on_sent: Callable[[], None]) -> Reply:
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if step.connecting:
            await asyncio.sleep(step.connecting)
        if isinstance(step.answer, Failure) and not step.answer.sent:
            raise FailedExchange(step.answer)
        on_sent()
        self.posts.append((asyncio.get_running_loop().time(), json.loads(request.body or b"")["external_task_id"]))
        if step.accepts or step.answer == ACCEPTED:
            self.tasks.append(f"t{len(self.tasks)}")
        await asyncio.sleep(step.answering)
        self.at_the_end()
        match step.answer:
            case Failure():
                raise FailedExchange(step.answer)
            case Exception():
                raise step.answer
            case Reply():
                return step.answer
            case _:
                return reply(200, {"code": 0, "data": {"task_id": self.tasks[-1], "task_status": "submitted"}})

    async def read(self, _request: Request) -> Reply:
        raise AssertionError  # a gateway cannot be asked by key

    def correct_clock(self, _reply: Reply) -> None:
        self.corrections += 1


@define
class Shop:
    """A buyer, its transport, and what it reported; the dice always show the middle."""

    transport: FakeTransport
    orders: Orders
    orphans: list[str]

    async def buy(self, job: Job[Any] = JOB, *, key: str = "ka-1", timeout: float | None = None) -> Snapshot:
        receipt = await self.orders.submit(evolve(job, external_task_id=key), dedupe=None, timeout=timeout)
        assert receipt.snapshot is not None
        return receipt.snapshot

    @property
    def posts(self) -> int:
        """How many requests were read."""
        return len(self.transport.posts)


def shop(*script: Step | Reply | Failure | Exception | str, retry: Retry | None = None) -> Shop:
    """A shop whose transport follows the script."""
    transport = FakeTransport([step if isinstance(step, Step) else Step(step) for step in script])
    orphans: list[str] = []

    def keep(receipt: Receipt) -> None:
        orphans.append(receipt.ref.task_id)

    base, clock, retry, journal = "https://gateway.example/kling/v1", SystemClock(), retry or Retry(), Journal()
    _OPENED.append(journal)
    admission = Admission(clock, lambda: 0.5, {}, retry.probe)
    reconciler = Reconciler(transport.read, GATEWAY, base, retry, clock)
    memory = Memory(journal, journal.owner(), "account", "https://gateway.example", reconciler, Audience(()).tell)
    buyer = Buyer(
        transport=transport,  # type: ignore[arg-type]  # a fake
        profile=GATEWAY,
        base=base,
        retry=retry,
        clock=clock,
        roll=lambda: 0.5,
        memory=memory,
        admission=admission,
        tell=Audience(()).tell,
    )
    return Shop(transport, Orders(buyer, admission, clock, keep), orphans)


def now() -> float:
    """Seconds of the loop."""
    return asyncio.get_running_loop().time()


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


async def test_no_time_at_all() -> None:
    """A bound of nothing sends nothing, however quick the connection."""
    room = shop(Step(ACCEPTED, connecting=0))
    with pytest.raises(TransportTimeoutError):
        await room.buy(timeout=0)
    await asyncio.sleep(60)
    assert room.posts == 0


async def test_time_runs_out_before_the_request_left() -> None:
    """Out of time before anything left is a timeout that bought nothing, on time, and nothing leaves later."""
    room = shop(Step(ACCEPTED, connecting=60))
    begun = now()
    with pytest.raises(TransportTimeoutError, match="before anything was sent"):
        await room.buy(timeout=30)
    assert now() - begun == pytest.approx(30)
    await asyncio.sleep(600)
    assert room.posts == 0


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


async def cancelled(room: Shop, after: float) -> list[str]:
    """Cancel the caller at an instant."""
    caller = asyncio.ensure_future(room.buy())
    if after:
        await asyncio.sleep(after)
    caller.cancel()
    return await outcome(caller)


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


async def outcome(caller: asyncio.Future[Snapshot]) -> list[str]:
    """The id that the caller got, if it got one."""
    try:
        return [(await caller).task_id]
    except (KlingError, asyncio.CancelledError):
        return []


WAYS = (cancelled, cancelled_twice, cancelled_first, timed_out, out_of_scope)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("script", SCRIPTS)
async def test_leaving_at_any_instant(script: str, way: Callable[[Shop, float], Any]) -> None:
    """Whenever and however a caller leaves: nothing is bought twice, nothing leaves after it has gone, no known task is lost (P1 to P3)."""
    for after in INSTANTS:
        room = shop(*SCRIPTS[script])
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


async def test_nothing_to_settle() -> None:
    """Closing with nothing under way takes no time."""
    begun = now()
    await shop(ACCEPTED).orders.settle(30)
    assert now() == begun


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


@pytest.mark.parametrize("answer", [refused(400, 1201), FULL, UNSENT, CUT, reply(502), reply(200, b"{")])
async def test_no_error_holds_the_request(answer: Reply | Failure) -> None:
    """Not even a traceback with all local values shows what was sent: a callback URL is a secret (P15)."""
    job = Text2Video(prompt="a fox", callback_url="https://me.example/hook?token=c4n4ry")
    with pytest.raises(KlingError) as failed:
        await shop(answer).buy(job, timeout=60)
    shown = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
    assert "test_no_error_holds_the_request" in shown
    assert "c4n4ry" not in shown.replace(repr(answer), "")
