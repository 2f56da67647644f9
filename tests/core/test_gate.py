from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kling_async._gate import Gate, Place, Ticket
from kling_async.errors import AccountError

BROKE = AccountError("balance is not enough", code=1102)


def queue(gate: Gate, *weights: int) -> list[Ticket]:
    """Creations that have entered, in this order."""
    tickets = [Ticket(kind="video", weight=weight) for weight in weights]
    for ticket in tickets:
        gate.enter(ticket)
    return tickets


def accept(gate: Gate, *tickets: Ticket) -> None:
    """Their tasks exist."""
    for ticket in tickets:
        gate.accepted(ticket)


def test_one_is_asked_for_all() -> None:
    """Where nothing is known one creation goes, and each success lets one more go; the order is that of entering."""
    gate = Gate()
    tickets = queue(gate, 1, 1, 1, 1)
    for ticket in tickets:
        assert gate.grants(0.0) == [ticket]
        assert gate.grants(0.0) == []
        gate.accepted(ticket)
    assert (gate.held, gate.waiting) == (4, 0)


def test_what_was_proven_is_used_at_once() -> None:
    """As many slots as have been held are taken again without probing; one more is probed."""
    gate = Gate()
    first = queue(gate, 1, 1, 1)
    for ticket in first:
        accept(gate, *gate.grants(0.0))
        gate.ended(ticket)
        assert gate.held == 0
    second = queue(gate, 1, 1, 1)
    for _ in second:
        accept(gate, *gate.grants(1.0))
    assert gate.held == 3
    for ticket in second:
        gate.ended(ticket)
    third = queue(gate, 1, 1, 1, 1, 1)
    assert gate.grants(2.0) == third[:3]
    accept(gate, *third[:3])
    assert gate.grants(2.0) == third[3:4]


def test_a_full_service_is_probed_ever_more_slowly() -> None:
    """After a refusal the same creation tries again after 1, 2, 4 … 30 s, jitter upwards, and nobody else does meanwhile."""
    gate = Gate()
    (head, *_) = queue(gate, 1, 1)
    now, pauses = 0.0, []
    for _ in range(8):
        assert gate.grants(now) == [head]
        gate.full(head, now, roll=0.5)
        assert gate.grants(now) == []
        pauses.append(gate.next_time() - now)
        now = gate.next_time()
    assert pauses == pytest.approx([1.1, 2.2, 4.4, 8.8, 17.6, 33.0, 33.0, 33.0])


def test_a_slot_that_frees_is_tried_at_once() -> None:
    """The end of a task of ours needs no waiting, and starts the pauses anew."""
    gate = Gate()
    first, second = queue(gate, 1, 1)
    accept(gate, *gate.grants(0.0))
    gate.grants(0.0)
    gate.full(second, 0.0, roll=0.5)
    assert gate.next_time() == 1.1
    gate.ended(first)
    assert gate.grants(0.5) == [second]
    gate.full(second, 0.5, roll=0.0)
    assert gate.next_time() == 1.5


@pytest.mark.row("K6")
def test_nothing_shortens_the_servers_wish() -> None:
    """A pause that the server asked for is kept, though a slot of ours frees or a creation gets in meanwhile."""
    gate = Gate()
    first, second, third = queue(gate, 1, 1, 1)
    accept(gate, *gate.grants(0.0))
    accept(gate, *gate.grants(0.0))
    assert gate.grants(0.0) == [third]
    gate.full(third, 0.0, roll=0.0, wish=60.0)
    gate.ended(first)
    gate.accepted(Ticket(kind="video", weight=1))  # found by its key
    gate.ended(second)
    assert gate.grants(59.9) == []
    assert gate.next_time() == 60.0
    assert gate.grants(60.0) == [third]


def test_time_alone_frees_no_slot() -> None:
    """When every slot there is is held no time is named, though requests are kept apart: a timer for it would never rest."""
    gate = Gate(limit=1)
    first, second = queue(gate, 1, 1)
    gate.grants(0.0)
    gate.too_fast(first, 0.0, roll=0.0)
    assert gate.next_time() == 1.0
    accept(gate, *gate.grants(1.0))
    assert gate.next_time() == math.inf
    gate.ended(first)
    assert gate.grants(2.0) == [second]


