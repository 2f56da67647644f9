from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from attrs import evolve

from journals import FOX, ROUTE, Failing, bought, leave, posts, session
from kling_async._clock import SystemClock
from kling_async._fault import ConfigurationError
from kling_async._pacing import Retry
from kling_async._profile import OFFICIAL, Profile
from kling_async._verdict import Failure
from kling_async._wire import Reply
from kling_async.emulator import Emulator
from kling_async.errors import JournalError, SubmitOutcomeUnknown
from kling_async.jobs import GenerateImage, Text2Video
from kling_async.journal import Journal, State
from kling_async.models import TaskRef
from kling_async.observers import Anomaly, Record
from kling_async.reconcile import Reconciler
from kling_async.session import KlingSession
from kling_async.transport import FailedExchange

pytestmark = pytest.mark.usefixtures("nothing_is_left")

official = pytest.mark.parametrize("emulator", ["official"], indirect=True)
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


@official
@pytest.mark.row("C9")
@pytest.mark.parametrize("fault", ["drop", "reset", "hang", "truncated", "garbage_json"])
@pytest.mark.parametrize(
    "profile", [OFFICIAL, evolve(OFFICIAL, finds_by_key=False), evolve(OFFICIAL, lists=False)], ids=["both", "list", "path"]
)
async def test_a_lost_answer_is_found(emulator: Emulator, fault: str, profile: Profile) -> None:
    """A task whose acceptance got lost on its way is found by its key, in one request; both ways of asking will do."""
    emulator.fault(fault, route=ROUTE, method="POST", accepted=True)
    async with session(emulator, profile=profile) as kling:
        handle = await kling.submit(FOX)
        assert (posts(emulator), handle.task_id) == (1, emulator.log.tasks[0].id)
        assert await kling.unknowns() == ()
        assert len(await handle) == 1


@gateway
@pytest.mark.row("C10")
async def test_nobody_can_be_asked(emulator: Emulator, path: Path) -> None:
    """Behind a gateway a lost answer is an unknown outcome with its key, listed, and settled by hand once the task is known."""
    emulator.fault("drop", route=ROUTE, method="POST", accepted=True)
    async with session(emulator, path) as kling:
        with pytest.raises(SubmitOutcomeUnknown) as failed:
            await kling.submit(FOX)
        assert (failed.value.external_task_id, failed.value.job) == ("ka-fox", FOX)
        assert await failed.value.reconcile() is None
        assert await kling.recover() == ()
    async with session(emulator, path) as kling:
        (row,) = await kling.unknowns()
        assert (row.key, row.action2, row.attempt, row.note) == ("ka-fox", "text2video", 1, "disconnected")
        handle = await kling.adopt("ka-fox", emulator.log.tasks[0].id)
        assert await kling.unknowns() == ()
        assert [each.task_id for each in await kling.recover()] == [handle.task_id]
        assert len(await handle) == 1
        assert await kling.recover() == ()
        with pytest.raises(JournalError, match="already"):
            await kling.adopt("ka-fox", "another")
        with pytest.raises(JournalError, match="no creation"):
            await kling.adopt("ka-never", "t")
    assert posts(emulator) == 1


@official
@pytest.mark.row("C7")
async def test_not_found_proves_nothing(emulator: Emulator) -> None:
    """A request that came to nothing cannot be told from one that did: nothing is sent again, the outcome is unknown."""
    emulator.fault("drop", route=ROUTE, method="POST", accepted=False)
    async with session(emulator, retry=Retry(reconcile_window=30.0)) as kling:
        with pytest.raises(SubmitOutcomeUnknown) as failed:
            await kling.submit(FOX)
        assert await failed.value.reconcile() is None
        assert [row.state for row in await kling.unknowns()] == [State.UNKNOWN]
    assert (posts(emulator), emulator.log.tasks) == (1, [])


