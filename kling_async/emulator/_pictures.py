"""What the service can tell about a file by its first bytes: its type, a picture's size. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Final

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
# Start-of-frame markers carry the size; 0xC4, 0xC8 and 0xCC share their range and do not.
_FRAME_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD8)})


def decode(text: str) -> bytes | None:
    """Raw base64 to bytes; `None` for anything else, a `data:` prefix and white space included (`api.md` 2.5)."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def is_picture(data: bytes) -> bool:
    """Whether it starts like a PNG or a JPEG."""
    return data.startswith((_PNG, _JPEG))


def is_sound(data: bytes) -> bool:
    """Whether it starts like MP3, WAV, M4A or AAC."""
    mpeg_sync = len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0  # noqa: PLR2004  eleven set bits open an MPEG audio frame
    return data.startswith(b"ID3") or mpeg_sync or (data[:4] == b"RIFF" and data[8:12] == b"WAVE") or data[4:8] == b"ftyp"


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels as the header tells them; `None` when it does not."""
    if data.startswith(_PNG):
        return (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) if data[12:16] == b"IHDR" else None
    return _jpeg_size(data) if data.startswith(_JPEG) else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:  # noqa: PLR2004  every marker starts with it
        marker = data[at + 1]
        if marker in _FRAME_MARKERS:
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        if marker == 0xFF:  # noqa: PLR2004  fill bytes may stand before a marker
            at += 1
        elif marker in _BARE_MARKERS:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
