"""Who may send next: first come, first served, for one account and one kind of task. Pure: events in, grants out.

A slot is held from the sending of a request until its task is final. How many there are is given, or
learnt: as many as have been held at once is proven, one more is probed at a time. So a later creation
never overtakes an earlier one, and a full service is asked by one request, not by all
(`reliability.md` 2.6).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from enum import Enum
from typing import Final

from attrs import define, field

from kling_async._fault import KlingError

__all__ = ["Gate", "Place", "Ticket"]

_LONGEST_PROBE: Final = 30.0
"""Seconds between two probes of a full service, at the most."""
_UNEXPLAINED: Final = 300.0
"""Seconds that refusals without a service code are waited for while nothing of ours runs and nothing gets in."""
_SLOWEST: Final = 30.0
"""Seconds between two sends, at the most, for a service that said it was asked too fast."""
_SHORTEST_GAP: Final = 0.05
"""Seconds between two sends below which there is no need to keep them apart any more."""


class Place(Enum):
    """Where a ticket stands."""

    OUTSIDE = "outside"
    QUEUED = "queued"
    SENDING = "sending"
    HOLDING = "holding"
    GONE = "gone"


@define(eq=False, kw_only=True)
class Ticket:
    """One creation's claim to `weight` slots."""

    kind: str
    weight: int
    number: int = 0
    """Its turn: the order of entering, kept when it is sent back to the queue."""
    place: Place = Place.OUTSIDE
    proof: bool = True
    """Whether slots that it holds are known to be there."""


