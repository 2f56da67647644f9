"""What a person sees of tasks under way: a live table on a terminal, else a line per change. Results go past it to stdout."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from types import TracebackType
from typing import Final, Self

from attrs import define, field
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

__all__ = ["Board", "Row", "printable", "spell"]

_SHOW_CURSOR: Final = b"\x1b[?25h"
_STYLES: Final = {"saved": "green", "failed": "red", "submitted": "dim"}
_ROOMY: Final = 60
"""Columns from which there is room for an estimate."""
_SPARE: Final = 4
"""Lines of the terminal that are left for what is said meanwhile."""


def printable(text: str) -> str:
    """Foreign text as one line that cannot move the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


@define(eq=False)
class Row:
    """One task, or one that is still to come."""

    label: str
    state: str
    usual: float | None = None
    """Seconds that half of such tasks take, where that is known."""
    started: float = field(factory=time.monotonic)

    @property
    def age(self) -> str:
        """How long it has been followed, such as 0:07."""
        return spell(time.monotonic() - self.started)

    @property
    def estimate(self) -> str:
        """What such tasks usually take; no promise, and said so."""
        return "" if self.usual is None else f"usually {spell(self.usual)}"


def spell(seconds: float) -> str:
    """A duration, such as 0:07."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _console() -> Console:
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


@define(eq=False)
class Board:
    """Talks on stderr. A context manager: leaving it clears what moves and keeps what was said."""

    quiet: bool = False
    console: Console = field(factory=_console)
    footer: str = field(default="", init=False)
    """What stands below the tasks."""
    _rows: list[Row] = field(factory=list, init=False)
    _live: Live | None = field(default=None, init=False)
    _spinner: Spinner = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._spinner = Spinner("dots" if self.console.encoding.startswith("utf") else "line")

    def __enter__(self) -> Self:
        """Draw on an interactive terminal only."""
        if self.console.is_interactive and self.console.file.isatty() and not self.quiet:
            self._live = Live(
                get_renderable=self._table,
                console=self.console,
                transient=True,
                refresh_per_second=8,
                redirect_stdout=False,
                redirect_stderr=False,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave a clean terminal."""
        self._rows.clear()
        self._draw()

    def row(self, label: str, state: str) -> Row:
        """Begin to show a task, live; lines begin with its first change."""
        row = Row(label, state)
        self._rows.append(row)
        self._draw()
        return row

    def note(self, row: Row, state: str) -> None:
        """Show that its state has changed."""
        state = printable(state)
        if state != row.state:
            row.state = state
            if self._live is None:
                self._line(row)

    def drop(self, row: Row) -> None:
        """Show it no more."""
        self._rows.remove(row)
        self._draw()

    def end(self, row: Row, state: str) -> None:
        """Show its last state, and keep that on the screen."""
        told = self._live is None and row.state == state
        row.state = state
        self.drop(row)
        if not told:
            self._line(row)

    def say(self, text: str | Text = "") -> None:
        """Say something; wrapped at words on a terminal, one line elsewhere."""
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def copyable(self, text: str | Text) -> None:
        """Say something that people copy: no line break is put in."""
        self.console.print(text, soft_wrap=True)

    def result(self, text: str) -> None:
        """Write a line to stdout."""
        if self._live is not None:
            self._live.stop()
        try:
            print(text, flush=True)  # noqa: T201
        except BrokenPipeError:
            # Nobody reads on, as behind `| head -1`; the work is done and saved all the same.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self._draw()

    def abandon(self, text: str) -> None:
        """The last words of a process that ends this moment; safe inside a signal handler."""
        os.write(2, (_SHOW_CURSOR if self._live is not None else b"") + text.encode(errors="replace"))

    def _draw(self) -> None:
        if self._live is None:
            return
        if not self._rows:
            self._live.stop()
        elif not self._live.is_started:
            self._live.start()

    def _line(self, row: Row) -> None:
        if not self.quiet:
            self.say(Text.assemble(f"{row.label}: ", (row.state, _STYLES.get(row.state, "")), f" after {row.age}"))

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")  # the only one that gives way on a narrow terminal
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        roomy = self.console.width >= _ROOMY
        if roomy:
            table.add_column(no_wrap=True, style="dim")
        rows, most = list(self._rows), max(1, self.console.height - _SPARE)
        for row in rows[:most]:
            estimate = (row.estimate,) if roomy else ()
            table.add_row(self._spinner, row.label, Text(row.state, style=_STYLES.get(row.state, "")), row.age, *estimate)
        below = [self.footer] if self.footer else []
        if len(rows) > most:  # than the terminal is high: what is cut off is told in numbers
            states = Counter(row.state for row in rows[most:]).most_common()
            below.insert(0, f"and {len(rows) - most} more: {', '.join(f'{count} {state}' for state, count in states)}")
        return Group(table, *(Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in below))
