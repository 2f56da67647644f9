"""A machine, or a process, that sleeps between the record that a request is sent and its first byte (J6): on waking it sends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from attrs import define, field

from exchanges import CANARY, everything, opened, order
from journals import posts, session
from kling_async._clock import SystemClock
from kling_async._verdict import Failure
from kling_async.emulator import Emulator
from kling_async.errors import JournalError, TransportError
from kling_async.jobs import Text2Video
from kling_async.journal import Creation, Journal, State
from kling_async.testing import VirtualLoop
from kling_async.transport import FailedExchange, Transport
from scripted import Client, Gateway, listening

pytestmark = pytest.mark.usefixtures("nothing_is_left")

gateway = pytest.fixture(listening)
transport = pytest.fixture(opened)

ASLEEP = 600.0
JOBS = [Text2Video(prompt="a fox"), Text2Video(prompt="a fox", external_task_id="ka-fox")]


class Wall(SystemClock):
    """A clock on the wall that goes on while the machine is asleep, and nothing else does."""

    slept = 0.0

    def wall(self) -> float:
        return super().wall() + self.slept


async def no_more() -> None:
    """Let nothing happen meanwhile."""


@define(eq=False)
class Sleepy(Journal):
    """A journal whose process falls asleep once what it sends is recorded."""

    fall_asleep: Callable[[], object] = field(default=bool, kw_only=True)
    meanwhile: Callable[[], Awaitable[object]] = field(default=no_more, kw_only=True)
    nights: int = field(default=1, kw_only=True)

    async def intend(self, creation: Creation) -> tuple[Creation, bool]:
        kept = await super().intend(creation)
        if creation.state is State.SENDING:
            await self._sleep()
        return kept

    async def send(self, key: str, owner: str) -> bool:
        sent = await super().send(key, owner)
        await self._sleep()
        return sent

    async def _sleep(self) -> None:
        if self.nights:
            self.nights -= 1
            self.fall_asleep()
            await self.meanwhile()


@pytest.mark.parametrize("padding", [0, 1 << 20])
async def test_whoever_forbids_it_is_heard(gateway: Gateway, transport: Transport, padding: int) -> None:
    """What the hook raises before the first byte keeps every byte back, is the outcome, and shows no key."""
    heard: list[bytes] = []

    async def listen(client: Client) -> None:
        heard.append(await client.reader.read())

    def forbid() -> None:
        raise FailedExchange(Failure(cause="suspended", sent=False))

    gateway.behaviour = listen
    with pytest.raises(FailedExchange) as caught:
        await transport.pay(order(gateway, padding), on_sent=forbid)
    await asyncio.sleep(1)
    assert caught.value.failure == Failure(cause="suspended", sent=False)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert CANARY not in everything(caught.value)
    assert heard == [b""]


def clock_and_sleep(by: str) -> tuple[Wall, Callable[[], None]]:
    """A clock, and what makes it sleep: a machine's monotonic clock may stand still meanwhile, that of a stopped process does not."""
    clock, loop = Wall(), cast("VirtualLoop", asyncio.get_running_loop())

    def fall_asleep() -> None:
        if by == "machine":
            clock.slept += ASLEEP
        else:
            loop.now += ASLEEP

    return clock, fall_asleep


@pytest.mark.parametrize("job", JOBS, ids=["one commit", "two commits"])
@pytest.mark.parametrize("by", ["machine", "process"])
async def test_it_is_sent_anew_where_it_is_still_its_own(by: str, job: Text2Video) -> None:
    """Nothing had left: it is recorded once more that it is sent, and only then it is, once."""
    clock, fall_asleep = clock_and_sleep(by)
    journal = Sleepy(fall_asleep=fall_asleep)
    async with Emulator() as emulator, journal, session(emulator, journal, clock=clock) as kling:
        handle = await kling.submit(job)
        row = await journal.get(handle.ref.external_task_id or "")
        assert (posts(emulator), row.state, row.attempt, row.task_id) == (1, State.ACCEPTED, 2, handle.task_id)


async def test_one_that_sleeps_ever_again() -> None:
    """A purchase that never comes to be sent in time ends with an error, rejected."""
    clock, fall_asleep = clock_and_sleep("machine")
    journal = Sleepy(fall_asleep=fall_asleep, nights=99)
    async with Emulator() as emulator, journal, session(emulator, journal, clock=clock) as kling:
        with pytest.raises(TransportError, match="suspended"):
            await kling.submit(JOBS[1])
        assert ((await journal.get("ka-fox")).state, posts(emulator)) == (State.REJECTED, 0)


@pytest.mark.parametrize("to", [State.UNKNOWN, State.ABANDONED])
async def test_what_others_have_settled_stays_settled(to: State) -> None:
    """What was taken for a dead one's meanwhile, and perhaps given up by hand and bought anew, is neither sent nor touched."""

    async def others() -> None:
        row = await journal.get("ka-fox")
        await journal.bury(row, State.UNKNOWN)
        if to is State.ABANDONED:
            await journal.move("ka-fox", State.ABANDONED)

    clock, fall_asleep = clock_and_sleep("machine")
    journal = Sleepy(fall_asleep=fall_asleep, meanwhile=others)
    async with Emulator() as emulator, journal, session(emulator, journal, clock=clock, in_flight=1) as kling:
        with pytest.raises(JournalError, match="taken creation ka-fox over; nothing was sent"):
            await kling.submit(JOBS[1])
        assert ((await journal.get("ka-fox")).state, posts(emulator)) == (to, 0)
        await kling.submit(JOBS[0], timeout=60)  # its slot is free
