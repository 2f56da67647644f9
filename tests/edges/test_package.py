"""What is installed: its dependencies, its version, and how little importing it costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata, resources

import pytest

import kling_async

HEAVY = {
    "PIL",
    "aiohttp",
    "anyio",
    "asyncio",
    "av",
    "cattrs",
    "cyclopts",
    "kling_async.emulator",
    "kling_async.transport",
    "pytest",
    "rich",
    "sqlite3",
    "ssl",
    "yarl",
}


def modules_after(statement: str) -> set[str]:
    """The modules a fresh interpreter holds after one statement."""
    code = f"import sys\n{statement}\nimport json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_core_dependencies() -> None:
    """Whoever installs the package gets four libraries and what these need, nothing else."""
    requirements = metadata.requires("kling-async") or []
    core = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements if "extra ==" not in requirement}
    assert core == {"aiohttp", "attrs", "cattrs", "anyio"}


def test_version() -> None:
    """The package and its metadata name the same version."""
    assert kling_async.__version__ == metadata.version("kling-async")


def test_typed() -> None:
    """Type checkers are told that the package has types."""
    assert resources.files(kling_async).joinpath("py.typed").is_file()


def test_import_is_cheap() -> None:
    """`import kling_async` loads nothing that costs: no network, no event loop, no database, no extra."""
    loaded = modules_after("import kling_async")
    assert loaded & HEAVY == set()
    assert len(loaded - modules_after("pass")) <= 20


def test_jobs_need_no_network() -> None:
    """Jobs can be written, validated and compared where no event loop runs."""
    loaded = modules_after("import kling_async.jobs")
    assert loaded & {"aiohttp", "asyncio", "cattrs", "ssl", "sqlite3"} == set()


def test_public_names() -> None:
    """`__all__` is sorted, complete to `dir`, and each name leads somewhere."""
    assert list(kling_async.__all__) == sorted(kling_async.__all__)
    assert set(kling_async.__all__) <= set(dir(kling_async))
    for name in kling_async.__all__:
        assert getattr(kling_async, name) is not None


def test_unknown_name() -> None:
    """A misspelt name is an `AttributeError` that names it."""
    with pytest.raises(AttributeError, match="KlingSesion"):
        kling_async.KlingSesion  # noqa: B018 -- the misspelling is the point
