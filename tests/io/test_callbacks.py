from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from kling_async import GenerateImage, InvalidJobError, InvalidRequestError, KlingSession, LipSync, Status, SubmitOutcomeUnknown, Text2Video
from kling_async.emulator import Emulator
from receivers import FOX, PROCESSING, answered, door_of, post, served, session

pytestmark = pytest.mark.usefixtures("nothing_is_left")


async def lags_and_reads(emulator: Emulator, kling: KlingSession) -> tuple[list[float], float]:
    """Of jobs bought at once: seconds from each task's end to the return of its `await`, and reads per task."""
    jobs: list[Text2Video | GenerateImage] = [Text2Video(prompt=f"fox {number}", duration=5) for number in range(12)]
    jobs += [GenerateImage(prompt=f"fox {number}") for number in range(6)]

    async def lag(job: Text2Video | GenerateImage) -> float:
        handle = await kling.submit(job)
        await handle
        return emulator.now - next(task.finished for task in emulator.log.tasks if task.id == handle.task_id)

    lags = await asyncio.gather(*map(lag, jobs))
    return list(lags), sum(len(emulator.log.reads_for(task.id)) for task in emulator.log.tasks) / len(jobs)


async def test_sooner_and_with_fewer_reads(say: Callable[[str], None]) -> None:
    """With callbacks an await returns as its task ends, and a task is read less than twice."""
    figures = {}
    for name in ("polling", "callbacks"):
        async with (
            Emulator(seed=7) as emulator,
            served() as receiver,
            session(emulator, receiver if name == "callbacks" else None) as kling,
        ):
            figures[name] = await lags_and_reads(emulator, kling)
    (polled, many), (called, few) = figures["polling"], figures["callbacks"]
    say(
        f"from a task's end to the return of its await, median: {statistics.median(called) * 1000:.1f} ms with callbacks, "
        f"{statistics.median(polled) * 1000:.0f} ms by polling; reads per task {few:.2f} and {many:.2f} "
        "(virtual time, which no computing takes)"
    )
    assert few < 2 < many
    assert max(called) < 0.005


@pytest.mark.row("H3")
@pytest.mark.parametrize("profile", ["newapi", "official", "onehub"])
async def test_another_id(profile: str) -> None:
    """Where posts come under Kling's own id the URL says which task is meant; where the gateway answers from a cache, looks go on."""
    async with Emulator(seed=7, profile=profile) as emulator, served() as receiver, session(emulator, receiver) as kling:
        handle = await kling.submit(FOX)
        await handle
        told = {callback.body["task_id"] for callback in emulator.log.callbacks}
        assert (handle.task_id in told) is (profile != "newapi")
        fresh = profile == "official"
        assert len(emulator.log.reads_for(handle.task_id)) <= (1 if fresh else 4)
        assert emulator.now - emulator.log.tasks[0].finished < (0.01 if fresh else 19)


@pytest.mark.row("H7")
async def test_signed() -> None:
    """With a secret, the service's own posts are believed to be its own, and no others; without the right one polling goes on."""
    secret = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
    for used, status, soon in ((secret, 200, True), ("whsec_YW5vdGhlcg==", 401, False), (["whsec_YW5vdGhlcg==", secret], 200, True)):
        async with Emulator(webhook_secret=secret) as emulator, served(secret=used) as receiver, session(emulator, receiver) as kling:
            handle = await kling.submit(FOX)
            assert await post(door_of(emulator)) == 401
            assert await handle
            assert {callback.status for callback in emulator.log.callbacks} == {status}
            assert (emulator.now - emulator.log.tasks[0].finished < 0.01) is soon


async def test_after_a_restart(tmp_path: Path) -> None:
    """A process that comes after the one which bought still knows the URL, by its hash: the token itself is in no file."""
    async with Emulator(seed=7) as emulator, served() as receiver:
        async with session(emulator, receiver, journal=tmp_path / "journal.db") as first:
            await first.submit(FOX)
        door = door_of(emulator)
        assert await post(door) == 404
        async with session(emulator, receiver, journal=tmp_path / "journal.db") as second:
            (handle,) = await second.recover()
            waiting = asyncio.ensure_future(handle.wait())
            await asyncio.sleep(100)
            before = len(emulator.log.reads_for(handle.task_id))
            assert await post(door) == 200
            await asyncio.sleep(1.5)  # a look of the poller's own may just have been
            assert len(emulator.log.reads_for(handle.task_id)) == before + 1
            assert await waiting
            assert await post(door) == 404
        token = door.rpartition("/")[2].encode()
        assert not any(token in file.read_bytes() for file in tmp_path.iterdir())  # noqa: ASYNC240  nothing else is to run meanwhile


async def test_the_same_order_twice() -> None:
    """The URL that is filled in is no part of what was asked for: the same `dedupe` is still the same purchase."""
    async with Emulator(seed=7) as emulator, served() as receiver, session(emulator, receiver) as kling:
        one, two = [await kling.submit(FOX, dedupe="order-17") for _ in range(2)]
        assert one.ref == two.ref
        assert len(emulator.log.tasks) == 1
        assert await post(door_of(emulator)) == 200


