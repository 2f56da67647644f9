from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import attrs
import pytest
from attrs import evolve

from kling_async._clock import NEVER
from kling_async._order import Order
from kling_async._pacing import Polling
from kling_async.emulator import Emulator
from kling_async.errors import ContentPolicyError, KlingError, SubmitOutcomeUnknown, TaskFailedError, TransportTimeoutError
from kling_async.jobs import Text2Video
from kling_async.journal import State
from kling_async.models import Status
from kling_async.observers import Anomaly, Exchange, Record, Settled, StatusChange, Waiting
from kling_async.session import KlingSession
from shops import ACCEPTED, JOB, close_journals, shop

pytestmark = pytest.mark.usefixtures("nothing_is_left")

journals_are_closed = pytest.fixture(close_journals)

T2V = "videos/text2video"
CANARY = "c4n4ry"
KEY = f"sk-{CANARY}-key"


def gateway(**options: Any) -> Emulator:
    """A gateway that takes the secret key, where a video takes 100 s."""
    return Emulator(**{"api_keys": [KEY], "durations": 100.0, "seed": 1, **options})


def exchanges(told: list[Record]) -> list[tuple[str, str, str, int | None]]:
    """What was told of requests."""
    return [(each.method, each.route, each.subject, each.http_status) for each in told if isinstance(each, Exchange)]


def requests(emulator: Emulator) -> list[tuple[str, str | None, str | None, int | None]]:
    """What was read of them."""
    return [
        (seen.method, seen.route, seen.external_task_id if seen.method == "POST" else seen.task_id, seen.status)
        for seen in emulator.log.requests
    ]


async def test_one_record_for_each_request() -> None:
    """Every request that the gateway read is told once, with its route, its subject and its status, in order."""
    told: list[Record] = []
    async with gateway() as emulator, KlingSession(KEY, base_url=emulator.url, observers=[told.append]) as kling:
        emulator.fault("code", route=T2V, method="POST", code=1303)
        emulator.fault("status", route=T2V, method="GET", status=502)
        handle = await kling.text2video(prompt="a fox", external_task_id="ka-1")
        await handle
        await handle.refresh()
        await kling.get(handle.ref)
        assert exchanges(told) == requests(emulator)
        assert {each.paid for each in told if isinstance(each, Exchange) and each.method == "POST"} == {True}
        assert {each.paid for each in told if isinstance(each, Exchange) and each.method == "GET"} == {False}


async def test_a_request_without_a_reply() -> None:
    """What got no reply says why, in a word, and how long it took."""
    told: list[Record] = []
    async with gateway() as emulator, KlingSession(KEY, base_url=emulator.url, observers=[told.append]) as kling:
        emulator.fault("hang", route=T2V, method="POST", accepted=True)
        with pytest.raises(SubmitOutcomeUnknown):
            await kling.text2video(prompt="a fox", external_task_id="ka-1")
        (exchange,) = [each for each in told if isinstance(each, Exchange)]
        assert (exchange.http_status, exchange.cause) == (None, "timeout")
        assert exchange.seconds >= 60
        assert [(each.what, "ka-1" in each.detail) for each in told if isinstance(each, Anomaly)] == [("outcome-unknown", True)]


async def test_every_change_once() -> None:
    """Each state is told once, from the acceptance on, however many wait for it, with where the task stood before."""
    told: list[Record] = []
    async with gateway() as emulator, KlingSession(KEY, base_url=emulator.url, observers=[told.append]) as kling:
        handle = await kling.text2video(prompt="a fox")
        await asyncio.gather(*(handle.wait() for _ in range(50)))
        await handle.refresh()
    changes = [(each.before, each.after) for each in told if isinstance(each, StatusChange)]
    assert (changes[0], changes[-1][1]) == ((None, Status.SUBMITTED), Status.SUCCEED)
    assert [before for before, _ in changes[1:]] == [after for _, after in changes[:-1]]
    assert len({after for _, after in changes}) == len(changes)
    assert all(each.ref == handle.ref for each in told if isinstance(each, StatusChange))


async def test_what_came_of_each_creation() -> None:
    """It is told once for each, before the first state of its task, with how long it took; who merely followed another does not know."""
    told: list[Record] = []
    async with gateway() as emulator, KlingSession(KEY, base_url=emulator.url, observers=[told.append], in_flight=3) as kling:
        emulator.fault("slow", route=T2V, method="POST", seconds=10.0)
        fox = Text2Video(prompt="a fox", model_name="kling-v2-6")
        buying = asyncio.ensure_future(kling.submit(fox, dedupe="order-17"))
        await asyncio.sleep(1)
        with pytest.raises(SubmitOutcomeUnknown):
            await kling.submit(fox, dedupe="order-17", timeout=2)
        handle = await buying
        again = await kling.submit(fox, dedupe="order-17")
        emulator.fault("code", route=T2V, method="POST", code=1301)
        with pytest.raises(ContentPolicyError):
            await kling.text2video(prompt="a fox")
        for _ in range(2):
            await kling.text2video(prompt="a fox")
        with pytest.raises(TransportTimeoutError):
            await kling.submit(fox, timeout=2)
    settled = [each for each in told if isinstance(each, Settled)]
    assert [(each.how, round(each.seconds, 3), each.error) for each in settled] == [
        ("unknown", 2, None),
        ("accepted", 10, None),
        ("reused", 0, None),
        ("rejected", 0, "ContentPolicyError"),
        ("accepted", 0, None),
        ("accepted", 0, None),
        ("withdrawn", 2, None),
    ]
    assert settled[1].ref == handle.ref
    assert settled[2].ref == evolve(handle.ref, created_at=None)
    assert again.task_id == handle.task_id
    assert {(each.route, each.model) for each in settled} == {(T2V, "kling-v2-6"), (T2V, None)}
    first = next(each for each in told if isinstance(each, StatusChange))
    assert told.index(settled[1]) < told.index(first)


