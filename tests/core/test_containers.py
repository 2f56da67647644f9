from __future__ import annotations

import io
import wave

import pytest

from file_hosts import clip
from kling_async._containers import Expected, Inspector


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + bytes(4)

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"IDAT", b"IEND" * 50) + chunk(b"IEND", b"")


def _wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(500))
    return file.getvalue()


def _segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(data) + 2).to_bytes(2, "big") + data


JPEG = b"\xff\xd8" + _segment(0xE1, b"thumb\xff\xd9" * 9) + _segment(0xDA, bytes(10)) + b"\x12" * 300 + b"\xff\xd9"
GIF = (
    b"GIF89a"
    + bytes(4)
    + b"\x80\0\0"
    + bytes(6)
    + b"\x21\xf9\x04"
    + b";" * 4
    + b"\0"
    + b"\x2c"
    + bytes(9)
    + b"\x02\x20"
    + b";" * 32
    + b"\0;"
)
RIFF = b"WEBPVP8 " + bytes(200)
MP3 = (
    b"ID3\x04\0\0\0\0\0\x0a"
    + bytes(10)
    + b"\xff\xfb\x90\0"
    + bytes(32)
    + b"Xing\0\0\0\x03"
    + bytes(4)
    + (600).to_bytes(4, "big")
    + bytes(548)
)
BMP = b"BM" + (300).to_bytes(4, "little") + bytes(294)
LONG = b"\0\0\0\x18ftypisom" + bytes(12) + b"\0\0\0\x01mdat" + (116).to_bytes(8, "big") + bytes(100) + b"\0\0\0\x10moov" + bytes(8)
FRAGMENTS = LONG[:24] + LONG[-16:] + b"\0\0\0\x08moof\0\0\0\x08mdat"

WHOLE = {
    "mp4": clip(1000),
    "long mp4": LONG,
    "fragmented mp4": FRAGMENTS + b"\0\0\0\x08mfra",
    "png": _png(),
    "jpeg": JPEG,
    "gif": GIF,
    "webp": b"RIFF" + len(RIFF).to_bytes(4, "little") + RIFF,
    "wav": _wav(),
    "bmp": BMP,
    "mp3": MP3,
    "mp3 with a tag": MP3 + b"TAG" + bytes(125),
}
UNTOLD = {
    "mp4 with an open end": clip(1000)[:40] + b"\0\0\0\0mdat" + bytes(100),
    "mp4 and something else": clip(1000) + bytes(100),
    "fragments": FRAGMENTS,
    "png and something else": _png() + b"x",
    "endless wav": b"RIFF\xff\xff\xff\xffWAVE" + bytes(100),
    "mp3 without a size": b"\xff\xfb\x90\0" + bytes(1000),
    "aac": b"\xff\xf1" + bytes(100),
    "svg": b"<svg>",
    "nothing": b"",
}


def seen(data: bytes, step: int) -> Inspector:
    """All of it, so many bytes at a time."""
    inspector = Inspector()
    for start in range(0, len(data), step):
        inspector.feed(data[start : start + step])
    return inspector


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_files(kind: str) -> None:
    """A whole file is known as such however it comes, and no beginning of it is."""
    data = WHOLE[kind]
    for step in (1, 7, 64, 10_000):
        assert seen(data, step).is_whole() is True
    assert not any(seen(data[:end], 10_000).is_whole() for end in range(len(data)) if data[end:] != b"TAG" + bytes(125))


@pytest.mark.parametrize("kind", UNTOLD)
def test_files_that_do_not_tell(kind: str) -> None:
    """What has no end of its own is neither whole nor cut off."""
    assert seen(UNTOLD[kind], 10).is_whole() is None


def test_expectations() -> None:
    """Size and digest are compared when they are given, the digest in either case."""
    sha256 = seen(b"abc", 1).sha256
    assert Expected(size=3, sha256=sha256.upper()).fault(3, sha256) == Expected().fault(3, sha256) == ""
    assert "4" in Expected(size=4).fault(3, sha256)
    assert "SHA-256" in Expected(sha256="00").fault(3, sha256)
