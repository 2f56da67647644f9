from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, cast

import pytest

from kling_async import (
    ConfigurationError,
    Exchange,
    InvalidRequestError,
    Job,
    KlingSession,
    Outcome,
    Status,
    TaskFailedError,
    TaskHandle,
    Text2Video,
)
from kling_async.observers import Observer, Record
from kling_async.outcomes import Outcomes
from kling_async.testing import VirtualLoop
from rooms import Room, Videos, snapshot
from scripted import FOX, PROFILES, Gateway, listening

pytestmark = pytest.mark.usefixtures("nothing_is_left")

gateway = pytest.fixture(listening)


def raises(_: Record) -> None:
    """A hook with a defect."""
    msg = "a hook of the user's"
    raise RuntimeError(msg)


def gives_up(_: Record) -> None:
    """A hook that ends as a cancelled call does."""
    raise asyncio.CancelledError


def cancels(_: Record) -> None:
    """A hook that means to cancel whoever calls it."""
    current = asyncio.current_task()
    if current is not None:
        current.cancel()


def hangs(_: Record) -> None:
    """A hook that holds the loop up for half a minute."""
    loop = cast("VirtualLoop", asyncio.get_running_loop())
    loop.now += 30


@pytest.mark.row("W8")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("hook", [raises, gives_up, cancels, hangs])
async def test_hooks_hurt_nobody(gateway: Gateway, profile: str, hook: Observer) -> None:
    """Whatever a hook does to itself or to its caller, one task is bought, all who wait have its result, other hooks hear all."""
    told: list[Record] = []
    async with KlingSession("sk-x", base_url=gateway.url, profile=profile, observers=[hook, told.append]) as kling:
        handle = await kling.submit(FOX)
        found = await asyncio.gather(*(handle.wait() for _ in range(3)), kling.attach(handle.ref))
        assert kling.orphans() == ()
    assert [videos[0].id for videos in found] == ["v"] * 4
    assert (gateway.posts, len(gateway.tasks)) == (1, 1)
    assert sum(isinstance(record, Exchange) for record in told) == len(gateway.requests)


class Late:
    """A hook that is an object, and to be awaited."""

    async def __call__(self, record: Record) -> None:
        raise NotImplementedError


async def late(_prefix: str, record: Record) -> None:
    """A hook to be awaited."""
    raise NotImplementedError


@pytest.mark.row("W8")
@pytest.mark.parametrize("hook", [partial(late, "x"), Late(), Late().__call__, "print"])
async def test_hooks_that_would_have_to_be_awaited(hook: Any) -> None:
    """A hook that could hang for ever, because it is to be awaited, is refused with the session."""
    with pytest.raises(ConfigurationError, match=r"^observers: .* called, not awaited"):
        KlingSession("sk-x", base_url="https://gateway.example", observers=[hook])


