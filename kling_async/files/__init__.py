"""Results out: saved atomically under names made here, gone on with after a break, checked before they count."""

from kling_async._links import Entry
from kling_async.files._checks import AsyncWriter
from kling_async.files._saver import MAX_SIZE, Files, Keep, Refresh

__all__ = ["MAX_SIZE", "AsyncWriter", "Entry", "Files", "Keep", "Refresh"]
