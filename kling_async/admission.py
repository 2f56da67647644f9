"""Lets creations through in their turn: the pure gate's grants become futures, its times become timers."""

from __future__ import annotations

import asyncio
import copy
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define, field

from kling_async._clock import NEVER, Clock, Deadline, Timer
from kling_async._fault import ConfigurationError, KlingError
from kling_async._gate import Gate, Place, Ticket
from kling_async.errors import ApiError, ConcurrencyLimitError, TransportTimeoutError
from kling_async.jobs import Job, job_class
from kling_async.journal import Creation

__all__ = ["Admission", "asked_too_long", "limits_from"]

_KINDS: Final = ("video", "image", "try_on")
_SHUT: Final = 60.0
"""Seconds that a gate stays closed after the account or the key was refused; then it is tried again."""

_TOO_FAST: Final = 1302
"""The service's code for too many requests; some gateways write one word of their own over every 429 (`api.md` 8.3)."""


def limits_from(given: int | Mapping[str, int] | None) -> dict[str, int | None]:
    """Slots per kind of task as the user gave them, one number for each kind or one per kind; `None` is to be learnt.

    Raises:
        ConfigurationError: a kind that does not exist, or a number below one.
    """
    limits: dict[str, Any] = dict(given) if isinstance(given, Mapping) else dict.fromkeys(_KINDS, given)
    for kind, limit in limits.items():
        sound = limit is None or (isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1)
        if kind not in _KINDS or not sound:
            msg = f"in_flight: {kind!r}: {limit!r} is no number of slots, from 1, for one of {', '.join(_KINDS)}"
            raise ConfigurationError(msg)
    return limits


def asked_too_long(wish: float, left: float, refusal: KlingError | None) -> TransportTimeoutError:
    """The server asked for a longer pause than its caller has time for."""
    error = TransportTimeoutError(f"the service asks for {wish:g} s before the next try, and {left:g} s are left; it said: {refusal}")
    error.retry_after = wish
    return error


@define(eq=False)
class _Door:
    """One gate, and who waits before it."""

    gate: Gate
    waiting: dict[Ticket, tuple[asyncio.Future[KlingError | None], Deadline]] = field(factory=dict)
    refusal: KlingError | None = None
    """With which the server asked for its last pause."""
    timer: Timer | None = None
    opens: float = -math.inf
    """When a closed gate may be tried again."""


