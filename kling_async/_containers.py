"""Whether a picture, clip or sound is whole, told from its own structure as its bytes pass by; nothing is decoded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator
from typing import Any, Final, TypeAlias

from attrs import define, field, frozen

from kling_async.media import sniff

__all__ = ["Expected", "Inspector"]

_HEAD: Final = 64
"""Bytes that are enough to tell the type of a file."""
_TAIL: Final = 128

Steps: TypeAlias = Generator[int | None, bytes, bool | None]
"""Asks for `n` bytes, to skip `-n` bytes, or (`None`) for the last bytes of all; returns whether the file is whole, `None` when it
cannot tell. Gets fewer bytes than it asked for at the end of the file."""


def _boxes() -> Steps:
    # MP4, MOV, M4A, HEIF: boxes up to the end, among them the index and the media (ISO/IEC 14496-12, 4.2).
    seen: set[bytes] = set()
    last = b""
    while head := (yield 8):
        if len(head) < 8:  # noqa: PLR2004
            return False
        size, last, skip = int.from_bytes(head[:4], "big"), head[4:], 8
        if size == 0 or not re.fullmatch(rb"[ -~\xa9]{4}", last):
            return None  # "up to the end, wherever that is", or no box at all
        if size == 1:
            long = yield 8
            if len(long) < 8:  # noqa: PLR2004
                return False
            size, skip = int.from_bytes(long, "big"), 16
        if size < skip:
            return None
        seen.add(last)
        if size > skip:
            yield skip - size
    if b"moof" in seen:
        return True if last == b"mfra" else None  # whoever cuts between two fragments leaves no trace
    return b"mdat" in seen and not seen.isdisjoint({b"moov", b"meta"})


def _png() -> Steps:
    yield -8
    while len(head := (yield 8)) == 8:  # noqa: PLR2004
        yield -int.from_bytes(head[:4], "big") - 4
        if head[4:] == b"IEND":
            return True if not (yield 1) else None
    return False


def _riff() -> Steps:
    head = yield 8
    size = int.from_bytes(head[4:8], "little")
    if size in {0, 0xFFFFFFFF}:  # what a recorder writes that does not know yet
        return None
    yield -size
    rest = yield 2
    return True if len(rest) <= size % 2 else None


def _bmp() -> Steps:
    head = yield 6
    size = int.from_bytes(head[2:6], "little")
    if size <= len(head):
        return None
    yield len(head) - size
    return True if not (yield 1) else None


def _gif() -> Steps:
    head = yield 13
    if len(head) > 10 and head[10] & 0x80:  # noqa: PLR2004
        yield -3 * 2 ** (head[10] % 8 + 1)
    while block := (yield 1):
        if block == b"\x3b":
            return True if not (yield 1) else None
        if block == b"\x2c":
            image = yield 9
            if len(image) == 9 and image[8] & 0x80:  # noqa: PLR2004
                yield -3 * 2 ** (image[8] % 8 + 1)
        elif block != b"\x21":
            return None
        yield -1  # the kind of an extension, the code size of a picture
        while (length := (yield 1)) and length[0]:
            yield -length[0]
    return False


def _jpeg() -> Steps:
    yield -2
    while len(marker := (yield 2)) == 2 and marker[0] == 0xFF:  # noqa: PLR2004
        if marker[1] == 0xDA:  # noqa: PLR2004  pixels; the end marker cannot be among them
            tail = yield None
            return tail.endswith(b"\xff\xd9")
        if marker[1] != 0x01 and not 0xD0 <= marker[1] <= 0xD8:  # noqa: PLR2004  these stand alone
            size = int.from_bytes((yield 2), "big")
            if size > 2:  # noqa: PLR2004
                yield 2 - size
    return None if len(marker) == 2 else False  # noqa: PLR2004


def _mp3() -> Steps:
    # Frames have no end; what most encoders write into the first one has: the size of them all.
    head = yield 10
    if len(head) == 10 and head[:3] == b"ID3":  # noqa: PLR2004
        size = sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10])))
        yield -size - (10 if head[5] & 0x10 else 0)
        head = b""
    head += yield 256 - len(head)
    found = re.search(rb"(?:Xing|Info)\0\0\0([\x02\x03\x06\x07\x0a\x0b\x0e\x0f])(.{8})", head, re.DOTALL)
    if found is None:
        return None
    size = int.from_bytes(found[2][4:] if found[1][0] & 1 else found[2][:4], "big")
    if size <= len(head):
        return None
    yield len(head) - size
    rest = yield _TAIL + 1
    return True if not rest or (len(rest) == _TAIL and rest[:3] == b"TAG") else None


_WALKS: Final[dict[str | None, Callable[[], Steps]]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _riff,
    "image/bmp": _bmp,
    "image/heif": _boxes,
    "audio/wav": _riff,
    "audio/mp4": _boxes,
    "video/quicktime": _boxes,
    "video/mp4": _boxes,
    "audio/mpeg": _mp3,
}


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


@frozen(kw_only=True)
class Expected:
    """What a file must be; `None` is not checked."""

    size: int | None = None
    """Bytes."""
    sha256: str | None = field(default=None, converter=_lower)
    """Hex."""

    def fault(self, size: int, sha256: str) -> str:
        """How a file differs; empty when it does not."""
        if self.size is not None and size != self.size:
            return f"the file has {size} bytes and not the {self.size} expected"
        return "the file has another SHA-256 than expected" if self.sha256 not in {None, sha256} else ""


@define(eq=False)
class Inspector:
    """Looks at the bytes of a file in their order, however they come; keeps next to none of them."""

    size: int = field(default=0, init=False)
    head: bytes = field(default=b"", init=False)
    """The first bytes."""
    _tail: bytes = field(default=b"", init=False)
    _digest: Any = field(factory=hashlib.sha256, init=False)
    _steps: Steps | None = field(default=None, init=False)
    _wanted: int | None = field(default=None, init=False)
    _got: bytearray = field(factory=bytearray, init=False)
    _verdict: bool | None = field(default=None, init=False)

    @property
    def sha256(self) -> str:
        """Of what has been fed so far, as hex."""
        return str(self._digest.hexdigest())

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        self._digest.update(data)
        self.size += len(data)
        self._tail = (self._tail + bytes(data[-_TAIL:]))[-_TAIL:]
        if len(self.head) == _HEAD:
            self._walk(memoryview(data))
            return
        missing = _HEAD - len(self.head)
        self.head += bytes(data[:missing])
        if len(self.head) == _HEAD:
            self._begin()
            self._walk(memoryview(data)[missing:])

    def is_whole(self) -> bool | None:
        """Whether what was fed is a whole file: false when it is cut off, `None` when its type does not tell."""
        if len(self.head) < _HEAD:
            self._begin()
        while self._steps is not None:
            if self._wanted is not None and self._wanted < 0:
                return False
            self._step(self._tail if self._wanted is None else bytes(self._got))
            self._got.clear()
        return self._verdict

    def _begin(self) -> None:
        walk = _WALKS.get(sniff(self.head))
        if walk is not None:
            self._steps = walk()
            self._wanted = next(self._steps)
            self._walk(memoryview(self.head))

    def _walk(self, view: memoryview) -> None:
        while view and self._wanted is not None:
            if self._wanted < 0:
                skipped = min(-self._wanted, len(view))
                self._wanted += skipped
                view = view[skipped:]
                if not self._wanted:
                    self._step(b"")
            else:
                taken = view[: self._wanted - len(self._got)]
                self._got += taken
                view = view[len(taken) :]
                if len(self._got) == self._wanted:
                    got = bytes(self._got)
                    self._got.clear()
                    self._step(got)

    def _step(self, data: bytes) -> None:
        assert self._steps is not None  # noqa: S101  only a walk that goes on has steps
        try:
            self._wanted = self._steps.send(data)
        except StopIteration as stop:
            self._steps, self._wanted, self._verdict = None, None, stop.value
