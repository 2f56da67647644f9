"""Writes the table and its plot into the documentation, between their marks: `nox -s bench -- --write`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final

from kit import Figure, machine, table

DOCS: Final = Path(__file__).parents[1] / "docs"
PAGE: Final = DOCS / "explanation" / "performance.md"
PLOT: Final = DOCS / "assets" / "performance.svg"
ROW: Final = 22
LEFT: Final = 370
WIDTH: Final = 800
RANGE: Final = (0.1, 10.0)
"""Of what the plot shows: parts of the goal, by logarithm."""


def write(figures: Sequence[Figure], *, quick: bool) -> None:
    """The table and the plot, from one run."""
    notes = "".join(f"- {figure.name}: {figure.note}.\n" for figure in figures if figure.note)
    held = sum(figure.held for figure in figures)
    short = " A quick run: too short to judge by." if quick else ""
    put("measured", f"{today()}.{short} {held} of {len(figures)} goals held.\n\n{table(figures)}\n\n{notes}")
    PLOT.write_text(plot(figures), encoding="utf-8")


def today() -> str:
    """When and on what."""
    return f"{datetime.now(tz=UTC):%Y-%m-%d}, {machine()}"


def put(mark: str, text: str) -> None:
    """Replace what is between a mark and the next `end`."""
    marked = re.compile(rf"(<!-- {mark}: [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(marked.sub(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", page), encoding="utf-8")


def plot(figures: Sequence[Figure]) -> str:
    """A dot for each figure, left of the line where its goal is held; in colours for dark and for light pages."""
    height = ROW * (len(figures) + 2)
    ticks = "".join(tick(part, height) for part in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
    rows = "".join(row(number, figure) for number, figure in enumerate(figures))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif" font-size="12">'
        "<title>Each figure as a part of its goal: left of the line it is held</title>"
        f"<style>text{{fill:#808080}}.yes{{fill:#2a9d8f;stroke:#2a9d8f}}.no{{fill:none;stroke:#e76f51}}.axis{{stroke:#808080}}</style>"
        f"{ticks}{rows}</svg>\n"
    )


def place(part: float) -> float:
    """Where a part of the goal is, from the left."""
    low, high = (math.log(bound) for bound in RANGE)
    at = (math.log(min(max(part, RANGE[0]), RANGE[1])) - low) / (high - low)
    return LEFT + at * (WIDTH - LEFT - 50)


def tick(part: float, height: int) -> str:
    """A line of the scale; the goal's is the thick one."""
    at, goal = place(part), part == 1.0
    line = f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{ROW}" y2="{height - ROW}" stroke-width="{1.5 if goal else 0.3}"/>'
    return f'{line}<text x="{at:.1f}" y="{height - 6}" text-anchor="middle">{"goal" if goal else f"{part:g} ×"}</text>'


def row(number: int, figure: Figure) -> str:
    """A figure's name, dot and number."""
    y, judged = ROW * (number + 1.5), figure.judged
    part = (figure.limit / judged if judged else math.inf) if figure.at_least else judged / figure.limit
    at, kind = place(part), "yes" if figure.held else "no"
    end = at if figure.held else max(at - 5, place(1.0))  # the dot of one that is not held is hollow
    return (
        f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(figure.name.replace("`", ""))}</text>'
        f'<line class="{kind}" x1="{place(1.0):.1f}" x2="{end:.1f}" y1="{y}" y2="{y}" stroke-width="2"/>'
        f'<circle class="{kind}" cx="{at:.1f}" cy="{y}" r="5" stroke-width="2"/>'
        f'<text x="{max(at, place(1.0)) + 10:.1f}" y="{y + 4}">{part:.2f}</text>'
    )
