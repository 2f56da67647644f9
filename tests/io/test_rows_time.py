from __future__ import annotations

import asyncio
import base64
import json
import math
import sys
import time
from email.utils import formatdate
from typing import Any, cast

import anyio
import pytest

from kling_async import (
    ConfigurationError,
    Journal,
    KeyPair,
    KlingError,
    KlingSession,
    SubmitOutcomeUnknown,
    TaskHandle,
    TaskRef,
    TaskTimeoutError,
    Text2Video,
    TransportTimeoutError,
)
from kling_async._clock import SystemClock
from kling_async.emulator import Emulator
from kling_async.journal import State
from kling_async.testing import VirtualLoop
from scripted import FOX, KEY, PROFILES, Behaviour, Client, Gateway, hang_read, head, listening, picture_job, refusal, saying, whole

pytestmark = pytest.mark.usefixtures("nothing_is_left")

DAY = 86400.0
PAIR = KeyPair(access_key="ak", secret_key="sk")


class Watch(SystemClock):
    """A clock on the wall that people set."""

    offset = 0.0

    def wall(self) -> float:
        return super().wall() + self.offset


gateway = pytest.fixture(listening)


def block(seconds: float) -> None:
    """Let time pass with the loop held up, or the whole process stopped: nothing of what is due gets done meanwhile."""
    loop = cast("VirtualLoop", asyncio.get_running_loop())  # as the tests' own fixture has it
    loop.now += seconds


async def trickle(client: Client) -> None:
    """Accept, and answer a byte a second."""
    await client.read()
    client.accept()
    client.say(head("Content-Length: 1000000"))
    while not client.writer.is_closing():
        client.say(b" ")
        await asyncio.sleep(1)


async def busy(client: Client) -> None:
    """Say that there is no room."""
    await client.read()
    client.say(refusal(429, 1303))


PHASES: dict[str, tuple[Behaviour, int, type[KlingError], int]] = {
    # What the server does, how large the picture is, the caller's error, and how many tasks there are.
    "never read": (Client.hang, 100, SubmitOutcomeUnknown, 0),
    "upload": (Client.hang, 6 << 20, SubmitOutcomeUnknown, 0),
    "head": (hang_read, 100, SubmitOutcomeUnknown, 1),
    "body": (trickle, 100, SubmitOutcomeUnknown, 1),
    "pause": (busy, 100, TransportTimeoutError, 0),
}


@pytest.mark.row("D1")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("bound", [0.5, 7.0, 29.0])
@pytest.mark.parametrize("phase", PHASES)
async def test_creations_end_on_time(gateway: Gateway, phase: str, bound: float, profile: str) -> None:
    """A creation that hangs anywhere gives its caller back on time, and no later than a tenth of a second."""
    behaviour, size, kind, tasks = PHASES[phase]
    gateway.script.extend([behaviour] * 99)
    loop = asyncio.get_running_loop()
    async with Journal() as journal, KlingSession("sk-x", profile=profile, base_url=gateway.url, journal=journal) as kling:
        begun = loop.time()
        with pytest.raises(kind):
            await kling.submit(picture_job(size), timeout=bound)
        assert bound <= loop.time() - begun <= bound + 0.1
        assert (await journal.get(KEY)).state is (State.SENDING if kind is SubmitOutcomeUnknown else State.WITHDRAWN)
        assert len(gateway.tasks) == tasks


@pytest.mark.row("D1")
async def test_waiting_for_a_slot_ends_on_time(gateway: Gateway) -> None:
    """A creation for which there is no slot gives its caller back on time, and nothing of it was sent."""
    gateway.lasts = 1e6
    loop = asyncio.get_running_loop()
    async with Journal() as journal, KlingSession("sk-x", base_url=gateway.url, journal=journal, in_flight=1) as kling:
        await kling.text2video(prompt="a hen")
        begun = loop.time()
        with pytest.raises(TransportTimeoutError):
            await kling.submit(FOX, timeout=50.0)
        assert 50 <= loop.time() - begun <= 50.1
        assert ((await journal.get(KEY)).state, gateway.posts) == (State.WITHDRAWN, 1)


