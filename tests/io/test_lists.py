from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import pytest
from attrs import evolve

from kling_async import Exchange, KlingSession, Polling, Profile, Status, TaskHandle, Video
from kling_async._profile import OFFICIAL
from kling_async.emulator import Emulator
from scripted import Gateway, listening, refusal, whole

pytestmark = pytest.mark.usefixtures("nothing_is_left")

gateway = pytest.fixture(listening)

MANY = 20
POLLING = Polling(first=10, interval=10, max_interval=10)
Handles = list[TaskHandle[tuple[Video, ...]]]
Rows = list[dict[str, Any]]


@asynccontextmanager
async def crowd(
    gateway: Gateway, profile: str | Profile = OFFICIAL, count: int = MANY, polling: Polling = POLLING, **options: Any
) -> AsyncIterator[Handles]:
    """So many tasks, bought together."""
    async with KlingSession("sk-x", base_url=gateway.url, profile=profile, polling=polling, **options) as kling:
        yield await asyncio.gather(*(kling.text2video(prompt="a fox") for _ in range(count)))


async def ids_of(handles: Handles) -> list[str]:
    """The entries that awaiting all of them brings."""
    return [video.id for videos in await asyncio.gather(*handles) for video in videos]


def pages(gateway: Gateway, edit: Callable[[Rows], Rows] = lambda rows: rows) -> None:
    """Have lists served as they are: the newest first, in pages as asked for; `edit` changes what there is."""

    def rule(path: str) -> bytes | None:
        if "?" not in path:
            return None
        asked = dict(parse_qsl(path.partition("?")[2]))
        page, size = int(asked["pageNum"]), int(asked["pageSize"])
        rows = edit([gateway.told(task)["data"] for task in reversed(gateway.tasks)])
        return whole({"code": 0, "message": "SUCCEED", "data": rows[(page - 1) * size : page * size]})

    gateway.rule = rule


def asked(gateway: Gateway) -> tuple[int, int]:
    """How many lists have been read, and how many tasks by themselves."""
    paths = [path for _, method, path in gateway.requests if method == "GET"]
    lists = sum("?" in path for path in paths)
    return lists, len(paths) - lists


async def test_one_read_shows_many(gateway: Gateway) -> None:
    """Where the server lists, tasks that are due together are looked at by one read, and their results taken from it."""
    pages(gateway)
    records: list[Any] = []
    async with crowd(gateway, observers=[records.append]) as handles:
        assert await ids_of(handles) == ["v"] * MANY
    lists, singles = asked(gateway)
    assert singles == 0
    assert 4 <= lists <= 10
    assert sum(isinstance(each, Exchange) and each.subject == "page 1" for each in records) == lists
    assert {path.partition("?")[2] for _, method, path in gateway.requests if method == "GET"} == {"pageNum=1&pageSize=500"}


@pytest.mark.parametrize(("profile", "count"), [("gateway", MANY), (OFFICIAL, 7), (evolve(OFFICIAL, lists=False), MANY)])
async def test_when_lists_are_not_read(gateway: Gateway, profile: str | Profile, count: int) -> None:
    """Gateways are never asked for lists; nor is a server that has them, for a handful of tasks."""
    pages(gateway)
    async with crowd(gateway, profile, count) as handles:
        assert await ids_of(handles) == ["v"] * count
    lists, singles = asked(gateway)
    assert (lists, singles >= count) == (0, True)


@pytest.mark.parametrize(
    "answer",
    [
        refusal(500, 5000),
        refusal(429, 1302),
        refusal(404, 1203),
        whole({"error": {"message": "Invalid URL (GET /v1/videos/text2video)", "type": "invalid_request_error", "code": ""}}, status=404),
        whole(b"<html>"),
        whole({"code": 0, "message": "SUCCEED", "data": []}),
        whole({"code": 0, "message": "SUCCEED", "data": None}),
        whole({"code": 0, "message": "SUCCEED", "data": [None, 7, [], {}, {"task_id": None}, {"task_id": {}}]}),
    ],
    ids=["500", "429", "1203", "404", "html", "empty", "null", "nonsense"],
)
async def test_a_list_that_fails(gateway: Gateway, answer: bytes) -> None:
    """A list that is refused, broken or empty is not read again for five minutes, ends no wait, and every task is looked at by itself."""
    gateway.rule = lambda path: answer if "?" in path else None
    async with crowd(gateway) as handles:
        assert await ids_of(handles) == ["v"] * MANY
        lists, singles = asked(gateway)
        assert lists == 1
        assert MANY * 5 <= singles <= MANY * 9


async def test_a_list_is_tried_again(gateway: Gateway) -> None:
    """After five minutes a list that failed is read again."""
    pages(gateway)
    gateway.lasts, serve = 400.0, gateway.rule
    gateway.rule = lambda path: refusal(500, 5000) if "?" in path else None
    async with crowd(gateway) as handles:
        waits = [asyncio.ensure_future(handle.wait()) for handle in handles]
        await asyncio.sleep(290)
        assert asked(gateway)[0] == 1
        gateway.rule = serve
        await asyncio.gather(*waits)
    assert asked(gateway)[0] > 3


