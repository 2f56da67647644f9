"""What tests of purchases share: a transport that follows a script and keeps the ground truth, and a shop around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from attrs import define, evolve, field, frozen

from kling_async._binding import Binding
from kling_async._clock import Deadline, SystemClock
from kling_async._order import Receipt
from kling_async._pacing import Retry
from kling_async._profile import GATEWAY
from kling_async._verdict import Failure
from kling_async._wire import Reply, Request
from kling_async.admission import Admission
from kling_async.errors import KlingError
from kling_async.hints import Hints
from kling_async.jobs import Job, Text2Video
from kling_async.journal import Journal
from kling_async.models import Snapshot
from kling_async.observers import Audience
from kling_async.orders import Orders
from kling_async.purchase import Buyer
from kling_async.reconcile import Reconciler
from kling_async.recovery import Memory
from kling_async.transport import FailedExchange

_OPENED: list[Journal] = []


async def close_journals() -> AsyncIterator[None]:
    """Close the journals of all shops of a test."""
    yield
    while _OPENED:
        await _OPENED.pop().aclose()


JOB = Text2Video(prompt="a fox")


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
        assert request.body is not None
        self.posts.append((asyncio.get_running_loop().time(), json.loads(b"".join(request.body.steps()))["external_task_id"]))
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
    key: str | None = "ka-1"
    """Under which jobs are bought; `None`: under one of the buyer's."""

    async def buy(self, job: Job[Any] = JOB, *, key: str = "", timeout: float | None = None) -> Snapshot:
        receipt = await self.orders.submit(
            evolve(job, external_task_id=key or self.key), dedupe=None, deadline=Deadline.after(timeout, SystemClock())
        )
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
    hints = Hints(
        callbacks=None,
        earlier=memory.expected,
        clock=clock,
        binding=Binding(),
        look_soon=lambda _watch, _final: None,
        public_only=True,
    )
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
        hints=hints,
    )
    return Shop(transport, Orders(buyer, admission, clock, keep), orphans)


def now() -> float:
    """Seconds of the loop."""
    return asyncio.get_running_loop().time()


async def cancelled(room: Shop, after: float) -> list[str]:
    """Cancel the caller at an instant."""
    caller = asyncio.ensure_future(room.buy())
    if after:
        await asyncio.sleep(after)
    caller.cancel()
    return await outcome(caller)


async def outcome(caller: asyncio.Future[Snapshot]) -> list[str]:
    """The id that the caller got, if it got one."""
    try:
        return [(await caller).task_id]
    except (KlingError, asyncio.CancelledError):
        return []
