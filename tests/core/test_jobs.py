"""`jobs`: every rule of the endpoint tables, and everything that must stay allowed."""

from __future__ import annotations

import base64
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from kling_async.errors import InvalidJobError
from kling_async.jobs import (
    ALL_JOBS,
    CameraControl,
    DynamicMask,
    GenerateImage,
    Image2Video,
    Job,
    LipSync,
    MultiShot,
    Text2Video,
    VideoExtend,
    VirtualTryOn,
    job_class,
)
from kling_async.media import Blob, Link

PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big") + bytes(60)
TINY = PICTURE.replace((640).to_bytes(4, "big"), (10).to_bytes(4, "big"))
WIDE = PICTURE.replace((640).to_bytes(4, "big"), (4800).to_bytes(4, "big"))
SOUND = b"ID3\4" + bytes(60)
URL = "https://cdn.example/a.png"
SHOT = MultiShot(prompt="a", duration=2)
SHOTS = {"multi_shot": True, "shot_type": "customize", "multi_prompt": [SHOT, MultiShot(prompt="b", duration="3")]}
MASK = DynamicMask(mask=PICTURE, trajectories=[(0, 0), (10, 20)])

GOOD: dict[type[Job[Any]], dict[str, Any]] = {
    GenerateImage: {"prompt": "a fox"},
    Text2Video: {"prompt": "a fox"},
    Image2Video: {"prompt": "a fox", "image": URL},
    VideoExtend: {"video_id": "1"},
    LipSync: {"video_id": "1", "text": "hello", "voice_id": "uk_boy1", "voice_language": "en"},
    VirtualTryOn: {"human_image": URL, "cloth_image": URL},
}
"""The least that each endpoint takes."""
SPOKEN = GOOD[LipSync]
RECORDED: dict[str, Any] = {"video_id": "1", "audio_url": URL}


def _build(cls: type[Job[Any]], **changes: Any) -> Job[Any]:
    return cls(**{**GOOD[cls], **changes})


each_job = pytest.mark.parametrize("cls", ALL_JOBS)


@each_job
def test_classes_are_registered_by_their_route(cls: type[Job[Any]]) -> None:
    """Every class is found by the pair of path parts; unknown pairs are nobody's."""
    assert job_class(cls.route.action, cls.route.action2) is cls
    assert job_class(cls.route.action, "no-such") is None
    assert str(cls.route) == f"{cls.route.action}/{cls.route.action2}"


def test_table_of_contents_is_the_public_one() -> None:
    """Verb, class, route and kind stand in the order of the API's own table."""
    assert [(job.verb, job.__name__, str(job.route), job.kind) for job in ALL_JOBS] == [
        ("generate_image", "GenerateImage", "images/generations", "image"),
        ("text2video", "Text2Video", "videos/text2video", "video"),
        ("image2video", "Image2Video", "videos/image2video", "video"),
        ("video_extend", "VideoExtend", "videos/video-extend", "video"),
        ("lip_sync", "LipSync", "videos/lip-sync", "video"),
        ("virtual_try_on", "VirtualTryOn", "images/kolors-virtual-try-on", "try_on"),
    ]


@each_job
def test_jobs_are_values(cls: type[Job[Any]]) -> None:
    """Equal jobs are equal, hash alike, pickle, and cannot be changed."""
    job = _build(cls, extra={"later": {"a": [1]}}, callback_url="https://me.example/hook?token=secret", external_task_id="order-1")
    again = _build(cls, extra={"later": {"a": [1]}}, callback_url="https://me.example/hook?token=secret", external_task_id="order-1")
    assert job == again == pickle.loads(pickle.dumps(job))
    assert hash(job) == hash(again) == hash(pickle.loads(pickle.dumps(job)))
    assert job != _build(cls, extra={"later": {"a": [2]}}, callback_url="https://me.example/hook?token=secret", external_task_id="order-1")
    assert "secret" not in repr(job)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        job.external_task_id = "x"  # type: ignore[misc]  # wrong on purpose


@each_job
def test_every_field_explains_itself(cls: type[Job[Any]]) -> None:
    """Help, known words and known models are in the metadata; the class says in one line what it does."""
    for attribute in attrs.fields(cls):
        assert attribute.metadata["help"].endswith((".", ")"))
        assert "\n" not in attribute.metadata["help"]
        assert isinstance(attribute.metadata["choices"], tuple)
    assert [attribute.name for attribute in attrs.fields(cls)][-3:] == ["callback_url", "external_task_id", "extra"]
    assert (cls.__doc__ or "").splitlines()[0].endswith(".")


@each_job
def test_models_named_by_rules_exist(cls: type[Job[Any]]) -> None:
    """No rule speaks of a model that its endpoint's family does not have."""
    family = {*attrs.fields_dict(Image2Video)["model_name"].metadata["choices"]}
    family = family if cls.kind == "video" else {*attrs.fields_dict(GenerateImage)["model_name"].metadata["choices"]}
    assert all(family.issuperset(attribute.metadata["models"]) for attribute in attrs.fields(cls))