async def test_what_a_list_leaves_out(gateway: Gateway) -> None:
    """Tasks that stand on no page are looked at by themselves; the others are not."""
    pages(gateway, lambda rows: rows[:-5])
    async with crowd(gateway) as handles:
        assert await ids_of(handles) == ["v"] * MANY
    left_out = {f"88{number:02}" for number in range(5)}
    assert {path.rpartition("/")[2] for _, method, path in gateway.requests if method == "GET" and "?" not in path} == left_out


def foreign(rows: Rows) -> Rows:
    """Other people's tasks between ours, each of ours twice, and in another order."""
    others = [{**row, "task_id": f"99{number}", "task_status": "failed"} for number, row in enumerate(rows)]
    return [*others, *rows[::-1], *rows, "?"]  # type: ignore[list-item]  # a row that is none


def stolen(rows: Rows) -> Rows:
    """Rows that bear our ids and somebody else's keys, all failed."""
    return [{**row, "task_status": "failed", "task_info": {"external_task_id": "theirs"}} for row in rows]


def bare(rows: Rows) -> Rows:
    """Successes without their results."""
    return [{key: value for key, value in row.items() if key != "task_result"} for row in rows]


def late(rows: Rows) -> Rows:
    """Rows of a copy that lags behind, and says that all have failed."""
    return [{**row, "task_status": "failed", "updated_at": 1774805076165} for row in rows]


@pytest.mark.parametrize(("edit", "alone"), [(foreign, False), (stolen, True), (bare, True), (late, True)])
async def test_rows_that_prove_nothing(gateway: Gateway, edit: Callable[[Rows], Rows], *, alone: bool) -> None:
    """A row counts when it is surely the task's and whole; else the task itself is asked, and its word is the one that counts."""
    pages(gateway, edit)
    async with crowd(gateway) as handles:
        assert await ids_of(handles) == ["v"] * MANY
    assert (asked(gateway)[1] > 0) is alone


@pytest.mark.parametrize("size", [7, 20, 500])
async def test_pages(gateway: Gateway, size: int) -> None:
    """Tasks are found on any page, also while new ones shift them from one page to the next."""
    made = 0

    def shift(rows: Rows) -> Rows:
        nonlocal made
        made += 1
        return [{**rows[0], "task_id": f"99{number}"} for number in range(made % 3)] + rows

    pages(gateway, shift)
    async with crowd(gateway, evolve(OFFICIAL, list_size=size)) as handles:
        assert await ids_of(handles) == ["v"] * MANY
    lists, singles = asked(gateway)
    assert lists >= 4 * (MANY // size)
    assert singles <= 4 * MANY


async def test_pages_count_by_themselves(gateway: Gateway) -> None:
    """Under a bound on reads a second a list of several pages takes from it what its pages are, on the average."""
    pages(gateway)
    rate, size = 0.2, 5
    async with crowd(gateway, evolve(OFFICIAL, list_size=size), polling=evolve(POLLING, max_rate=rate)) as handles:
        await asyncio.gather(*handles)
    reads = gateway.looked
    assert len(reads) > MANY // size
    assert all(number <= (at - reads[0]) * rate + MANY // size + 1 for number, at in enumerate(reads))


async def test_those_that_failed(gateway: Gateway) -> None:
    """A failure is believed from a list, with its reason; it costs no read of its own."""
    pages(gateway, lambda rows: [{**row, "task_status": "failed", "task_status_msg": "too dark"} for row in rows])
    async with crowd(gateway) as handles:
        ends = await asyncio.gather(*handles, return_exceptions=True)
    assert {getattr(end, "reason", end) for end in ends} == {"too dark"}
    assert asked(gateway)[1] == 0


async def test_closing_in_the_middle(gateway: Gateway) -> None:
    """A session closed while a list is being read leaves nothing behind."""
    gateway.rule = lambda path: (lambda client: client.hang()) if "?" in path else None
    async with crowd(gateway) as handles:
        waits = [asyncio.ensure_future(handle.wait()) for handle in handles]
        await asyncio.sleep(13)
    ends = await asyncio.gather(*waits, return_exceptions=True)
    assert all("closed" in str(end) for end in ends)


async def test_the_emulators_lists() -> None:
    """The emulator's lists, and pages of its own size, serve the same: no task is read by itself."""
    async with (
        Emulator(profile="official", speed=0, slots={"video": 50}) as emulator,
        KlingSession(
            "sk-emulator", base_url=emulator.url, profile=evolve(OFFICIAL, list_size=30), polling=Polling(first=5, interval=5)
        ) as kling,
    ):
        handles = await asyncio.gather(*(kling.text2video(prompt="a fox") for _ in range(40)))
        waits = [asyncio.ensure_future(handle.wait()) for handle in handles]
        await asyncio.sleep(8)
        assert {handle.status for handle in handles} <= {Status.SUBMITTED, Status.PROCESSING}
        emulator.advance(1000)
        assert len(await asyncio.gather(*waits)) == 40
        reads = [seen for seen in emulator.log.requests if seen.method == "GET"]
        assert {seen.task_id for seen in reads} == {None}
