"""What is known of the service's models (`api.md` 5), as data. It only ever refuses what is known not to work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

Text2VideoModel = Literal[
    "kling-v1",
    "kling-v1-6",
    "kling-v2-master",
    "kling-v2-1-master",
    "kling-v2-5-turbo",
    "kling-v2-6",
    "kling-v3",
]
Image2VideoModel = Literal[
    "kling-v1",
    "kling-v1-5",
    "kling-v1-6",
    "kling-v2-master",
    "kling-v2-1",
    "kling-v2-1-master",
    "kling-v2-5-turbo",
    "kling-v2-6",
    "kling-v3",
]
ImageModel = Literal["kling-v1", "kling-v1-5", "kling-v2", "kling-v2-new", "kling-v2-1", "kling-v3"]
TryOnModel = Literal["kolors-virtual-try-on-v1", "kolors-virtual-try-on-v1-5"]

Modes: TypeAlias = Mapping[str, tuple[str, ...]]
"""Which models take a field, and in which of the modes `std` and `pro`; no modes named means in any."""

CFG_SCALE: Final[Modes] = {"kling-v1": (), "kling-v1-5": (), "kling-v1-6": (), "kling-v3": ()}
SHOTS: Final[Modes] = {"kling-v3": ()}
ELEMENTS: Final[Modes] = {"kling-v3": ()}
VOICES: Final[Modes] = {"kling-v2-6": ()}
SOUND: Final[Modes] = {"kling-v2-6": ("pro",), "kling-v3": ()}
CAMERA: Final[Modes] = {"kling-v1": ("std",), "kling-v1-5": ("pro",)}
BRUSH: Final[Modes] = {"kling-v1": (), "kling-v1-5": ("pro",)}
END_FRAME: Final[Modes] = {
    "kling-v1": (),
    "kling-v1-5": ("pro",),
    "kling-v1-6": ("pro",),
    "kling-v2-1": ("pro",),
    "kling-v2-5-turbo": ("pro",),
    "kling-v2-6": ("pro",),
    "kling-v3": (),
}
END_FRAME_ALONE: Final = ("kling-v1-5", "kling-v1-6")
IMAGE_REFERENCE: Final[Modes] = {"kling-v1-5": ()}


def durations(model: str | None) -> range | tuple[int, ...] | None:
    """The clip lengths in seconds that `model` makes; `None` when it is not known (`api.md` 3.3)."""
    if model in {None, "kling-v3"}:
        return range(3, 16)
    return (5, 10) if model in get_args(Image2VideoModel) else None
