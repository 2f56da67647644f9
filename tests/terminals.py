"""A terminal with a program on it, as a person has it: what is on the screen and above it is what was not wiped out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import pyte
from attrs import frozen

from shells import KEY, journal_of

__all__ = ["CTRL_C", "KLING", "Reactions", "Seen", "on_a_terminal"]

CTRL_C = b"\x03"
# A session of its own does not make the terminal its own: Ctrl-C and the question for a key need that.
OWN = f"import fcntl, os, sys; fcntl.ioctl(0, {termios.TIOCSCTTY}, 0); os.execvp(sys.argv[1], sys.argv[1:])"
KLING = (sys.executable, "-m", "kling_async")
OURS = ("KLING_", "NO_COLOR", "FORCE_COLOR", "TTY_", "COLUMNS", "LINES")

Reactions = Mapping[str, Callable[[int], object]]
"""What to do, given the terminal, when such a text (a pattern) stands there for the first time."""


@frozen(kw_only=True)
class Seen:
    """What a program leaves on a terminal."""

    code: int
    lines: list[str]
    """All that can be read at the end, what has been scrolled away as well; without the blanks at the ends of lines."""
    drawn: str
    """All that was ever written, with the words that colour it and move the cursor."""
    cursor: bool
    """Whether the cursor can be seen."""

    @property
    def plain(self) -> list[str]:
        """The lines that were ever drawn, of a display that moves each of its looks."""
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.drawn))

    @property
    def colours(self) -> bool:
        """Whether anything was coloured."""
        return any(f"\x1b[3{colour}m" in self.drawn for colour in range(8))


async def on_a_terminal(
    *command: str,
    cwd: Path,
    url: str,
    size: tuple[int, int] = (24, 80),
    reactions: Reactions | None = None,
    **environment: str,
) -> Seen:
    """Run a command to its end on a terminal of that many lines and columns, and react to what it shows."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, size)
    screen = pyte.HistoryScreen(size[1], size[0], history=10_000)
    stream, drawn, waiting = pyte.ByteStream(screen), bytearray(), dict(reactions or {})
    told = {"KLING_BASE_URL": url, "KLING_API_KEY": KEY, "KLING_JOURNAL": str(journal_of(cwd)), "TERM": "xterm-256color", **environment}
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | told
    ended = asyncio.get_running_loop().create_future()

    def read() -> None:
        chunk = b""
        with contextlib.suppress(OSError):  # the other side has hung up
            chunk = os.read(ours, 65536)
        drawn.extend(chunk)
        stream.feed(chunk)
        there = "\n".join(_lines(screen)) if waiting else ""
        for pattern in [pattern for pattern in waiting if re.search(pattern, there)]:
            waiting.pop(pattern)(ours)
        if not chunk:
            asyncio.get_running_loop().remove_reader(ours)
            ended.set_result(None)

    program = [sys.executable, "-c", OWN, *command]
    try:
        async with await anyio.open_process(
            program, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=surroundings, start_new_session=True
        ) as process:
            os.close(theirs)
            asyncio.get_running_loop().add_reader(ours, read)
            try:
                await ended
                code = await process.wait()
            except BaseException:
                process.kill()
                raise
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
    return Seen(code=code, lines=_lines(screen), drawn=drawn.decode(), cursor=not screen.cursor.hidden)


def _lines(screen: pyte.HistoryScreen) -> list[str]:
    rows = [*screen.history.top, *(screen.buffer[number] for number in range(screen.lines))]
    lines = ["".join(row[column].data for column in range(screen.columns)).rstrip() for row in rows]
    while lines and not lines[-1]:
        lines.pop()
    return lines