@define(eq=False)
class Admission:
    """The gates of one account, one per kind of task."""

    clock: Clock
    roll: Callable[[], float]
    limits: Mapping[str, int | None]
    probe: float
    on_queue: Callable[[], None] = lambda: None
    """Told when a creation must wait for a slot: somebody has to see the running tasks end."""
    _doors: dict[str, _Door] = field(factory=dict, init=False)

    def ticket(self, job: Job[Any]) -> Ticket:
        """A claim to the slots that the job takes."""
        return Ticket(kind=job.kind, weight=job.slots)

    def ticket_of(self, row: Creation) -> Ticket | None:
        """The same for a creation that the journal remembers; `None` for an endpoint that is not known here."""
        job = job_class(row.action, row.action2)
        if job is None:
            return None
        return Ticket(kind=job.kind, weight=job.slots_of(json.loads(row.request) if job.counted else {}))

    def enter(self, ticket: Ticket, deadline: Deadline = NEVER) -> bool:
        """Queue up, so that nobody who comes later is let in before; whether its turn is now. `turn` waits for that.

        The deadline ends nothing: it tells which pauses are not worth waiting for.
        """
        door = self._door(ticket)
        if ticket.place is Place.OUTSIDE and door.gate.closed is None and not door.gate.passes(ticket, self.clock.now()):
            door.gate.enter(ticket)
            self._wait_at(door, ticket, deadline)
        return ticket.place is Place.SENDING

    async def turn(self, ticket: Ticket, deadline: Deadline = NEVER, *, on_wait: Callable[[], object] = lambda: None) -> None:
        """Wait until the request may be sent. Afterwards the ticket must be told what became of it.

        `on_wait` is called when that is not at once. The deadline ends nothing here, its owner does: it
        tells which pauses are not worth waiting for.

        Raises:
            TransportTimeoutError: the server asked for a pause beyond the deadline.
            KlingError: the account or the key was refused meanwhile; this is that refusal.
        """
        door = self._door(ticket)
        if ticket not in door.waiting:
            if door.gate.closed is not None:
                if self.clock.now() < door.opens:
                    raise copy.copy(door.gate.closed)
                door.gate.closed = None
            if self.enter(ticket, deadline):
                return
            if ticket not in door.waiting:  # it was refused, and waits for another turn
                self._wait_at(door, ticket, deadline)
        self._turn_away(door, [ticket])
        future, _ = door.waiting[ticket]
        if not future.done():
            self.on_queue()
            on_wait()
        try:
            error = await future
        finally:
            del door.waiting[ticket]
        if error is not None:
            raise copy.copy(error)

    def accepted(self, ticket: Ticket) -> None:
        """The task exists and holds its slots."""
        door = self._door(ticket)
        door.gate.accepted(ticket)
        self._pump(door)

    def found(self, ticket: Ticket) -> None:
        """The task was there before, and holds its slots, be it more than there are."""
        self._door(ticket).gate.found(ticket)

    def refused(self, ticket: Ticket, error: ApiError) -> bool:
        """The service is full or was asked too fast: wait for another turn; false when that has lasted too long."""
        door, now, wish = self._door(ticket), self.clock.now(), error.retry_after or 0.0
        gate, going = door.gate, True
        if isinstance(error, ConcurrencyLimitError):
            gate.full(ticket, now, roll=self.roll(), wish=wish)
        elif error.code == _TOO_FAST:
            gate.too_fast(ticket, now, roll=self.roll(), wish=wish)
        else:
            going = gate.unexplained(ticket, now, roll=self.roll(), wish=wish)
        if wish:
            door.refusal = error
            self._turn_away(door, list(door.waiting))
        self._pump(door)
        return going

    def shut(self, ticket: Ticket, error: KlingError) -> None:
        """The account or the key was refused: whoever queues is told at once."""
        door = self._door(ticket)
        door.gate.left(ticket)
        door.opens = self.clock.now() + _SHUT
        for waiting in door.gate.close(error):
            self._tell(door, waiting, error)

    def left(self, ticket: Ticket) -> None:
        """No request of it will be sent, and its slots are free; harmless when they are already."""
        door = self._door(ticket)
        door.waiting.pop(ticket, None)
        door.gate.left(ticket)
        door.gate.ended(ticket)
        self._pump(door)

    @property
    def queued(self) -> int:
        """Creations that wait for a slot."""
        return sum(door.gate.waiting for door in self._doors.values())

    def close(self) -> None:
        """Set no more timers."""
        for door in self._doors.values():
            if door.timer is not None:
                door.timer.cancel()

    def _door(self, ticket: Ticket) -> _Door:
        door = self._doors.get(ticket.kind)
        if door is None:
            door = self._doors[ticket.kind] = _Door(Gate(limit=self.limits.get(ticket.kind), probe=self.probe))
        return door

    def _wait_at(self, door: _Door, ticket: Ticket, deadline: Deadline) -> None:
        door.waiting[ticket] = asyncio.get_running_loop().create_future(), deadline
        self._pump(door)

    def _tell(self, door: _Door, ticket: Ticket, error: KlingError | None) -> None:
        future, _ = door.waiting.get(ticket, (None, NEVER))
        if future is not None and not future.done():
            future.set_result(error)

    def _turn_away(self, door: _Door, tickets: list[Ticket]) -> None:
        """Whoever has less time than the server asked to be left alone need not wait to hear so."""
        now, until = self.clock.now(), door.gate.asked_until
        for ticket in tickets:
            if ticket.place is Place.QUEUED and now < until and door.waiting[ticket][1].at < until:
                door.gate.left(ticket)
                self._tell(door, ticket, asked_too_long(until - now, door.waiting[ticket][1].left(now), door.refusal))

    def _pump(self, door: _Door) -> None:
        if not door.gate.waiting and door.timer is None:
            return
        for ticket in door.gate.grants(self.clock.now()):
            self._tell(door, ticket, None)
        if door.timer is not None:
            door.timer.cancel()
            door.timer = None
        when = door.gate.next_time()
        if math.isfinite(when):
            door.timer = self.clock.call_at(when, lambda: self._pump(door))
