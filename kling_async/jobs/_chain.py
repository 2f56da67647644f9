"""From the clip of one task to the fields of the next: its id, and the id of the task that made it."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from kling_async._fault import InvalidRefError
from kling_async.errors import InvalidJobError
from kling_async.models import ParentVideo, TaskRef, Video


class HasTaskId(Protocol):
    """A `TaskHandle`, a `TaskRef` or a `Snapshot`."""

    @property
    def task_id(self) -> str:
        """The task's id."""
        ...


TaskLike: TypeAlias = HasTaskId | str
"""The task that made a clip: its handle, reference or snapshot, or as text its reference or bare id."""


def video_id(video: Video | ParentVideo) -> str:
    """The id of a clip, which must have one.

    Raises:
        InvalidJobError: it has none, or is no clip.
    """
    if not isinstance(video, Video | ParentVideo):
        raise InvalidJobError("video_id", f"must come from one Video, such as videos[0], not from a {type(video).__name__}")
    if not video.id:
        raise InvalidJobError("video_id", "is not known: the service gave this clip no id")
    return video.id


def task_id(task: TaskLike | None) -> str | None:
    """The id of the task that made the clip, or not said.

    Raises:
        InvalidJobError: the text resembles a reference and is none.
    """
    if task is None:
        return None
    if not isinstance(task, str):
        return task.task_id
    try:
        return TaskRef.parse(task).task_id if "," in task else task
    except InvalidRefError as error:
        raise InvalidJobError("task_id", str(error)) from error