async def test_another_session_goes_on(emulator: Emulator, path: Path) -> None:
    """What one session left running the next awaits; what is final is not given again, nor what is another account's or gateway's."""
    async with session(emulator, path) as kling:
        one, two = [await kling.submit(evolve(FOX, external_task_id=key)) for key in ("ka-1", "ka-2")]
        await one
    async with session(emulator, path) as kling:
        (handle,) = await kling.recover()
        assert (handle.ref, handle.ref.external_task_id) == (two.ref, "ka-2")
        assert len(await handle) == 1
        assert await kling.recover() == ()
    async with Journal(path) as journal:
        assert {row.key: row.state for row in await journal.rows()} == dict.fromkeys(("ka-1", "ka-2"), State.SUCCEEDED)
    async with KlingSession("another", base_url=emulator.url, profile=emulator.health["profile"], journal=path) as kling:
        assert await kling.recover() == ()


@pytest.mark.parametrize("way", ["recover", "reconcile", "submit"])
async def test_a_dead_sender(emulator: Emulator, path: Path, way: str) -> None:
    """What a dead process was sending is asked for by its key, whichever call meets it first, and is never sent again."""
    async with session(emulator) as buyer:
        task = (await buyer.submit(FOX)).task_id
    async with session(emulator, path) as kling, Journal(path) as journal:
        await leave(kling, journal, State.SENDING, "ka-fox")
        found: str | None = None
        if way == "submit":
            try:
                found = (await kling.submit(FOX)).task_id
            except SubmitOutcomeUnknown:
                found = None
        elif way == "recover":
            found = next((handle.task_id for handle in await kling.recover()), None)
        else:
            handle = await kling.reconcile("ka-fox")
            found = None if handle is None else handle.task_id
        findable = emulator.health["profile"] == "official"
        assert found == (task if findable else None)
        assert [row.key for row in await kling.unknowns()] == ([] if findable else ["ka-fox"])
    assert posts(emulator) == 1


@official
@pytest.mark.parametrize(("ago", "found"), [(0.0, True), (60.0, True), (1000.0, False)])
async def test_recovering_is_as_patient_as_buying(emulator: Emulator, path: Path, ago: float, *, found: bool) -> None:
    """What was sent lately is asked for until the window has passed, what was sent long ago once, and no number of them takes longer."""
    clock = asyncio.get_running_loop()
    async with session(emulator, path) as kling, Journal(path) as journal:
        for number in range(9):
            await leave(kling, journal, State.SENDING, f"ka-{number}", at=time.time() - ago)
        begun = clock.time()
        recovering = asyncio.ensure_future(kling.recover())
        await asyncio.sleep(45)  # the task is not listed at once
        async with session(emulator) as buyer:
            bought = await buyer.submit(evolve(FOX, external_task_id="ka-7"))
        handles = await recovering
        assert clock.time() - begun < 120
        assert [handle.task_id for handle in handles] == ([bought.task_id] if found else [])
        assert len(await kling.unknowns()) == 9 - len(handles)


async def test_few_look_ups_at_once() -> None:
    """However many creations are looked up, a handful of requests are under way at a time."""
    under_way: list[int] = [0]

    async def read(_: object) -> Reply:
        under_way.append(under_way[-1] + 1)
        await asyncio.sleep(1)
        under_way.append(under_way[-1] - 1)
        raise FailedExchange(Failure(cause="reset", sent=True))

    reconciler = Reconciler(read, OFFICIAL, "https://kling.example/v1", Retry(), SystemClock())
    await asyncio.gather(*(reconciler.look_up(f"ka-{number}", FOX.route) for number in range(50)))
    assert max(under_way) == 8
    assert len(under_way) == 1 + 2 * 50 * 2


@official
async def test_what_a_living_session_sends_is_left_alone(emulator: Emulator, path: Path) -> None:
    """Recovery neither withdraws, nor settles, nor asks for what another session, or this one, is at."""
    async with session(emulator, path) as kling, Journal(path) as journal, session(emulator, path) as other:
        await other.unknowns()
        other._memory.owner.claim()
        for state in (State.PREPARED, State.SENDING):
            await leave(kling, journal, state, f"ka-{state}", owner=other._memory.owner.id)
        assert await kling.recover() == ()
        assert {row.key: row.state for row in await journal.rows()} == {f"ka-{state}": state for state in (State.PREPARED, State.SENDING)}
    assert emulator.log.requests == []


