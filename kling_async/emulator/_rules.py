"""The rules between fields, one function per endpoint family: each returns the complaint, or nothing. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Body = Mapping[str, Any]
Rule = Callable[[Body, str], str | None]
"""Takes the body and the model in force."""


def is_given(value: object) -> bool:
    """Whether a value says anything: null and the empty string, list and object count as left out."""
    return value is not None and value not in ("", [], {})


def _given(body: Body, *names: str) -> list[str]:
    return [name for name in names if is_given(body.get(name))]


def _shots(body: Body, _model: str) -> str | None:
    if not body.get("multi_shot"):
        return None if str(body.get("prompt") or "").strip() else "prompt: is required"
    if not is_given(body.get("shot_type")):
        return "shot_type: is required when multi_shot is true"
    if body["shot_type"] != "customize":
        return None if str(body.get("prompt") or "").strip() else "prompt: is required unless shot_type is customize"
    shots = body.get("multi_prompt") or []
    if not shots:
        return "multi_prompt: is required when shot_type is customize"
    total, wanted = sum(int(shot["duration"]) for shot in shots), int(body.get("duration") or 5)
    return None if total == wanted else f"multi_prompt: durations sum to {total}, duration is {wanted}"


def _camera(body: Body, _model: str) -> str | None:
    control = body.get("camera_control")
    if not control:
        return None
    config = control.get("config")
    if control.get("type") != "simple":
        return "camera_control.config: must be absent unless type is simple" if is_given(config) else None
    moved = [axis for axis, value in (config or {}).items() if value]
    return None if len(moved) == 1 else f"camera_control.config: exactly one axis must not be 0, found {len(moved)}"


def _frames(body: Body, _model: str) -> str | None:
    if not _given(body, "image", "image_tail"):
        return "image: is required, or image_tail"
    ways = [
        way for way in (_given(body, "image_tail"), _given(body, "dynamic_masks", "static_mask"), _given(body, "camera_control")) if way
    ]
    if len(ways) > 1:
        return f"{ways[0][0]}: not supported together with {ways[1][0]}"
    if body.get("multi_shot") and len(_given(body, "image", "image_tail")) > 1:
        return "image_tail: not supported together with multi_shot"
    return None


def _voices(body: Body, _model: str) -> str | None:
    if not is_given(body.get("voice_list")):
        return None
    if is_given(body.get("element_list")):
        return "voice_list: not supported together with element_list"
    return None if body.get("sound") == "on" else "voice_list: needs sound on"


def _picture(body: Body, model: str) -> str | None:
    image, reference = is_given(body.get("image")), is_given(body.get("image_reference"))
    if image and is_given(body.get("negative_prompt")):
        return "negative_prompt: not supported together with image"
    if reference and not image:
        return "image: is required when image_reference is given"
    if model == "kling-v1-5" and image and not reference:
        return "image_reference: is required by kling-v1-5 when image is given"
    if model == "kling-v2-new" and not image:
        return "image: is required by kling-v2-new"
    count = image + len(body.get("element_list") or [])
    return f"element_list: image and elements may be 10 together, found {count}" if count > 10 else None  # noqa: PLR2004  the message says it


def _lips(body: Body, _model: str) -> str | None:
    given = body["input"]
    if len(_given(given, "video_id", "video_url")) != 1:
        return "input.video_id: exactly one of video_id and video_url is required"
    if given["mode"] == "text2video":
        missing = [name for name in ("text", "voice_id", "voice_language") if not is_given(given.get(name))]
    elif not is_given(given.get("audio_type")):
        missing = ["audio_type"]
    else:
        source = f"audio_{given['audio_type']}"
        missing = [] if is_given(given.get(source)) else [source]
    return f"input.{missing[0]}: is required when mode is {given['mode']}" if missing else None


RULES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "images/generations": (_picture,),
    "videos/text2video": (_shots, _camera),
    "videos/image2video": (_frames, _shots, _camera, _voices),
    "videos/lip-sync": (_lips,),
}
"""Per route, the rules of `api.md` section 3 that a single field's rule cannot say."""
