"""Words on a card: which font can show a text, where its lines break, what stands in for letters nobody here can draw."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, cast

from attrs import evolve, frozen
from PIL import Image, ImageDraw, ImageFont

STAND_IN: Final = "·"
"""Drawn for each letter that no font on this machine has."""

# Pillow's own font knows hardly more than ASCII, and prompts are often Chinese. These are the files that common
# systems bring along; Pillow finds them by name. Where there is none of them, the stand-in is drawn.
_OTHER_FONTS: Final = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "msyh.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
    "unifont.otf",
)
_UNSHOWABLE: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs"})
# From U+2E80 on scripts are written without spaces and may break anywhere; so may a row of stand-ins,
# and a word so long that it is none.
_PIECE: Final = re.compile(rf"\s*(?:[\u2e80-\U0010ffff{STAND_IN}]|[^\s\u2e80-\U0010ffff{STAND_IN}]{{1,40}})")
_LEADING: Final = 1.3


@frozen(kw_only=True)
class Words:
    """A text that one font can show; `lost` says whether stand-ins had to be used."""

    text: str
    font: str
    lost: bool


@frozen(kw_only=True)
class Paragraph:
    """Lines that fit where they were asked to, each `leading` pixels below the one before."""

    lines: tuple[str, ...]
    font: ImageFont.FreeTypeFont
    leading: int
    unbroken: bool


@lru_cache(maxsize=128)
def sized(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the font file `name`, or Pillow's own for an empty name, at `size` pixels. Raises `OSError` when there is none."""
    if name:
        return ImageFont.truetype(name, size)
    # With a size given this is always the scalable one; the annotation also allows for the bitmap font of old.
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


def showable(text: str) -> Words:
    """Choose the font that has most of the letters of `text`, and replace those that it lacks."""
    text = "".join(" " if letter.isspace() else letter for letter in unicodedata.normalize("NFC", text))
    text = " ".join("".join(letter for letter in text if unicodedata.category(letter) not in _UNSHOWABLE).split())
    letters = sorted(set(text) - {" "})
    font, missing = "", _missing("", letters)
    for name in _found_fonts() if missing else ():
        lacking = _missing(name, letters)
        if len(lacking) < len(missing):
            font, missing = name, lacking
    shown = {letter: _plainer(font, letter) for letter in missing}
    return Words(text="".join(shown.get(letter, letter) for letter in text), font=font, lost=STAND_IN in shown.values())


def fit(words: Words, width: int, height: int, sizes: Sequence[int]) -> Paragraph:
    """Break `words` into lines inside `width` by `height` pixels.

    Takes the first of `sizes` at which all fits and no word is torn; else the first at which all fits; else cuts at the last.
    """
    torn: Paragraph | None = None
    for size in sizes:
        paragraph = _set(words, width, size)
        if len(paragraph.lines) * paragraph.leading <= height:
            if paragraph.unbroken:
                return paragraph
            torn = torn or paragraph
    if torn:
        return torn
    paragraph = _set(words, width, sizes[-1])
    kept = paragraph.lines[: max(1, height // paragraph.leading)]
    return evolve(paragraph, lines=(*kept[:-1], cut(f"{kept[-1]}…", paragraph.font, width)))


def cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return `text`, shortened with an ellipsis if it is longer than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    return f"{text[: _count_inside(text, font, width - font.getlength('…'))].rstrip(' …')}…"


def _set(words: Words, width: int, size: int) -> Paragraph:
    font = sized(words.font, size)
    longest = max(font.getlength(piece.strip()) for piece in ("", *_PIECE.findall(words.text)))
    lines = tuple(_lines(words.text, font, width))
    return Paragraph(lines=lines, font=font, leading=round(size * _LEADING), unbroken=longest <= width)


def _lines(text: str, font: ImageFont.FreeTypeFont, width: float) -> Iterator[str]:
    line = ""
    for piece in _PIECE.findall(text):
        if font.getlength(line + piece) <= width:
            line += piece
            continue
        if line:
            yield line
        line = piece.lstrip()
        while font.getlength(line) > width and len(line) > 1:
            count = max(1, _count_inside(line, font, width))
            yield line[:count]
            line = line[count:]
    yield line


def _count_inside(text: str, font: ImageFont.FreeTypeFont, width: float) -> int:
    return bisect_right(range(1, len(text) + 1), width, key=lambda count: font.getlength(text[:count]))


@lru_cache(maxsize=1)
def _found_fonts() -> tuple[str, ...]:
    return tuple(name for name in _OTHER_FONTS if _is_here(name))


def _is_here(name: str) -> bool:
    try:
        sized(name, 16)
    except OSError:
        return False
    return True


def _missing(font: str, letters: Sequence[str]) -> list[str]:
    face = sized(font, 16)

    def shape(letter: str) -> bytes:
        canvas = Image.new("L", (32, 32))
        ImageDraw.Draw(canvas).text((0, 0), letter, font=face, fill=255)
        return canvas.tobytes()

    nothing = shape("\U0010ffff")  # a code point that never gets a letter: what comes out is the font's "no such glyph"
    return [letter for letter in letters if shape(letter) == nothing]


def _plainer(font: str, letter: str) -> str:
    """Return what comes near `letter` and can be shown: a hyphen for a dash, a letter without its accent."""
    if unicodedata.category(letter) == "Pd":
        return "-"
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    return STAND_IN if not plain or _missing(font, plain) else plain