@pytest.mark.row("D1")
@pytest.mark.parametrize("answer", [Client.hang, whole({}, status=503), refusal(429, 1302, "Retry-After: 9999"), None])
async def test_waits_end_on_time(gateway: Gateway, answer: bytes | Behaviour | None) -> None:
    """A wait that hangs in a look, between looks or over a server's wish ends on time, alone or within `run`."""
    gateway.lasts = 1e6
    gateway.rule = lambda _: answer
    loop = asyncio.get_running_loop()
    async with KlingSession("sk-x", base_url=gateway.url) as kling:
        handle = await kling.submit(FOX)
        for bound in (0.5, 12.0, 61.0):
            begun = loop.time()
            with pytest.raises(TaskTimeoutError):
                await handle.wait(bound)
            assert bound <= loop.time() - begun <= bound + 0.1
        begun = loop.time()
        with pytest.raises(TaskTimeoutError):
            await kling.run(Text2Video(prompt="a hen"), timeout=33.0)
        assert 33 <= loop.time() - begun <= 33.1


@pytest.mark.row("D2")
async def test_ten_thousand_deadlines(gateway: Gateway) -> None:
    """Ten thousand waits with bounds of their own all end on time."""
    gateway.rule = lambda _: Client.hang
    loop = asyncio.get_running_loop()
    async with KlingSession("sk-x", base_url=gateway.url) as kling:
        refs = (TaskRef(origin=gateway.url, action="videos", action2="text2video", task_id=f"{n}") for n in range(10_000))
        handles = [kling.attach(ref) for ref in refs]
        begun, late = loop.time(), list[float]()

        async def wait(handle: TaskHandle[Any], bound: float) -> None:
            with pytest.raises(TaskTimeoutError):
                await handle.wait(bound)
            late.append(loop.time() - begun - bound)

        await asyncio.gather(*(wait(handle, 1 + n % 500 / 250) for n, handle in enumerate(handles)))
    assert len(late) == 10_000
    assert min(late) > -1e-6
    assert max(late) < 0.1


@pytest.mark.row("D3", "D5")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seconds", [1.0, 59.0, 61.0, 600.0])
async def test_an_answer_to_a_sleeper(gateway: Gateway, seconds: float, profile: str) -> None:
    """An answer that came while the loop was held up, or the process stopped, is looked at before any timer ends its request."""

    async def answer_and_block(client: Client) -> None:
        await client.read()
        client.say(whole(client.accept()))
        block(seconds)

    gateway.script.append(answer_and_block)
    outcome, row = await gateway.buy(profile=profile)
    assert isinstance(outcome, TaskHandle)
    assert (row.state, row.task_id, gateway.posts, gateway.looked) == (State.ACCEPTED, "8800", 1, [])


@pytest.mark.row("D3", "D5")
async def test_a_sleepers_own_bound(gateway: Gateway) -> None:
    """When the caller's bound passes in the meantime, the caller may be told so; the task is recorded, and known to the session."""

    async def answer_and_block(client: Client) -> None:
        await client.read()
        client.say(whole(client.accept()))
        block(600.0)

    gateway.script.append(answer_and_block)
    async with Journal() as journal, KlingSession("sk-x", base_url=gateway.url, journal=journal) as kling:
        try:
            ref: TaskRef | None = (await kling.submit(FOX, timeout=5.0)).ref
        except SubmitOutcomeUnknown:
            await asyncio.sleep(1)
            (ref,) = kling.orphans()
        assert ref is not None
        assert (ref.task_id, (await journal.get(KEY)).task_id, gateway.posts) == ("8800", "8800", 1)


@pytest.mark.row("D5")
async def test_waits_of_a_sleeper(gateway: Gateway) -> None:
    """After ten minutes without a turn, a wait whose bound has passed ends, once, and the others go on to the result."""
    gateway.lasts = 1000.0
    async with KlingSession("sk-x", base_url=gateway.url) as kling:
        handle = await kling.submit(FOX)
        bounded, free = asyncio.ensure_future(handle.wait(300.0)), asyncio.ensure_future(handle.wait())
        await asyncio.sleep(100)
        block(600.0)
        with pytest.raises(TaskTimeoutError):
            await bounded
        assert await free
    assert (gateway.posts, len(gateway.tasks)) == (1, 1)


@pytest.mark.row("D4")
@pytest.mark.parametrize("offset", [-DAY, -3600.0, -1.0, 1.0, 3600.0, DAY])
async def test_a_wall_clock_that_is_set(offset: float) -> None:
    """Setting the clock on the wall, before, during or after a wait, moves no look and costs no task; tokens are signed anew."""
    watch, loop = Watch(), asyncio.get_running_loop()
    async with (
        Emulator(profile="official", access_keys={"ak": "sk"}, durations=100, seed=7) as emulator,
        KlingSession(PAIR, base_url=emulator.url, profile="official", clock=watch) as kling,
    ):
        for step in (0.0, offset, -2 * offset):
            watch.offset += step
            begun = loop.time()
            handle = await kling.submit(Text2Video(prompt="a fox"))
            waiting = asyncio.ensure_future(handle.wait())
            await asyncio.sleep(30)
            watch.offset += offset
            assert len(await waiting) == 1
            assert 100 <= loop.time() - begun <= 100 + 15 * 1.2 + 1
        assert len(emulator.log.tasks) == 3


