"""The only code that starts a paid request: intent, send, settle, reconcile.

What it means to do is in the journal before a byte leaves, and the task's id is there before anyone is
told. A request is sent again only when the one before it provably came to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
from collections.abc import Callable
from typing import Final

import anyio.to_thread
from attrs import define, field

from kling_async._clock import Clock
from kling_async._codec import encode, has_local_media, sealed, to_body, to_canonical_json
from kling_async._descriptors import PAID, connections
from kling_async._fault import KlingError
from kling_async._order import Order, Receipt, unknown
from kling_async._pacing import Retry, backoff
from kling_async._profile import Profile
from kling_async._verdict import Accepted, Failure, Move, Rejected, Unknown, judge
from kling_async._wire import Blank, Refusal, Reply, Request, creation, decipher
from kling_async.admission import Admission, asked_too_long
from kling_async.errors import (
    AccountError,
    ApiError,
    AuthenticationError,
    InvalidRequestError,
    JournalError,
    ProtocolError,
)
from kling_async.hints import Hints
from kling_async.journal import Creation, State
from kling_async.models import Snapshot, TaskRef
from kling_async.observers import Anomaly, Exchange, Record, Waiting
from kling_async.recovery import Memory, ref_of
from kling_async.transport import FailedExchange, Transport

__all__ = ["Buyer"]

_log = logging.getLogger(__name__)

_FOLLOW: Final = 0.25
"""Seconds between two looks at the journal for a creation that another session is at."""
_ADDRESS_REFUSED: Final = 1304
"""Creations from this machine's address are refused, one like the other."""
_STALE: Final = 45.0
"""Seconds from the record that it is sent until a request may no longer leave: as long as that waits for a server and for a
connection, and less than is left of the lease that was renewed with it, so that nobody has taken the creation for a dead one's."""
_LATE_WRITES: Final = 10
"""How often an id that could not be recorded is tried to be."""


