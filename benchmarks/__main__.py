"""The table of what is promised about speed: `nox -s bench`, or `python benchmarks`.

    python benchmarks                the table, in about twenty-five minutes of a quiet machine
    python benchmarks --quick        its shape, in about one: too short to judge by
    python benchmarks --write        the table, and with it the page in `docs/explanation/performance.md`
    python benchmarks --peers        clients of other services beside the loop, those that are installed; with `--write`, too
    python benchmarks NAME...        other scripts, or some of those: `deadlines`, `journal`, `reads`

Nothing fails for a figure that misses its goal; a script that breaks does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import page
from kit import Figure, machine, table

HERE = Path(__file__).parent
SCRIPTS = ("generations", "reads", "pacing", "handles", "uploads", "downloads", "imports", "creations")
"""In the order of the goals."""


def figures(script: str, *options: str) -> Iterator[Figure]:
    """The lines of one script, which runs by itself."""
    command = [sys.executable, str(HERE / f"{script}.py"), "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603  ourselves
        assert running.stdout  # noqa: S101  it was asked for
        for line in running.stdout:
            if line.startswith('{"name"'):
                yield Figure(**json.loads(line))
    if running.returncode:
        sys.exit(f"{script} broke")


def main(options: list[str]) -> None:
    """Run what was asked for."""
    names = [option for option in options if not option.startswith("-")]
    for name in names:
        subprocess.run([sys.executable, HERE / f"{name}.py", *(o for o in options if o not in names)], check=True)  # noqa: S603  ourselves
    if names:
        return
    if "--peers" in options:
        subprocess.run([sys.executable, HERE / "peers.py", *options], check=True)  # noqa: S603  ourselves
        return
    print(machine(), flush=True)
    found: list[Figure] = []
    for script in SCRIPTS:
        for figure in figures(script, *(["--quick"] if "--quick" in options else [])):
            found.append(figure)
            print(" | ".join(figure.cells()), f"  ({figure.note})" if figure.note else "", flush=True)
    print(f"\n{table(found)}")
    if "--write" in options:
        page.write(found, quick="--quick" in options)


if __name__ == "__main__":
    main(sys.argv[1:])
