from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import evolve

from journals import FOX, ROUTE, Failing, bought, leave, posts, session
from kling_async.emulator import Emulator
from kling_async.errors import AccountError, InvalidJobError, JournalError, TransportTimeoutError
from kling_async.jobs import GenerateImage, Text2Video
from kling_async.journal import Journal, State

pytestmark = pytest.mark.usefixtures("nothing_is_left")

gateway = pytest.mark.parametrize("emulator", ["gateway"], indirect=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "kept" / "journal.db"


@pytest.fixture(params=["official", "gateway"])
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    """A server of either kind, whose tasks take a minute of a time that costs none."""
    async with Emulator(profile=request.param, durations=60, seed=7, api_keys=["k-c4n4ry"]) as emulator:
        yield emulator


@pytest.mark.row("J5")
async def test_the_same_word_is_the_same_task(emulator: Emulator, path: Path) -> None:
    """Sessions that submit under one word, at once and later, get handles of one task, which was asked for once."""
    async with session(emulator, path) as one, session(emulator, path) as two:
        handles = await asyncio.gather(*(kling.submit(Text2Video(prompt="a fox"), dedupe="order-17") for kling in (one, two, one)))
        await asyncio.gather(*handles)
    async with session(emulator, path) as three:
        handles.append(await three.submit(Text2Video(prompt="a fox"), dedupe="order-17"))
        assert len({handle.ref.external_task_id for handle in handles}) == 1
        for other in (Text2Video(prompt="a cat"), GenerateImage(prompt="a fox")):
            with pytest.raises(InvalidJobError, match="another request"):
                await three.submit(other, dedupe="order-17")
    assert {handle.task_id for handle in handles} == {task.id for task in emulator.log.tasks}
    assert posts(emulator) == len(emulator.log.tasks) == 1


@pytest.mark.row("J5")
@pytest.mark.parametrize("shared", [True, False])
async def test_leaving_a_purchase_of_anothers(emulator: Emulator, path: Path, *, shared: bool) -> None:
    """Whoever merely follows a purchase under way changes nothing for it by leaving, nor can it be bought again then."""
    emulator.fault("slow", route=ROUTE, method="POST", seconds=30)
    async with session(emulator, path) as one, session(emulator, path) as other:
        two = one if shared else other
        buying = asyncio.ensure_future(one.submit(FOX, dedupe="order-17"))
        await bought(emulator)
        with pytest.raises(TransportTimeoutError):
            await two.submit(FOX, dedupe="order-17", timeout=1)
        following = asyncio.ensure_future(two.submit(FOX, dedupe="order-17"))
        await asyncio.sleep(1)
        following.cancel()
        again = await two.submit(FOX, dedupe="order-17")
        assert again.task_id == (await buying).task_id
    assert posts(emulator) == 1


@gateway
async def test_a_word_is_free_again(emulator: Emulator) -> None:
    """What ended without a task is asked for again under the same word, be it refused or shut out."""
    emulator.fault("code", route=ROUTE, code=1102)
    async with session(emulator, in_flight=1) as kling:
        tries = [kling.submit(Text2Video(prompt=f"fox {number}"), dedupe=f"{number}") for number in range(3)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [AccountError] * 3
        assert {row.state for row in await kling._journal.rows()} <= {State.REJECTED, State.WITHDRAWN}
        await asyncio.sleep(61)
        for number in range(3):
            await (await kling.submit(Text2Video(prompt=f"fox {number}"), dedupe=f"{number}", timeout=200))
    assert len(emulator.log.tasks) == 3


async def test_nobody_at_it(emulator: Emulator, path: Path) -> None:
    """A purchase whose process died before sending is withdrawn by recovery, and sent when it is asked for again, once."""
    async with session(emulator, path) as kling, Journal(path) as journal:
        await leave(kling, journal, State.PREPARED, "ka-dead")
        await leave(kling, journal, State.PREPARED, "ka-fox")
        await journal.move("ka-fox", State.WITHDRAWN)
        assert (await kling.recover(), await kling.unknowns()) == ((), ())
        assert (await journal.get("ka-dead")).state is State.WITHDRAWN
        for key in ("ka-dead", "ka-fox"):
            assert (await kling.submit(evolve(FOX, external_task_id=key))).ref.external_task_id == key
    assert posts(emulator) == 2


@pytest.mark.row("J6")
async def test_somebody_at_it(emulator: Emulator, path: Path) -> None:
    """A purchase that a live session is at, however slowly, is left to it: not withdrawn, not unknown, not sent."""
    other = Journal(path)
    owner = other.owner()
    async with session(emulator, path) as kling, other:
        owner.claim()
        for state in (State.PREPARED, State.SENDING):
            await leave(kling, other, state, f"ka-{state}", owner=owner.id)
            with pytest.raises(TransportTimeoutError):
                await kling.submit(evolve(FOX, external_task_id=f"ka-{state}"), timeout=2)
            assert (await kling.recover(), await kling.unknowns()) == ((), ())
            assert (await other.get(f"ka-{state}")).state is state
        owner.release()
    assert posts(emulator) == 0


@pytest.mark.row("J2")
@pytest.mark.parametrize("write", ["W1", "W2"])
async def test_nothing_is_sent_unrecorded(emulator: Emulator, path: Path, write: str) -> None:
    """What cannot be recorded is not sent; once the disk has room the same purchase goes through."""
    async with Failing(path, fails={write}) as journal, session(emulator, journal) as kling:
        with pytest.raises(JournalError, match="no space") as failed:
            await kling.submit(FOX, dedupe="order-17")
        assert (failed.value.ref, posts(emulator)) == (None, 0)
        journal.fails.clear()
        handle = await kling.submit(FOX, dedupe="order-17", timeout=100)
        assert handle.task_id == emulator.log.tasks[0].id
    assert posts(emulator) == 1
