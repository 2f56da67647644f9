from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from attrs import define, field

from kling_async._clock import SystemClock
from kling_async._gate import Place, Ticket
from kling_async.admission import Admission, limits_from
from kling_async.errors import AccountError, ApiError, ConcurrencyLimitError, ConfigurationError, RateLimitError
from kling_async.jobs import GenerateImage, Job, Text2Video

pytestmark = pytest.mark.usefixtures("nothing_is_left")

VIDEO = Text2Video(prompt="a fox")
FULL = ConcurrencyLimitError("all slots are taken", code=1303, http_status=429)
FAST = RateLimitError("too fast", code=1302, http_status=429)
DRY = AccountError("balance is not enough", code=1102, http_status=429)


@define
class Hall:
    """An admission, and those who queue for it; the dice always show the least."""

    limits: dict[str, int | None] = field(factory=dict)
    admission: Admission = field(init=False)
    queued: int = 0
    """How often somebody had to wait."""

    def __attrs_post_init__(self) -> None:
        self.admission = Admission(SystemClock(), lambda: 0.0, self.limits, 1.0, self.count)

    def count(self) -> None:
        self.queued += 1

    def come(self, job: Job[Any] = VIDEO) -> tuple[Ticket, asyncio.Task[None]]:
        """One more wants its turn."""
        ticket = self.admission.ticket(job)
        return ticket, asyncio.get_running_loop().create_task(self.admission.turn(ticket))

    async def crowd(self, count: int) -> tuple[list[Ticket], list[asyncio.Task[None]]]:
        """So many, one after the other."""
        pairs = [self.come() for _ in range(count)]
        await settle()
        return [ticket for ticket, _ in pairs], [turn for _, turn in pairs]


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(5):
        await asyncio.sleep(0)


def now() -> float:
    """Seconds of the loop."""
    return asyncio.get_running_loop().time()


def done(turns: list[asyncio.Task[None]]) -> list[bool]:
    """Who has been let through."""
    return [turn.done() for turn in turns]


async def withdrawn(turns: list[asyncio.Task[None]]) -> None:
    """Cancel whoever still waits, as their owners would be."""
    for turn in turns:
        turn.cancel()
    await asyncio.gather(*turns, return_exceptions=True)


async def test_turns_come_in_order() -> None:
    """Whoever may send is let through, the others when slots free, in the order they came; nothing is told of those who need not wait."""
    hall = Hall({"video": 2})
    tickets, turns = await hall.crowd(4)
    assert done(turns) == [True, True, False, False]
    assert (hall.queued, hall.admission.queued) == (2, 2)
    for ticket in tickets[:2]:
        hall.admission.accepted(ticket)
    hall.admission.left(tickets[1])
    await settle()
    assert done(turns) == [True, True, True, False]
    hall.admission.left(tickets[0])
    await settle()
    assert done(turns) == [True] * 4
    assert hall.admission.queued == 0


@pytest.mark.row("K10")
async def test_kinds_do_not_wait_for_each_other() -> None:
    """Pictures that wait for slots keep no video waiting; an image counts as many slots as it has pictures (K10)."""
    hall = Hall({"image": 9})
    small, first = hall.come(GenerateImage(prompt="a fox", n=5))
    wide, second = hall.come(GenerateImage(prompt="a fox", n=9))
    _, third = hall.come()
    await settle()
    assert done([first, second, third]) == [True, False, True]
    hall.admission.accepted(small)
    await settle()
    assert not second.done()
    hall.admission.left(small)
    await second
    assert wide.place is Place.SENDING


async def test_a_probe_is_a_timer() -> None:
    """A creation that was refused for want of a slot has its next turn a second later, then two, with nothing else happening."""
    hall = Hall()
    ticket, turn = hall.come()
    await turn
    for pause in (1.0, 2.0, 4.0):
        begun = now()
        assert hall.admission.refused(ticket, FULL)
        await hall.admission.turn(ticket)
        assert now() - begun == pytest.approx(pause)
    hall.admission.left(ticket)


async def test_the_end_of_a_task_beats_the_timer() -> None:
    """A slot of ours that frees gives the next turn at once."""
    hall = Hall()
    running, turn = hall.come()
    await turn
    hall.admission.accepted(running)
    ticket, turn = hall.come()
    await turn
    hall.admission.refused(ticket, FULL)
    begun = now()
    turn = asyncio.get_running_loop().create_task(hall.admission.turn(ticket))
    await asyncio.sleep(0.25)
    assert not turn.done()
    hall.admission.left(running)
    await turn
    assert now() - begun == pytest.approx(0.25)
    hall.admission.left(ticket)


@pytest.mark.row("K7")
async def test_too_fast_keeps_sends_apart() -> None:
    """After 1302 the sends are a second apart, then half a second: the rate halves and recovers (K7)."""
    hall = Hall({"video": 100})
    tickets, turns = await hall.crowd(4)
    assert done(turns) == [True] * 4
    begun = now()
    for ticket in tickets[1:]:
        hall.admission.accepted(ticket)
    assert hall.admission.refused(tickets[0], FAST)
    times = []
    for ticket, turn in [(tickets[0], asyncio.ensure_future(hall.admission.turn(tickets[0]))), *(hall.come() for _ in range(8))]:
        await turn
        times.append(now() - begun)
        hall.admission.accepted(ticket)
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *times])]
    assert gaps == pytest.approx([1.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.0, 0.0], abs=0.001)


