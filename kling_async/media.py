"""A picture or a sound as URL, bytes or file: told apart and checked by its first bytes, held as it was given."""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager
from typing import BinaryIO, Final, TypeAlias
from urllib.parse import urlsplit

from attrs import field, frozen

__all__ = [
    "FREE_PICTURE",
    "MASK",
    "PICTURE",
    "SOUND",
    "Blob",
    "File",
    "Link",
    "Media",
    "MediaLike",
    "Need",
    "accept",
    "extension_of",
    "opened",
    "sniff",
    "url_fault",
    "without_query",
]

_HEAD: Final = 64
"""Bytes that tell the type of a file."""
_LONGEST_PATH: Final = 4096
_LONGEST_URL: Final = 2048
_SHORTEST_BASE64: Final = 64
"""Decoded bytes; below it a text such as `//nas/clips` could pass for the first bytes of an MP3."""
_MOST_SEGMENTS: Final = 4096
_GULP: Final = 2**20
"""Bytes asked of an open file at a time."""
_UNBLOCKED: Final = getattr(os, "O_NONBLOCK", 0)
_MOST_PIXELS: Final = 2**28
"""Ours, not the service's: a picture of 10 MB with more pixels is a decompression bomb."""

_MAGIC: Final = tuple(
    (media_type, extension, re.compile(pattern, re.DOTALL))
    for media_type, extension, pattern in (
        ("image/png", ".png", rb"\x89PNG\r\n\x1a\n"),
        ("image/jpeg", ".jpg", rb"\xff\xd8\xff"),
        ("image/gif", ".gif", rb"GIF8[79]a"),
        ("image/webp", ".webp", rb"RIFF....WEBP"),
        ("image/bmp", ".bmp", rb"BM....\0\0\0\0"),
        ("image/heif", ".heif", rb"....ftyp(?:hei[cxs]|hevc|mif1|msf1|avi[fs])"),
        ("audio/wav", ".wav", rb"RIFF....WAVE"),
        ("audio/mp4", ".m4a", rb"....ftypM4[AB] "),
        ("video/quicktime", ".mov", rb"....ftypqt  "),
        ("video/mp4", ".mp4", rb"....ftyp"),
        ("audio/mpeg", ".mp3", rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb][^\xf0-\xff]"),
        ("audio/aac", ".aac", rb"\xff[\xf0\xf1\xf8\xf9]"),
    )
)


def without_query(url: str | None) -> str:
    """How a URL is shown: its query may hold a signature."""
    return repr(url and url.partition("?")[0])


def _summary(data: bytes) -> str:
    return f"<{sniff(data) or 'unknown type'}, {len(data)} bytes>"


@frozen
class Link:
    """Media that the service fetches itself. The query, which may hold a signature, stays out of the repr."""

    url: str = field(repr=without_query)


@frozen
class Blob:
    """Media in memory: the very bytes that were given, not a copy. The repr tells type and size."""

    data: bytes = field(repr=_summary)


@frozen(kw_only=True)
class File:
    """Media in a regular file: looked at when the job is made, opened and read when it is sent."""

    path: str
    size: int
    """Bytes, as checked; a file that has another size by the time it is read is refused."""


Media: TypeAlias = Link | Blob | File
MediaLike: TypeAlias = str | bytes | os.PathLike[str] | BinaryIO | Media
"""What a media field takes: a URL, a path, base64 or a `data:` URI as text, bytes, or a file open for reading bytes."""


@frozen(kw_only=True)
class Need:
    """What a media field asks of its value (`api.md` 2.5)."""

    noun: str
    types: tuple[str, ...]
    limit: int
    """Bytes, before base64."""
    least_side: int = 0
    """Pixels; 0 means that the dimensions are not looked at."""
    ratio: float = math.inf
    """The longer side divided by the shorter one, at most."""


PICTURE: Final = Need(noun="a JPEG or PNG picture", types=("image/jpeg", "image/png"), limit=10 * 2**20, least_side=300, ratio=2.5)
FREE_PICTURE: Final = Need(noun=PICTURE.noun, types=PICTURE.types, limit=PICTURE.limit, least_side=PICTURE.least_side)
MASK: Final = Need(noun=PICTURE.noun, types=PICTURE.types, limit=PICTURE.limit)
SOUND: Final = Need(
    noun="an MP3, WAV, M4A or AAC sound",
    # Many recorders write M4A under the general brands of MP4.
    types=("audio/mpeg", "audio/wav", "audio/mp4", "audio/aac", "video/mp4"),
    limit=5 * 2**20,
)


