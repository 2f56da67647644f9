"""What you can ask for: `ALL_JOBS` is the table of contents."""

from __future__ import annotations

from typing import Any, Final

from kling_async.jobs._base import Job, Kind, Route
from kling_async.jobs._image import GenerateImage, VirtualTryOn
from kling_async.jobs._parts import CameraControl, DynamicMask, MultiShot
from kling_async.jobs._video import Image2Video, LipSync, Text2Video, VideoExtend

__all__ = [
    "ALL_JOBS",
    "CameraControl",
    "DynamicMask",
    "GenerateImage",
    "Image2Video",
    "Job",
    "Kind",
    "LipSync",
    "MultiShot",
    "Route",
    "Text2Video",
    "VideoExtend",
    "VirtualTryOn",
    "job_class",
]

ALL_JOBS: Final[tuple[type[Job[Any]], ...]] = (GenerateImage, Text2Video, Image2Video, VideoExtend, LipSync, VirtualTryOn)
"""Every endpoint, in the order of the API's own table of contents."""

_BY_ROUTE: Final = {str(job.route): job for job in ALL_JOBS}


def job_class(action: str, action2: str) -> type[Job[Any]] | None:
    """The class whose jobs are posted to that pair of path parts, if there is one."""
    return _BY_ROUTE.get(f"{action}/{action2}")
