"""Owner tasks: every creation has one of its own, which lives on when its caller does not.

The caller awaits a future, never the owner. Cancelling or timing out the caller withdraws what has not
left yet, and never touches what has.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

from attrs import define, field

from kling_async._clock import Clock, Deadline
from kling_async._fault import ConfigurationError, KlingError
from kling_async._order import Order, Receipt, mint_key, settled, unknown, word_fault
from kling_async.admission import Admission
from kling_async.errors import InvalidJobError, TransportTimeoutError
from kling_async.jobs import Job
from kling_async.observers import Anomaly
from kling_async.purchase import Buyer

__all__ = ["Orders"]

_log = logging.getLogger(__name__)


@define(eq=False)
class Orders:
    """The creations under way, each with its owner."""

    buyer: Buyer
    admission: Admission
    clock: Clock
    on_orphan: Callable[[Receipt], None]
    """Told of a task that was accepted after its caller had gone."""
    _owners: dict[Order, asyncio.Task[None]] = field(factory=dict, init=False)

    async def submit(self, job: Job[Any], *, dedupe: str | None, deadline: Deadline) -> Receipt:
        """Have the job's task created and give what the service said of it.

        Raises:
            KlingError: as `KlingSession.submit` says.
        """
        if fault := word_fault(dedupe):
            raise InvalidJobError("dedupe", fault)
        if not deadline.left(self.clock.now()):
            msg = "no time was left: nothing was sent"
            raise TransportTimeoutError(msg)
        loop = asyncio.get_running_loop()
        key = job.external_task_id or mint_key()
        order = Order(job, dedupe, key, self.admission.ticket(job), loop.create_future(), deadline)
        owner = self._owners[order] = loop.create_task(self._own(order))
        owner.add_done_callback(lambda owner: self._account_for(order, owner))
        timer = self.clock.call_at(deadline.at, lambda: _run_out(order, owner)) if math.isfinite(deadline.at) else None
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

    async def settling(self, key: str) -> None:
        """Wait until the request under that key has its outcome, if one is under way here."""
        owners = [owner for order, owner in self._owners.items() if order.key == key]
        if owners:
            await asyncio.wait(owners)

    def withdraw(self) -> None:
        """Let nothing new leave: what has not been sent is called off, what has been is not sent again."""
        for order, owner in self._owners.items():
            order.deserted = True
            if not order.sent:
                owner.cancel()

    async def settle(self, grace: float) -> None:
        """Give what is under way `grace` seconds to settle."""
        owners = list(self._owners.values())
        if not owners:
            return
        timer = self.clock.call_at(self.clock.now() + grace, lambda: [owner.cancel() for owner in owners])
        try:
            await asyncio.wait(owners)
        except asyncio.CancelledError:
            for owner in owners:
                owner.cancel()
            raise
        finally:
            timer.cancel()

    async def _own(self, order: Order) -> None:
        outcome: Receipt | KlingError
        begun = self.clock.now()
        try:
            outcome = await self.buyer.buy(order)
        except KlingError as error:
            outcome = error.with_traceback(None)  # the frames in between hold the whole request
            self.buyer.withdraw(order, str(error))
        except BaseException as end:  # its slots are to be freed by a defect, too
            gone = isinstance(end, asyncio.CancelledError)
            self.buyer.withdraw(order, "its caller or its session went away" if gone else f"kling_async broke: {type(end).__name__}")
            if not isinstance(end, GeneratorExit):  # what a closed loop has left is collected amid anything, such as an observer
                self.buyer.tell(settled(order, end, self.clock.now() - begun))
            raise
        self.buyer.tell(settled(order, outcome, self.clock.now() - begun))
        if not order.settled.done():
            order.settled.set_result(outcome)
        elif isinstance(outcome, Receipt):
            self._orphaned(outcome)
        else:
            _log.warning("creation %s, whose caller had gone, ended: %s", order.key, outcome)

    def _desert(self, order: Order, owner: asyncio.Task[None]) -> None:
        order.deserted = True
        if order.settled.done() and not order.settled.cancelled():
            # Settled and cancelled in the same turn of the loop: the caller never saw the outcome.
            outcome = order.settled.result()
            if isinstance(outcome, Receipt):
                self._orphaned(outcome)
        elif not order.sent:
            owner.cancel()

    def _orphaned(self, receipt: Receipt) -> None:
        self.buyer.tell(Anomaly(what="orphan", detail="accepted after its caller had gone", ref=receipt.ref))
        self.on_orphan(receipt)

    def _account_for(self, order: Order, owner: asyncio.Task[None]) -> None:
        # An owner ends without an outcome only when it was cancelled, as the session or the loop closes, or has a defect.
        del self._owners[order]
        self.buyer.memory.at_work.discard(order.claim)
        defect = None if owner.cancelled() else owner.exception()
        if defect is not None:
            _log.error("creation %s broke", order.key, exc_info=defect)
        if order.settled.done():
            return
        if order.sent or order.followed:
            what, cause = ("the session was closed", "closed") if defect is None else ("kling_async broke", "defect")
            order.settled.set_result(unknown(order, f"{what} while the request was under way", cause))
        elif defect is None:
            order.settled.set_result(ConfigurationError("the session was closed; nothing was bought"))
        else:
            order.settled.set_exception(defect)


def _run_out(order: Order, owner: asyncio.Task[None]) -> None:
    if order.settled.done():
        return
    order.deserted = True
    if not order.sent:
        owner.cancel()
    if order.sent or order.followed:
        message = "time ran out while the request was under way; it is settled in the background"
        order.settled.set_result(unknown(order, message, "caller-timeout"))
    else:
        last = f"the service accepted; its last answer: {order.refusal}" if order.refusal else "anything was sent"
        order.settled.set_result(TransportTimeoutError(f"time ran out before {last}"))
