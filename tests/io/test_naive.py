"""The negative control: what everybody writes first must fail the very checks that the SDK passes, or they prove nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import aiohttp
import pytest
from attrs import define, field, frozen

from kling_async import KlingError, KlingSession, Polling, Text2Video
from kling_async.emulator import Emulator

KEY: Final = "order-17"


class Client(Protocol):
    """What the control needs of a client."""

    async def submit(self) -> str:
        """Buy one clip under `KEY` and give the task's id."""

    async def wait(self, task_id: str) -> int:
        """Wait for the task and give the number of its clips."""

    async def known(self) -> set[str]:
        """Every task that the client could still name."""


@define
class Naive:
    """A loop around aiohttp: tries everything three times, believes every answer, remembers nothing."""

    emulator: Emulator
    ids: set[str] = field(factory=set)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.emulator.api_key}"}
        url = f"{self.emulator.url}/kling/v1/videos/text2video{path}"
        async with aiohttp.request(method, url, json=body, headers=headers, raise_for_status=True) as response:
            return (await response.json())["data"]

    async def submit(self) -> str:
        """Try, and try again."""
        for attempt in range(3):
            try:
                async with asyncio.timeout(30):
                    task = await self._ask("POST", "", {"prompt": "a fox", "external_task_id": KEY})
                self.ids.add(task["task_id"])
                return str(task["task_id"])
            except (aiohttp.ClientError, TimeoutError):
                if attempt == 2:
                    raise
        raise AssertionError

    async def wait(self, task_id: str) -> int:
        """Ask until it says so."""
        while True:
            task = await self._ask("GET", f"/{task_id}")
            if task["task_status"] not in {"submitted", "processing"}:
                return len(task["task_result"]["videos"])
            await asyncio.sleep(5)

    async def known(self) -> set[str]:
        """Whatever was returned."""
        return self.ids


@define
class Ours:
    """The SDK."""

    kling: KlingSession
    ids: set[str] = field(factory=set)

    async def submit(self) -> str:
        """Buy."""
        handle = await self.kling.submit(Text2Video(prompt="a fox", external_task_id=KEY))
        self.ids.add(handle.task_id)
        return handle.task_id

    async def wait(self, task_id: str) -> int:
        """Wait."""
        handles = [handle for handle in await self.kling.recover() if handle.task_id == task_id]
        return len(await handles[0])

    async def known(self) -> set[str]:
        """What was returned, what is listed as an orphan, and what is listed as unknown: its task is found by its key."""
        unknown = {creation.key for creation in await self.kling.unknowns()}
        return self.ids | {ref.task_id for ref in self.kling.orphans()} | unknown


@frozen
class Row:
    """A row of the fault matrix as a scenario, and whether the naive client is expected to pass it."""

    id: str
    fault: str
    options: dict[str, Any]
    act: Callable[[Client], Awaitable[object]]
    naive_passes: bool = False


async def _buy(client: Client) -> None:
    try:
        await client.submit()
    except (KlingError, aiohttp.ClientError, TimeoutError, KeyError, TypeError):
        return


async def _leave(client: Client) -> None:
    buying = asyncio.ensure_future(_buy(client))
    await asyncio.sleep(1.0)
    buying.cancel()
    await asyncio.gather(buying, return_exceptions=True)
    await asyncio.sleep(600)


async def _watch(client: Client) -> None:
    assert await client.wait(await client.submit()) == 1


ROWS: Final = [
    Row("C9 read, then closed", "drop", {"method": "POST", "accepted": True}, _buy),
    Row("C9 read, then reset", "reset", {"method": "POST", "accepted": True}, _buy),
    Row("C18 no answer", "hang", {"method": "POST", "accepted": True, "seconds": 600}, _buy),
    Row("S1 502 after acceptance", "status", {"method": "POST", "accepted": True, "status": 502}, _buy),
    Row("S1 504 after acceptance", "status", {"method": "POST", "accepted": True, "status": 504}, _buy),
    Row("S3 front page for an accepted task", "html", {"method": "POST", "accepted": True}, _buy),
    Row("S4 cut reply", "truncated", {"method": "POST"}, _buy),
    Row("W1 cancelled under way", "slow", {"method": "POST", "seconds": 5, "pieces": 5}, _leave),
    Row("Q1 one poll answered with 500", "status", {"method": "GET", "status": 500}, _watch),
    Row("Q1 one poll dropped", "drop", {"method": "GET", "times": 3}, _watch),
    Row("Q3 not found at first", "not_found", {"method": "GET"}, _watch),
    Row("Q5 unknown word", "unknown_status", {"method": "GET", "status": "reviewing"}, _watch),
    Row("Q7 success without a result at first", "null_videos", {"method": "GET"}, _watch),
    Row("a healthy exchange", "chunked", {"method": "POST"}, _watch, naive_passes=True),
]


async def verdict(row: Row, *, naive: bool) -> str:
    """What the client did wrong, or nothing."""
    async with Emulator() as emulator:
        emulator.fault(row.fault, **row.options)
        session = KlingSession(emulator.api_key, base_url=emulator.url, polling=Polling(first=1.0))
        async with session as kling:
            client: Client = Naive(emulator) if naive else Ours(kling)
            try:
                await row.act(client)
            except (KlingError, aiohttp.ClientError, AssertionError, KeyError, TypeError) as error:
                return f"gave up: {type(error).__name__}"
            accepted = {task.id for task in emulator.log.tasks}
            known = await client.known()
    if len(accepted) > 1:
        return f"bought {len(accepted)} times"
    if accepted - known and KEY not in known:
        return "lost the task"
    return ""


@pytest.mark.row("C9", "C10", "C18", "S1", "S3", "S4", "W1", "Q1", "Q3", "Q5", "Q7")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_the_sdk_passes(row: Row) -> None:
    """Nothing is bought twice, nothing is lost, no healthy wait is given up."""
    assert not await verdict(row, naive=False)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_a_naive_client_fails(row: Row, say: Callable[[str], None]) -> None:
    """The same check refuses the naive client, and lets it pass where nothing is wrong."""
    wrong = await verdict(row, naive=True)
    say(f"naive client, {row.id}: {wrong or 'passes'}")
    assert bool(wrong) is not row.naive_passes
