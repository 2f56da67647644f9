"""One logical creation, as its owner and its caller know it: at most one task."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

from attrs import define, frozen

from kling_async._clock import Deadline
from kling_async._fault import KlingError
from kling_async._gate import Ticket
from kling_async.errors import SubmitOutcomeUnknown
from kling_async.jobs import Job
from kling_async.models import Snapshot, TaskRef
from kling_async.observers import Settled

__all__ = ["Order", "Receipt", "mint_key", "settled", "unknown", "word_fault"]

_KEY_BYTES: Final = 13


def mint_key() -> str:
    """A new reconciliation key: the `external_task_id` of a job that brings none."""
    return f"ka-{secrets.token_hex(_KEY_BYTES)}"


def word_fault(word: object) -> str | None:
    """What keeps a caller's own word from being the same one in every journal."""
    if word is None:
        return None
    if not isinstance(word, str):
        return f"must be text, not {type(word).__name__}"
    fine = word and "\0" not in word and word.encode("utf-8", "ignore").decode() == word
    return None if fine else "must be text that is not empty, without NUL and without half characters (lone surrogates)"


@frozen(kw_only=True)
class Receipt:
    """The task that a creation came to."""

    ref: TaskRef
    snapshot: Snapshot | None = None
    """What the service said of it; `None` when it was bought before."""
    ticket: Ticket | None = None
    """The slots it holds until it is final; outside the gate when it was bought before."""
    how: str = "accepted"
    """As in the record `Settled`."""


@define(eq=False)
class Order:
    """One logical creation: one job, one key, at most one task."""

    job: Job[Any]
    dedupe: str | None
    key: str
    ticket: Ticket
    settled: asyncio.Future[Receipt | KlingError]
    deadline: Deadline
    """When its caller goes, whatever has become of it."""
    sent: bool = False
    """Whether a byte may have left of a request that was not provably refused."""
    followed: bool = False
    """Whether a request for the same creation, of another order, may be under way."""
    sends: int = 0
    """Requests sent under its key, by this order or before it."""
    deserted: bool = False
    """Whether the caller has gone; no further request starts then."""
    refusal: KlingError | None = None
    """Why the last request was not accepted."""
    recorded: tuple[float, float] = (0.0, 0.0)
    """When it was last begun to be recorded that it is sent: monotonic and Unix seconds."""
    claim: str = ""
    """What marks a creation in the journal as this order's, and no other's under the same key."""
    callback_hash: bytes | None = None
    """Of the token under which posts about its task arrive; none when its job has a `callback_url`, or nobody receives."""

    @property
    def is_new(self) -> bool:
        """Whether nobody can have asked for it before."""
        return self.dedupe is None and self.job.external_task_id is None


def unknown(order: Order, message: str, cause: str) -> SubmitOutcomeUnknown:
    """The error of an order whose outcome nobody knows."""
    return SubmitOutcomeUnknown(message, external_task_id=order.key, job=order.job, cause=cause)


def settled(order: Order, outcome: Receipt | BaseException, seconds: float) -> Settled:
    """What is told of an order that has ended."""
    how, error, ref = "withdrawn", None, None
    if isinstance(outcome, Receipt):
        how, ref = outcome.how, outcome.ref
    else:
        if order.sent or order.followed:
            how = "unknown"
        elif isinstance(outcome, KlingError):
            how = "rejected"
        if not isinstance(outcome, asyncio.CancelledError):  # how it was called off, and nothing to look into
            error = type(outcome).__name__
    model = getattr(order.job, "model_name", None)
    return Settled(external_task_id=order.key, route=str(order.job.route), how=how, seconds=seconds, model=model, error=error, ref=ref)
