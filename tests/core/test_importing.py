"""What importing brings: counted in modules, as time on a busy machine says little (`benchmarks/imports.py` measures it)."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import kling_async

HEAVY = {"aiohttp", "anyio", "asyncio", "attr", "base64", "cattrs", "email", "http", "json", "logging", "rich", "socket", "sqlite3", "ssl"}
EXTRAS = {"PIL", "av", "cyclopts", "opentelemetry", "prometheus_client", "psycopg", "rich", "structlog", "uvloop"}
APART = {"kling_async.callbacks", "kling_async.cli", "kling_async.emulator", "kling_async.integrations", "kling_async.testing"}


def loaded(code: str) -> set[str]:
    """The modules that are there after that code, in a process of its own."""
    answer = subprocess.run([sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def test_the_package_brings_next_to_nothing() -> None:
    """`import kling_async` loads its version, what finds its names, nothing that is not Python's, and fewer than fifty modules in all."""
    brought = loaded("import kling_async") - loaded("")
    assert {name for name in brought if name.startswith("kling_async")} == {"kling_async", "kling_async._lazy", "kling_async._version"}
    assert {name.partition(".")[0] for name in brought} - {"kling_async"} <= sys.stdlib_module_names
    assert brought & HEAVY == set()
    assert len(brought) < 50


def test_values_bring_no_machinery() -> None:
    """Jobs, results, errors, references, credentials and profiles come without an event loop, a network, a database or a converter."""
    homes = [import_module(f"kling_async.{name}") for name in ("errors", "models", "jobs", "_auth", "_profile")]
    names = [name for home in homes for name in home.__all__ if name in kling_async.__all__]
    brought = loaded(f"from kling_async import {', '.join(names)}") - loaded("")
    assert {"KlingError", "TaskRef", "Text2Video", "KeyPair", "Profile"} <= set(names)
    assert brought & (HEAVY - {"attr", "base64", "json"}) == set()
    assert len(brought) < 140


def test_a_session_brings_what_it_stands_on() -> None:
    """`KlingSession` adds to its four dependencies and SQLite its own modules and a handful of Python's: no extra, no emulator, no CLI."""
    ground = loaded("import aiohttp, anyio.to_thread, attrs, cattrs, sqlite3")
    brought = loaded("from kling_async import KlingSession") - ground
    own = {name for name in brought if name.startswith("kling_async")}
    assert brought & (EXTRAS | APART) == set()
    assert len(brought - own) < 15
    assert {name.partition(".")[0] for name in brought - own} <= sys.stdlib_module_names | {"msgspec", "orjson"}