async def test_sent_twice_under_one_url() -> None:
    """A creation that is refused for now and sent again has one URL; one that is refused for good leaves nothing behind."""
    async with Emulator(seed=7) as emulator, served() as receiver, session(emulator, receiver) as kling:
        emulator.fault("code", code=1302, method="POST", times=2)
        await kling.submit(FOX)
        urls = {request.body["callback_url"] for request in emulator.log.requests}
        assert len(emulator.log.requests) == 3
        assert urls == {door_of(emulator)}
        emulator.fault("code", code=1201, method="POST")
        with pytest.raises(InvalidRequestError):
            await kling.submit(FOX)
        assert await post(emulator.log.requests[-1].body["callback_url"]) == 404
        assert len(kling._hints._expected) == 1


async def test_urls_of_ones_own() -> None:
    """A job that has a `callback_url` keeps it and is looked after as without a receiver; a lip-sync gets its URL in its right place."""
    async with Emulator(seed=7) as emulator, served() as receiver, session(emulator, receiver) as kling:
        own = await kling.submit(Text2Video(prompt="a fox", duration=5, callback_url="http://127.0.0.1:9/mine"))
        await kling.submit(Text2Video(prompt="a fox", duration=5, extra={"callback_url": "http://127.0.0.1:9/extra"}))
        await kling.submit(
            LipSync(
                video_url="https://me.example/v.mp4", mode="text2video", text="hi", voice_id="girlfriend_1_speech02", voice_language="en"
            )
        )
        assert [door_of(emulator, number) for number in (0, 1)] == ["http://127.0.0.1:9/mine", "http://127.0.0.1:9/extra"]
        assert await post(door_of(emulator, 2)) == 200
        await own
        assert len(emulator.log.reads_for(own.task_id)) > 10


async def test_every_change() -> None:
    """Who follows every change sees each as it is posted; who only waits for the end has none looked at before."""
    async with Emulator(seed=7) as emulator, served() as receiver, session(emulator, receiver) as kling:
        handle = await kling.submit(FOX)
        seen = [(snapshot.status, round(emulator.now)) async for snapshot in handle.updates()]
        assert seen == [(Status.SUBMITTED, 0), (Status.PROCESSING, 32), (Status.SUCCEED, 319)]
        assert len(emulator.log.reads_for(handle.task_id)) == 2


async def test_nobody_waits() -> None:
    """A post about a task that nobody awaits costs no read then; whoever awaits it later looks at once."""
    async with Emulator(seed=7) as emulator, served() as receiver, session(emulator, receiver) as kling:
        handle = await kling.submit(FOX)
        await asyncio.sleep(400)
        assert not emulator.log.reads_for(handle.task_id)
        begun = emulator.now
        assert await handle
        assert emulator.now == pytest.approx(begun, abs=0.01)


async def test_a_second_post_during_the_look() -> None:
    """A post that comes while a look is under way is not lost: there is another look, a second after the first."""
    async with Emulator(seed=7) as emulator, served() as receiver, session(emulator, receiver) as kling:
        handle = await kling.submit(Text2Video(prompt="[seconds: 10]", duration=5))
        waiting = asyncio.ensure_future(handle.wait())
        await asyncio.sleep(9.7)
        emulator.fault("slow", method="GET", seconds=0.8)
        assert await post(door_of(emulator)) == 200
        assert await waiting
        first, second = (request.at for request in emulator.log.reads_for(handle.task_id))
        assert second == pytest.approx(first + 1, abs=0.01)


@pytest.mark.row("V10")
async def test_refused_before_a_socket_opens() -> None:
    """A `callback_url` that the service cannot reach is refused before anything is opened, unless told otherwise."""
    job = Text2Video(prompt="a fox", callback_url="http://me.example/hook")
    async with KlingSession("sk-test", base_url="https://gateway.example") as kling:
        for buy in (kling.submit, kling.run):
            with pytest.raises(InvalidJobError, match="callback_url"):
                await buy(job)
        assert not kling._journal.in_use
    async with KlingSession("sk-test", base_url="https://gateway.example", insecure=True) as kling:
        kling._hints.vet(job)


async def test_two_sessions_one_receiver() -> None:
    """A receiver serves several sessions, and holds none of them."""
    async with Emulator(seed=7) as emulator, served() as receiver, session(emulator, receiver) as one, session(emulator, receiver) as two:
        handles = [await one.submit(FOX), await two.submit(FOX)]
        await asyncio.gather(*handles)
        assert [len(emulator.log.reads_for(handle.task_id)) for handle in handles] == [1, 1]
    del one, two, handles
    gc.collect()
    assert not receiver._listeners
    assert await answered(receiver, door_of(emulator), PROCESSING) == 404


async def test_the_token_is_told_to_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """The capability URL is in no log, record, repr, error or journal row (P15)."""
    caplog.set_level("DEBUG")
    records: list[object] = []
    async with (
        Emulator(seed=7) as emulator,
        served(secret="whsec_YW5vdGhlcg==") as receiver,
        session(emulator, receiver, observers=[records.append]) as kling,
    ):
        handle = await kling.submit(FOX)
        emulator.fault("drop", method="POST", accepted=True)
        with pytest.raises(SubmitOutcomeUnknown) as lost:
            await kling.submit(FOX)
        tokens = [door_of(emulator, number).rpartition("/")[2] for number in (0, 1)]
        assert {await answered(receiver, token, PROCESSING) for token in tokens} == {401}
        await handle
        rows = await kling._journal.rows()
        error = lost.value
        told = repr((records, caplog.text, handle, kling, receiver, rows, error, vars(error), str(handle.ref), kling._hints.callbacks))
        assert not any(token in told for token in tokens)
        assert len({row.callback_hash for row in rows}) == 2