async def test_orphans_are_told() -> None:
    """A task whose caller has gone is an anomaly with its reference."""
    told: list[Record] = []
    async with gateway() as emulator, KlingSession(KEY, base_url=emulator.url, observers=[told.append]) as kling:
        emulator.fault("slow", route=T2V, method="POST", seconds=10.0)
        caller = asyncio.ensure_future(kling.text2video(prompt="a fox"))
        await asyncio.sleep(5)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        await asyncio.sleep(30)
        (orphan,) = kling.orphans()
    assert [(each.what, each.ref) for each in told if isinstance(each, Anomaly)] == [("orphan", orphan)]


async def test_observers_that_raise_change_no_outcome(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever record a hook breaks at, the task is bought once and its result comes (W8)."""

    def broken(_record: Record) -> None:
        msg = "a hook of the user's"
        raise RuntimeError(msg)

    async with gateway() as emulator, KlingSession(KEY, base_url=emulator.url, observers=[broken]) as kling:
        emulator.fault("code", route=T2V, method="POST", code=1303)
        assert await (await kling.text2video(prompt="a fox"))
        assert len(emulator.log.tasks) == 1
    assert {line.getMessage() for line in caplog.records} == {"an observer failed"}


@pytest.mark.parametrize("observed", [True, False])
async def test_no_secret_is_told(*, observed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the key nor a callback's token nor a link's signature is in any record, nor in what is logged of them (P15)."""
    caplog.set_level(logging.DEBUG)
    told: list[Record] = []
    hook = f"https://me.example/hook?token={CANARY}-callback"
    async with (
        gateway() as emulator,
        KlingSession(KEY, base_url=emulator.url, observers=[told.append] if observed else (), polling=Polling(error_budget=60.0)) as kling,
    ):
        handle = await kling.text2video(prompt=f"{CANARY}-prompt", callback_url=hook)
        (video,) = await handle
        signature = video.url.partition("?")[2]
        assert signature
        with pytest.raises(TaskFailedError):
            await kling.run(Text2Video(prompt=f"[fail: no] {CANARY}-prompt", callback_url=hook))
        emulator.fault("code", route=T2V, method="POST", code=1303)
        emulator.fault("code", route=T2V, method="POST", code=1201)
        for name in ("drop", "garbage_json", "status"):
            emulator.fault(name, route=T2V, method="POST")
        for _ in range(4):
            with pytest.raises(KlingError):
                await kling.text2video(prompt=f"{CANARY}-prompt", callback_url=hook)
        assert all(fault.hits == 1 for fault in emulator.orders)
    shown = "\n".join(str(record) for record in told)
    shown += json.dumps([attrs.asdict(record) for record in told], default=str)
    shown += "\n".join(line.getMessage() for line in caplog.records if line.name.startswith("kling_async"))
    assert handle.task_id in shown, "it has told something"
    assert CANARY not in shown
    assert signature not in shown
    assert (not told) is not observed


async def test_waits_are_told_before_they_begin() -> None:
    """A creation that waits tells so when it begins to wait, not afterwards."""
    told: list[tuple[float, Record]] = []
    loop = asyncio.get_running_loop()
    async with (
        gateway() as emulator,
        KlingSession(KEY, base_url=emulator.url, observers=[lambda record: told.append((loop.time(), record))]) as kling,
    ):
        emulator.fault("status", route=T2V, method="POST", status=425)
        await kling.text2video(prompt="a fox", external_task_id="ka-1")
    ((refused, _), (waiting, wait), (accepted, _), *_) = [pair for pair in told if not isinstance(pair[1], StatusChange)]
    assert isinstance(wait, Waiting)
    assert (wait.why, wait.external_task_id) == ("retry", "ka-1")
    assert wait.seconds is not None
    assert waiting == refused
    assert accepted - waiting >= wait.seconds - 1e-6


@pytest.mark.usefixtures("journals_are_closed")
async def test_garbage_tells_nobody() -> None:
    """A creation that a closed loop has left is withdrawn as it is collected; that may be amid an observer, so none is told."""
    told: list[Record] = []
    room = shop(ACCEPTED)
    room.orders.buyer.tell = told.append
    order = Order(JOB, None, "ka-1", room.orders.admission.ticket(JOB), asyncio.get_running_loop().create_future(), NEVER)
    owner = room.orders._own(order)
    owner.send(None)
    owner.close()
    assert (await room.orders.buyer.memory.journal.get("ka-1")).state is State.WITHDRAWN
    assert told == []
