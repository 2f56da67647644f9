"""Make the picture that the README opens with: the demo really run in a terminal, and a frame of each clip it made.

Needs the package installed with the extras `cli` and `emulator`, a POSIX system, and the DejaVu fonts. Look at the picture before
you commit it.
"""

# PyAV's annotations name numpy, which is not needed here and may be missing, and leave its own generics open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import av
from attrs import define, field
from PIL import Image, ImageDraw, ImageFont
from rich.color import Color
from rich.console import Console
from rich.segment import Segment
from rich.terminal_theme import TerminalTheme
from rich.text import Text

_PICTURE: Final = Path(__file__).parents[1] / "docs" / "assets" / "demo.png"
_HEAVIEST: Final = 400 << 10
"""Bytes. A README is read over slow lines too."""
_COMMAND: Final = ("-m", "kling_async", "demo", "-o", "out")
_COLUMNS, _ROWS = 80, 50
_MOMENT: Final = 3.4
"""Seconds into a clip: its clock has left zero by then."""

_INK, _PAPER, _DESK = (214, 219, 229), (22, 25, 33), (238, 240, 244)
_BRIGHT: Final = [(98, 104, 122), (255, 117, 127), (158, 206, 106), (229, 192, 123), (122, 162, 247), (198, 146, 233), (96, 196, 214), _INK]
_THEME: Final = TerminalTheme(_PAPER, _INK, _BRIGHT, _BRIGHT)
_DIM: Final = 0.55
_WIDTH, _MARGIN, _GAP, _PADDING, _ROUND = 1200, 24, 20, 18, 10
_SIZE, _ADVANCE, _LEADING = 15, 9, 20
_CARD: Final = 368
"""Width of a frame and of the terminal between the two; the large terminal takes what is left."""

_STEP: Final = re.compile(r"\x1b\[(?P<count>\d*)(?P<move>[AK])|\x1b\[\?\d+[hl]|(?P<turn>[\r\n])|(?P<said>\x1b\[[\d;]*m|[^\x1b\r\n]+)")


@define
class Screen:
    """As much of a terminal as the demo uses: lines are written from their start, and rewritten whole."""

    lines: list[str] = field(factory=lambda: [""])
    _row: int = 0

    def feed(self, text: str) -> None:
        """Take what the program wrote.

        Raises:
            ValueError: it uses more of a terminal than this is.
        """
        place = 0
        while place < len(text):
            step = _STEP.match(text, place)
            if step is None:
                raise ValueError(f"no terminal to follow {text[place : place + 8]!r}; teach it to Screen")
            place = step.end()
            if step["move"] == "A":
                self._row = max(0, self._row - int(step["count"] or 1))
            elif step["move"] == "K":
                self.lines[self._row] = ""
            elif step["turn"] == "\n":
                self._row += 1
                self.lines += [""] * (self._row + 1 - len(self.lines))
            elif step["said"]:
                self.lines[self._row] += step["said"]

    def texts(self) -> list[Text]:
        """Its lines with their colours."""
        return [Text.from_ansi(line) for line in self.lines]


def main() -> None:
    """Run the demo, draw it, write the picture and say what it weighs."""
    with tempfile.TemporaryDirectory() as folder:
        live, end = _watch(folder)
        if not live:
            sys.exit("the two clips were never in the making together, so there is nothing to show of that; run it again")
        clips = [Path(folder) / text.plain for text in end if text.plain.endswith(".mp4")]
        fox, *_, lighthouse = (_frame(clip) for clip in clips)
    picture = _compose(live, end, fox, lighthouse)
    _PICTURE.parent.mkdir(exist_ok=True)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    if out.tell() > _HEAVIEST:
        sys.exit(f"the picture has {out.tell() >> 10} KiB, over {_HEAVIEST >> 10}; nothing was written")
    _PICTURE.write_bytes(out.getvalue())
    print(f"{_PICTURE.name}: {picture.width}x{picture.height}, {out.tell() >> 10} KiB")


