"""What the benchmarks share: the `Figure` that a row brings, pinning to cores, fresh processes, pairs of runs.

How to add a row to the table that `nox -s bench` prints:

1. A script `benchmarks/NAME.py`, which runs by its path (`from kit import Figure, main, paired`), with a function
   `rows(quick)` that yields a `Figure` for each line: what is measured, the goal in words, the value, and what it is divided
   by. `quick` asks for the smallest run that still says something. `print` is for people; the table takes figures only.
2. What is measured runs in a process of its own, pinned to the core that the server is not on: a function which takes texts and
   returns numbers by name, listed in `main(rows, CASES)` at the end of the script. `paired(__file__, ["floor", "ours"], …)` runs
   such cases in turns, A B A B, and gives the runs of each; `middle` is their median. Take CPU as `cpu()` after less before: on a
   machine that others use, too, time on the wall says little.
3. A server runs in one more process, pinned to the other core: `with started(path, …) as url:`, for a script whose first line on
   stdout is its port. Servers listen on loopback, and end when their standard input does.
4. The script's name in `SCRIPTS` of `__main__.py`. A figure that misses its goal is printed as such and fails nothing; a script that
   breaks fails the run.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final, TypeAlias

from attrs import asdict, field, frozen

Numbers: TypeAlias = dict[str, float]
"""What one run of a case has measured, by name."""
Rows: TypeAlias = Callable[[bool], Iterable["Figure"]]
"""The lines that a script adds to the table; whether they shall be quick."""

PATIENCE: Final = 300.0
"""Seconds after which a run is held to hang."""
CLIENT: Final = 0
SERVER: Final = 1
"""Cores, counted among those that this process may use."""


@frozen(kw_only=True)
class Figure:
    """One line of the table."""

    name: str
    goal: str
    """In words, such as `≤ 0.75 × floor`."""
    limit: float
    """The same as a number: a bound of the ratio where there is a reference, else of the value."""
    value: float
    unit: str = ""
    reference: float | None = None
    """What the value is divided by, in the same unit."""
    at_least: bool = False
    """Whether more is better."""
    digits: int = 2
    """Behind the point of value and reference."""
    note: str = ""
    """What else must be known to judge it, such as the lags that were made equal."""
    held: bool = field(init=False)

    @held.default
    def _held(self) -> bool:
        return self.judged >= self.limit if self.at_least else self.judged <= self.limit

    @property
    def judged(self) -> float:
        """What the goal is about: the ratio where there is one, else the value."""
        return self.value if self.ratio is None else self.ratio

    @property
    def ratio(self) -> float | None:
        """Of the value to the reference."""
        return self.value / self.reference if self.reference else None

    def cells(self) -> tuple[str, ...]:
        """Figure, goal, measured, ratio, held."""
        measured = f"{self.value:,.{self.digits}f}"
        if self.reference is not None:
            measured += f" / {self.reference:,.{self.digits}f}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return self.name, self.goal, f"{measured} {self.unit}".strip(), ratio, "yes" if self.held else "no"


def table(figures: Iterable[Figure]) -> str:
    """The figures as a table, for the terminal and for Markdown."""
    rows = [("figure", "goal", "measured", "ratio", "held"), *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])


def main(rows: Rows, cases: Mapping[str, Callable[..., Numbers]] | None = None) -> None:
    """The command line of a script: its rows, or one of its cases for `fresh`."""
    match sys.argv[1:]:
        case ["run", name, *arguments] if cases is not None:
            pin(CLIENT)
            print(json.dumps(cases[name](*arguments)))
        case options:
            figures = []
            for figure in rows("--quick" in options):
                figures.append(figure)
                if "--json" in options:
                    print(json.dumps(asdict(figure, filter=lambda attribute, _: attribute.init)), flush=True)
            if "--json" not in options:
                print(table(figures))


def pin(core: int) -> None:
    """Keep this process on one core, where there are two."""
    _pin(0, core)


def _pin(process: int, core: int) -> None:
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(process, {cores[core]})


def fresh(script: str, case: str, *arguments: object) -> Numbers:
    """Run a case of a script in a process of its own."""
    command = [sys.executable, script, "run", case, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)  # noqa: S603  ourselves
    return {name: float(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def paired(script: str, cases: Sequence[str], *arguments: object, times: int) -> dict[str, list[Numbers]]:
    """Run cases in turns, each in a process of its own: the machine is not the same from one minute to the next."""
    runs: dict[str, list[Numbers]] = {case: [] for case in cases}
    for _ in range(times):
        for case in cases:
            runs[case].append(fresh(script, case, *arguments))
    return runs


def middle(runs: Iterable[Numbers], name: str) -> float:
    """The median of one number."""
    return statistics.median(run[name] for run in runs)


@contextmanager
def started(script: str, *arguments: object) -> Iterator[str]:
    """A server in a process of its own, on the other core; gives its URL, and ends it. For `rows`: a case has one core only."""
    command = [sys.executable, script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  ourselves
        _pin(server.pid, SERVER)
        try:
            assert server.stdout  # noqa: S101  it was asked for
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def cpu() -> float:
    """Seconds of CPU that this process has used in all its threads."""
    return time.process_time()


def resident(name: str = "VmRSS") -> float:
    """A line of this process's memory in KiB: `VmRSS`, or `VmHWM` for its peak; 0 where there is no `/proc`."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123  read often, beside what is measured
            return next((float(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0.0)
    except OSError:
        return 0.0


def machine() -> str:
    """What the figures were measured on, in one line."""
    versions = [f"{name} {version(name)}" for name in ("aiohttp", "attrs", "cattrs", "anyio")]
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {', '.join(versions)}"