def sniff(head: bytes) -> str | None:
    """The media type that the first bytes tell, such as `image/png`; `None` for anything else."""
    return next((media_type for media_type, _, magic in _MAGIC if magic.match(head)), None)


def extension_of(head: bytes) -> str:
    """The ending of a file with these first bytes, such as `.mp4`; `.bin` for anything unknown."""
    return next((extension for _, extension, magic in _MAGIC if magic.match(head)), ".bin")


def url_fault(url: object) -> str | None:
    """What is wrong with `url` as a web address that the service is to open; `None` when nothing is."""
    if not isinstance(url, str):
        return f"must be a URL as text, not {type(url).__name__}"
    if len(url) > _LONGEST_URL:
        return f"is a URL of {len(url)} characters, {_LONGEST_URL} are allowed"
    if not url.isprintable() or " " in url or "\\" in url:
        return "must be a URL without spaces, backslashes and control characters: percent-encode them"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "must be a URL: its host or port cannot be read"
    if parts.scheme.lower() not in {"http", "https"} or not host or port == 0:
        return "must be an absolute http or https URL"
    if "@" in parts.netloc:
        return "must be a URL without user name and password"
    return "must be a URL without a fragment" if "#" in url else None


def accept(value: MediaLike, need: Need) -> Media:
    """Tell what `value` is and check it as far as its first bytes and its size allow; nothing is fetched.

    A path is only looked at, and only when it is a regular file. An open file is read now, from where it stands to its
    end, and is the caller's to close; it may be anything with `read`, but no pipe, socket or device, which could block.

    Raises:
        ValueError: it is no such media; says why.
    """
    if isinstance(value, Blob):
        return _blob(value.data, need)
    if isinstance(value, bytes | bytearray | memoryview):
        return _blob(bytes(value), need)
    if isinstance(value, Link):
        return _link(value.url)
    if isinstance(value, str):
        return _from_text(value, need)
    if isinstance(value, File):
        return _file(value.path, need)
    if isinstance(value, os.PathLike):
        return _file(os.fsdecode(value), need)
    if callable(getattr(value, "read", None)):
        return _blob(_read(value, need.limit), need)
    raise ValueError(f"must be {need.noun} as URL, bytes, path or open binary file, not {type(value).__name__}")


def _link(url: str) -> Link:
    if fault := url_fault(url):
        raise ValueError(fault)
    return Link(url)


def _from_text(text: str, need: Need) -> Media:
    if re.match(r"https?://", text, re.IGNORECASE):
        return _link(text)
    if text[:5].lower() == "data:":
        header, comma, payload = text.partition(",")
        data = _decoded(payload, need) if comma and header.lower().endswith(";base64") else None
        if data is None:
            raise ValueError("is a data: URI without readable base64")
        return _blob(data, need)
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        raise ValueError("must be an http or https URL; give a local file as its path")
    data = _decoded(text, need)
    if data is not None and len(data) >= _SHORTEST_BASE64 and sniff(data):
        return _blob(data, need)
    if len(text) > _LONGEST_PATH:
        raise ValueError("is neither a URL, nor a path, nor base64 of a known media type")
    return _file(text, need)


def _decoded(text: str, need: Need) -> bytes | None:
    if len(text) > 2 * need.limit + _LONGEST_PATH:
        raise ValueError(f"is more than {need.limit} bytes, the most that the service takes")
    bare = "".join(text.split()).rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _blob(data: bytes, need: Need) -> Blob:
    _check_size(len(data), need)
    _check_content(io.BytesIO(data), need)
    return Blob(data)


def _file(path: str, need: Need) -> File:
    with opened(path) as reader:
        size = os.fstat(reader.fileno()).st_size
        _check_size(size, need)
        _check_content(reader, need)
    return File(path=os.path.abspath(path), size=size)  # noqa: PTH100  the job may be sent from another working directory


