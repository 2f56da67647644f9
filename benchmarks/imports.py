"""What importing costs: `python benchmarks/imports.py`. CPU of whole processes beyond a bare Python's, with compiled modules at hand."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Final

from kit import Figure, main

BARE: Final = ""
PACKAGE: Final = "import kling_async"
JOB: Final = "from kling_async import Text2Video"
NEIGHBOURS: Final = "import aiohttp, anyio, attr, cattrs, sqlite3"
SESSION: Final = "from kling_async import KlingSession, Text2Video"
TIMES: Final = 25


def _child(code: str, environment: Mapping[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)  # noqa: S603  ourselves
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def costs(times: int) -> dict[str, float]:
    """Milliseconds of CPU beyond a bare Python: medians of runs in turns."""
    codes = (BARE, PACKAGE, JOB, NEIGHBOURS, SESSION)
    runs: dict[str, list[float]] = {code: [] for code in codes}
    with tempfile.TemporaryDirectory() as cache:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        for code in codes:
            _child(code, environment)  # compiles
        for _ in range(times):
            for code in codes:
                runs[code].append(_child(code, environment))
    bare = statistics.median(runs.pop(BARE))
    return {code: statistics.median(each) - bare for code, each in runs.items()}


def rows(quick: bool) -> Iterator[Figure]:  # noqa: FBT001  as the table calls it
    """The line of the table; what a program that uses it pays is told beside."""
    found = costs(5 if quick else TIMES)
    yield Figure(
        name="`import kling_async` beyond bare Python, CPU",
        goal="≤ 80 ms",
        limit=80.0,
        value=found[PACKAGE],
        unit="ms",
        digits=1,
        note=f"`{JOB}` {found[JOB]:.0f} ms; `{SESSION}` {found[SESSION]:.0f} ms, {found[NEIGHBOURS]:.0f} ms of it for what it stands on",
    )


if __name__ == "__main__":
    main(rows)
