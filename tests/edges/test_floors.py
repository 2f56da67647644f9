"""The direction of the arrows: an import only goes down."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECK = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"


@pytest.mark.skipif(find_spec("importlinter") is None, reason="the contracts are about a checkout, not about an installed wheel")
def test_floors() -> None:
    """Every contract about imports in `pyproject.toml` is kept, and every module has its floor."""
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
