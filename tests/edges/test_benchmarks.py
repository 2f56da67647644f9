from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are in the checkout only")

ONE_ROW = """
import floor, generations, server
from kit import fresh, started, table
with started(server.PATH) as url:
    loop, best = floor.by_hand(url, "3", "0.05", "0.02"), floor.at_best(url, "3", "0.05", "0.02")
    ours = fresh(generations.__file__, "ours", url, 3, 0.05, 0.02)
print(table([generations.per_task("CPU per task", "goal", 0.75, [ours], {"floor": [loop], "best": [best]})]))
"""
PLOT = """
from page import plot
from kit import Figure
print(plot([Figure(name="a < b", goal="", limit=2, value=0), Figure(name="c", goal="", limit=2, value=1, reference=9, at_least=True)]))
"""


def run(program: str) -> str:
    """What it prints, started where the scripts are."""
    done = subprocess.run([sys.executable, "-c", program], cwd=BENCHMARKS, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def test_a_row_is_measured_and_printed() -> None:
    """The lean server, the loop, a session in a process of its own, and the table that their figures end in all work."""
    head, _, row = run(ONE_ROW).splitlines()

    assert [cell.strip() for cell in head.split("|")] == ["", "figure", "goal", "measured", "ratio", "held", ""]
    assert row.startswith("| CPU per task | goal | ")


def test_the_plot_is_a_picture() -> None:
    """The plot of the page is well-formed, for figures of every kind, nothing and far out of range included."""
    from xml.etree import ElementTree as ET

    picture = ET.fromstring(run(PLOT))

    assert [circle.get("class") for circle in picture.iter("{http://www.w3.org/2000/svg}circle")] == ["yes", "no"]


def test_the_table_asks_scripts_that_are_there() -> None:
    """Each script whose rows the table takes exists, and can be run by its path."""
    (text,) = re.findall(r"^SCRIPTS = (.+)$", (BENCHMARKS / "__main__.py").read_text(encoding="utf-8"), re.MULTILINE)

    for name in ast.literal_eval(text):
        assert "main(rows" in (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8"), name
