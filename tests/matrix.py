"""What a run says at its end: figures that tests were promised to print, and the fault matrix as a table.

The table tells which rows of `reliability.md` section 4 have tests, how those ended, and which have none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final

import pytest
from attrs import define, field

_LAST: Final = {"V": 16, "C": 20, "S": 13, "K": 12, "Q": 16, "W": 13, "D": 8, "L": 7, "N": 15, "H": 11, "J": 12, "X": 8}
ROWS: Final = tuple(f"{family}{number}" for family, last in _LAST.items() for number in range(1, last + 1))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--matrix`."""
    parser.addoption("--matrix", action="store_true", help="print the fault matrix: tests and outcome of each row")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count, when asked to."""
    if config.getoption("--matrix"):
        config.pluginmanager.register(Matrix(), "kling-matrix")


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Print a line at the end of the run, whichever process the test runs in."""
    return lambda line: record_property("said", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests had to say."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    if lines := [str(value) for report in reports for name, value in report.user_properties if name == "said"]:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse rows that do not exist; let reports carry those that do."""
    for item in items:
        rows = rows_of(item)
        if strange := sorted(set(rows) - set(ROWS)):
            msg = f"{item.nodeid}: the matrix has no row {strange[0]!r}"
            raise pytest.UsageError(msg)
        item.user_properties.extend(("row", row) for row in rows)


def rows_of(item: pytest.Item) -> list[str]:
    """The rows that a test is marked with."""
    return [row for mark in item.iter_markers("row") for row in mark.args]


@define(eq=False)
class Matrix:
    """Counts the tests of each row."""

    rows: dict[str, set[str]] = field(factory=dict)
    """Test → its rows."""
    ends: dict[str, str] = field(factory=dict)
    """Test → `passed`, `failed` or `skipped`; the worst of its phases."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a phase of a test ended."""
        self.rows[report.nodeid] = {str(value) for name, value in report.user_properties if name == "row"}
        if report.when == "call" or not report.passed:
            known = self.ends.get(report.nodeid, "passed")
            self.ends[report.nodeid] = report.outcome if known == "passed" else known

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        ends: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for test, rows in self.rows.items():
            for row in rows:
                ends[row][self.ends.get(test, "not run")] += 1
        write = terminalreporter.write_line
        terminalreporter.section("fault matrix")
        write("row   tests  passed  failed  other")
        for row in ROWS:
            if tests := ends[row].total():
                passed, failed = ends[row]["passed"], ends[row]["failed"]
                write(f"{row:<4}{tests:>7}{passed:>8}{failed:>8}{tests - passed - failed:>7}", red=passed < tests)
        missing = [row for row in ROWS if not ends[row]]
        whole = [row for row in ROWS if ends[row] and ends[row].total() == ends[row]["passed"]]
        write(f"{len(ROWS)} rows: {len(whole)} pass, {len(ROWS) - len(missing) - len(whole)} do not, {len(missing)} without a test")
        if missing:
            write(f"without a test: {' '.join(missing)}")
