"""Small pictures and sounds of every type, as the first bytes tell them."""

from __future__ import annotations


def png(width: int = 640, height: int = 480) -> bytes:
    """A picture of that size, as far as its head tells."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0" + bytes(60)


def jpeg(width: int = 640, height: int = 480, *, before: bytes = b"\xff\xe0\0\x10" + bytes(14), frame: int = 0xC0) -> bytes:
    """A picture of that size; what stands before its frame, and the kind of frame."""
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8" + before + bytes([0xFF, frame]) + b"\0\x11\x08" + size + bytes(90)


def wav(size: int = 100) -> bytes:
    """A sound of so many bytes."""
    return b"RIFF\0\0\0\0WAVEfmt " + bytes(size - 16)


SAMPLES = {
    ".png": png(),
    ".jpg": jpeg(),
    ".gif": b"GIF89a" + bytes(20),
    ".webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    ".bmp": b"BM\x36\0\0\0\0\0\0\0\x36\0",
    ".heif": b"\0\0\0\x18ftypheic\0\0\0\0",
    ".wav": wav(),
    ".m4a": b"\0\0\0\x20ftypM4A \0\0\2\0",
    ".mov": b"\0\0\0\x14ftypqt  \0\0\2\0",
    ".mp4": b"\0\0\0\x20ftypisom\0\0\2\0",
    ".mp3": b"ID3\4\0\0\0\0\0\0",
    ".aac": b"\xff\xf1\x50\x80\0\0",
    ".bin": b"%PDF-1.7",
}