@define(eq=False, kw_only=True)
class Buyer:
    """Turns orders into tasks."""

    transport: Transport
    profile: Profile
    base: str
    retry: Retry
    clock: Clock
    roll: Callable[[], float]
    memory: Memory
    admission: Admission
    tell: Callable[[Record], None]
    hints: Hints
    _numbers: itertools.count[int] = field(factory=itertools.count, init=False)
    _room: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(connections(PAID)), init=False)

    async def buy(self, order: Order) -> Receipt:
        """Have the order's task created, or find the one it has already.

        Raises:
            KlingError: as `KlingSession.submit` says.
        """
        order.claim = f"{self.memory.owner.id}.{next(self._numbers)}"
        self.memory.at_work.add(order.claim)
        body = encode(order.job, external_task_id=order.key)
        local = has_local_media(body)
        if local:  # for a prompt the hop into a thread would cost more than the work
            body = await anyio.to_thread.run_sync(sealed, body)
        asked = to_canonical_json(body)
        capability = None if "callback_url" in body else self.hints.issue()
        order.callback_hash = None if capability is None else capability.digest
        # In this moment, before anything is written: whoever comes later must not be let in before.
        at_once = self.admission.enter(order.ticket, order.deadline) and order.is_new and not local
        row = Creation(
            key=order.key,
            dedupe=order.dedupe,
            account=self.memory.account,
            origin=self.memory.origin,
            action=order.job.route.action,
            action2=order.job.route.action2,
            request=asked,
            digest=hashlib.sha256(asked.encode()).hexdigest(),
            state=State.SENDING if at_once else State.PREPARED,
            attempt=int(at_once),
            owner=order.claim,
            callback_hash=order.callback_hash,
            created_at=(now := self.clock.wall()),
            updated_at=now,
        )
        await self.memory.open()
        if not at_once:
            standing, fresh = await self.memory.journal.intend(row)
            if not fresh:
                self.admission.left(order.ticket)
                order.ticket, order.key = self.admission.ticket(order.job), standing.key
                known = await self._follow(order, standing)
                if known is not None:
                    return known
        if capability is not None:
            # Not in what is written down: it is the same request under whichever URL its posts arrive.
            self.hints.expect(order.key, capability.digest)
            body["callback_url"] = capability.url
        body["external_task_id"] = order.key
        request = creation(self.base, order.job.route, to_body(body))
        return await self._send(order, request, row if at_once else None)

    def withdraw(self, order: Order, note: str) -> None:
        """The order's owner ends. Nothing is awaited: a second cancel would end that half done."""
        self.admission.left(order.ticket)
        if order.callback_hash is not None and not order.sent:
            self.hints.forget(order.callback_hash)
        with contextlib.suppress(JournalError):
            self.memory.journal.withdraw(order.key, order.claim, State.UNKNOWN if order.sent else State.WITHDRAWN, note)

    async def _follow(self, order: Order, row: Creation) -> Receipt | None:
        """What a creation that was asked for before came to; `None` when it is now this order's to send."""
        while True:
            order.followed = row.state is State.SENDING
            match row.state:
                case State.ACCEPTED | State.SUCCEEDED | State.FAILED:
                    ticket = None if row.state.final else order.ticket
                    return Receipt(ref=ref_of(row), ticket=ticket, how="reused")
                case State.UNKNOWN:
                    order.sent = True  # by somebody, at some time
                    return await self._reconcile(order, row.note or "unknown", age=self.clock.wall() - row.updated_at)
                case State.PREPARED | State.SENDING if await self.memory.is_at_work(row.owner):
                    await self.clock.sleep(_FOLLOW)
                case State.SENDING:
                    await self.memory.journal.bury(row, State.UNKNOWN)
                case _:
                    if await self.memory.journal.claim(row, order.claim, callback_hash=order.callback_hash):
                        order.sends = row.attempt
                        return None
            row = await self.memory.journal.get(row.key)

    async def _send(self, order: Order, request: Request, unwritten: Creation | None) -> Receipt:
        failures, once = 0, set[Move]()
        if unwritten is None:
            waiting = Waiting(why="slot", external_task_id=order.key)
            await self.admission.turn(order.ticket, order.deadline, on_wait=lambda: self.tell(waiting))
        while True:
            if request.body is not None and request.body.on_disk:
                await anyio.to_thread.run_sync(request.body.verify)
            async with self._room:  # before the journal says that it is being sent
                await self._record_sending(order, unwritten)
                unwritten = None
                order.sends += 1
                verdict, reply = await self._exchange(order, request)
            match verdict:
                case Accepted():
                    return await self._accepted(order, verdict.snapshot)
                case Unknown():
                    self.admission.left(order.ticket)
                    await self._record(order, State.UNKNOWN, verdict.cause)
                    return await self._reconcile(order, verdict.cause)
                case Rejected(move=move, error=error):
                    order.sent, order.refusal = False, error
            if order.sends > 1 and (twin := await self._twin(order, error)):
                return await self._accepted(order, twin, how="found")
            failures += move is not Move.LATER
            if order.deserted or move is Move.GIVE_UP or move in once or failures >= self.retry.attempts:
                raise await self._rejected(order, error)
            once |= {move} & {Move.ONCE, Move.RESIGN}
            await self._record_refusal(order, error)
            if move is Move.RESIGN and reply is not None:
                self.transport.correct_clock(reply)
            else:
                await self._wait(order, move, error, failures)

    async def _record_sending(self, order: Order, unwritten: Creation | None) -> None:
        order.recorded = self.clock.now(), self.clock.wall()
        if unwritten is None:
            ours = await self.memory.journal.send(order.key, order.claim)
        else:  # that it is asked for and that it is sent, in one commit (`reliability.md` 3.3)
            _, ours = await self.memory.journal.intend(unwritten)
        if not ours:
            raise _taken(order)

    async def _record_refusal(self, order: Order, error: KlingError) -> None:
        if not await self.memory.journal.move(order.key, State.PREPARED, str(error), owner=order.claim):
            raise _taken(order)

    async def _wait(self, order: Order, move: Move, error: KlingError, failures: int) -> None:
        asked = error.retry_after if isinstance(error, ApiError) else None
        left = order.deadline.left(self.clock.now())
        if move is not Move.LATER:
            if asked is not None and asked > left:
                raise asked_too_long(asked, left, error)
            pause = backoff(failures, base=self.retry.base, cap=self.retry.cap, roll=self.roll(), floor=asked)
            self.tell(Waiting(why="retry", external_task_id=order.key, seconds=pause))
            await self.clock.sleep(pause)
        elif isinstance(error, ApiError) and self.admission.refused(order.ticket, error):
            self.tell(Waiting(why="slot", external_task_id=order.key, seconds=asked))
            await self.admission.turn(order.ticket, order.deadline)
        else:
            raise await self._rejected(order, error)

    async def _exchange(self, order: Order, request: Request) -> tuple[Accepted | Rejected | Unknown, Reply | None]:
        def sent() -> None:
            now, wall = order.recorded
            if max(self.clock.now() - now, self.clock.wall() - wall) > _STALE:  # of a machine that was asleep the one may stand still
                raise FailedExchange(Failure(cause="suspended", sent=False))
            order.sent = True

        started, reply = self.clock.now(), None
        seen: Snapshot | Blank | Refusal | ProtocolError | Failure
        try:
            reply = await self.transport.pay(request, on_sent=sent)
            seen = decipher(reply, wall=self.clock.wall())
        except FailedExchange as failed:
            seen = failed.failure
        except ProtocolError as error:
            seen = error
        self.tell(
            Exchange(
                method="POST",
                route=str(order.job.route),
                subject=order.key,
                paid=True,
                seconds=self.clock.now() - started,
                http_status=reply.status if reply else None,
                cause=seen.cause if isinstance(seen, Failure) else None,
            )
        )
        return judge(seen, key=order.key, profile=self.profile), reply

    async def _accepted(self, order: Order, snapshot: Snapshot, *, how: str = "accepted") -> Receipt:
        receipt = Receipt(ref=self._ref(order, snapshot), snapshot=snapshot, ticket=order.ticket, how=how)
        self.admission.accepted(order.ticket)
        try:
            twin = await self.memory.journal.accept(order.key, snapshot.task_id)
        except JournalError as error:
            # The id is a fact that must not hide behind a full disk: it is said aloud, and written later.
            _log.critical("accepted, and not recorded (%s): %s", error, receipt.ref)
            error.ref = receipt.ref
            if not order.settled.done():
                order.settled.set_result(error)
            await self._accept_later(order.key, snapshot.task_id)
            return receipt
        if twin is not None:
            self.tell(Anomaly(what="twin-task-id", detail=f"given for {twin} and {order.key}", ref=receipt.ref))
        return receipt

    async def _accept_later(self, key: str, task_id: str) -> None:
        for attempt in range(1, _LATE_WRITES + 1):
            await self.clock.sleep(backoff(attempt, base=2.0, cap=60.0, roll=1.0))
            with contextlib.suppress(JournalError):
                await self.memory.journal.accept(key, task_id)
                return

    async def _rejected(self, order: Order, error: KlingError) -> KlingError:
        if isinstance(error, AccountError | AuthenticationError) or (isinstance(error, ApiError) and error.code == _ADDRESS_REFUSED):
            self.admission.shut(order.ticket, error)
        await self._record(order, State.REJECTED, str(error))
        return error

    async def _reconcile(self, order: Order, cause: str, *, age: float = 0.0) -> Receipt:
        found = await self.memory.reconciler.search(order.key, order.job.route, age=age)
        if found is not None:
            return await self._accepted(order, found, how="found")
        self.tell(Anomaly(what="outcome-unknown", detail=f"{order.key}: {cause}"))
        raise unknown(order, f"nobody can tell whether the gateway accepted the request: {cause}", cause)

    async def _twin(self, order: Order, error: KlingError) -> Snapshot | None:
        """A key that is refused as wrong when it is sent again may be refused as used: then its task exists."""
        if not isinstance(error, InvalidRequestError):
            return None
        return await self.memory.reconciler.look_up(order.key, order.job.route)

    async def _record(self, order: Order, state: State, note: str) -> None:
        # The outcome stands whatever the journal says; a row left at `sending` is taken as unknown by whoever finds it.
        try:
            await self.memory.journal.move(order.key, state, note, owner=order.claim)
        except JournalError as error:
            _log.error("creation %s is %s, and that was not recorded: %s", order.key, state, error)

    def _ref(self, order: Order, snapshot: Snapshot) -> TaskRef:
        return TaskRef(
            origin=self.memory.origin,
            action=order.job.route.action,
            action2=order.job.route.action2,
            task_id=snapshot.task_id,
            external_task_id=order.key,
            created_at=snapshot.created_at,
        )


def _taken(order: Order) -> JournalError:
    return JournalError(f"another session has taken creation {order.key} over; nothing was sent")
