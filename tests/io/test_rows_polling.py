from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from kling_async import (
    KlingSession,
    NotFoundError,
    Polling,
    ResultMissingError,
    Status,
    TaskFailedError,
    TaskHandle,
    TaskTimeoutError,
)
from kling_async.journal import State
from scripted import PROFILES, Behaviour, Client, Gateway, Wait, bomb, head, listening, refusal, whole

pytestmark = pytest.mark.usefixtures("nothing_is_left")

Edit = Callable[[dict[str, Any]], Any]
MEGABYTE = 1 << 20


gateway = pytest.fixture(listening)


def told(edit: Edit, status: str = "processing") -> Callable[[Client], Any]:
    """Answer a look with the truth, edited."""

    async def behave(client: Client) -> None:
        said = client.gateway.told(client.path.rpartition("/")[2], status)
        client.say(whole(edit(said) or said))

    return behave


def data(**facts: Any) -> Behaviour:
    """Answer a look with other data."""
    return told(lambda said: said["data"].update(facts))


async def reset(client: Client) -> None:
    """Break the connection."""
    client.reset()


async def close(client: Client) -> None:
    """Close the connection."""
    client.writer.close()


async def trickle_head(client: Client) -> None:
    """Send a byte of the head ten times a second."""
    client.say(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not client.writer.is_closing():
        client.say(b"x")
        await asyncio.sleep(0.1)


async def trickle_body(client: Client) -> None:
    """Send a byte of the body ten times a second."""
    client.say(head("Content-Length: 1000000"))
    while not client.writer.is_closing():
        client.say(b" ")
        await asyncio.sleep(0.1)


STATUSES = (408, 425, 429, 500, 502, 503, 504, 524)
NOISE: dict[str, tuple[str, bytes | Behaviour, set[int | str]]] = {
    # The row, what is said, and how the record of it may read.
    **{f"{status}": ("Q1", whole(b"<html>", status=status), {status}) for status in STATUSES},
    "5000": ("Q1", refusal(500, 5000), {500}),
    "reset": ("Q1", reset, {"connect", "disconnected"}),
    "closed": ("Q1", close, {"disconnected", "connect"}),
    "silence": ("Q1", Client.hang, {"timeout"}),
    "another task": ("Q9", data(task_id="999"), {200}),
    "head by drops": ("Q11", trickle_head, {"timeout"}),
    "body by drops": ("Q11", trickle_body, {"timeout"}),
    "5 MB": ("Q12", whole(b'{"x": "' + b"x" * (5 * MEGABYTE) + b'"}'), {"cut-reply"}),
    "bomb": ("Q12", bomb(64), {"cut-reply"}),
    "deep": ("Q12", whole(b'{"code": 0, "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"), {200}),
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("case", [pytest.param(case, id=name, marks=pytest.mark.row(case[0])) for name, case in NOISE.items()])
async def test_noise(gateway: Gateway, case: tuple[str, bytes | Behaviour, set[int | str]], profile: str) -> None:
    """Whatever befalls three looks, there is one record for each of them, and the wait goes on to its result."""
    _, answer, words = case
    async with Wait(gateway, profile) as wait:
        # aiohttp sends a read again when its connection drops: one look may take two answers.
        gateway.looks.extend([answer] * 3)
        result, state = await wait.outcome()
        assert [video.id for video in result] == ["v"]
        assert state is State.SUCCEEDED
        bad = [word for word in wait.exchanges() if word in words - {200}]
        assert len(bad) == (0 if words == {200} else 3 if not words & {"connect"} else len(bad))
        assert gateway.posts == 1
        assert not gateway.looks


@pytest.mark.row("Q10")
@pytest.mark.parametrize("profile", PROFILES)
async def test_looks_that_aiohttp_repeats(gateway: Gateway, profile: str) -> None:
    """A look whose kept connection drops is sent again below us: the server reads it twice, and nobody notices."""
    async with Wait(gateway, profile) as wait:
        await wait.handle.refresh()
        gateway.looks.append(reset)
        await wait.handle.refresh()
        assert len(gateway.looked) == 3
        assert wait.exchanges() == [200, 200]
        assert wait.handle.status is Status.PROCESSING


@pytest.mark.row("Q2")
@pytest.mark.parametrize("answer", [refusal(500, 5000), reset, Client.hang, data(task_id="999")])
async def test_never_a_good_look(gateway: Gateway, answer: bytes | Behaviour) -> None:
    """A wait without a good look ends with the last trouble once its error budget is spent, or at its own bound; the task goes on."""
    loop = asyncio.get_running_loop()
    async with Wait(gateway) as wait:
        gateway.rule = lambda _: answer
        begun = loop.time()
        late, state = await wait.outcome()
        assert isinstance(late, TaskTimeoutError)
        assert (late.ref, state) == (wait.handle.ref, State.ACCEPTED)
        assert "the last: " in str(late)
        assert 600 <= loop.time() - begun <= 600 + 10 * 1.2 + 2 * 20 + 20
        begun = loop.time()
        with pytest.raises(TaskTimeoutError):
            await wait.handle.wait(timeout=33.0)
        assert loop.time() - begun == pytest.approx(33.0, abs=0.1)
        gateway.rule = lambda _: None
        assert await wait.handle


ABSENT = {
    "404": whole(b"", status=404),
    "1203": refusal(404, 1203),
    "task_not_exist": whole({"code": "task_not_exist", "message": "task_not_exist", "data": None}, status=400),
}


@pytest.mark.row("Q3")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("absent", ABSENT)
async def test_not_yet_there(gateway: Gateway, absent: str, profile: str) -> None:
    """A task that cannot be found for 55 seconds after its creation is not lost."""
    since = asyncio.get_running_loop().time()
    async with Wait(gateway, profile) as wait:
        gateway.rule = lambda _: ABSENT[absent] if asyncio.get_running_loop().time() - since < 55 else None
        result, state = await wait.outcome()
        assert [video.id for video in result] == ["v"]
        assert state is State.SUCCEEDED
        assert sum(word in {400, 404} for word in wait.exchanges()) > 2


@pytest.mark.row("Q4")
@pytest.mark.parametrize("absent", ABSENT)
async def test_no_longer_there(gateway: Gateway, absent: str) -> None:
    """A task that three looks in turn cannot find, a minute after its creation, is not found."""
    gateway.lasts = 1e6
    async with Wait(gateway) as wait:
        begun = asyncio.get_running_loop().time()
        gateway.rule = lambda _: ABSENT[absent] if asyncio.get_running_loop().time() - begun > 100 else None
        gone, state = await wait.outcome()
        assert isinstance(gone, NotFoundError)
        assert gone.ref == wait.handle.ref
        assert (state, wait.exchanges()[-4:]) == (State.ACCEPTED, [200, *[404 if absent != "task_not_exist" else 400] * 3])


@pytest.mark.row("Q5")
@pytest.mark.parametrize("word", ["reviewing", "", None, 7, "Processing", "SUBMITTED", "RUNNING"])
async def test_words_that_end_nothing(gateway: Gateway, word: object) -> None:
    """A status that is unknown, missing or no word at all ends no wait."""
    async with Wait(gateway) as wait:
        gateway.looks.extend([data(task_status=word)] * 3)
        result, state = await wait.outcome()
        assert ([video.id for video in result], state) == (["v"], State.SUCCEEDED)
        assert len(gateway.looked) > 3


@pytest.mark.row("Q5")
@pytest.mark.parametrize("word", ["succeed", "succeeded", "SUCCESS", "Succeed"])
async def test_words_for_success(gateway: Gateway, word: str) -> None:
    """Every known word for success ends the wait at once."""
    async with Wait(gateway) as wait:
        gateway.looks.append(told(lambda said: said["data"].update(task_status=word), "succeed"))
        result, state = await wait.outcome()
        assert ([video.id for video in result], state, len(gateway.looked)) == (["v"], State.SUCCEEDED, 1)


@pytest.mark.row("Q6")
@pytest.mark.parametrize("profile", PROFILES)
async def test_failed(gateway: Gateway, profile: str) -> None:
    """A task that failed says why, though the envelope says SUCCEED."""
    async with Wait(gateway, profile) as wait:
        gateway.looks.append(data(task_status="failed", task_status_msg="too dark"))
        failed, state = await wait.outcome()
        assert isinstance(failed, TaskFailedError)
        assert (failed.reason, failed.ref, state) == ("too dark", wait.handle.ref, State.FAILED)


@pytest.mark.row("Q7")
@pytest.mark.parametrize("result", [None, {}, {"videos": []}, {"videos": [{"id": "v", "url": None}]}, {"videos": [{"id": "v", "url": ""}]}])
async def test_success_without_a_result(gateway: Gateway, result: object) -> None:
    """A success with nothing in it is believed after three looks, and what was sent is kept; a result in the third is a result."""
    empty = told(lambda said: said["data"].update(task_result=result), "succeed")
    async with Wait(gateway) as wait:
        gateway.looks.extend([empty] * 3)
        missing, _ = await wait.outcome()
        assert isinstance(missing, ResultMissingError)
        assert len(gateway.looked) == 3
        assert wait.handle.snapshot is not None
        assert wait.handle.snapshot.raw["data"]["task_result"] == result
    gateway.lasts = 20.0
    async with Wait(gateway) as wait:
        gateway.looks.extend([empty] * 2)
        assert await wait.handle


@pytest.mark.row("Q8")
async def test_final_is_final(gateway: Gateway) -> None:
    """A status that goes back is borne, and after the last word no other one counts."""
    async with Wait(gateway) as wait:
        gateway.looks.extend([data(task_status="processing"), data(task_status="submitted", updated_at=1)])
        assert await wait.handle
        for word in ("failed", "processing", "submitted"):
            gateway.looks.append(data(task_status=word))
            await wait.handle.refresh()
            assert (wait.handle.status, wait.handle.done) == (Status.SUCCEED, True)
        assert await wait.handle
        assert (await wait.journal.get("mine")).state is State.SUCCEEDED


@pytest.mark.row("Q13")
async def test_a_cache_15_seconds_old(gateway: Gateway) -> None:
    """A gateway that answers from what it knew 15 seconds ago delays the result by that and one gap at the most."""
    loop = asyncio.get_running_loop()
    gateway.lasts, since = 100.0, loop.time()
    gateway.rule = lambda path: whole(
        gateway.told(path.rpartition("/")[2], "succeed" if (loop.time() - since) // 15 * 15 >= gateway.lasts else "processing")
    )
    async with Wait(gateway) as wait:
        assert await wait.handle
        assert 100 <= loop.time() - since <= 100 + 15 + 15 * 1.2


@pytest.mark.row("Q14", "Q1")
async def test_an_outage(gateway: Gateway) -> None:
    """Five minutes of outage add no more looks than the budget has, and afterwards they come spread as they came before."""
    gateway.lasts, count = 1e6, 100
    loop = asyncio.get_running_loop()
    async with KlingSession("sk-x", base_url=gateway.url, polling=Polling(first=15, interval=15, max_interval=15)) as kling:
        handles: list[TaskHandle[Any]] = await asyncio.gather(*(kling.text2video(prompt="a fox") for _ in range(count)))
        waits = [asyncio.ensure_future(handle.wait()) for handle in handles]
        await asyncio.sleep(300)
        down = loop.time()
        gateway.rule = lambda _: refusal(503, 5001)
        await asyncio.sleep(300)
        up = loop.time()
        gateway.rule = lambda _: None
        await asyncio.sleep(60)
        gateway.lasts = 0.0
        assert len(await asyncio.gather(*waits)) == count
    during = sum(down <= at < up for at in gateway.looked)
    assert count * 300 / 15 * 0.8 <= during <= count * 300 / 15 * 1.1 + 500 / 14
    spread = Counter((at - up) // 5 for at in gateway.looked if up <= at < up + 60)
    assert len(spread) == 12
    assert max(spread.values()) <= 2 * count * 5 / 15


def gaps(gateway: Gateway, task_id: str, since: float) -> list[float]:
    """Seconds between the looks at a task."""
    times = [at for at, method, path in gateway.requests if method == "GET" and path.endswith(task_id) and at >= since]
    return [after - before for before, after in pairwise(times)]


@pytest.mark.row("Q15")
async def test_looking_too_often(gateway: Gateway) -> None:
    """A gateway that says of one task that it is asked too often is asked less often about all, and in time as often again."""
    gateway.lasts = 3000.0
    loop = asyncio.get_running_loop()
    async with Wait(gateway, jitter=0.0, first=10.0, interval=10.0, max_interval=10.0) as wait:
        other = await wait.kling.text2video(prompt="a hen")
        waits = [asyncio.ensure_future(handle.wait()) for handle in (wait.handle, other)]
        await asyncio.sleep(100)
        assert max(gaps(gateway, other.task_id, 0.0)) < 11
        since = loop.time()
        gateway.rule = lambda path: refusal(429, 1302) if path.endswith(wait.handle.task_id) else None
        await asyncio.sleep(200)
        assert max(gaps(gateway, other.task_id, since)) > 15
        gateway.rule = lambda _: None
        await asyncio.sleep(1000)
        assert max(gaps(gateway, other.task_id, loop.time() - 100)) < 11
        gateway.lasts = 0.0
        await asyncio.gather(*waits)


@pytest.mark.row("Q16")
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_wish_with_a_good_answer(gateway: Gateway, profile: str) -> None:
    """A good answer with `Retry-After` puts the next look off until then."""
    async with Wait(gateway, profile) as wait:
        gateway.lasts = 200.0
        gateway.rule = lambda path: whole(gateway.told(path.rpartition("/")[2]), "Retry-After: 40")
        assert await wait.handle
        assert min(gaps(gateway, wait.handle.task_id, 0.0)) >= 40
