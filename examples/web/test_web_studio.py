"""The studio without a browser: no key, no money, no mocks, and nobody sleeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import pytest
from studio import Clip, Studio

from kling_async import Journal, KlingSession, Text2Video
from kling_async.testing import JumpingClock, ThreadedEmulator

Open = Callable[[], AbstractAsyncContextManager[Studio]]
FOX = Text2Video(prompt="a red fox")


@pytest.fixture
def opened(kling_emulator: ThreadedEmulator, kling_clock: JumpingClock, tmp_path: Path) -> Open:
    """Open the studio; once more is a restart."""

    @asynccontextmanager
    async def open_studio() -> AsyncIterator[Studio]:
        async with (
            Journal(tmp_path / "orders.db") as journal,
            KlingSession(kling_emulator.api_key, base_url=kling_emulator.url, journal=journal, clock=kling_clock) as kling,
            Studio(kling=kling, journal=journal, folder=tmp_path, pause=0) as studio,
        ):
            yield studio

    return open_studio


async def until(studio: Studio, word: str, state: str) -> list[Clip]:
    """What the page was told of that order, up to and with this state."""
    told: list[Clip] = []
    assert word in studio.clips
    async with aclosing(studio.changes()) as changes:
        async for clip in changes:
            if clip.order == word:
                told.append(clip)
                if clip.state in {state, "ready", "failed", "unknown"}:
                    break
    assert told[-1].state == state, told[-1].note
    return told


async def test_an_order_is_bought_once(opened: Open, kling_emulator: ThreadedEmulator, tmp_path: Path) -> None:
    """Asked for twice, and again after a restart, it is one clip, whose file is there."""
    async with opened() as studio:
        assert studio.order("1", FOX).state == "waiting"
        studio.order("1", FOX)
        told = await until(studio, "1", "ready")
        assert [clip.state for clip in told][-2:] == ["saving", "ready"]
    async with opened() as studio:
        clip = studio.order("1", FOX)
        assert (clip.state, clip.prompt, clip.files) == ("ready", "a red fox", told[-1].files)
        assert (tmp_path / clip.files[0]).stat().st_size > 0
    assert len(kling_emulator.log.tasks) == 1


async def test_a_restart_goes_on(opened: Open, kling_emulator: ThreadedEmulator, tmp_path: Path) -> None:
    """What was in the making when the server ended is followed by the next one; a file that was lost is fetched again."""
    async with opened() as studio:
        studio.order("1", Text2Video(prompt="a red fox [seconds: 100000]"))
        await until(studio, "1", "submitted")
    kling_emulator.advance(200_000)
    for _ in range(2):
        async with opened() as studio:
            (name,) = (await until(studio, "1", "ready"))[-1].files
        (tmp_path / name).unlink()
    assert len(kling_emulator.log.tasks) == 1


async def test_failures_say_why(opened: Open) -> None:
    """A task that failed and an order that was refused tell their reasons, also after a restart."""
    async with opened() as studio:
        studio.order("1", Text2Video(prompt="a heron [fail: out of paint]"))
        studio.order("2", Text2Video(prompt="a heron [block]"))
        assert (await until(studio, "1", "failed"))[-1].note == "The task failed: out of paint."
        refused = (await until(studio, "2", "failed"))[-1].note
        assert refused.startswith("The service does not make this: ")
        assert refused.endswith(" Nothing was bought.")
    async with opened() as studio:
        assert studio.clips["1"].note == "The task failed: out of paint."
        assert studio.clips["2"].note.endswith(" Nothing was bought.")


async def test_what_nobody_knows_is_not_sent_again(opened: Open, kling_emulator: ThreadedEmulator) -> None:
    """The connection broke after the order had left: it says so, and neither a restart nor asking again sends it once more."""
    kling_emulator.fault("drop", method="POST", accepted=True)
    async with opened() as studio:
        studio.order("1", FOX)
        assert "is not sent again" in (await until(studio, "1", "unknown"))[-1].note
    async with opened() as studio:
        assert studio.clips["1"].state == "unknown"
        assert studio.order("1", FOX).state == "waiting", "it is looked up once more, and that is all"
        await until(studio, "1", "unknown")
    assert len(kling_emulator.log.requests) == 1


@pytest.mark.kling_emulator(slots={"video": 0})
async def test_what_was_not_sent_may_be_asked_for_again(opened: Open, kling_emulator: ThreadedEmulator, kling_clock: JumpingClock) -> None:
    """The server ends while an order waits for its turn: nothing was bought, and the same order buys it then."""
    async with opened() as studio:
        studio.order("1", FOX)
        await kling_clock.sleep(60)
        assert kling_emulator.log.requests
    kling_emulator.slots = {"video": 1}
    async with opened() as studio:
        assert studio.clips["1"].note == "It was not sent. Nothing was bought."
        studio.order("1", FOX)
        await until(studio, "1", "ready")
    assert len(kling_emulator.log.tasks) == 1


async def test_a_broken_file_host_is_sat_out(opened: Open, kling_emulator: ThreadedEmulator) -> None:
    """The clip is made, and its file cannot be fetched for a while: it is tried again, and nothing is bought for it."""
    kling_emulator.fault("status", route="files", status=503, times=30)
    async with opened() as studio:
        studio.order("1", FOX)
        told = await until(studio, "1", "ready")
    assert any(clip.note.endswith("Trying again.") for clip in told)
    assert len(kling_emulator.log.tasks) == 1
