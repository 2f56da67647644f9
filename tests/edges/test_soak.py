"""Row L5 in short; `nox -s soak` runs the same for ten minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak.py"


@pytest.mark.row("L5")
@pytest.mark.parametrize("seed", [6, 7], ids=["official", "gateway"])
def test_the_books_agree(say: Callable[[str], None], seed: int) -> None:
    """After forty purchases with every fault at 1 % and a buyer killed beside, the gateway's books are the journal's; nothing grew."""
    command = [sys.executable, "-W", "error", str(SOAK), "--seconds", "60", "--purchases", "40", "--kills", "1", "--seed", str(seed)]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    *_, sold, last = run.stdout.splitlines()
    assert last == "the books agree, and nothing has grown"
    say(f"L5: {sold}; {last}")
