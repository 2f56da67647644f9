"""What makes a file believed to be whole, and to be the one that is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from kling_async._containers import Expected, Inspector
from kling_async.errors import DownloadError
from kling_async.files._part import Part
from kling_async.files._pull import Pull
from kling_async.observers import Saved

__all__ = ["AsyncWriter", "check_found", "verify"]


class AsyncWriter(Protocol):
    """Anything with an asynchronous `write`, such as a file of `anyio` or the body of an upload."""

    async def write(self, data: bytes, /) -> Any:
        """Take all of `data`."""


async def check_found(path: Path, part: Part, expected: Expected) -> Saved | None:
    """Look whether the file that is there is the one that is wanted; what it is, when that can be told to be all of it.

    Raises:
        DownloadError: it is another; it is left as it is.
    """
    seen = await part.inspect(path)
    if fault := expected.fault(seen.size, seen.sha256):
        error = DownloadError(f"{path} is there already, and {fault}; it was left as it is", url=part.url, ref=part.ref)
        error.retryable = False
        raise error
    how = "sha256" if expected.sha256 else "container" if seen.is_whole() else ""
    return Saved(path=path, size=seen.size, sha256=seen.sha256, verified=how, ref=part.ref) if how else None


async def verify(pull: Pull, seen: Inspector, whole: bool | None, expected: Expected) -> str:  # noqa: FBT001  a verdict handed on
    """What says that the file is whole; empty when it is to be pulled further."""
    if not seen.size:
        await pull.doubt("the file host sent an empty file", final=pull.ending == "length")
        return ""
    if expected.sha256 == seen.sha256:
        how = "sha256"
    elif pull.ending == "length":
        how = "length"
    elif whole or (whole is None and pull.ending == "chunked"):
        how = "container" if whole else "chunked"
    else:
        unknown = "nothing says whether the file is whole: it came without a length, and its type does not tell"
        why = "the file is cut off" if whole is False else unknown
        await pull.doubt(why, final=whole is None and not pull.held.validator)
        return ""
    if fault := expected.fault(seen.size, seen.sha256):
        raise pull.error(fault, final=True)
    return how