@pytest.mark.parametrize("code", [None, "fail_to_fetch_task"])
@pytest.mark.row("K4")
async def test_a_429_that_says_nothing(code: str | None) -> None:
    """Without a code of the service's own a 429 is waited for five minutes, and no longer, when nothing of ours runs (K4)."""
    hall = Hall()
    ticket, turn = hall.come()
    await turn
    begun = now()
    while hall.admission.refused(ticket, ApiError("saturated", code=code, http_status=429)):
        await hall.admission.turn(ticket)
    assert 300 <= now() - begun <= 330
    assert ticket.place is Place.GONE


@pytest.mark.row("K6")
async def test_the_servers_wish() -> None:
    """`Retry-After` is waited for, however short the own pause would be (K6)."""
    hall = Hall()
    ticket, turn = hall.come()
    await turn
    begun = now()
    hall.admission.refused(ticket, ConcurrencyLimitError("full", code=1303, http_status=429, retry_after=77.0))
    await hall.admission.turn(ticket)
    assert now() - begun == pytest.approx(77.0)
    hall.admission.left(ticket)


@pytest.mark.row("K5")
async def test_closing_fails_the_queue_at_once() -> None:
    """An account without money fails all who queue at once, each with an error of its own, and all who come within a minute (K5)."""
    hall = Hall({"video": 1})
    tickets, turns = await hall.crowd(4)
    begun = now()
    hall.admission.shut(tickets[0], DRY)
    errors = await asyncio.gather(*turns[1:], return_exceptions=True)
    assert now() == begun
    assert [str(error) for error in errors] == [str(DRY)] * 3
    assert len({id(error) for error in errors} | {id(DRY)}) == 4
    await asyncio.sleep(59.9)
    with pytest.raises(AccountError):
        await hall.admission.turn(hall.admission.ticket(VIDEO))
    await asyncio.sleep(0.2)
    ticket = hall.admission.ticket(VIDEO)
    await hall.admission.turn(ticket)
    assert ticket.place is Place.SENDING


async def test_closing_closes_one_kind() -> None:
    """The packs are bought per kind: one that is spent does not spoil the others."""
    hall = Hall()
    ticket, turn = hall.come()
    await turn
    hall.admission.shut(ticket, DRY)
    await hall.admission.turn(hall.admission.ticket(GenerateImage(prompt="a fox")))


async def test_refused_in_a_closed_gate() -> None:
    """What was under way when the gate closed, and finds it full, has no further turn and leaves nothing in the queue."""
    hall = Hall({"video": 2})
    (unlucky, late), _ = await hall.crowd(2)
    hall.admission.shut(unlucky, DRY)
    hall.admission.refused(late, FULL)
    with pytest.raises(AccountError):
        await hall.admission.turn(late)
    hall.admission.left(late)
    assert hall.admission.queued == 0
    await asyncio.sleep(100)
    ticket = hall.admission.ticket(VIDEO)
    await hall.admission.turn(ticket)


@pytest.mark.parametrize("when", ["queued", "granted", "both"])
@pytest.mark.row("K9")
async def test_cancelled_waiters_leave_no_slot_behind(when: str) -> None:
    """A waiter cancelled in the queue, or in the very turn of its turn, gives its place to the next (K9)."""
    hall = Hall({"video": 1})
    tickets, turns = await hall.crowd(4)
    if when in {"queued", "both"}:
        turns[1].cancel()
        await settle()
        hall.admission.left(tickets[1])
    hall.admission.accepted(tickets[0])
    hall.admission.left(tickets[0])
    if when in {"granted", "both"}:
        head = 1 if when == "granted" else 2
        assert tickets[head].place is Place.SENDING
        turns[head].cancel()
        await settle()
        assert turns[head].cancelled()
        hall.admission.left(tickets[head])
    await settle()
    following = {"queued": 2, "granted": 2, "both": 3}[when]
    assert turns[following].done()
    assert tickets[following].place is Place.SENDING
    await withdrawn(turns[following + 1 :])


async def test_all_are_cancelled_in_one_turn() -> None:
    """A group that fails cancels all its waiters at once: every slot is free afterwards."""
    hall = Hall({"video": 2})
    tickets, turns = await hall.crowd(6)
    await withdrawn(turns)
    for ticket in tickets:
        hall.admission.left(ticket)
    assert hall.admission.queued == 0
    _, fresh = await hall.crowd(3)
    assert done(fresh) == [True, True, False]
    await withdrawn(fresh)


async def test_no_timer_outlives_closing() -> None:
    """After closing nothing more happens."""
    hall = Hall()
    ticket, turn = hall.come()
    await turn
    hall.admission.refused(ticket, FULL)
    hall.admission.close()
    await asyncio.sleep(1000)
    assert ticket.place is Place.QUEUED


@pytest.mark.parametrize("given", [0, -1, True, 2.5, "3", {"video": 0}, {"videos": 3}, {"video": "3"}])
async def test_limits_that_are_none(given: Any) -> None:
    """What is no number of slots, or for no kind of task, is refused by name."""
    with pytest.raises(ConfigurationError, match="in_flight"):
        limits_from(given)


async def test_limits() -> None:
    """One number is for each kind; a mapping is for the kinds it names."""
    assert limits_from(None) == {"video": None, "image": None, "try_on": None}
    assert limits_from(3) == {"video": 3, "image": 3, "try_on": 3}
    assert limits_from({"video": 5}) == {"video": 5}