def _watch(folder: str) -> tuple[list[Text], list[Text]]:
    """What the demo showed the last time that both clips were in the making, less its first line, and at its end."""
    screen, live = Screen(), list[Text]()
    for written in _run(folder):
        screen.feed(written)
        _, *texts = screen.texts()
        under_way = [text for text in texts if re.search(r"2video +processing +\d", text.plain)]
        live = texts if len(under_way) > 1 else live
    return live, screen.texts()


def _run(folder: str) -> Iterator[str]:
    """Yield what the demo writes to a terminal, in `folder`."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (_ROWS, _COLUMNS))
    settings = {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}} | settings
    with (
        open(ours, encoding="utf-8", newline="") as terminal,  # noqa: PTH123  a descriptor, not a path
        subprocess.Popen(  # noqa: S603  our own command
            [sys.executable, *_COMMAND], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        ) as demo,
    ):
        os.close(theirs)
        try:
            while line := terminal.readline():
                yield line
        except OSError:
            pass  # how Linux says that nobody holds the other side any more
    if demo.returncode:
        sys.exit(f"the demo ended with {demo.returncode}")


def _frame(clip: Path) -> Image.Image:
    with av.open(clip) as container:
        stream = container.streams.video[0]
        frame = next(frame for frame in container.decode(stream) if frame.time >= _MOMENT)
        picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]  # PyAV leaves it open
    return picture


def _compose(live: list[Text], end: list[Text], fox: Image.Image, lighthouse: Image.Image) -> Image.Image:
    """The terminal at the end on the left; on the right the two clips, and the terminal while both were made."""
    clips = [clip.resize((_CARD, _CARD * clip.height // clip.width), Image.Resampling.LANCZOS) for clip in (fox, lighthouse)]
    command = Text.assemble(("$ ", "green"), " ".join(("python", *_COMMAND)))
    large = _draw([command, *end], _WIDTH - 2 * _MARGIN - _GAP - _CARD)
    between = large.height - sum(clip.height for clip in clips) - 2 * _GAP
    picture = Image.new("RGB", (_WIDTH, large.height + 2 * _MARGIN), _DESK)
    _paste(picture, large, (_MARGIN, _MARGIN))
    top = _MARGIN
    for card in (clips[0], _draw(live, _CARD, between), clips[1]):
        _paste(picture, card, (_WIDTH - _MARGIN - _CARD, top))
        top += card.height + _GAP
    return picture


def _draw(texts: list[Text], width: int, height: int | None = None) -> Image.Image:
    """A terminal that shows `texts`, as high as they are or centred in `height`."""
    while texts and not texts[-1].plain.strip():
        texts = texts[:-1]
    tall = len(texts) * _LEADING
    card = Image.new("RGB", (width, height or tall + 2 * _PADDING), _PAPER)
    pen, y = ImageDraw.Draw(card), (card.height - tall) // 2
    for text in texts:
        x = _PADDING
        for segment in text.render(Console(), end=""):
            x = _write(pen, segment, x, y)
        y += _LEADING
    return card


def _write(pen: ImageDraw.ImageDraw, segment: Segment, x: int, y: int) -> int:
    """Put a piece of a line on the card, a character to a cell; where the next one begins."""
    style = segment.style
    ink = Color.default() if style is None or style.color is None else style.color
    shade = tuple(ink.get_truecolor(_THEME))
    if style is not None and style.dim:
        shade = tuple(round(_DIM * over + (1 - _DIM) * under) for over, under in zip(shade, _PAPER, strict=True))
    end = x + _ADVANCE * len(segment.text)
    if style is not None and style.underline:
        pen.line((x, y + _LEADING - 2, end - 1, y + _LEADING - 2), shade)
    for character in segment.text:
        # The spinner is written in Braille, which only the proportional face has.
        pen.text((x, y), character, shade, _font("DejaVuSans.ttf" if "\u2800" <= character <= "\u28ff" else "DejaVuSansMono.ttf"))
        x += _ADVANCE
    return end


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(name, _SIZE)


def _paste(picture: Image.Image, card: Image.Image, place: tuple[int, int]) -> None:
    """Lay a card on the desk, its corners round; drawn large first, for smooth edges."""
    mask = Image.new("L", (card.width * 4, card.height * 4))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), _ROUND * 4, 255)
    picture.paste(card, place, mask.resize(card.size, Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
