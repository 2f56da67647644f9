"""What the files of a task will show: size, length and sound, from the request alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from kling_async.emulator._facts import LIMITS, MODELS
from kling_async.emulator._studio import Scene
from kling_async.emulator._tasks import Parent, spoken
from kling_async.emulator._validate import Vetted

_EDGE: Final = {"1k": 1024, "2k": 2048}
"""Side of a square picture in pixels; other ratios have about the same area."""
_GRID: Final = 16
EXTENSION_SECONDS: Final = 5.0
"""What one extension adds (`api.md` 3.5 says 4 to 5)."""


def scenes(route: str, body: Mapping[str, Any], vetted: Vetted, *, parent: Parent | None, before: Scene | None) -> tuple[Scene, ...]:
    """One scene per entry of the result. `before` is the parent clip's own scene, when it is known."""
    prompt = spoken(body)
    if route.startswith("images/"):
        width, height = _picture_size(route, body, vetted)
        return (Scene(kind="image", width=width, height=height, prompt=prompt, model=vetted.model),) * int(body.get("n") or 1)
    if parent:
        extends = route == "videos/video-extend"
        return (
            Scene(
                kind="video",
                width=before.width if before else 1280,
                height=before.height if before else 720,
                seconds=parent.seconds + (EXTENSION_SECONDS if extends else 0.0),
                prompt=prompt,
                model=before.model if before else vetted.model,
                sound=not extends or bool(before and before.sound),
            ),
        )
    width, height = _clip_size(body, vetted)
    seconds = float(body.get("duration") or 5)
    return (
        Scene(
            kind="video", width=width, height=height, seconds=seconds, prompt=prompt, model=vetted.model, sound=body.get("sound") == "on"
        ),
    )


def _ratio(body: Mapping[str, Any]) -> float:
    width, _, height = (body.get("aspect_ratio") or "16:9").partition(":")
    return int(width) / int(height)


def _proportion(picture: tuple[int, int]) -> float:
    low, high = map(float, LIMITS["picture_ratio"])
    return min(max(picture[0] / picture[1], low), high)


def _picture_size(route: str, body: Mapping[str, Any], vetted: Vetted) -> tuple[int, int]:
    # Restyling keeps the size of its input; trying on keeps the person's picture in shape.
    follows = vetted.picture and (route != "images/generations" or vetted.model in {"kling-v2", "kling-v2-new"})
    ratio = _proportion(vetted.picture) if vetted.picture and follows else _ratio(body)
    edge = _EDGE[body.get("resolution") or "1k"]
    return _snapped(edge * math.sqrt(ratio)), _snapped(edge / math.sqrt(ratio))


def _clip_size(body: Mapping[str, Any], vetted: Vetted) -> tuple[int, int]:
    # A clip made from a picture follows it (`api.md` 3.4); a picture behind a URL is not looked at.
    ratio = _proportion(vetted.picture) if vetted.picture else _ratio(body)
    lines = 1080 if (body.get("mode") or "std") in MODELS.get(vetted.model, {}).get("full_hd", ()) else 720
    return (_even(lines * ratio), lines) if ratio >= 1 else (lines, _even(lines / ratio))


def _even(pixels: float) -> int:
    return 2 * round(pixels / 2)


def _snapped(pixels: float) -> int:
    return max(_GRID, _GRID * round(pixels / _GRID))
