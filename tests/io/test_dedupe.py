from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import evolve

from journals import FOX, ROUTE, Failing, Place, at, bought, leave, posts, session
from kling_async.emulator import Emulator
from kling_async.errors import AccountError, InvalidJobError, JournalError, KlingError, SubmitOutcomeUnknown, TransportTimeoutError
from kling_async.jobs import GenerateImage, Text2Video
from kling_async.journal import Creation, Journal, State

pytestmark = pytest.mark.usefixtures("nothing_is_left")

gateway = pytest.mark.parametrize("emulator", ["gateway"], indirect=True)


@pytest.fixture(params=["file", "postgres"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where the journal is: of either kind."""
    return tmp_path / "kept" / "journal.db" if request.param == "file" else str(request.getfixturevalue("postgres").dsn())


in_file = pytest.mark.parametrize("path", ["file"], indirect=True)


@pytest.fixture(params=["official", "gateway"])
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    """A server of either kind, whose tasks take a minute of a time that costs none."""
    async with Emulator(profile=request.param, durations=60, seed=7, api_keys=["k-c4n4ry"]) as emulator:
        yield emulator


@pytest.mark.row("J5")
async def test_the_same_word_is_the_same_task(emulator: Emulator, path: Place) -> None:
    """Sessions that submit under one word, at once and later, get handles of one task, which was asked for once."""
    async with session(emulator, path) as one, session(emulator, path) as two:
        handles = await asyncio.gather(*(kling.submit(Text2Video(prompt="a fox"), dedupe="order-17") for kling in (one, two, one)))
        await asyncio.gather(*handles)
    async with session(emulator, path) as three:
        handles.append(await three.submit(Text2Video(prompt="a fox"), dedupe="order-17"))
        assert len({handle.ref for handle in handles}) == 1
        assert all(handle.ref.created_at is not None for handle in handles)
        for other in (Text2Video(prompt="a cat"), GenerateImage(prompt="a fox")):
            with pytest.raises(InvalidJobError, match="another request"):
                await three.submit(other, dedupe="order-17")
    assert {handle.task_id for handle in handles} == {task.id for task in emulator.log.tasks}
    assert posts(emulator) == len(emulator.log.tasks) == 1


@pytest.mark.row("J5")
@pytest.mark.parametrize("shared", [True, False])
async def test_leaving_a_purchase_of_anothers(emulator: Emulator, path: Place, *, shared: bool) -> None:
    """Whoever merely follows a purchase under way changes nothing for it by leaving, nor can it be bought again then."""
    emulator.fault("slow", route=ROUTE, method="POST", seconds=30)
    async with session(emulator, path) as one, session(emulator, path) as other:
        two = one if shared else other
        buying = asyncio.ensure_future(one.submit(FOX, dedupe="order-17"))
        await bought(emulator)
        with pytest.raises(SubmitOutcomeUnknown):
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


async def test_nobody_at_it(emulator: Emulator, path: Place) -> None:
    """A purchase whose process died before sending is withdrawn by recovery, and sent when it is asked for again, once."""
    async with session(emulator, path) as kling, at(path) as journal:
        await leave(kling, journal, State.PREPARED, "ka-dead")
        await leave(kling, journal, State.PREPARED, "ka-fox")
        await journal.move("ka-fox", State.WITHDRAWN)
        assert (await kling.recover(), await kling.unknowns()) == ((), ())
        assert (await journal.get("ka-dead")).state is State.WITHDRAWN
        for key in ("ka-dead", "ka-fox"):
            assert (await kling.submit(evolve(FOX, external_task_id=key))).ref.external_task_id == key
    assert posts(emulator) == 2


@pytest.mark.row("J6")
async def test_somebody_at_it(emulator: Emulator, path: Place) -> None:
    """A purchase that a live session is at, however slowly, is left to it: not withdrawn, not unknown, not sent."""
    other = at(path)
    owner = other.owner()
    async with session(emulator, path) as kling, other:
        owner.claim()
        for state in (State.PREPARED, State.SENDING):
            await leave(kling, other, state, f"ka-{state}", owner=owner.id)
            with pytest.raises(TransportTimeoutError if state is State.PREPARED else SubmitOutcomeUnknown):
                await kling.submit(evolve(FOX, external_task_id=f"ka-{state}"), timeout=2)
            assert (await kling.recover(), await kling.unknowns()) == ((), ())
            assert (await other.get(f"ka-{state}")).state is state
        owner.release()
    assert posts(emulator) == 0


@in_file
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


class SlowToRead(Journal):
    """A journal whose reader has been overtaken by the time it knows what was there."""

    async def open_rows(self, account: str, origin: str) -> list[Creation]:
        rows = await super().open_rows(account, origin)
        await asyncio.sleep(5)
        return rows


@gateway
@in_file
@pytest.mark.row("J5")
async def test_recovery_leaves_what_was_taken_over(emulator: Emulator, path: Path) -> None:
    """What a dead session left, and another has begun to send since it was read, is not withdrawn: it would be sent once more."""
    emulator.fault("hang", route=ROUTE, method="POST", accepted=True)
    async with SlowToRead(path) as slow, session(emulator, slow) as one, session(emulator, path) as two:
        await leave(one, slow, State.PREPARED, "ka-fox")
        recovering = asyncio.ensure_future(one.recover())
        await asyncio.sleep(1)
        buying = asyncio.ensure_future(two.submit(FOX))
        assert await recovering == ()
        assert (await slow.get("ka-fox")).state is State.SENDING
        for submitted in (buying, two.submit(FOX)):
            with pytest.raises(SubmitOutcomeUnknown):
                await submitted
    assert posts(emulator) == 1


async def test_a_word_for_what_has_a_key(emulator: Emulator) -> None:
    """A purchase that is found by its key is from then on found by its word, too; one key under two words is an error."""
    async with session(emulator) as kling:
        jobs = [(FOX, None), (FOX, "order-17"), (Text2Video(prompt="a fox"), "order-17")]
        handles = [await kling.submit(job, dedupe=word) for job, word in jobs]
        assert len({handle.task_id for handle in handles}) == 1
        await kling.submit(Text2Video(prompt="a fox"), dedupe="order-18")
        for word in ("order-18", "order-19"):
            with pytest.raises(InvalidJobError, match="another word"):
                await kling.submit(FOX, dedupe=word)
    assert posts(emulator) == 2


async def test_given_up_by_hand(emulator: Emulator) -> None:
    """What nobody can tell of is listed until its user gives it up; then the same word buys again. Nothing else can be given up."""
    emulator.fault("drop", route=ROUTE, method="POST", accepted=False)
    async with session(emulator) as kling:
        with pytest.raises(SubmitOutcomeUnknown) as failed:
            await kling.submit(FOX, dedupe="order-17")
        with pytest.raises(SubmitOutcomeUnknown):
            await kling.submit(FOX, dedupe="order-17")
        await kling.abandon(failed.value.external_task_id)
        assert (await kling.unknowns(), await kling.recover()) == ((), ())
        handle = await kling.submit(FOX, dedupe="order-17")
        assert (handle.ref.external_task_id, handle.task_id) == ("ka-fox", emulator.log.tasks[0].id)
        with pytest.raises(JournalError, match="is accepted: only what is unknown"):
            await kling.abandon("ka-fox")
    assert posts(emulator) == 2


class Overtaken(Journal):
    """A journal whose session sleeps before it records what became of a request, until others have it under way again."""

    async def move(self, key: str, state: State, note: str = "", *, owner: str | None = None) -> bool:
        await self.bury(await self.get(key), State.UNKNOWN)
        await super().move(key, State.ABANDONED)
        assert await self.claim(await self.get(key), "you.1")
        assert await self.send(key, "you.1")
        return await super().move(key, state, note, owner=owner)


@gateway
@pytest.mark.row("J6")
@pytest.mark.parametrize("code", [1201, 1303])
async def test_a_refusal_that_comes_late(emulator: Emulator, code: int) -> None:
    """Who learns that its request was refused when others send that creation already does not make it look free to be sent."""
    emulator.fault("code", route=ROUTE, code=code)
    async with Overtaken() as journal, session(emulator, journal) as kling:
        with pytest.raises(KlingError):
            await kling.submit(FOX, timeout=600)
        row = await journal.get("ka-fox")
        assert (row.state, row.owner) == (State.SENDING, "you.1")
    assert posts(emulator) == 1
