"""`VideoExtend.of` and `LipSync.of`: a clip of one task becomes the input of the next."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from kling_async.errors import InvalidJobError
from kling_async.jobs import LipSync, VideoExtend
from kling_async.models import ParentVideo, Snapshot, Status, TaskRef, Video

CLIP = Video(id="900", url="https://cdn.example/900.mp4?sign=x", duration=5.0)
REF = TaskRef(origin="https://gw.example", action="videos", action2="text2video", task_id="800", external_task_id="a,b")
WORDS: dict[str, Any] = {"text": "hello", "voice_id": "uk_boy1", "voice_language": "en"}


def test_the_clip_s_id_and_the_rest_are_filled_in() -> None:
    """The job is the one that its class makes of the same fields."""
    rest: dict[str, Any] = {"external_task_id": "mine", "callback_url": "https://me.example/h", "extra": {"seed": 1}}
    style: dict[str, Any] = {"prompt": "on it goes", "negative_prompt": "rain", "cfg_scale": 0.5, "watermark_info": True}
    assert VideoExtend.of(CLIP) == VideoExtend(video_id="900")
    assert VideoExtend.of(CLIP, task="800", **style, **rest) == VideoExtend(video_id="900", task_id="800", **style, **rest)
    assert LipSync.of(CLIP, **WORDS, voice_speed=1.1) == LipSync(video_id="900", **WORDS, voice_speed=1.1)
    assert LipSync.of(CLIP, audio_url="https://a.example/a.mp3").mode == "audio2video"
    sound = b"ID3\4" + bytes(60)
    assert LipSync.of(CLIP, audio_file=sound) == LipSync(video_id="900", audio_file=sound)


@pytest.mark.parametrize("task", [REF, str(REF), "800", Snapshot(task_id="800", status=Status.SUCCEED)])
def test_the_parent_task_is_told_in_any_form(task: Any) -> None:
    """A reference, its text, a bare id, or a snapshot: the id of the task goes along."""
    assert VideoExtend.of(CLIP, task=task).task_id == "800"
    assert LipSync.of(CLIP, task=task, **WORDS).task_id == "800"


def test_a_parent_clip_will_do() -> None:
    """The clip that an extension started from can be used again."""
    assert VideoExtend.of(ParentVideo(id="900")).video_id == "900"


@pytest.mark.parametrize(
    ("clip", "task", "field", "rule"),
    [
        (Video(id="", url="https://cdn.example/x"), None, "video_id", "no id"),
        ((CLIP,), None, "video_id", r"videos\[0\]"),
        ("900", None, "video_id", "one Video"),
        (CLIP, "kling1,broken", "task_id", "not a task reference"),
        (CLIP, " ", "task_id", "blank"),
    ],
)
def test_what_is_no_clip_is_refused(clip: Any, task: Any, field: str, rule: str) -> None:
    """A clip without an id, a whole result, a text: the error names the field and says what to give."""
    with pytest.raises(InvalidJobError, match=rule) as caught:
        VideoExtend.of(clip, task=task)
    assert caught.value.field == field


@pytest.mark.parametrize("cls", [VideoExtend, LipSync])
def test_nothing_is_left_out(cls: type[Any]) -> None:
    """`of` takes all that its class takes, except what it fills in and what follows from the rest."""
    filled = {"video_id", "task_id", "video_url", "mode", "audio_type"}
    of, made = inspect.signature(cls.of).parameters, inspect.signature(cls).parameters
    assert set(of) - {"video", "task"} == set(made) - filled
    assert all(of[name].annotation == made[name].annotation for name in set(of) & set(made) - {"audio_file", "extra"})
