"""Its tests: no key, no money, no mocks, and nobody sleeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from clips import make_clip

from kling_async import KlingSession, SubmitOutcomeUnknown, TaskFailedError
from kling_async.testing import JumpingClock, ThreadedEmulator, assert_bought_once, duplicates


async def test_a_clip_is_saved(kling: KlingSession, tmp_path: Path) -> None:
    """An order becomes a file that plays. The service takes minutes for it, and the test does not."""
    path = await make_clip(kling, order="1", prompt="a red fox", folder=tmp_path)
    assert path.suffix == ".mp4"
    assert path.stat().st_size > 0


async def test_an_order_is_paid_for_once(kling: KlingSession, kling_emulator: ThreadedEmulator, tmp_path: Path) -> None:
    """Who asks twice gets the same clip."""
    for _ in range(2):
        await make_clip(kling, order="1", prompt="a red fox", folder=tmp_path)
    assert len(kling_emulator.log.tasks) == 1


async def test_a_failure_says_why(kling: KlingSession, tmp_path: Path) -> None:
    """The service's reason reaches the caller, and no file is left."""
    with pytest.raises(TaskFailedError, match="out of paint"):
        await make_clip(kling, order="1", prompt="a red fox [fail: out of paint]", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_lost_answer_is_not_paid_for_twice(kling: KlingSession, kling_emulator: ThreadedEmulator, tmp_path: Path) -> None:
    """The connection breaks after the request has arrived: nobody knows, and nothing is sent again."""
    kling_emulator.fault("drop", method="POST", accepted=True)
    with pytest.raises(SubmitOutcomeUnknown) as raised:
        await make_clip(kling, order="1", prompt="a red fox", folder=tmp_path)
    assert_bought_once(kling_emulator, raised.value.external_task_id)
    assert len(kling_emulator.posts_for(raised.value.external_task_id)) == 1


async def test_a_full_service_is_waited_for(kling: KlingSession, kling_emulator: ThreadedEmulator, tmp_path: Path) -> None:
    """Asked to come back in ten minutes, the program does."""
    kling_emulator.fault("retry_after", method="POST", seconds=600)
    await make_clip(kling, order="1", prompt="a red fox", folder=tmp_path)
    assert len(kling_emulator.log.tasks) == 1


async def test_an_order_outlives_the_program(kling_emulator: ThreadedEmulator, kling_clock: JumpingClock, tmp_path: Path) -> None:
    """Another session with the same journal finds what the first one bought."""
    for _ in range(2):
        async with KlingSession(
            kling_emulator.api_key, base_url=kling_emulator.url, journal=tmp_path / "orders.db", clock=kling_clock
        ) as kling:
            await make_clip(kling, order="1", prompt="a red fox", folder=tmp_path)
    assert len(kling_emulator.log.tasks) == 1
    assert duplicates(kling_emulator) == {}
