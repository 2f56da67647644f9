"""Runs examples as a reader would, but for three things: an emulator is there, time jumps, and warnings are errors.

Takes `[name, source]` pairs as JSON on standard input and writes what went wrong, by name, to standard output. A block with its
own `asyncio.run`, or `run` of `kling_async.testing`, is a program; any other is a fragment, and gets what the pages promise it:
an open session called `kling`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import inspect
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Coroutine
from importlib import resources
from pathlib import Path
from typing import Any

from kling_async import KlingSession
from kling_async.emulator import Emulator
from kling_async.emulator._studio import Studio, sample
from kling_async.testing import VirtualLoop

PORTRAIT = resources.files("kling_async.emulator").joinpath("samples", "picture-1x1.png").read_bytes()


async def beside_emulator(main: Coroutine[Any, Any, Any]) -> Any:
    """Await `main` where the two variables that every reader has set lead to an emulator."""
    async with contextlib.aclosing(Studio(sample)) as studio, Emulator(studio=studio) as emulator:  # drawing clips would take its time
        os.environ.update(KLING_BASE_URL=emulator.url, KLING_API_KEY=emulator.api_key)
        return await main


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """What `asyncio.run` is while an example runs."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(beside_emulator(main))


async def within_session(code: Any) -> None:
    """Run a fragment."""
    async with KlingSession() as kling:
        waiting = eval(code, {"__name__": "__main__", "kling": kling})
        if inspect.isawaitable(waiting):
            await waiting


def read(name: str, source: str) -> None:
    """Run one example in the present directory."""
    if "asyncio.run(" in source or "\nrun(" in source:
        exec(compile(source, name, "exec"), {"__name__": "__main__"})
    else:
        run(within_session(compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)))


def troubles_with(name: str, source: str) -> list[str]:
    """What a reader would see go wrong, warnings about things left open included."""
    troubles = list[str]()
    sys.unraisablehook = lambda left: troubles.append(repr(left.exc_value))
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory), contextlib.redirect_stdout(io.StringIO()):
        Path("portrait.png").write_bytes(PORTRAIT)
        Path("prompts.txt").write_text("a red fox\na heron at dawn\na market in the rain\n", encoding="utf-8")
        try:
            read(name, source)
        except Exception:  # noqa: BLE001 -- the trouble is handed on
            troubles.append(traceback.format_exc())
        gc.collect()
    return troubles


if __name__ == "__main__":
    asyncio.run = run  # type: ignore[assignment]  # the examples call it as readers do
    json.dump({name: troubles_with(name, source) for name, source in json.load(sys.stdin)}, sys.stdout)
