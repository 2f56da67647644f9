from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from kling_async import KlingSession, TaskHandle, Text2Video, TransportTimeoutError
from kling_async.emulator import Emulator
from kling_async.journal import State
from scripted import Gateway, refusal, saying

pytestmark = pytest.mark.usefixtures("nothing_is_left")

T2V = "videos/text2video"


def gateway() -> Emulator:
    """A gateway with three slots for videos, each of which takes 100 s."""
    return Emulator(slots={"video": 3}, durations=100.0, seed=1)


def posts(emulator: Emulator) -> Counter[int | None]:
    """How many creations were answered by which status."""
    return Counter(seen.status for seen in emulator.log.requests if seen.method == "POST")


def now() -> float:
    """Seconds of the loop."""
    return asyncio.get_running_loop().time()


WISHES: dict[str, tuple[list[str], float]] = {
    # What the reply says, and the shortest pause that obeys it.
    "seconds": (["Retry-After: 77"], 77.0),
    "date": (["Date: Thu, 01 Jan 2026 00:00:00 GMT", "Retry-After: Thu, 01 Jan 2026 00:01:00 GMT"], 60.0),
    "past date": (["Date: Thu, 01 Jan 2026 00:00:00 GMT", "Retry-After: Wed, 31 Dec 2025 23:00:00 GMT"], 0.0),
    "negative": (["Retry-After: -1"], 0.0),
    "a word": (["Retry-After: abc"], 0.0),
    "two": (["Retry-After: 33", "Retry-After: 22"], 22.0),
}


@pytest.mark.row("K6")
@pytest.mark.parametrize("code", [1302, 1303])
@pytest.mark.parametrize("form", WISHES)
async def test_the_servers_wish(form: str, code: int) -> None:
    """`Retry-After` in every form puts the next try off, or is not heard where it makes no sense; the task is bought in the end."""
    lines, shortest = WISHES[form]
    raw = Gateway()
    await raw.open()
    raw.script.append(saying(refusal(429, code, *lines), accept=False))
    outcome, row = await raw.buy(timeout=100.0)
    first, second = (at for at, method, _ in raw.requests if method == "POST")
    await raw.aclose()
    assert isinstance(outcome, TaskHandle)
    assert (row.state, row.attempt) == (State.ACCEPTED, 2)
    assert shortest <= second - first <= max(shortest + 12, 3)


@pytest.mark.row("K6")
@pytest.mark.parametrize("wish", [11.0, 999_999.0])
async def test_a_wish_beyond_the_callers_time(wish: float) -> None:
    """A pause that the caller has no time for is told at once, by its length and with the refusal, and nothing more is sent."""
    async with gateway() as emulator, KlingSession(emulator.api_key, base_url=emulator.url) as kling:
        emulator.fault("retry_after", route=T2V, method="POST", seconds=wish)
        begun = now()
        with pytest.raises(TransportTimeoutError, match=f"{wish:g} s.*1302") as late:
            await kling.submit(Text2Video(prompt="a fox", external_task_id="ka-1"), timeout=10.0)
        assert late.value.retry_after == wish
        assert now() - begun < 0.1
        assert ((await kling._journal.get("ka-1")).state, kling._admission.queued) == (State.WITHDRAWN, 0)
        await asyncio.sleep(10.5)
        assert posts(emulator) == {429: 1}
        if wish < 100:
            await kling.text2video(prompt="in time")


@pytest.mark.row("K6")
async def test_a_wish_before_a_retry() -> None:
    """A refusal that is tried again for another reason than a full service is no other: too long a pause is told at once."""
    raw = Gateway()
    await raw.open()
    raw.script.append(saying(refusal(425, 0, "Retry-After: 44"), accept=False))
    begun = now()
    outcome, row = await raw.buy(timeout=43.0)
    assert isinstance(outcome, TransportTimeoutError)
    assert (outcome.retry_after, row.state, raw.posts) == (44.0, State.WITHDRAWN, 1)
    assert now() - begun < 0.1
    await raw.aclose()


@pytest.mark.row("K6")
async def test_a_wish_beyond_the_time_of_those_who_queue() -> None:
    """Whoever queues, or comes to, with less time than the server asked for hears so at once; the others have their turn after it."""
    async with gateway() as emulator, KlingSession(emulator.api_key, base_url=emulator.url, in_flight=1) as kling:
        emulator.fault("retry_after", route=T2V, method="POST", seconds=60)
        head, patient = (asyncio.ensure_future(kling.text2video(prompt=prompt)) for prompt in ("head", "patient"))
        await asyncio.sleep(0)
        hasty = [asyncio.ensure_future(kling.run(Text2Video(prompt="now"), timeout=bound)) for bound in (30.0, 59.0)]
        begun = now()
        await asyncio.sleep(1)
        hasty.append(asyncio.ensure_future(kling.run(Text2Video(prompt="late"), timeout=58.0)))
        errors = await asyncio.gather(*hasty, return_exceptions=True)
        assert now() - begun < 1.1
        assert [type(error) for error in errors] == [TransportTimeoutError] * 3
        assert [round(getattr(error, "retry_after", 0)) for error in errors] == [60, 60, 59]
        await asyncio.gather(head, patient)
        first, second, _ = (seen.at for seen in emulator.log.requests if seen.method == "POST")
        assert second - first >= 60
        assert len(emulator.log.tasks) == 2