@pytest.mark.row("W8")
async def test_a_coroutine_that_nobody_awaits(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """One that hides it gets nothing awaited, is told so in the log, and hurts nobody."""
    async with KlingSession("sk-x", base_url=gateway.url, observers=[lambda record: late("x", record)]) as kling:
        assert await kling.run(FOX)
    assert {(line.levelno, "plain functions" in line.getMessage()) for line in caplog.records} == {(logging.ERROR, True)}


@pytest.mark.row("W8")
async def test_waiters_that_fail(gateway: Gateway) -> None:
    """A waiter that breaks over a change, one that never comes back from it, and one that is cancelled: the others have the result."""

    async def breaks() -> None:
        async for _ in handle.updates():
            msg = "the user's own"
            raise LookupError(msg)

    async def stays() -> None:
        async for _ in handle.updates():
            await asyncio.Event().wait()

    async with KlingSession("sk-x", base_url=gateway.url) as kling:
        loop = asyncio.get_running_loop()
        handle = await kling.submit(FOX)
        broken, stuck, left = (loop.create_task(waiter) for waiter in (breaks(), stays(), handle.wait()))
        good = [loop.create_task(handle.wait()) for _ in range(3)]
        await asyncio.sleep(30)
        left.cancel()
        begun = loop.time()
        assert [videos[0].id for videos in await asyncio.gather(*good)] == ["v"] * 3
        assert loop.time() - begun < 60
        assert (broken.done(), stuck.done(), left.cancelled()) == (True, False, True)
        assert isinstance(broken.exception(), LookupError)
        stuck.cancel()
        await asyncio.wait([stuck])


MANY = 10_000
WRONG = 100
"""One in so many fails."""


def handles(room: Room) -> list[TaskHandle[Videos]]:
    """Handles of many tasks, of which some fail; every other one takes a look more."""
    ends = ((Status.SUCCEED,), (Status.PROCESSING, Status.SUCCEED))
    found: list[TaskHandle[Videos]] = []
    for number in range(MANY):
        script = (Status.FAILED,) if number % WRONG == 0 else ends[number % 2]
        found.append(room.handle(*(snapshot(status, f"t{number}") for status in script), task_id=f"t{number}"))
    return found


def check(outcomes: dict[str, Any], room: Room) -> None:
    """Each has its own outcome, and no task was looked at more often than it takes."""
    assert len(outcomes) == MANY
    for number in range(MANY):
        outcome = outcomes[f"t{number}"]
        if number % WRONG == 0:
            assert isinstance(outcome, TaskFailedError)
            assert outcome.ref.task_id == f"t{number}"
        else:
            assert outcome[0].url
    assert len(room.gateway.looks) == MANY + MANY // 2
    assert room.idle


@pytest.mark.row("W9")
@pytest.mark.exhaustive
async def test_gathering_many_and_taking_them_as_they_complete() -> None:
    """`asyncio.gather` and `asyncio.as_completed` over 10,000 handles, one in a hundred failing: each outcome comes once to each."""
    room = Room()
    many = handles(room)

    async def named(handle: TaskHandle[Videos]) -> tuple[str, Any]:
        try:
            return handle.task_id, await handle
        except TaskFailedError as error:
            return handle.task_id, error

    gathering = asyncio.gather(*(handle.wait() for handle in many), return_exceptions=True)
    completed = [await future for future in asyncio.as_completed([named(handle) for handle in many])]
    gathered = await gathering
    assert len(completed) == len(gathered) == MANY
    check(dict(completed), room)
    check({handle.task_id: outcome for handle, outcome in zip(many, gathered, strict=True)}, room)


@pytest.mark.row("W9")
@pytest.mark.exhaustive
async def test_many_outcomes() -> None:
    """The outcomes of as many jobs, of which some are refused as well: each job comes once, with its own handle and result."""
    room = Room()
    made = {handle.task_id: handle for handle in handles(room)}

    async def submit(job: Job[Videos]) -> TaskHandle[Videos]:
        key = str(job.external_task_id)
        await asyncio.sleep(0)
        if key.endswith("50"):
            raise InvalidRequestError("no", code=1201, http_status=400)
        return made[key]

    found: list[Outcome[Videos]] = []
    async with Outcomes((Text2Video(prompt="a fox", external_task_id=key) for key in made), submit, 1000) as outcomes:
        found.extend([outcome async for outcome in outcomes])
    assert len(found) == len({outcome.job.external_task_id for outcome in found}) == MANY
    for outcome in found:
        key = str(outcome.job.external_task_id)
        if key.endswith("50"):
            assert (type(outcome.error), outcome.handle) == (InvalidRequestError, None)
            continue
        assert outcome.handle is made[key]
        assert isinstance(outcome.error, TaskFailedError) is (int(key[1:]) % WRONG == 0)
        assert (outcome.result is None) is (outcome.error is not None)
    assert len(outcomes.started) == MANY - MANY // 100
