"""The only code that starts a paid request: sent once, settled whatever becomes of its caller.

Every creation is an order with an owner task of its own. The caller awaits a future, never the owner:
cancelling or timing out the caller withdraws what has not left yet, and never touches what has.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, Final

import anyio.to_thread
from attrs import define, field

from kling_async._clock import Clock
from kling_async._codec import encode, has_local_media, to_json
from kling_async._fault import ConfigurationError, KlingError
from kling_async._pacing import Retry, backoff
from kling_async._profile import Profile
from kling_async._verdict import Accepted, Failure, Move, Rejected, Unknown, judge
from kling_async._wire import Blank, Refusal, Reply, Request, creation, decipher
from kling_async.errors import ApiError, ProtocolError, SubmitOutcomeUnknown, TransportTimeoutError
from kling_async.jobs import Job
from kling_async.models import Snapshot
from kling_async.transport import FailedExchange, Transport

__all__ = ["Buyer", "Order", "mint_key"]

_log = logging.getLogger(__name__)

_KEY_BYTES: Final = 13


def mint_key() -> str:
    """A new reconciliation key: the `external_task_id` of a job that brings none."""
    return f"ka-{secrets.token_hex(_KEY_BYTES)}"


@define(eq=False)
class Order:
    """One logical creation: one job, one key, at most one task."""

    job: Job[Any]
    key: str
    settled: asyncio.Future[Snapshot | KlingError]
    sent: bool = False
    """Whether a byte of the request now under way may have left."""
    deserted: bool = False
    """Whether the caller has gone, or the session closes; no further request starts then."""
    refusal: KlingError | None = None
    """Why the request before, if there was one, came to nothing."""


@define(eq=False)
class Buyer:
    """Sends creations, each by its own owner task."""

    transport: Transport
    profile: Profile
    base: str
    retry: Retry
    clock: Clock
    roll: Callable[[], float]
    on_orphan: Callable[[Order, Snapshot], None]
    """Told of a task that was accepted after its caller had gone."""
    _orders: dict[asyncio.Task[None], Order] = field(factory=dict, init=False)

    async def submit(self, job: Job[Any], *, key: str, timeout: float | None) -> Snapshot:
        """Have the job's task created under `key` and give what the service said of it.

        Raises:
            ApiError: the service refused.
            TransportError: the gateway could not be reached; `TransportTimeoutError` when time ran out first.
            SubmitOutcomeUnknown: the request went out, and nobody can tell whether it was accepted.
        """
        if timeout == 0:
            msg = "timeout is 0: nothing was sent"
            raise TransportTimeoutError(msg)
        loop = asyncio.get_running_loop()
        order = Order(job, key, loop.create_future())
        owner = loop.create_task(self._own(order))
        self._orders[owner] = order
        owner.add_done_callback(self._account_for)
        timer = None if timeout is None else self.clock.call_at(self.clock.now() + timeout, lambda: _run_out(order, owner))
        try:
            outcome = await order.settled
        except asyncio.CancelledError:
            self._desert(order, owner)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if isinstance(outcome, KlingError):
            raise outcome
        return outcome

    def withdraw(self) -> None:
        """Let nothing new leave: what has not been sent is called off, what has been is not sent again."""
        for owner, order in self._orders.items():
            order.deserted = True
            if not order.sent:
                owner.cancel()

    async def settle(self, grace: float) -> None:
        """Give what is under way `grace` seconds to settle."""
        owners = set(self._orders)
        if not owners:
            return
        timer = self.clock.call_at(self.clock.now() + grace, lambda: [owner.cancel() for owner in owners])
        try:
            await asyncio.wait(owners)
        finally:
            timer.cancel()

    def _desert(self, order: Order, owner: asyncio.Task[None]) -> None:
        order.deserted = True
        if not order.sent:
            owner.cancel()
        elif order.settled.done() and not order.settled.cancelled():
            # Settled and cancelled in the same turn of the loop: the caller never saw the outcome.
            outcome = order.settled.result()
            if isinstance(outcome, Snapshot):
                self.on_orphan(order, outcome)

    def _account_for(self, owner: asyncio.Task[None]) -> None:
        # An owner ends without an outcome only when it was cancelled (the session or the loop closes) or has a defect.
        order = self._orders.pop(owner)
        defect = None if owner.cancelled() else owner.exception()
        if defect is not None:
            _log.error("creation %s broke", order.key, exc_info=defect)
        if order.settled.done():
            return
        if order.sent:
            what, cause = ("the session was closed", "closed") if defect is None else ("kling_async broke", "defect")
            order.settled.set_result(_unknown(order, f"{what} while the request was under way", cause))
        elif defect is None:
            order.settled.set_result(ConfigurationError("the session was closed; nothing was bought"))
        else:
            order.settled.set_exception(defect)

    async def _own(self, order: Order) -> None:
        outcome: Snapshot | KlingError
        try:
            outcome = await self._buy(order)
        except KlingError as error:
            outcome = error.with_traceback(None)  # the frames in between hold the whole request
        if not order.settled.done():
            order.settled.set_result(outcome)
        elif isinstance(outcome, Snapshot):
            _log.warning("task %s was accepted after its caller had gone", outcome.task_id)
            self.on_orphan(order, outcome)
        else:
            _log.warning("creation %s, whose caller had gone, ended: %s", order.key, outcome)

    async def _buy(self, order: Order) -> Snapshot:
        body = encode(order.job, external_task_id=order.key)
        if has_local_media(body):
            data = await anyio.to_thread.run_sync(to_json, body)
        else:
            data = to_json(body)
        request = creation(self.base, order.job.route, data)
        once = set[Move]()
        for attempt in range(1, self.retry.attempts + 1):
            verdict, reply = await self._send(order, request)
            match verdict:
                case Accepted():
                    return verdict.snapshot
                case Unknown():
                    raise _unknown(order, f"nobody can tell whether the gateway accepted the request: {verdict.cause}", verdict.cause)
                case Rejected(move=move, error=error):
                    order.refusal = error
                    spent = attempt == self.retry.attempts or move is Move.GIVE_UP or move in once
                    if spent or order.deserted:
                        raise error
            if move in {Move.ONCE, Move.RESIGN}:
                once.add(move)
            if move is Move.RESIGN and reply is not None:
                self.transport.correct_clock(reply)
                continue
            await self.clock.sleep(self._pause(move, attempt, error))
        raise AssertionError  # the last attempt returned or raised

    def _pause(self, move: Move, attempt: int, error: KlingError) -> float:
        asked = error.retry_after if isinstance(error, ApiError) else None
        if move is Move.LATER:
            probe = self.retry.probe
            return backoff(attempt, base=2 * probe, cap=max(self.retry.cap, probe), roll=self.roll(), floor=max(asked or 0.0, probe))
        return backoff(attempt, base=self.retry.base, cap=self.retry.cap, roll=self.roll(), floor=asked)

    async def _send(self, order: Order, request: Request) -> tuple[Accepted | Rejected | Unknown, Reply | None]:
        def sent() -> None:
            order.sent = True

        reply: Reply | None = None
        seen: Snapshot | Blank | Refusal | ProtocolError | Failure
        try:
            reply = await self.transport.pay(request, on_sent=sent)
            seen = decipher(reply, wall=self.clock.wall())
        except FailedExchange as failed:
            seen = failed.failure
        except ProtocolError as error:
            seen = error
        verdict = judge(seen, key=order.key, profile=self.profile)
        if not isinstance(verdict, Accepted | Unknown):
            order.sent = False
        return verdict, reply


def _run_out(order: Order, owner: asyncio.Task[None]) -> None:
    if order.settled.done():
        return
    order.deserted = True
    if order.sent:
        msg = "time ran out while the request was under way; it is settled in the background"
        order.settled.set_result(_unknown(order, msg, "caller-timeout"))
    else:
        owner.cancel()
        last = f"the service accepted; its last answer: {order.refusal}" if order.refusal else "anything was sent"
        order.settled.set_result(TransportTimeoutError(f"time ran out before {last}"))


def _unknown(order: Order, message: str, cause: str) -> SubmitOutcomeUnknown:
    return SubmitOutcomeUnknown(message, external_task_id=order.key, job=order.job, cause=cause)