def issued(token: str) -> dict[str, Any]:
    """What a token claims."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


@pytest.mark.row("D6")
@pytest.mark.parametrize("code", [1003, 1004])
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_token_out_of_time(gateway: Gateway, profile: str, code: int) -> None:
    """A token that is refused for its time is signed again by the server's clock, once, and buys one task."""
    theirs = time.time() + (-DAY if code == 1003 else DAY)
    gateway.script.append(saying(refusal(401, code, f"Date: {formatdate(theirs, usegmt=True)}"), accept=False))
    outcome, row = await gateway.buy(profile=profile, api_key=PAIR)
    assert isinstance(outcome, TaskHandle)
    assert (row.state, row.attempt, gateway.posts, len(gateway.tasks)) == (State.ACCEPTED, 2, 2, 1)
    first, second = map(issued, gateway.tokens[:2])
    assert second["nbf"] <= theirs < second["exp"]
    assert not first["nbf"] <= theirs < first["exp"]


@pytest.mark.row("D6")
async def test_tokens_expire_in_mid_run(gateway: Gateway) -> None:
    """Over hours every request carries a token that is valid when it is sent, and none is refused for its time."""
    gateway.lasts = 7200.0
    clock, loop = Watch(), asyncio.get_running_loop()
    begun, wall = loop.time(), clock.wall()
    async with KlingSession(PAIR, base_url=gateway.url, clock=clock) as kling:
        waiting = asyncio.ensure_future(kling.run(FOX, timeout=None))
        for _ in range(1000):
            clock.offset = loop.time() - begun
            await asyncio.sleep(7.5)
            if waiting.done():
                break
        with pytest.raises(TaskTimeoutError):
            await waiting  # a wait lasts an hour unless it is said otherwise
    spans = [(issued(token)["nbf"], issued(token)["exp"]) for token in gateway.tokens]
    assert len(set(spans)) > 10
    for (at, _, _), (since, until) in zip(gateway.requests, spans, strict=True):
        assert since <= wall + at - begun < until


@pytest.mark.row("D7")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("bound", [0, 0.0, 1e-12, -1, -0.001, math.nan])
async def test_no_time_at_all(gateway: Gateway, bound: float, profile: str) -> None:
    """A bound of nothing, or in the past, sends nothing."""
    async with KlingSession("sk-x", base_url=gateway.url, profile=profile) as kling:
        for call in (kling.submit, kling.run):
            with pytest.raises((TransportTimeoutError, ConfigurationError)):
                await call(FOX, timeout=bound)
        await asyncio.sleep(100)
    assert (gateway.connections, gateway.tasks) == (0, {})


@pytest.mark.row("D7")
@pytest.mark.parametrize("bound", [0, 1e-12, 0.001])
async def test_no_time_to_wait(gateway: Gateway, bound: float) -> None:
    """A wait of nothing, or next to nothing, ends without a look."""
    async with KlingSession("sk-x", base_url=gateway.url) as kling:
        handle = await kling.submit(FOX)
        with pytest.raises(TaskTimeoutError):
            await handle.wait(bound)
        assert gateway.looked == []


@pytest.mark.row("D8")
@pytest.mark.parametrize("mode", ["debug", *(["eager"] if sys.version_info >= (3, 12) else [])])
async def test_other_loops(gateway: Gateway, mode: str) -> None:
    """Debug mode and eager tasks change nothing: a purchase, a caller who leaves, a wait that is left by one of two."""
    loop = asyncio.get_running_loop()
    if mode == "debug":
        loop.set_debug(True)
    elif sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    try:
        async with Journal() as journal, KlingSession("sk-x", base_url=gateway.url, journal=journal) as kling:
            handle = await kling.text2video(prompt="a fox")
            stays, leaves = asyncio.ensure_future(handle.wait()), asyncio.ensure_future(handle.wait())
            await asyncio.sleep(1)
            leaves.cancel()
            assert await stays
            assert leaves.cancelled()
            gateway.script.append(hang_read)
            with anyio.move_on_after(1):
                await kling.submit(FOX)
            await asyncio.sleep(300)
            assert (await journal.get(KEY)).state is State.UNKNOWN
        assert gateway.posts == 2
    finally:
        loop.set_debug(False)
        loop.set_task_factory(None)
