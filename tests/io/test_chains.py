"""One clip after another through the emulator, under every profile."""

from __future__ import annotations

import pytest

from kling_async import InvalidRequestError, KlingSession, LipSync, Text2Video, VideoExtend
from kling_async.emulator import Emulator

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.mark.parametrize("profile", ["gateway", "official", "newapi", "onehub"])
async def test_a_clip_becomes_the_next_one(profile: str) -> None:
    """A clip is made, extended, and its extension speaks; each job names its parent, where the service looks for it."""
    async with (
        Emulator(profile=profile, strict_parent=True) as emulator,
        KlingSession("sk-1", base_url=emulator.url, profile="official" if profile == "official" else "gateway") as kling,
    ):
        first = await kling.text2video(prompt="a red fox", model_name="kling-v1-6", duration=5)
        (clip,) = await first
        second = await kling.submit(VideoExtend.of(clip, task=first, prompt="it runs on"))
        (longer,) = await second
        assert longer.duration == pytest.approx(9.5, abs=0.6)
        third = await kling.submit(LipSync.of(longer, task=second.ref, text="hello", voice_id="uk_boy1", voice_language="en"))
        (speaking,) = await third
        assert speaking.duration == longer.duration
        bodies = [task.body for task in emulator.log.tasks]
        assert (bodies[1]["video_id"], bodies[1]["task_id"]) == (clip.id, first.task_id)
        assert (bodies[2]["input"]["video_id"], bodies[2]["input"]["task_id"]) == (longer.id, second.task_id)


async def test_a_gateway_that_asks_for_the_parent() -> None:
    """Without `task`, a gateway that picks the account by it says which field is missing."""
    async with (
        Emulator(strict_parent=True) as emulator,
        KlingSession("sk-1", base_url=emulator.url) as kling,
    ):
        (clip,) = await kling.run(Text2Video(prompt="a red fox", model_name="kling-v1-6", duration=5))
        with pytest.raises(InvalidRequestError, match="task_id"):
            await kling.submit(VideoExtend.of(clip))
