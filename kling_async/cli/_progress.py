"""What a person sees of tasks under way: a live table on a terminal, else a line per change. Results go past it to stdout."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections import Counter
from types import TracebackType
from typing import Final, Self

from attrs import define, field
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from kling_async.observers import Record, Waiting

__all__ = ["Board", "Row", "printable", "spell", "summary_of"]

_REDRAW: Final = 0.125
"""Seconds between two looks of what moves."""
_SHOW_CURSOR: Final = b"\x1b[?25h"
_STYLES: Final = {"saved": "green", "failed": "red", "submitted": "dim"}
_WAITS: Final = {"slot": "waiting for a slot", "retry": "retrying"}
_ROOMY: Final = 60
"""Columns from which there is room for an estimate."""
_LEGIBLE: Final = 16
"""Columns that must be left to show what a task makes."""
_LONGEST_SUMMARY: Final = 60
_SPARE: Final = 4
"""Lines of the terminal that are left for what stands below the tasks."""


def printable(text: str) -> str:
    """Foreign text as one line that cannot move the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


def summary_of(prompt: object) -> str:
    """A prompt, cut to what fits a line."""
    line = printable(prompt) if isinstance(prompt, str) else ""
    return line if len(line) <= _LONGEST_SUMMARY else f"{line[:_LONGEST_SUMMARY]}…"


@define(eq=False)
class Row:
    """One task, or one that is still to come."""

    label: str
    state: str
    what: str = ""
    """What it makes, in a few words."""
    external_task_id: str | None = None
    """Under which it is asked for, where that is known."""
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


def _console(*, stderr: bool = True) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _somebody_reads_on() -> bool:
    """Whether stdout goes to another program: that may write on the same terminal, and a display that moves would wipe it out."""
    mode = 0 if sys.stdout is None else os.fstat(sys.stdout.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _is_for_people() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


@define(eq=False)
class Board:
    """Talks on stderr. A context manager: leaving it clears what moves and keeps what was said."""

    quiet: bool = False
    console: Console = field(factory=_console)
    footer: str = field(default="", init=False)
    """What stands below the tasks."""
    _rows: list[Row] = field(factory=list, init=False)
    _moves: bool = field(default=False, init=False)
    """Whether the tasks are drawn, and not told line by line."""
    _live: Live | None = field(default=None, init=False)
    _next: asyncio.TimerHandle | None = field(default=None, init=False)
    _spinner: Spinner = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._spinner = Spinner("dots" if self.console.encoding.startswith("utf") else "line")

    def __enter__(self) -> Self:
        """Draw on an interactive terminal only, and where that is nobody else's."""
        interactive = self.console.is_interactive and self.console.file.isatty()
        self._moves = interactive and not self.quiet and not _somebody_reads_on()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave a clean terminal."""
        self._rows.clear()
        self._draw()

    def hear(self, record: Record) -> None:
        """Show that a paid request has to wait; an observer."""
        if isinstance(record, Waiting):
            for row in [row for row in self._rows if row.external_task_id == record.external_task_id]:
                self.note(row, _WAITS.get(record.why, record.why))

    def row(self, label: str, state: str, *, what: str = "", external_task_id: str | None = None) -> Row:
        """Begin to show a task, live; lines begin with its first change."""
        row = Row(label, state, what, external_task_id)
        self._rows.append(row)
        self._draw()
        return row

    def note(self, row: Row, state: str) -> None:
        """Show that its state has changed."""
        state = printable(state)
        if state != row.state:
            row.state = state
            if not self._moves:
                self._line(row)

    def drop(self, row: Row) -> None:
        """Show it no more."""
        self._rows.remove(row)
        self._draw()

    def end(self, row: Row, state: str) -> None:
        """Show its last state, and keep that on the screen."""
        told = not self._moves and row.state == state
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

    def result(self, text: str | Text) -> None:
        """Write a line to stdout; in its colours, and cut if it may be, only where that is a terminal."""
        if on_terminal := _is_for_people():
            self._stop()
        try:
            if on_terminal and isinstance(text, Text):
                _console(stderr=False).print(text, soft_wrap=not text.no_wrap, no_wrap=text.no_wrap, overflow=text.overflow)
            else:
                print(text, flush=True)  # noqa: T201
        except BrokenPipeError:
            # Nobody reads on, as behind `| head -1`; the work is done and saved all the same.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self._draw()

    def abandon(self, text: str) -> None:
        """The last words of a process that ends this moment; safe inside a signal handler."""
        os.write(2, (_SHOW_CURSOR if self._live is not None else b"") + text.encode(errors="replace"))

    def _draw(self) -> None:
        if not self._rows:
            self._stop()
        elif self._moves and self._live is None:
            # A new one each time: one that is started again wipes out as many lines as it was high when it stopped. And no thread
            # that redraws it: one that does so while something is said moves the cursor by the height of another moment.
            self._live = Live(
                get_renderable=self._table,
                console=self.console,
                transient=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
            self._redraw()

    def _redraw(self) -> None:
        if self._live is not None:
            self._live.refresh()
            self._next = asyncio.get_running_loop().call_later(_REDRAW, self._redraw)

    def _stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
        if self._live is not None:
            self._live.stop()
        self._next = self._live = None

    def _line(self, row: Row) -> None:
        if not self.quiet:
            self.say(Text.assemble(f"{row.label}: ", (row.state, _STYLES.get(row.state, "")), f" after {row.age}"))

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")  # the only one that gives way on a narrow terminal
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        if roomy := self.console.width >= _ROOMY:
            table.add_column(no_wrap=True, style="dim")
            table.add_column(no_wrap=True, style="dim")
        rows, most = list(self._rows), max(1, self.console.height - _SPARE)
        told = [(row.label, row.state, row.age, row.estimate) for row in rows[:most]]
        left = self.console.width - sum(max(map(cell_len, column)) + 2 for column in zip(*told, strict=True)) - 3
        for row, (label, state, age, estimate) in zip(rows, told, strict=False):
            what = Text(row.what if left >= _LEGIBLE else "")
            what.truncate(max(left, 0), overflow="ellipsis")
            more = (estimate, what) if roomy else ()
            short = state if roomy else state.partition(" ")[0]
            table.add_row(self._spinner, label, Text(short, style=_STYLES.get(state, "")), age, *more)
        below = [Text(self.footer, style="dim")] if self.footer else []
        if len(rows) > most:  # than the terminal is high: what is cut off is told in numbers
            states = Counter(row.state for row in rows[most:]).most_common()
            more_of = f"and {len(rows) - most} more: {', '.join(f'{count} {state}' for state, count in states)}"
            below.insert(0, Text(more_of, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(table, *below)
