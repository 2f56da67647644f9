"""The emulator's tasks and slots, without a socket."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from kling_async.emulator._facts import DAY, Refused
from kling_async.emulator._service import Service
from kling_async.emulator._tasks import AcceptedTask, Marks, created, describe, spoken
from kling_async.emulator._validate import vet

T2V, EXTEND, LIPS, IMAGE = "videos/text2video", "videos/video-extend", "videos/lip-sync", "images/generations"


def service(**facts: Any) -> Service:
    """Three videos and four pictures at once."""
    return Service(slots={"video": 3, "image": 4}, durations={}, dice=random.Random(7), **facts)


def accept(to: Service, route: str, body: Mapping[str, Any], *, now: float = 0.0, account: str = "a") -> AcceptedTask:
    """Have a body checked and taken."""
    marks = Marks.read(spoken(body))
    kind = route.partition("/")[0].removesuffix("s")
    return to.accept(body, vet(route, body), account=account, route=route, kind=kind, now=now, marks=marks)


def told(task: AcceptedTask, now: float) -> dict[str, Any]:
    """The task object at a moment, in which a link is `task/name`."""
    return describe(task, now, millis=lambda moment: round(moment * 1000), link=lambda task_id, name: f"{task_id}/{name}")


def test_life_of_a_task() -> None:
    """Submitted for a tenth of its time, then processing, then succeeded, `updated_at` moving along; averages from the facts."""
    task = accept(service(), T2V, {"prompt": "a fox"}, now=100.0)
    assert [task.status_at(100 + after) for after in (0, 31.8, 31.9, 318.9, 319)] == [
        "submitted",
        "submitted",
        "processing",
        "processing",
        "succeed",
    ]
    assert [told(task, 100 + after)["updated_at"] for after in (0, 50, 319)] == [100_000, 131_900, 419_000]


def test_object_of_a_running_task() -> None:
    """Before the end there is an empty result and an empty message."""
    task = accept(service(), T2V, {"prompt": "a fox"})
    data = told(task, 0)
    assert len(task.id) == 18
    assert task.id.isdigit()
    assert data == {
        "task_id": task.id,
        "task_status": "submitted",
        "task_status_msg": "",
        "created_at": 0,
        "updated_at": 0,
        "task_result": {},
    }
    assert created(told(task, 400)) == {"task_id": task.id, "task_status": "submitted", "created_at": 0, "updated_at": 0}


def test_object_of_a_finished_clip() -> None:
    """A clip has its own id, a link, its length as text, and the extras that were asked for."""
    task = accept(service(), T2V, {"prompt": "x", "duration": "10", "external_task_id": "mine", "watermark_info": {"enabled": True}})
    data = told(task, 1000)
    video_id = task.entries[0].id
    assert video_id != task.id
    assert data["task_info"] == {"external_task_id": "mine"}
    assert data["watermark_info"] == {"enabled": True}
    assert data["task_result"] == {
        "videos": [
            {
                "id": video_id,
                "url": f"{task.id}/{video_id}.mp4",
                "watermark_url": f"{task.id}/{video_id}-watermark.mp4",
                "duration": "10",
            }
        ]
    }


def test_object_of_finished_pictures() -> None:
    """`n` pictures are numbered from 0."""
    task = accept(service(), IMAGE, {"prompt": "x", "n": 3, "aspect_ratio": "3:2", "resolution": "2k"})
    images = told(task, 1000)["task_result"]["images"]
    assert [image["index"] for image in images] == [0, 1, 2]
    scene = task.entries[0].scene
    assert scene.width / scene.height == pytest.approx(1.5, abs=0.02)
    assert scene.width * scene.height == pytest.approx(2048 * 2048, rel=0.02)


@pytest.mark.parametrize(
    ("prompt", "marks"),
    [
        ("plain", Marks()),
        ("a [fail] b", Marks(fail="Failure to pass the risk control system")),
        ("[fail: too dark ]", Marks(fail="too dark")),
        ("[block]", Marks(block=True)),
        ("[stuck] [seconds: 42]", Marks(stuck=True, seconds=42.0)),
        ("[seconds:0.5]", Marks(seconds=0.5)),
        ("[seconds: many]", Marks()),
    ],
)
def test_marks(prompt: str, marks: Marks) -> None:
    """Markers are found wherever they stand; anything else is only a prompt."""
    assert Marks.read(prompt) == marks


def test_marks_are_found_wherever_words_are() -> None:
    """Shots and spoken text count as prompt."""
    assert Marks.read(spoken({"multi_prompt": [{"prompt": "[fail]"}]})).fail
    assert Marks.read(spoken({"input": {"text": "[stuck]"}})).stuck


def test_failure() -> None:
    """A failed task says why and has an empty result."""
    task = accept(service(), T2V, {"prompt": "[fail: too dark] [seconds: 10]"})
    data = told(task, 10)
    assert (data["task_status"], data["task_status_msg"], data["task_result"]) == ("failed", "too dark", {})
    assert told(task, 9)["task_status_msg"] == ""


def test_stuck() -> None:
    """A stuck task is processing for ever and keeps its slot."""
    here = service()
    task = accept(here, T2V, {"prompt": "[stuck]"})
    assert task.status_at(1e9) == "processing"
    accept(here, T2V, {"prompt": "x"}, now=1e8)
    accept(here, T2V, {"prompt": "x"}, now=1e8)
    with pytest.raises(Refused) as caught:
        accept(here, T2V, {"prompt": "x"}, now=1e8)
    assert caught.value.refusal.code == 1303


def test_block() -> None:
    """Policy refuses at creation, and no task exists."""
    here = service()
    with pytest.raises(Refused) as caught:
        accept(here, T2V, {"prompt": "[block]"})
    assert caught.value.refusal.code == 1301
    assert here.tasks == {}


def test_slots() -> None:
    """Slots are held to the end, per kind and per account, and an image holds `n`."""
    here = service()
    accept(here, IMAGE, {"prompt": "x", "n": 3})
    with pytest.raises(Refused) as caught:
        accept(here, IMAGE, {"prompt": "x", "n": 2})
    assert caught.value.refusal.http == 429
    accept(here, IMAGE, {"prompt": "x", "n": 1})
    accept(here, IMAGE, {"prompt": "x", "n": 4}, account="b")
    accept(here, T2V, {"prompt": "x"})
    accept(here, IMAGE, {"prompt": "x", "n": 4}, now=32.0)


def test_keys_are_unique_only_where_they_find_tasks() -> None:
    """A used `external_task_id` is refused by the official service, per account."""
    strict, lax = service(unique_keys=True), service()
    for here in (strict, lax):
        accept(here, T2V, {"prompt": "x", "external_task_id": "mine"})
    accept(lax, T2V, {"prompt": "x", "external_task_id": "mine"})
    accept(strict, T2V, {"prompt": "x", "external_task_id": "mine"}, account="b")
    with pytest.raises(Refused, match="mine"):
        accept(strict, T2V, {"prompt": "x", "external_task_id": "mine"})


def test_extension() -> None:
    """An extension adds five seconds to its parent and names it."""
    here = service()
    parent = accept(here, T2V, {"prompt": "x", "model_name": "kling-v1-6", "duration": "10", "aspect_ratio": "9:16"})
    video_id = parent.entries[0].id
    child = accept(here, EXTEND, {"video_id": video_id}, now=1000)
    data = told(child, 2000)
    assert data["task_info"]["parent_video"] == {"id": video_id, "url": f"{parent.id}/{video_id}.mp4", "duration": "10"}
    assert data["task_result"]["videos"][0]["duration"] == "15"
    assert (child.entries[0].scene.width, child.entries[0].scene.height) == (720, 1280)


def test_extension_of_an_unknown_clip() -> None:
    """A clip never seen here is taken for an older one of five seconds."""
    data = told(accept(service(), EXTEND, {"video_id": "867"}), 1000)
    assert data["task_info"]["parent_video"] == {"id": "867", "duration": "5"}
    assert data["task_result"]["videos"][0]["duration"] == "10"


def test_what_cannot_be_extended() -> None:
    """Newer models, clips near 180 seconds and clips older than 30 days are refused."""
    here = service()
    newer = accept(here, T2V, {"prompt": "x", "model_name": "kling-v2-6"})
    with pytest.raises(Refused, match="kling-v2-6"):
        accept(here, EXTEND, {"video_id": newer.entries[0].id}, now=400)
    older = accept(here, T2V, {"prompt": "x"}, now=400)
    with pytest.raises(Refused, match="30 days"):
        accept(here, EXTEND, {"video_id": older.entries[0].id}, now=400 + 31 * DAY)
    clip, now = older.entries[0], 1000.0
    while clip.scene.seconds < 180:
        clip, now = accept(here, EXTEND, {"video_id": clip.id}, now=now).entries[0], now + 1000
    with pytest.raises(Refused, match="180 seconds"):
        accept(here, EXTEND, {"video_id": clip.id}, now=now)


def test_lip_sync() -> None:
    """Lip-sync keeps the length, adds sound, and wants clips of 2 to 10 seconds."""
    here = service()
    speak = {"mode": "text2video", "text": "hello", "voice_id": "v", "voice_language": "en"}
    parent = accept(here, T2V, {"prompt": "x", "duration": "10"})
    child = accept(here, LIPS, {"input": {**speak, "video_id": parent.entries[0].id}}, now=1000)
    assert child.entries[0].scene.sound
    assert told(child, 2000)["task_result"]["videos"][0]["duration"] == "10"
    linked = accept(here, LIPS, {"input": {**speak, "video_url": "https://files.example/a.mp4"}}, now=1000)
    assert told(linked, 2000)["task_info"]["parent_video"]["url"] == "https://files.example/a.mp4"
    longer = accept(here, EXTEND, {"video_id": parent.entries[0].id}, now=3000)
    with pytest.raises(Refused, match="2 to 10 seconds"):
        accept(here, LIPS, {"input": {**speak, "video_id": longer.entries[0].id}}, now=4000)


def test_strict_parent() -> None:
    """One family of gateways wants the task that made the clip, and the right one."""
    here = service(strict_parent=True)
    parent = accept(here, T2V, {"prompt": "x"})
    video_id = parent.entries[0].id
    for wrong in ({}, {"task_id": "1"}, {"task_id": video_id}):
        with pytest.raises(Refused, match="task_id"):
            accept(here, EXTEND, {"video_id": video_id, **wrong}, now=1000)
    accept(here, EXTEND, {"video_id": video_id, "task_id": parent.id}, now=1000)
