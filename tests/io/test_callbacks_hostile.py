from __future__ import annotations

import asyncio
import gzip
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from kling_async import Status
from kling_async.callbacks._posts import LARGEST
from kling_async.emulator import Emulator
from receivers import FORGED, FOX, JSON, PROCESSING, answered, body, door_of, post, served, session

pytestmark = [pytest.mark.usefixtures("nothing_is_left"), pytest.mark.exhaustive]

BODIES = (
    FORGED,
    PROCESSING,
    body("failed", task_status_msg="no"),
    body("never heard of"),
    b" " * (LARGEST + 1),
    b"[" * LARGEST,
    b'{"task_id":' * 5_000,
    b"\xff" * 100,
    b"",
    b"null",
    b'{"task_id": "1"',
    b'{"code": 1303}',
    b'{"task_id": NaN, "task_status": {"a": []}}',
    b'{"task_id": "\\ud800", "task_status": "succeed", "task_result": {"videos": [{"url": "\\ud800"}, 7, null]}}',
    b'{"data": {"task_id": "1", "task_status": "succeed", "task_result": []}, "task_id": []}',
    gzip.compress(bytes(1 << 20)),
)
HEADERS = (
    *[{"content-type": JSON}] * 6,
    {},
    {"content-type": "text/plain"},
    {"content-type": "application/json; charset=utf-7"},
    {"content-type": JSON, "content-encoding": "gzip"},
    {"content-type": JSON, "content-length": "9" * 18},
    {"content-type": JSON, "content-length": "-1"},
)
FINE = {200, 400, 401, 404, 405, 408, 413, 415}


@pytest.mark.row("H4", "H6")
async def test_ten_thousand(say: Callable[[str], None]) -> None:
    """Ten thousand hostile posts: no 5xx, no growth, at most one read per task and second, and nothing believed."""
    dice = random.Random(4)
    statuses: Counter[int] = Counter()
    async with Emulator(seed=7, durations=3000) as emulator, served() as one, served("asgi") as two, session(emulator, one) as kling:
        two.bind(kling._hints)
        handles = [await kling.submit(FOX) for _ in range(3)]
        waits = [asyncio.ensure_future(handle.wait()) for handle in handles]
        doors = [door_of(emulator, number) for number in range(3)]

        async def hit(number: int) -> None:
            receiver, data = dice.choice((one, two)), dice.choice(BODIES)
            door = receiver.url_for(dice.choice(doors).rpartition("/")[2] if dice.random() < 0.8 else "x" * dice.randrange(50))
            if number % 20 == 0:
                statuses[
                    await post(door, data, kind=dice.choice((JSON, "text/plain", None)), method=dice.choice(("POST", "POST", "PUT")))
                ] += 1
                return
            pieces = (data[:1000], data[1000:])
            head = {"headers": dice.choice(HEADERS), "query": dice.random() < 0.05, "method": dice.choice(("POST",) * 9 + ("GET",))}
            statuses[await answered(receiver, door, *pieces, slow=dice.random() < 0.02, **head)] += 1

        async def flood(posts: int) -> None:
            for number in range(0, posts, 50):
                await asyncio.gather(*(hit(number + each) for each in range(50)))
                await asyncio.sleep(0.1)

        await flood(6000)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        await flood(4000)
        now = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert statuses.total() == 10_000
        assert set(statuses) <= FINE
        assert statuses[200] > 500
        for handle in handles:
            reads = [request.at for request in emulator.log.reads_for(handle.task_id)]
            assert all(later - earlier >= 0.999 for earlier, later in pairwise(reads)), handle
        assert emulator.now < 3000
        assert {handle.status for handle in handles} <= {Status.SUBMITTED, Status.PROCESSING}
        assert not any("evil" in request.path for request in emulator.log.requests)
        looks = sum(len(emulator.log.reads_for(handle.task_id)) for handle in handles)
        grown = (now - before) >> 10
        say(f"10,000 hostile posts in {emulator.now:.0f} s: {statuses[200]} answered 200, {looks} reads of 3 tasks, {grown} KiB grown")
        assert looks <= 3 * emulator.now
        assert grown < 1024
        results = await asyncio.gather(*waits)
        assert all(handle.status is Status.SUCCEED for handle in handles)
        assert "evil" not in repr(results)
