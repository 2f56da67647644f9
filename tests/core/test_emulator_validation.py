"""The emulator's checks, driven by its own facts."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from kling_async.emulator import _pictures
from kling_async.emulator._facts import CODES, Refused
from kling_async.emulator._validate import Vetted, vet

T2V, I2V, EXTEND = "videos/text2video", "videos/image2video", "videos/video-extend"
LIPS, IMAGE, TRY_ON = "videos/lip-sync", "images/generations", "images/kolors-virtual-try-on"


def png(width: int, height: int, *, size: int = 64) -> str:
    """The head of a PNG, as base64."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)
    return base64.b64encode(head.ljust(size, b"\0")).decode()


def jpeg(width: int, height: int) -> bytes:
    """The head of a JPEG."""
    # An application segment first, fill bytes before the frame: both are common and both need skipping.
    return b"\xff\xd8\xff\xe0\x00\x10" + bytes(14) + b"\xff\xff\xc2\x00\x11\x08" + struct.pack(">HH", height, width) + bytes(8)


PICTURE = png(800, 600)
SOUND = base64.b64encode(b"ID3" + bytes(40)).decode()
GOOD: dict[str, dict[str, Any]] = {
    T2V: {"prompt": "a fox"},
    I2V: {"prompt": "a fox", "image": PICTURE},
    EXTEND: {"video_id": "867283741759111202"},
    LIPS: {"input": {"video_id": "1", "mode": "text2video", "text": "hello", "voice_id": "uk_man2", "voice_language": "en"}},
    IMAGE: {"prompt": "a fox"},
    TRY_ON: {"human_image": PICTURE, "cloth_image": "https://files.example/shirt.png"},
}
V3 = {"model_name": "kling-v3"}
SHOTS = [{"index": 1, "prompt": "one", "duration": "2"}, {"index": 2, "prompt": "two", "duration": "3"}]
SHOOT = {**V3, "multi_shot": True, "shot_type": "customize", "multi_prompt": SHOTS}
CAMERA = {"type": "simple", "config": {"zoom": 3}}
MASK = [{"mask": PICTURE, "trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}]


@pytest.mark.parametrize("route", GOOD)
def test_smallest_bodies_pass(route: str) -> None:
    """What the documentation requires is all that is required."""
    assert isinstance(vet(route, GOOD[route]), Vetted)


@pytest.mark.parametrize(
    ("route", "more"),
    [
        (T2V, {"prompt": "x" * 2500, "cfg_scale": 0, "mode": "pro", "duration": "10", "aspect_ratio": "9:16", "sound": "off"}),
        (T2V, {**V3, "duration": "3", "sound": "on", "mode": "4k"}),
        (T2V, {**SHOOT, "prompt": None}),
        (T2V, {"model_name": "kling-v1", "camera_control": CAMERA}),
        (T2V, {"camera_control": {"type": "down_back", "config": None}}),
        (T2V, {"multi_shot": False, "negative_prompt": None, "model_name": None}),
        (T2V, {"callback_url": "http://127.0.0.1:1/x", "external_task_id": "mine", "watermark_info": {"enabled": True}}),
        (I2V, {"image": None, "image_tail": PICTURE}),
        (I2V, {"model_name": "kling-v1-5", "dynamic_masks": MASK, "static_mask": png(10, 10)}),
        (I2V, {**V3, "element_list": [{"element_id": 867283741759111202}, {"element_id": "867283741759111203"}]}),
        (I2V, {"model_name": "kling-v2-6", "voice_list": [{"voice_id": "v"}], "sound": "on", "mode": "pro"}),
        (IMAGE, {"image": PICTURE, "image_reference": "face", "model_name": "kling-v1-5", "n": 9, "human_fidelity": 1}),
        (LIPS, {"input": {"video_url": "https://files.example/a.mp4", "mode": "audio2video", "audio_type": "file", "audio_file": SOUND}}),
        (EXTEND, {"task_id": "1", "prompt": "", "cfg_scale": 1}),
    ],
)
def test_documented_bodies_pass(route: str, more: dict[str, Any]) -> None:
    """Every documented field is taken in its documented form; null and empty count as left out."""
    assert vet(route, {**GOOD[route], **more}).undocumented == ()


@pytest.mark.parametrize(
    ("route", "more", "field"),
    [
        (T2V, {"prompt": ""}, "prompt"),
        (T2V, {"prompt": "  "}, "prompt"),
        (T2V, {"prompt": 5}, "prompt"),
        (T2V, {"prompt": "x" * 2501}, "prompt"),
        (T2V, {"duration": 5}, "duration"),
        (T2V, {"duration": "7"}, "duration"),
        (T2V, {**V3, "duration": "16"}, "duration"),
        (T2V, {**V3, "duration": "9" * 5000}, "duration"),
        (T2V, {"cfg_scale": 1.1}, "cfg_scale"),
        (T2V, {"cfg_scale": True}, "cfg_scale"),
        (T2V, {"cfg_scale": "0.5"}, "cfg_scale"),
        (T2V, {"cfg_scale": 10**400}, "cfg_scale"),
        (T2V, {"mode": "ultra"}, "mode"),
        (T2V, {"aspect_ratio": "4:3"}, "aspect_ratio"),
        (T2V, {"sound": True}, "sound"),
        (T2V, {"sound": "on"}, "sound"),
        (T2V, {"multi_shot": True}, "multi_shot"),
        (T2V, {**V3, "multi_shot": "true"}, "multi_shot"),
        (T2V, {**V3, "multi_shot": True}, "shot_type"),
        (T2V, {**V3, "multi_shot": True, "shot_type": "customize"}, "multi_prompt"),
        (T2V, {**SHOOT, "duration": "6"}, "multi_prompt"),
        (T2V, {**SHOOT, "multi_prompt": [*SHOTS] * 4}, "multi_prompt"),
        (T2V, {**SHOOT, "multi_prompt": [{"prompt": "one", "duration": "5"}]}, "multi_prompt[0].index"),
        (T2V, {**V3, "multi_shot": True, "shot_type": "intelligence", "prompt": ""}, "prompt"),
        (T2V, {"camera_control": {"type": "simple"}}, "camera_control.config"),
        (T2V, {"camera_control": {"type": "simple", "config": {"zoom": 1, "pan": 1}}}, "camera_control.config"),
        (T2V, {"camera_control": {"type": "simple", "config": {"zoom": 11}}}, "camera_control.config.zoom"),
        (T2V, {"camera_control": {"type": "forward_up", "config": {"zoom": 1}}}, "camera_control.config"),
        (T2V, {"model_name": "kling-v2-6", "camera_control": CAMERA}, "camera_control"),
        (T2V, {"callback_url": "ftp://x"}, "callback_url"),
        (T2V, {"callback_url": "http://["}, "callback_url"),
        (T2V, {"watermark_info": True}, "watermark_info"),
        (I2V, {"image": ""}, "image"),
        (I2V, {"image": "not base64"}, "image"),
        (I2V, {"image": "data:image/png;base64," + PICTURE}, "image"),
        (I2V, {"image": PICTURE[:40] + "\n" + PICTURE[40:]}, "image"),
        (I2V, {"image": base64.b64encode(b"GIF89a" + bytes(40)).decode()}, "image"),
        (I2V, {"image_tail": PICTURE, "camera_control": CAMERA}, "image_tail"),
        (I2V, {"image_tail": PICTURE, "dynamic_masks": MASK}, "image_tail"),
        (I2V, {"static_mask": PICTURE, "camera_control": CAMERA}, "static_mask"),
        (I2V, {**SHOOT, "image_tail": PICTURE}, "image_tail"),
        (I2V, {"dynamic_masks": [{"mask": PICTURE, "trajectories": [{"x": 1, "y": 2}]}]}, "dynamic_masks[0].trajectories"),
        (I2V, {**V3, "element_list": [{"element_id": 1}] * 4}, "element_list"),
        (I2V, {**V3, "element_list": [1]}, "element_list[0]"),
        (I2V, {**V3, "element_list": [{"element_id": 1.5}]}, "element_list[0].element_id"),
        (I2V, {"model_name": "kling-v2-6", "voice_list": [{"voice_id": "v"}]}, "voice_list"),
        (EXTEND, {"video_id": None}, "video_id"),
        (EXTEND, {"video_id": 867283741759111202}, "video_id"),
        (LIPS, {"input": None}, "input"),
        (LIPS, {"input": {**GOOD[LIPS]["input"], "video_url": "https://files.example/a.mp4"}}, "input.video_id"),
        (LIPS, {"input": {**GOOD[LIPS]["input"], "text": None}}, "input.text"),
        (LIPS, {"input": {**GOOD[LIPS]["input"], "text": "x" * 121}}, "input.text"),
        (LIPS, {"input": {**GOOD[LIPS]["input"], "voice_language": None}}, "input.voice_language"),
        (LIPS, {"input": {**GOOD[LIPS]["input"], "voice_language": "fr"}}, "input.voice_language"),
        (LIPS, {"input": {**GOOD[LIPS]["input"], "voice_speed": 2.1}}, "input.voice_speed"),
        (LIPS, {"input": {"video_id": "1", "mode": "audio2video"}}, "input.audio_type"),
        (LIPS, {"input": {"video_id": "1", "mode": "audio2video", "audio_type": "url", "audio_file": SOUND}}, "input.audio_url"),
        (LIPS, {"input": {"video_id": "1", "mode": "audio2video", "audio_type": "file", "audio_file": PICTURE}}, "input.audio_file"),
        (IMAGE, {"n": 10}, "n"),
        (IMAGE, {"n": "2"}, "n"),
        (IMAGE, {"image": PICTURE, "negative_prompt": "fog"}, "negative_prompt"),
        (IMAGE, {"model_name": "kling-v1-5", "image": PICTURE}, "image_reference"),
        (IMAGE, {"model_name": "kling-v1-5", "image_reference": "face"}, "image"),
        (IMAGE, {"model_name": "kling-v2-new"}, "image"),
        (IMAGE, {**V3, "image": PICTURE, "element_list": [{"element_id": 1}] * 10}, "element_list"),
        (TRY_ON, {"cloth_image": None}, "cloth_image"),
    ],
)
def test_wrong_bodies_are_refused(route: str, more: dict[str, Any], field: str) -> None:
    """What breaks a documented rule is refused with 1201, and the message names the field."""
    with pytest.raises(Refused) as caught:
        vet(route, {**GOOD[route], **more})
    assert caught.value.refusal.code == 1201
    assert caught.value.refusal.http == 400
    assert caught.value.refusal.message.partition(":")[0] == field


@pytest.mark.parametrize(("name", "code"), [("kling-v9", 1203), ("kling-v3-0", 1203), ("kling-v1-5", 1201), (3, 1201)])
def test_models(name: object, code: int) -> None:
    """A model nobody has is 1203; one that others have but this endpoint does not is 1201."""
    with pytest.raises(Refused) as caught:
        vet(T2V, {"prompt": "a fox", "model_name": name})
    assert caught.value.refusal.code == code
    assert caught.value.refusal.http == {1203: 404, 1201: 400}[code]


@pytest.mark.parametrize(
    ("route", "field", "picture", "flaw"),
    [
        (I2V, "image", png(299, 400), "Image pixel is invalid"),
        (I2V, "image", png(1000, 300), "The resolution or aspect ratio of the input image is invalid"),
        (I2V, "image", base64.b64encode(b"\x89PNG\r\n\x1a\n").decode(), "Image pixel is invalid"),
        (TRY_ON, "human_image", png(1000, 300), ""),
        (I2V, "image", png(750, 300), ""),
    ],
)
def test_picture_that_parses_but_is_no_good(route: str, field: str, picture: str, flaw: str) -> None:
    """Size and proportions do not refuse the request: they fail the task (`api.md` 2.5); try-on has no rule of proportions."""
    assert vet(route, {**GOOD[route], field: picture}).flaw == flaw


def test_picture_too_large() -> None:
    """Ten megabytes pass, one byte more does not."""
    vet(I2V, {**GOOD[I2V], "image": png(800, 600, size=10 << 20)})
    with pytest.raises(Refused, match="at most 10485760 bytes"):
        vet(I2V, {**GOOD[I2V], "image": png(800, 600, size=(10 << 20) + 1)})


def test_sizes_are_read_from_headers() -> None:
    """PNG and JPEG tell their size in the first bytes; anything else tells none."""
    assert _pictures.size(base64.b64decode(png(640, 480))) == (640, 480)
    assert _pictures.size(jpeg(640, 480)) == (640, 480)
    assert _pictures.size(jpeg(640, 480)[:20]) is None
    assert _pictures.size(b"RIFF") is None


def test_undocumented_fields_are_told_not_refused() -> None:
    """The service ignores what it does not know, and so does the emulator, but it says so."""
    body = {"prompt": "a fox", "seed": 1, "watermark_info": {"enabled": True, "text": "x"}, "model": "kling-v3"}
    assert vet(T2V, body).undocumented == ("model", "seed", "watermark_info.text")


def test_a_route_without_facts_takes_anything() -> None:
    """An endpoint newer than the facts is served unchecked."""
    assert vet("videos/brand-new", {"n": "x"}) == Vetted()


def test_every_code_has_a_status() -> None:
    """Each documented code comes with an HTTP status and words."""
    assert len(CODES) == 21
    assert all(row["http"] >= 400 and row["message"] for row in CODES.values())
