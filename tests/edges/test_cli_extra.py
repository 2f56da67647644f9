"""The command line where its extra is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_without_the_extra(missing: str) -> None:
    """It says in one line what to install, and ends with 2."""
    code = f"import runpy, sys; sys.modules[{missing!r}] = None; runpy.run_module('kling_async', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'kling: the command line is an extra: pip install "kling-async[cli]"\n'