def test_the_servers_wish_is_a_floor() -> None:
    """`Retry-After` is waited for when it is the longer one."""
    gate = Gate()
    (head,) = queue(gate, 1)
    gate.grants(0.0)
    gate.full(head, 0.0, roll=0.0, wish=77.0)
    assert gate.next_time() == 77.0
    gate.grants(77.0)
    gate.full(head, 77.0, roll=0.0, wish=0.2)
    assert gate.next_time() == 79.0


def test_a_limit_that_is_given() -> None:
    """A quota that the user knows is used at once, never exceeded, and not probed."""
    gate = Gate(limit=3)
    tickets = queue(gate, *[1] * 7)
    assert gate.grants(0.0) == tickets[:3]
    accept(gate, *tickets[:3])
    assert gate.grants(0.0) == []
    assert gate.next_time() == math.inf
    gate.ended(tickets[1])
    assert gate.grants(0.0) == tickets[3:4]


def test_weights() -> None:
    """A wide creation waits until it fits, nobody slips past it, and one wider than all slots has its turn when all are free."""
    gate = Gate(limit=5)
    one, nine, small = queue(gate, 1, 9, 1)
    assert gate.grants(0.0) == [one]
    accept(gate, one)
    assert gate.grants(0.0) == []
    gate.ended(one)
    assert gate.grants(0.0) == [nine]
    accept(gate, nine)
    assert (gate.held, gate.grants(0.0)) == (9, [])
    gate.ended(nine)
    assert gate.grants(0.0) == [small]


@pytest.mark.parametrize("sending", [True, False])
def test_the_head_is_withdrawn(*, sending: bool) -> None:
    """When the head leaves, queued or under way, the next one moves up at once, and no slot stays behind."""
    gate = Gate(limit=1)
    head, second = queue(gate, 1, 1)
    if sending:
        assert gate.grants(0.0) == [head]
    gate.left(head)
    assert gate.grants(0.0) == [second]
    gate.left(head)  # told twice
    accept(gate, second)
    gate.ended(second)
    gate.ended(second)  # told twice
    assert gate.held == 0
    assert gate.grants(0.0) == []


def test_found_after_it_was_given_up() -> None:
    """A creation of unknown outcome whose task is found later holds its slots from then on, and gives them back once."""
    gate = Gate(limit=2)
    (lost,) = queue(gate, 1)
    gate.grants(0.0)
    gate.left(lost)
    gate.accepted(lost)
    others = queue(gate, 1, 1)
    assert gate.grants(0.0) == others[:1]
    gate.ended(lost)
    assert gate.grants(0.0) == others[1:]


def test_refused_ones_keep_their_place() -> None:
    """Whoever is sent back stands before all who came later, in whatever order the refusals come."""
    gate = Gate(limit=3)
    tickets = queue(gate, *[1] * 5)
    gate.grants(0.0)
    for each in (2, 0, 1):
        gate.full(tickets[each], 0.0, roll=0.0)
    assert gate.grants(100.0) == tickets[:3]


@pytest.mark.row("K7")
def test_asked_too_fast() -> None:
    """1302 halves the rate, again and again down to one in 30 s; every acceptance doubles it, until it is free again."""
    gate = Gate()
    head, *rest = queue(gate, *[1] * 20)
    now = 0.0
    gaps, spacing = [], []
    gate.grants(now)
    for _ in range(7):
        gate.too_fast(head, now, roll=0.0)
        gaps.append(gate.next_time() - now)
        now = gate.next_time()
        assert gate.grants(now) == [head]
    assert gaps == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    for following in rest:
        gate.accepted(head)
        gate.ended(head)
        spacing.append(max(0.0, gate.next_time() - now) if gate.next_time() < math.inf else 0.0)
        now += spacing[-1]
        assert gate.grants(now) == [following]
        head = following
    assert spacing == pytest.approx([30 / 2**each for each in range(10)] + [0.0] * 9)


def test_one_slow_answer_delays_nobody() -> None:
    """After 1302 the next goes when its pause is over, though an earlier request still waits for its answer."""
    gate = Gate(limit=3)
    first, second, third = queue(gate, 1, 1, 1)
    assert gate.grants(0.0) == [first, second, third]
    gate.too_fast(second, 0.0, roll=0.0)
    gate.too_fast(third, 0.0, roll=0.0)
    assert gate.next_time() == 2.0
    assert gate.grants(2.0) == [second]
    assert gate.next_time() == 4.0