@contextmanager
def opened(path: str) -> Generator[BinaryIO]:
    """A regular file to read, looked at before it is opened: opening a FIFO would block, opening a device may act.

    Raises:
        ValueError: it is no regular file, or cannot be read, here or in the `with` block; names it.
    """
    try:
        # Looked at by its path first, and again once it is open, as the path may lead elsewhere by then.
        _require_regular(os.stat(path), path)  # noqa: PTH116  also for texts that pathlib would mend
        with open(path, "rb", opener=_open_unblocked) as reader:
            _require_regular(os.fstat(reader.fileno()), path)
            yield reader
    except OSError as error:
        raise ValueError(f"{_shown(path)} cannot be read as a file: {error.strerror or error}") from error


def _open_unblocked(path: str, flags: int) -> int:
    return os.open(path, flags | _UNBLOCKED)


def _require_regular(facts: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError(f"{_shown(path)} is not a regular file")


def _shown(path: str) -> str:
    return repr(path[:200])


def _read(reader: BinaryIO, limit: int) -> bytes:
    """All that is left in `reader`, but at most one byte more than `limit`."""
    if _may_block(reader):
        raise ValueError("is an open pipe, socket or device: read its bytes yourself, and give those")
    data = io.BytesIO()  # which gives its bytes away without a copy
    try:
        while data.tell() <= limit and (chunk := reader.read(min(_GULP, limit + 1 - data.tell()))):
            data.write(chunk)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    except TypeError:
        raise ValueError("must be a file opened for reading bytes (mode 'rb')") from None
    return data.getvalue()


def _may_block(reader: BinaryIO) -> bool:
    try:
        return not stat.S_ISREG(os.fstat(reader.fileno()).st_mode)
    except (AttributeError, OSError, TypeError, ValueError):
        return False  # nothing of the operating system's, or closed, which reading will tell


def _check_size(size: int, need: Need) -> None:
    if not size:
        raise ValueError("is empty")
    if size > need.limit:
        raise ValueError(f"is more than {need.limit} bytes, the most that the service takes")


def _check_content(reader: BinaryIO, need: Need) -> None:
    head = reader.read(_HEAD)
    found = sniff(head)
    if found not in need.types:
        raise ValueError(f"must be {need.noun}, this is {found or 'no known media type'}")
    if not need.least_side:
        return
    width, height = _png_size(head) if found == "image/png" else _jpeg_size(reader)
    shorter, longer = sorted((width, height))
    if not shorter:
        raise ValueError("is a picture whose header is damaged or cut off")
    if shorter < need.least_side:
        raise ValueError(f"is {width} x {height} pixels, each side must have at least {need.least_side}")
    if longer > need.ratio * shorter:
        raise ValueError(f"is {width} x {height} pixels, the longer side may be {need.ratio} times the shorter one")
    if width * height > _MOST_PIXELS:
        raise ValueError(f"claims {width} x {height} pixels, more than any real picture of this size has")


def _png_size(head: bytes) -> tuple[int, int]:
    return (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) if head[12:16] == b"IHDR" else (0, 0)


def _jpeg_size(reader: BinaryIO) -> tuple[int, int]:
    """Width and height from the frame header, stepping over every other segment; zeros when there is none."""
    reader.seek(2)
    for _ in range(_MOST_SEGMENTS):
        marker = reader.read(2)
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in {0xD9, 0xDA}:  # noqa: PLR2004  end, or pixels begin
            break
        if marker[1] == 0xFF:  # noqa: PLR2004  a fill byte
            reader.seek(-1, io.SEEK_CUR)
        elif 0xC0 <= marker[1] <= 0xCF and marker[1] not in {0xC4, 0xC8, 0xCC}:  # noqa: PLR2004  a frame header
            frame = reader.read(7).ljust(7, b"\0")
            return int.from_bytes(frame[5:7], "big"), int.from_bytes(frame[3:5], "big")
        elif marker[1] != 0x01 and not 0xD0 <= marker[1] <= 0xD8:  # noqa: PLR2004  these stand alone
            reader.seek(max(int.from_bytes(reader.read(2), "big") - 2, 0), io.SEEK_CUR)
    return 0, 0
