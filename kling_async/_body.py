"""What a paid request carries: JSON with media in its gaps. Its length is known before a byte of it is encoded."""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from attrs import Factory, field, frozen

from kling_async.errors import InvalidJobError
from kling_async.media import Blob, File, opened

__all__ = ["STEP", "Body", "Part", "seal"]

STEP: Final = 48 * 1024
"""Bytes of media that are read and encoded at a time: few, as the event loop stands still for them.

Divisible by three, so that only the last step can have padding."""

_pause: Final[Callable[[], None]] = getattr(os, "sched_yield", lambda: None)
"""Lets the event loop have the core, where it is the same one: else it may wait for milliseconds until a thread's slice is over."""

_Stamp: TypeAlias = tuple[int, int, int, int]
"""Device, inode, size, and time of the last change in nanoseconds."""


@frozen(kw_only=True)
class Part:
    """Media as they were read for one creation. A file that is no longer the same is not sent."""

    name: str
    """The field it stands in, such as `dynamic_masks[0].mask`."""
    media: Blob | File
    digest: str
    """SHA-256 of its base64, in hexadecimal."""
    stamp: _Stamp | None
    """What the file system said of the file; `None` for bytes."""

    @property
    def size(self) -> int:
        """Bytes of base64."""
        return -(-_length(self.media) // 3) * 4

    def steps(self) -> Iterator[bytes]:
        """Raw base64, without the `data:` prefix that the service refuses. A file is read as it goes: use it off the event loop.

        The last step of a file comes only when all of it was what `seal` had read: nobody gets a whole picture of two halves.

        Raises:
            InvalidJobError: the file has changed meanwhile, or cannot be read.
        """
        steps = _encoded(self.media, self.stamp, self.name)
        if isinstance(self.media, Blob):
            yield from steps
            return
        digest, held = hashlib.sha256(), b""
        for step in steps:
            digest.update(step)
            if held:
                yield held
            held = step
        if digest.hexdigest() != self.digest:
            raise _changed(self.media, self.name)
        yield held


def _size(body: Body) -> int:
    return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in body.pieces)


def _is_on_disk(body: Body) -> bool:
    return any(isinstance(piece, Part) and isinstance(piece.media, File) for piece in body.pieces)


@frozen
class Body:
    """A body of exactly known length, which can be sent any number of times and is the same each time."""

    pieces: tuple[bytes | Part, ...] = field(repr=False)
    size: int = field(init=False, repr=False, default=Factory(_size, takes_self=True))
    """Bytes, as they are sent."""
    on_disk: bool = field(init=False, repr=False, default=Factory(_is_on_disk, takes_self=True))
    """Whether files are part of it: `verify` and `steps` belong into a worker thread then."""

    def verify(self) -> None:
        """Look at the files once more, before anything of them is sent.

        Raises:
            InvalidJobError: one has changed meanwhile, or cannot be read; names the field.
        """
        for piece in self.pieces:
            if isinstance(piece, Part) and isinstance(piece.media, File) and _section(piece.media, piece.name)[0] != piece.stamp:
                raise _changed(piece.media, piece.name)

    def steps(self) -> Iterator[bytes]:
        """The bytes, in pieces of at most 64 KiB, made one at a time.

        Raises:
            InvalidJobError: as `Part.steps`.
        """
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield from (piece[start : start + STEP] for start in range(0, len(piece), STEP))
            else:
                yield from piece.steps()


def seal(media: Blob | File, name: str) -> Part:
    """Read and hash media once, in steps; `name` is their field. Call it off the event loop.

    Raises:
        InvalidJobError: the file has gone or changed since the job was made; names the field.
    """
    stamp = _section(media, name)[0] if isinstance(media, File) else None
    digest = hashlib.sha256()
    for step in _encoded(media, stamp, name):
        digest.update(step)
        _pause()
    return Part(name=name, media=media, digest=digest.hexdigest(), stamp=stamp)


def _length(media: Blob | File) -> int:
    return media.size if isinstance(media, File) else len(media.data)


def _encoded(media: Blob | File, stamp: _Stamp | None, name: str) -> Iterator[bytes]:
    for start in range(0, _length(media), STEP):
        if isinstance(media, Blob):
            yield b64encode(media.data[start : start + STEP])
            continue
        # Opened anew for each step: nothing is left open wherever an upload ends.
        found, data = _section(media, name, start, STEP)
        if found != stamp:
            raise _changed(media, name)
        yield b64encode(data)


def _section(file: File, name: str, start: int = 0, size: int = 0) -> tuple[_Stamp, bytes]:
    """A piece of the file, and what the file system says of it once that has been read."""
    try:
        with opened(file.path) as reader:
            reader.seek(start)
            data = reader.read(size)
            facts = os.fstat(reader.fileno())
    except ValueError as error:
        raise InvalidJobError(name, str(error)) from error
    if facts.st_size != file.size:
        raise _changed(file, name)
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns), data


def _changed(file: File, name: str) -> InvalidJobError:
    return InvalidJobError(name, f"{file.path[:200]!r} has changed since the job was made: make the job again")