@pytest.mark.row("K4")
def test_refused_without_a_reason() -> None:
    """What is refused without a code is waited for while tasks of ours run, and five minutes when none does."""
    gate = Gate()
    running, head = queue(gate, 1, 1)
    accept(gate, *gate.grants(0.0))
    now, ends = 0.0, 10_000.0
    asked: list[float] = []
    while True:
        assert gate.grants(now) == [head]
        asked.append(now)
        if not gate.unexplained(head, now, roll=0.0):
            break
        now = gate.next_time()
        if running.place is Place.HOLDING and now >= ends:
            gate.ended(running)
            now = ends
    last = max(moment for moment in asked if moment < ends)
    assert ends + 270 <= now <= last + 330
    assert head.place is Place.GONE
    (later,) = queue(gate, 1)
    assert gate.grants(now + 3600) == [later]
    assert gate.unexplained(later, now + 3600, roll=0.0), "an hour later, nobody has waited yet"


def test_closing() -> None:
    """A gate that closes gives all who queue, and leaves what is under way to end as it may."""
    gate = Gate()
    head, *rest = queue(gate, 1, 1, 1)
    gate.grants(0.0)
    assert gate.close(BROKE) == rest
    assert {ticket.place for ticket in rest} == {Place.GONE}
    assert (gate.closed, gate.waiting) == (BROKE, 0)
    gate.accepted(head)
    gate.ended(head)
    assert (gate.held, gate.grants(0.0)) == (0, [])


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order: slots add up, the order is kept, nobody is lost."""

    @initialize(limit=st.none() | st.integers(1, 6))
    def open(self, limit: int | None) -> None:
        self.gate = Gate(limit=limit)
        self.now = 0.0
        self.tickets: list[Ticket] = []

    def those(self, place: Place) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.place is place]

    @rule(weight=st.integers(1, 9))
    def enter(self, weight: int) -> None:
        self.tickets += queue(self.gate, weight)

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 40.0, 400.0]))
    def ask(self, seconds: float) -> None:
        """Those who are let in are the first of the queue."""
        self.now += seconds
        before = sorted(self.those(Place.QUEUED), key=lambda ticket: ticket.number)
        granted = self.gate.grants(self.now)
        assert granted == before[: len(granted)]

    @precondition(lambda self: self.those(Place.SENDING))
    @rule(data=st.data(), answer=st.sampled_from(["accepted", "full", "too_fast", "unexplained", "left"]))
    def answer(self, data: st.DataObject, answer: str) -> None:
        ticket = data.draw(st.sampled_from(self.those(Place.SENDING)))
        options = {} if answer in {"accepted", "left"} else {"now": self.now, "roll": 0.5}
        getattr(self.gate, answer)(ticket, **options)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), event=st.sampled_from(["ended", "left"]))
    def leave(self, data: st.DataObject, event: str) -> None:
        """A task ends, or a creation is withdrawn; told of one that is not there, nothing happens."""
        getattr(self.gate, event)(data.draw(st.sampled_from(self.tickets)))

    @precondition(lambda self: any(ticket.place is Place.GONE for ticket in self.tickets))
    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        """A task is found that was thought unknown."""
        self.gate.accepted(data.draw(st.sampled_from(self.those(Place.GONE))))

    @rule(weight=st.integers(1, 9))
    def meet(self, weight: int) -> None:
        """A task turns up that was bought before."""
        self.tickets.append(Ticket(kind="video", weight=weight))
        self.gate.found(self.tickets[-1])

    @rule()
    def close(self) -> None:
        waiting = sorted(self.those(Place.QUEUED), key=lambda ticket: ticket.number)
        assert self.gate.close(BROKE) == waiting

    @invariant()
    def slots_add_up(self) -> None:
        sending, holding = (sum(ticket.weight for ticket in self.those(place)) for place in (Place.SENDING, Place.HOLDING))
        doubtful = sum(ticket.weight for ticket in self.those(Place.HOLDING) if not ticket.proof)
        assert (self.gate._sending, self.gate.held, self.gate._doubtful) == (sending, holding, doubtful)

    @invariant()
    def order_is_kept(self) -> None:
        assert list(self.gate._queue) == sorted(self.those(Place.QUEUED), key=lambda ticket: ticket.number)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """When nothing is under way, time alone lets somebody in, or the end of a task will."""
        if self.gate.waiting and not self.gate._sending and not (self.gate.limit and self.gate.held):
            assert self.gate.next_time() < math.inf or self.gate._free(self.gate._queue[0].weight, self.now)


AnyHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
test_any_history = AnyHistory.TestCase