async def test_orphans_are_in_the_journal(emulator: Emulator, path: Path) -> None:
    """A task accepted after its caller had gone is listed by the session, and by the next one's recovery."""
    emulator.fault("slow", route=ROUTE, method="POST", seconds=5)
    async with session(emulator, path) as kling:
        buying = asyncio.ensure_future(kling.submit(FOX))
        task = await bought(emulator)
        buying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await buying
        assert kling.orphans() == ()
        await kling.reconcile("ka-fox")
        assert [ref.task_id for ref in kling.orphans()] == [task]
    async with session(emulator, path) as kling:
        assert [handle.task_id for handle in await kling.recover()] == [task]


@pytest.mark.row("J2")
async def test_an_id_is_told_when_it_cannot_be_written(emulator: Emulator, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An acceptance that cannot be recorded is an error with the task's reference and a critical record, and is written later."""
    async with Failing(path, fails={"W3"}) as journal, session(emulator, journal) as kling:
        with pytest.raises(JournalError) as failed:
            await kling.submit(FOX)
        ref = failed.value.ref
        assert isinstance(ref, TaskRef)
        assert ref.task_id == emulator.log.tasks[0].id
        assert [record.levelno for record in caplog.records if ref.task_id in record.getMessage()] == [logging.CRITICAL]
        journal.fails.clear()
        assert await kling.reconcile("ka-fox") is not None
        assert (await journal.get("ka-fox")).task_id == ref.task_id
        assert [handle.task_id for handle in await kling.recover()] == [ref.task_id]
    assert posts(emulator) == 1


@pytest.mark.row("J2")
async def test_an_end_that_cannot_be_written(emulator: Emulator, path: Path) -> None:
    """A result is given whether or not it can be recorded; that is told, and recovery reads the task again."""
    records: list[Record] = []
    async with Failing(path, fails={"W5"}) as journal, session(emulator, journal, observers=[records.append]) as kling:
        assert len(await kling.run(FOX)) == 1
        assert [record.what for record in records if isinstance(record, Anomaly)] == ["journal"]
        journal.fails.clear()
        (handle,) = await kling.recover()
        assert len(await handle) == 1


async def test_a_journal_that_cannot_be_opened(emulator: Emulator, tmp_path: Path) -> None:
    """Without its journal a session buys nothing, and still reads what is there."""
    async with session(emulator) as kling:
        ref = (await kling.submit(FOX)).ref
    (tmp_path / "file").write_text("no journal")
    async with session(emulator, tmp_path / "file") as kling:
        for call in (kling.submit(FOX), kling.recover(), kling.unknowns(), kling.adopt("ka-fox", "t")):
            with pytest.raises(JournalError, match="no journal"):
                await call
        assert len(await kling.attach(ref)) == 1
        assert posts(emulator) == 1
        (tmp_path / "file").unlink()
        assert len(await kling.run(evolve(FOX, external_task_id="ka-2"))) == 1  # the session need not be made anew
    with pytest.raises(ConfigurationError):
        await kling.recover()


@pytest.mark.row("J11")
async def test_no_secret_is_on_the_disk(emulator: Emulator, path: Path) -> None:
    """Neither the key, nor what follows the question mark of a link, nor a result's signature is in any byte of the journal."""
    emulator.fault("status", route="images/generations", status=502, accepted=True)
    job = Text2Video(prompt="a fox", callback_url="https://me.example/hook?token=c4n4ry")
    async with session(emulator, path, retry=Retry(reconcile_window=1)) as kling:
        video = (await kling.run(job, timeout=1000))[0]
        assert "?" in video.url
        picture = GenerateImage(prompt="a fox", image="https://me.example/fox.png?X-Signature=c4n4ry")
        with suppress(SubmitOutcomeUnknown):
            await kling.submit(picture)
        held = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert b"me.example/hook" in held
        assert b"me.example/fox.png" in held
        assert video.url.partition("?")[0].encode() in held
        for secret in ("c4n4ry", video.url.partition("?")[2], *video.url.partition("?")[2].split("&")):
            assert secret.encode() not in held