@define(eq=False, kw_only=True)
class Gate:
    """The queue of one account and kind."""

    limit: int | None = None
    """Slots there are; `None` is unknown, to be learnt."""
    probe: float = 1.0
    """Seconds from the first refusal for want of a slot to the next try; doubles up to 30 s."""
    closed: KlingError | None = None
    """Why nobody is let in any more, such as an account without money."""
    _numbers: itertools.count[int] = field(factory=itertools.count, init=False)
    _queue: deque[Ticket] = field(factory=deque, init=False)
    _sending: int = field(default=0, init=False)
    _held: int = field(default=0, init=False)
    _doubtful: int = field(default=0, init=False)
    _proven: int = field(default=0, init=False)
    _refusals: int = field(default=0, init=False)
    _not_before: float = field(default=-math.inf, init=False)
    asked_until: float = field(default=-math.inf, init=False)
    """Until when the server asked not to be asked again: nothing that happens here shortens that (`reliability.md` P12)."""
    _gap: float = field(default=0.0, init=False)
    _shut_since: float | None = field(default=None, init=False)

    def enter(self, ticket: Ticket) -> None:
        """Queue up behind everybody."""
        ticket.number, ticket.place = next(self._numbers), Place.QUEUED
        self._queue.append(ticket)

    def passes(self, ticket: Ticket, now: float) -> bool:
        """Whether it may send now, before nobody who has queued up; if so, it is let in."""
        if self._queue or not self._free(ticket.weight, now):
            return False
        ticket.number = next(self._numbers)
        self._let_in(ticket, now)
        return True

    def grants(self, now: float) -> list[Ticket]:
        """Those who may send now, in their order."""
        granted: list[Ticket] = []
        while self._queue and self._free(self._queue[0].weight, now):
            granted.append(self._queue.popleft())
            self._let_in(granted[-1], now)
        return granted

    def next_time(self) -> float:
        """When to ask for `grants` again, if no event comes first; infinity for never."""
        when = max(self._not_before, self.asked_until)
        # Where time alone lets nobody in, as with all slots of a given limit held, a timer would go off again and again.
        waits = self._queue and math.isfinite(when) and self._free(self._queue[0].weight, math.inf)
        return when if waits else math.inf

    def accepted(self, ticket: Ticket) -> None:
        """Its task exists, though it may have been found only after `left`: the slots are held until `ended`."""
        if ticket.place is Place.SENDING:
            self._sending -= ticket.weight
        ticket.place, ticket.proof = Place.HOLDING, True
        self._held += ticket.weight
        self._proven = max(self._proven, self._held - self._doubtful)
        self._refusals, self._shut_since = 0, None
        self._hurry()
        self._gap = self._gap / 2 if self._gap > _SHORTEST_GAP else 0.0

    def found(self, ticket: Ticket) -> None:
        """Its task was there before: it holds slots until `ended`, be it more than there are.

        How many there are it does not tell: it may have ended long ago, and nobody has looked.
        """
        ticket.place, ticket.proof = Place.HOLDING, False
        self._held += ticket.weight
        self._doubtful += ticket.weight

    def ended(self, ticket: Ticket) -> None:
        """Its task is final; the next may try at once, unless the server asked for a pause."""
        if ticket.place is Place.HOLDING:
            self._held -= ticket.weight
            self._doubtful -= 0 if ticket.proof else ticket.weight
            ticket.place = Place.GONE
            self._refusals = 0
            self._hurry()

    def left(self, ticket: Ticket) -> None:
        """It will not send (again): withdrawn, refused for good, or its outcome is unknown."""
        if ticket.place is Place.QUEUED:
            self._queue.remove(ticket)
            ticket.place = Place.GONE
        elif ticket.place is Place.SENDING:
            self._unsend(ticket, Place.GONE)
        if not self._queue and not self._sending:
            self._shut_since = None  # whoever comes an hour later has not waited yet

    def full(self, ticket: Ticket, now: float, *, roll: float, wish: float = 0.0) -> None:
        """Refused for want of a slot: back to its turn, and one probe at a time from now on."""
        self._back(ticket)
        self._proven = self._held - self._doubtful
        self._refusals += 1
        self._wait(now, wish, min(self.probe * 2 ** min(self._refusals - 1, 16), _LONGEST_PROBE) * (1 + 0.2 * roll))

    def too_fast(self, ticket: Ticket, now: float, *, roll: float, wish: float = 0.0) -> None:
        """Refused for the rate of requests: back to its turn, and half as fast from now on."""
        self._back(ticket)
        self._gap = min(max(self._gap * 2, self.probe), _SLOWEST)
        self._wait(now, wish, self._gap * (1 + 0.2 * roll))

    def unexplained(self, ticket: Ticket, now: float, *, roll: float, wish: float = 0.0) -> bool:
        """Refused with no reason given; false when that has gone on for too long to be a full service."""
        if self._shut_since is None or self._held:
            self._shut_since = now
        if now - self._shut_since >= _UNEXPLAINED:
            self.left(ticket)
            return False
        self.full(ticket, now, roll=roll, wish=wish)
        return True

    def close(self, error: KlingError) -> list[Ticket]:
        """Let nobody in any more; gives those who were queued."""
        self.closed = error
        waiting = list(self._queue)
        self._queue.clear()
        for ticket in waiting:
            ticket.place = Place.GONE
        return waiting

    @property
    def waiting(self) -> int:
        """Creations in the queue."""
        return len(self._queue)

    @property
    def held(self) -> int:
        """Slots that tasks of ours hold."""
        return self._held

    def _free(self, weight: int, now: float) -> bool:
        if now < max(self._not_before, self.asked_until):
            return False
        taken = self._held + self._sending
        if self.limit is not None:
            # A job that is wider than all the slots there are must still get its turn.
            return taken + weight <= self.limit or taken == 0
        return taken + weight <= self._proven or self._sending == 0

    def _let_in(self, ticket: Ticket, now: float) -> None:
        ticket.place = Place.SENDING
        self._sending += ticket.weight
        if self._gap:
            self._not_before = now + self._gap

    def _unsend(self, ticket: Ticket, place: Place) -> None:
        self._sending -= ticket.weight
        ticket.place = place

    def _hurry(self) -> None:
        if not self._gap:
            self._not_before = -math.inf

    def _back(self, ticket: Ticket) -> None:
        self._unsend(ticket, Place.QUEUED)
        ahead = next((place for place, other in enumerate(self._queue) if other.number > ticket.number), len(self._queue))
        self._queue.insert(ahead, ticket)

    def _wait(self, now: float, wish: float, pause: float) -> None:
        self._not_before = max(self._not_before, now + pause)
        if wish:
            self.asked_until = max(self.asked_until, now + wish)