@each_job
def test_fields_that_are_not_said_are_none(cls: type[Job[Any]]) -> None:
    """No default of the service is copied into a signature."""
    inferred = {"mode", "audio_type"} if cls is LipSync else set()
    job = _build(cls)
    said = {attribute.name for attribute in attrs.fields(cls) if getattr(job, attribute.name) is not None}
    assert said - inferred == {*GOOD[cls], "extra"}


@each_job
@pytest.mark.row("V16")
def test_unknown_keywords_are_type_errors(cls: type[Job[Any]]) -> None:
    """A misspelt field is found by Python itself, and positions are not accepted."""
    with pytest.raises(TypeError):
        _build(cls, promt="a fox")
    with pytest.raises(TypeError):
        cls("a fox")  # type: ignore[call-arg]  # wrong on purpose


def test_slots_are_what_a_task_occupies() -> None:
    """An image task takes one slot per picture, any other task one."""
    assert [_build(cls).slots for cls in ALL_JOBS] == [1] * 6
    assert _build(GenerateImage, n=9).slots == 9


def test_extra_is_a_frozen_copy() -> None:
    """Changing the mapping that was given, or a value that was read, changes no job."""
    given: dict[str, Any] = {"a": {"b": [1]}}
    job = Text2Video(prompt="x", extra=given)
    given["a"]["b"].append(2)
    job.extra["a"]["b"].append(3)
    assert job.extra == {"a": {"b": [1]}}
    assert attrs.evolve(job, prompt="y").extra == job.extra
    assert repr(job.extra) == "<extra: a>"


def test_durations_and_switches_take_what_people_write() -> None:
    """Whole seconds as number or text, sound as truth value or as the service's word."""
    assert [Text2Video(prompt="x", duration=given).duration for given in (5, 5.0, "5", "5.0", None)] == [5, 5, 5, 5, None]
    assert [Text2Video(prompt="x", sound=given).sound for given in (True, False, "on", "off", None)] == [True, False, True, False, None]


def test_ids_are_normalised() -> None:
    """Element ids become integers, whatever iterable they come in; voice ids stay text."""
    assert _build(Image2Video, element_list=iter(["867283741759111202", 5])).element_list == (867283741759111202, 5)  # type: ignore[attr-defined]
    assert _build(GenerateImage, element_list=[]).element_list == ()  # type: ignore[attr-defined]
    job = _build(Image2Video, voice_list=["12"], sound=True, prompt="<<<voice_1>>> speaks")
    assert job.voice_list == ("12",)  # type: ignore[attr-defined]


def test_media_are_recognised() -> None:
    """URLs become links, bytes become blobs."""
    job = Image2Video(prompt="x", image=URL, image_tail=PICTURE)
    assert (job.image, job.image_tail) == (Link(URL), Blob(PICTURE))
    assert LipSync(video_url=URL, audio_file=SOUND).audio_file == Blob(SOUND)
    assert VirtualTryOn(human_image=WIDE, cloth_image=WIDE).human_image == Blob(WIDE)


def test_lip_sync_infers_its_mode() -> None:
    """What is given tells what is meant; what is said stays as said."""
    assert LipSync(**SPOKEN).mode == "text2video"
    from_url, from_file = LipSync(**RECORDED), LipSync(video_id="1", audio_file=SOUND)
    assert (from_url.mode, from_url.audio_type) == ("audio2video", "url")
    assert (from_file.mode, from_file.audio_type) == ("audio2video", "file")
    assert LipSync(video_id="1", mode="hum2video").mode == "hum2video"


def test_nested_values_may_be_given_as_mappings() -> None:
    """A mapping of its fields is as good as the value itself, as batch files and command lines have nothing else."""
    job = _build(
        Text2Video, camera_control={"zoom": 5}, multi_shot=True, shot_type="customize", multi_prompt=[{"prompt": "a", "duration": "5"}]
    )
    assert job.camera_control == CameraControl(zoom=5)  # type: ignore[attr-defined]
    assert job.multi_prompt == (MultiShot(prompt="a", duration=5),)  # type: ignore[attr-defined]
    stroke = {"mask": PICTURE, "trajectories": [[0, 0], [10, 20]]}
    assert _build(Image2Video, dynamic_masks=[stroke]).dynamic_masks == (MASK,)  # type: ignore[attr-defined]


OLD = ("kling-v1", "kling-v1-5", "kling-v1-6", "kling-v2-master", "kling-v2-1", "kling-v2-1-master", "kling-v2-5-turbo", "kling-v2-6")

