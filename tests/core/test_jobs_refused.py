"""Every rule of the endpoint tables, broken once."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from kling_async.errors import InvalidJobError
from kling_async.jobs import DynamicMask, GenerateImage, Image2Video, Job, LipSync, MultiShot, Text2Video, VideoExtend, VirtualTryOn

PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big") + bytes(60)
TINY = PICTURE.replace((640).to_bytes(4, "big"), (10).to_bytes(4, "big"))
WIDE = PICTURE.replace((640).to_bytes(4, "big"), (4800).to_bytes(4, "big"))
SOUND = b"ID3\4" + bytes(60)
URL = "https://cdn.example/a.png"
SHOT = MultiShot(prompt="a", duration=2)
SHOTS = {"multi_shot": True, "shot_type": "customize", "multi_prompt": [SHOT, MultiShot(prompt="b", duration="3")]}
SILENT = {"text": None, "voice_id": None, "voice_language": None}
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


def _build(cls: type[Job[Any]], **changes: Any) -> Job[Any]:
    return cls(**{**GOOD[cls], **changes})


OLD = ("kling-v1", "kling-v1-5", "kling-v1-6", "kling-v2-master", "kling-v2-1", "kling-v2-1-master", "kling-v2-5-turbo", "kling-v2-6")

REFUSED: list[tuple[type[Job[Any]], dict[str, Any], str]] = [
    # Text: type, length, blanks, what cannot be encoded.
    *((GenerateImage, {"prompt": bad}, "prompt") for bad in (None, 5, b"a fox", "", " \n", "x" * 2501, "\ud800", ["a"])),
    (Text2Video, {"prompt": None}, "prompt"),
    (Image2Video, {"prompt": None}, "prompt"),
    (Text2Video, {"negative_prompt": "x" * 2501}, "negative_prompt"),
    (VideoExtend, {"video_id": ""}, "video_id"),
    (VideoExtend, {"video_id": None}, "video_id"),
    (VideoExtend, {"video_id": 867283741759111202}, "video_id"),
    (VideoExtend, {"task_id": " "}, "task_id"),
    (VideoExtend, {"prompt": ""}, "prompt"),
    (LipSync, {"text": "x" * 121}, "text"),
    *((cls, {"model_name": bad}, "model_name") for cls in (Text2Video, GenerateImage, VirtualTryOn) for bad in ("", "\udfff", 3, b"x")),
    (Text2Video, {"mode": ""}, "mode"),
    (Text2Video, {"aspect_ratio": 1.5}, "aspect_ratio"),
    # Numbers.
    *((Text2Video, {"cfg_scale": bad}, "cfg_scale") for bad in (-0.1, 1.1, float("nan"), float("inf"), -0.0, 1e309, "0.5", True, 10**400)),
    *((GenerateImage, {"n": bad}, "n") for bad in (0, 10, 1.0, "1", True)),
    *((GenerateImage, {name: 1.01}, name) for name in ("image_fidelity", "human_fidelity")),
    *((LipSync, {"voice_speed": bad}, "voice_speed") for bad in (0.7, 2.1, 1.25)),
    *((Text2Video, {"duration": bad}, "duration") for bad in (2, 16, 5.5, "5s", "", float("nan"), float("inf"), True, b"5", [5], "\u0665")),
    (Text2Video, {"duration": 0, "model_name": "kling-v9"}, "duration"),
    (Text2Video, {"duration": -5, "model_name": "kling-v9"}, "duration"),
    *((Text2Video, {"duration": 6, "model_name": model}, "duration") for model in OLD),
    (Image2Video, {"duration": 16, "model_name": "kling-v3"}, "duration"),
    # Switches.
    *((Text2Video, {"sound": bad}, "sound") for bad in ("yes", 1, "ON", ["on"])),
    *((Text2Video, {"watermark_info": bad}, "watermark_info") for bad in ({"enabled": True}, 1, "true")),
    (Text2Video, {"multi_shot": "true"}, "multi_shot"),
    # What a known model does not take.
    *(
        (Text2Video, {"model_name": model, "sound": True}, "sound")
        for model in OLD
        if model not in {"kling-v1-5", "kling-v2-1", "kling-v2-6"}
    ),
    (Text2Video, {"model_name": "kling-v2-6", "sound": True}, "sound"),
    (Text2Video, {"model_name": "kling-v2-6", "sound": True, "mode": "std"}, "sound"),
    *((Text2Video, {"model_name": f"kling-v2-{which}", "cfg_scale": 0.0}, "cfg_scale") for which in ("master", "1-master", "5-turbo", "6")),
    (Text2Video, {**SHOTS, "model_name": "kling-v2-6"}, "multi_shot"),
    (Text2Video, {"model_name": "kling-v1-6", "camera_control": {"zoom": 1}}, "camera_control"),
    (Text2Video, {"model_name": "kling-v1", "mode": "pro", "camera_control": {"zoom": 1}}, "camera_control"),
    (Text2Video, {"duration": 10, "camera_control": {"zoom": 1}}, "camera_control"),
    (Image2Video, {"model_name": "kling-v1-5", "camera_control": {"zoom": 1}}, "camera_control"),
    (Image2Video, {"model_name": "kling-v1-5", "mode": "pro", "camera_control": {"type": "down_back"}}, "camera_control.type"),
    (Image2Video, {"model_name": "kling-v2-6", "element_list": [1]}, "element_list"),
    (Image2Video, {"model_name": "kling-v3", "voice_list": ["1"], "sound": True, "prompt": "<<<voice_1>>>"}, "voice_list"),
    (Image2Video, {"model_name": "kling-v3", "static_mask": URL}, "static_mask"),
    (Image2Video, {"model_name": "kling-v1-5", "dynamic_masks": [MASK]}, "dynamic_masks"),
    (Image2Video, {"model_name": "kling-v2-master", "image_tail": URL}, "image_tail"),
    (Image2Video, {"model_name": "kling-v2-5-turbo", "image_tail": URL}, "image_tail"),
    (Image2Video, {"model_name": "kling-v2-6", "image_tail": URL, "mode": "pro", "sound": True}, "image_tail"),
    (Image2Video, {"model_name": "kling-v1", "image_tail": URL, "duration": 10}, "image_tail"),
    (Image2Video, {"model_name": "kling-v3", "image": None, "image_tail": URL}, "image"),
    (GenerateImage, {"model_name": "kling-v1", "aspect_ratio": "21:9"}, "aspect_ratio"),
    (GenerateImage, {"model_name": "kling-v1-5", "resolution": "2k"}, "resolution"),
    (GenerateImage, {"model_name": "kling-v2", "image": URL, "resolution": "2k"}, "resolution"),
    (GenerateImage, {"model_name": "kling-v2-new"}, "image"),
    (GenerateImage, {"model_name": "kling-v1-5", "image": URL}, "image_reference"),
    (GenerateImage, {"model_name": "kling-v3", "image": URL, "image_reference": "face"}, "image_reference"),
    (GenerateImage, {"model_name": "kling-v1", "element_list": [1]}, "element_list"),
    # Fields against each other.
    (GenerateImage, {"image": URL, "negative_prompt": "x"}, "negative_prompt"),
    (GenerateImage, {"image_reference": "face"}, "image"),
    (GenerateImage, {"image": URL, "element_list": range(1, 11)}, "element_list"),
    (GenerateImage, {"element_list": range(1, 12)}, "element_list"),
    (Image2Video, {"image": None}, "image"),
    (Image2Video, {"image_tail": URL, "camera_control": {"zoom": 1}}, "camera_control"),
    (Image2Video, {"image_tail": URL, "static_mask": URL}, "static_mask"),
    (Image2Video, {"dynamic_masks": [MASK], "camera_control": {"zoom": 1}}, "camera_control"),
    (Image2Video, {"element_list": [1], "voice_list": ["1"]}, "voice_list"),
    (Image2Video, {"voice_list": ["1"], "prompt": "<<<voice_1>>>"}, "voice_list"),
    (Image2Video, {"voice_list": ["1"], "sound": True}, "voice_list"),
    (Image2Video, {"voice_list": ["1", "2", "3"], "sound": True, "prompt": "<<<voice_1>>>"}, "voice_list"),
    (Image2Video, {"voice_list": [1], "sound": True, "prompt": "<<<voice_1>>>"}, "voice_list"),
    (Image2Video, {"static_mask": URL, "duration": 10}, "static_mask"),
    (Image2Video, {"dynamic_masks": [MASK], "duration": 10}, "dynamic_masks"),
    (Image2Video, {"dynamic_masks": [MASK] * 7}, "dynamic_masks"),
    *(
        (Image2Video, {"element_list": bad}, "element_list")
        for bad in ([1, 2, 3, 4], "123", [0], [-1], [2**63], ["x"], [True], [1.0], 5, {"a": 1})
    ),
    # Shots.
    (Text2Video, {"multi_shot": True}, "shot_type"),
    (Text2Video, {"multi_shot": True, "shot_type": "customize"}, "multi_prompt"),
    (Text2Video, {"shot_type": "customize"}, "shot_type"),
    (Text2Video, {"multi_prompt": [SHOT]}, "multi_prompt"),
    (Text2Video, {**SHOTS, "duration": 6}, "multi_prompt"),
    (Text2Video, {**SHOTS, "multi_prompt": [SHOT]}, "multi_prompt"),
    (Text2Video, {**SHOTS, "multi_prompt": []}, "multi_prompt"),
    (Text2Video, {**SHOTS, "multi_prompt": [SHOT] * 7, "duration": 14}, "multi_prompt"),
    (Text2Video, {**SHOTS, "multi_prompt": "ab"}, "multi_prompt"),
    (Text2Video, {**SHOTS, "multi_prompt": [SHOT, "b"]}, "multi_prompt[1]"),
    (Text2Video, {**SHOTS, "multi_prompt": [{"prompt": "a"}]}, "multi_prompt[0]"),
    (Text2Video, {**SHOTS, "multi_prompt": [SHOT, {"prompt": "a", "duration": 0}]}, "multi_prompt[1].duration"),
    (Text2Video, {**SHOTS, "multi_prompt": [SHOT, {"prompt": "a", "duration": "x"}]}, "multi_prompt[1].duration"),
    (Text2Video, {**SHOTS, "multi_prompt": [{"prompt": "x" * 513, "duration": 5}]}, "multi_prompt[0].prompt"),
    (Image2Video, {**SHOTS, "image_tail": URL}, "image_tail"),
    # Camera and brush.
    (Text2Video, {"camera_control": 5}, "camera_control"),
    (Text2Video, {"camera_control": {"zoom": 1, "speed": 2}}, "camera_control"),
    *(
        (Text2Video, {"camera_control": bad}, "camera_control.config")
        for bad in ({}, {"zoom": 0}, {"zoom": 1, "pan": 1}, {"type": "down_back", "pan": 1})
    ),
    *((Text2Video, {"camera_control": {"zoom": bad}}, "camera_control.zoom") for bad in (10.1, -11, float("nan"), "1", True)),
    *(
        (Text2Video, {"camera_control": {axis: bad}}, f"camera_control.{axis}")
        for axis in ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")
        for bad in (-10.5, 10.5)
    ),
    (Text2Video, {"camera_control": {"type": None}}, "camera_control.type"),
    (Image2Video, {"dynamic_masks": [MASK, {"mask": b"x", "trajectories": [(0, 0), (1, 1)]}]}, "dynamic_masks[1].mask"),
    *(
        (Image2Video, {"dynamic_masks": [{"mask": PICTURE, "trajectories": bad}]}, "dynamic_masks[0].trajectories")
        for bad in ([(0, 0)], [(0, 0)] * 78, [(0, 0), (1, -1)], [(0, 0), (1, 1.5)], [(0, 0), (1, True)], [0, 1], None)
    ),
    # Media.
    *((Image2Video, {"image": bad}, "image") for bad in (b"", TINY, WIDE, SOUND, 5, "no/such.png", "ftp://a.example/b.png")),
    (Image2Video, {"image_tail": b"x"}, "image_tail"),
    (Image2Video, {"static_mask": b"x"}, "static_mask"),
    (GenerateImage, {"image": TINY}, "image"),
    (VirtualTryOn, {"human_image": TINY}, "human_image"),
    (VirtualTryOn, {"human_image": None}, "human_image"),
    (VirtualTryOn, {"cloth_image": None}, "cloth_image"),
    # Lip-sync.
    (LipSync, {"video_url": URL}, "video_id"),
    (LipSync, {"video_id": None}, "video_id"),
    (LipSync, SILENT, "mode"),
    (LipSync, {"audio_url": URL}, "mode"),
    (LipSync, {"mode": "text2video", "audio_url": URL}, "audio_type"),
    (LipSync, {"mode": "audio2video", "audio_url": URL}, "text"),
    (LipSync, {"voice_id": None}, "voice_id"),
    (LipSync, {"voice_language": None}, "voice_language"),
    (LipSync, {"text": "", "mode": "text2video"}, "text"),
    (LipSync, {**SILENT, "mode": "audio2video"}, "audio_type"),
    (LipSync, {**SILENT, "audio_type": "file"}, "audio_file"),
    (LipSync, {**SILENT, "audio_file": URL}, "audio_file"),
    (LipSync, {**SILENT, "audio_file": PICTURE}, "audio_file"),
    (LipSync, {**SILENT, "audio_file": SOUND, "audio_url": URL}, "audio_url"),
    (LipSync, {**SILENT, "audio_file": SOUND, "voice_speed": 1}, "voice_speed"),
    # What every endpoint has.
    *(
        (Text2Video, {"callback_url": bad}, "callback_url")
        for bad in ("", "me.example/hook", "https://u:p@me.example", "https://me.example/#a", b"x")
    ),
    *((LipSync, {"video_id": None, "video_url": bad}, "video_url") for bad in ("a.mp4", "file:///a.mp4")),
    *(
        (Text2Video, {"external_task_id": bad}, "external_task_id")
        for bad in ("", "a b", "a/b", "..", ".", "x" * 129, "\u00e9", "a\n", 5, "a%2Fb")
    ),
    *(
        (Text2Video, {"extra": bad}, "extra")
        for bad in (
            None,
            ["a"],
            "{}",
            {1: 2},
            {"a": float("nan")},
            {"a": b"x"},
            {"a": "\ud800"},
            {"a": {"b": {1}}},
            {"external_task_id": "x"},
        )
    ),
]


@pytest.mark.parametrize(("cls", "changes", "field"), REFUSED)
@pytest.mark.row("V1", "V3", "V4", "V6")
def test_what_breaks_a_rule_is_refused_by_name(cls: type[Job[Any]], changes: dict[str, Any], field: str) -> None:
    """A wrong job does not come into being; the error names the field to change and says a rule."""
    with pytest.raises(InvalidJobError) as caught:
        _build(cls, **changes)
    assert caught.value.field == field
    assert caught.value.rule
    assert len(str(caught.value)) < 400
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.row("V6")
def test_exclusive_fields_are_both_named() -> None:
    """Who combines what cannot go together is told all of it."""
    with pytest.raises(InvalidJobError, match=r"^camera_control: .*image_tail"):
        _build(Image2Video, image_tail=URL, camera_control={"zoom": 1})


@pytest.mark.parametrize(
    ("cls", "field", "longest"),
    [
        *((cls, name, 2500) for cls in (GenerateImage, Text2Video, Image2Video, VideoExtend) for name in ("prompt", "negative_prompt")),
        (LipSync, "text", 120),
    ],
)
@pytest.mark.row("V2")
def test_texts_have_their_documented_length(cls: type[Job[Any]], field: str, longest: int) -> None:
    """Just as long as the tables say is fine, one character more is refused, with both numbers."""
    _build(cls, **{field: "\U0001f98a" * longest})
    with pytest.raises(InvalidJobError, match=rf"^{field}: has {longest + 1} characters, {longest} are allowed$"):
        _build(cls, **{field: "\U0001f98a" * (longest + 1)})


def test_messages_say_what_would_be_right() -> None:
    """Whoever reads the error knows what to write instead."""
    for model, words in (("kling-v1", "5 or 10 seconds with kling-v1, not 6"), ("kling-v3", "from 3 to 15 seconds with kling-v3, not 16")):
        with pytest.raises(InvalidJobError, match=words):
            Text2Video(prompt="x", model_name=model, duration=6 if model == "kling-v1" else 16)
    with pytest.raises(InvalidJobError, match="must be a CameraControl or a mapping of its fields, not int"):
        _build(Text2Video, camera_control=5)
    with pytest.raises(InvalidJobError, match="sound: is not for kling-v1, only for kling-v2-6, kling-v3"):
        Text2Video(prompt="x", model_name="kling-v1", sound=True)
    with pytest.raises(InvalidJobError, match="sound: needs mode='pro' with kling-v2-6"):
        Text2Video(prompt="x", model_name="kling-v2-6", sound=True)