ALLOWED: list[tuple[type[Job[Any]], dict[str, Any]]] = [
    *((Text2Video, {"model_name": model, "duration": seconds}) for model in OLD for seconds in (5, 10)),
    *((Image2Video, {"model_name": "kling-v3", "duration": seconds}) for seconds in (3, 15)),
    (Text2Video, {"duration": 3}),
    (Text2Video, {"model_name": "kling-v9", "duration": 60}),
    (Text2Video, {"model_name": "kling-v9", "mode": "8k", "aspect_ratio": "1:9", "sound": True, "cfg_scale": 1}),
    (Text2Video, {"model_name": "kling-v3", "mode": "4k", "sound": True, "cfg_scale": 0}),
    (Text2Video, {"model_name": "kling-v2-6", "mode": "pro", "sound": True}),
    (Text2Video, {"model_name": "kling-v2-6", "sound": False}),
    (Text2Video, {"prompt": "x" * 2500, "negative_prompt": ""}),
    (Text2Video, {"prompt": "\U0001f98a" * 2500}),
    (Text2Video, {"prompt": "e\u0301\u202e\0"}),
    (Text2Video, {**SHOTS, "duration": 5}),
    (Text2Video, {**SHOTS, "prompt": None, "model_name": "kling-v3"}),
    (Text2Video, {"multi_shot": True, "shot_type": "intelligence"}),
    (Text2Video, {"multi_shot": False}),
    (Text2Video, {"camera_control": CameraControl(type="down_back"), "model_name": "kling-v1"}),
    (Text2Video, {"camera_control": CameraControl(type="spiral", zoom=1, pan=2)}),
    (Text2Video, {"camera_control": CameraControl(zoom=-10, pan=0)}),
    (Text2Video, {"callback_url": "http://127.0.0.1:80/hook", "external_task_id": "A-z_0.9:x"}),
    (Text2Video, {"external_task_id": "x" * 128}),
    (Image2Video, {"image": None, "image_tail": URL}),
    (Image2Video, {"image_tail": URL, "model_name": "kling-v2-6", "mode": "pro"}),
    (Image2Video, {"image_tail": URL, "model_name": "kling-v3", "duration": 15}),
    (Image2Video, {"image": None, "image_tail": URL, "model_name": "kling-v1-6", "mode": "pro"}),
    (Image2Video, {"static_mask": TINY, "dynamic_masks": [MASK] * 6, "model_name": "kling-v1", "duration": 5}),
    (Image2Video, {"element_list": [1, 2, 3], "model_name": "kling-v3"}),
    (Image2Video, {"camera_control": CameraControl(tilt=1), "model_name": "kling-v1-5", "mode": "pro"}),
    (GenerateImage, {"n": 9, "aspect_ratio": "21:9", "resolution": "2k", "model_name": "kling-v3", "element_list": range(1, 11)}),
    (GenerateImage, {"image": URL, "image_reference": "subject", "model_name": "kling-v1-5", "image_fidelity": 1, "human_fidelity": 0.0}),
    (GenerateImage, {"image": URL, "model_name": "kling-v2-new", "element_list": None}),
    (GenerateImage, {"model_name": "kling-v2", "resolution": "2k"}),
    (VideoExtend, {"task_id": "2", "prompt": "more", "negative_prompt": "less", "cfg_scale": 0.5, "watermark_info": False}),
    (LipSync, {"voice_speed": 0.8, "task_id": "3"}),
    (LipSync, {"text": "x" * 120, "voice_speed": 2}),
    (VirtualTryOn, {"model_name": "kolors-virtual-try-on-v1-5", "human_image": PICTURE, "cloth_image": base64.b64encode(PICTURE).decode()}),
]


@pytest.mark.parametrize(("cls", "changes"), ALLOWED)
def test_what_the_tables_allow_is_allowed(cls: type[Job[Any]], changes: dict[str, Any]) -> None:
    """The limits are inside, unknown words pass, and models that nobody knows are bound by no table."""
    _build(cls, **changes)


def test_extra_that_holds_itself_is_refused() -> None:
    """Neither endless nor absurdly deep values reach the encoder."""
    endless: dict[str, Any] = {}
    endless["a"] = [endless]
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    for extra in (endless, {"a": deep}):
        with pytest.raises(InvalidJobError, match="extra: may nest 64 levels"):
            Text2Video(prompt="x", extra=extra)


def test_nested_values_check_themselves() -> None:
    """A wrong shot, camera or brush stroke is found where it is written, before there is a job."""
    with pytest.raises(InvalidJobError, match=r"^multi_prompt\[\]\.duration: "):
        MultiShot(prompt="a", duration=0)
    with pytest.raises(InvalidJobError, match=r"^camera_control\.config: "):
        CameraControl()
    with pytest.raises(InvalidJobError, match=r"^dynamic_masks\[\]\.trajectories: "):
        DynamicMask(mask=PICTURE, trajectories=[(0, 0)])


def test_paths_are_checked_when_the_job_is_made(tmp_path: Path) -> None:
    """A file that is no picture is refused before anything is sent."""
    (tmp_path / "a.png").write_bytes(TINY)
    with pytest.raises(InvalidJobError, match="image: is 10 x 480 pixels"):
        Image2Video(prompt="x", image=tmp_path / "a.png")


def test_jobs_load_neither_the_codec_nor_the_network() -> None:
    """Building a job costs no import of cattrs or aiohttp."""
    code = "import sys, kling_async.jobs; sys.exit(bool({'cattrs', 'aiohttp', 'asyncio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
