"""What tests of programs that use kling_async can need: emulators, time that jumps, callers that leave, leaks and secrets found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async._lazy import offer as _offer

if TYPE_CHECKING:  # pytest loads this package in every project that has it installed: the names come when they are asked for
    from kling_async.testing._jumping import JumpingClock
    from kling_async.testing._leaks import no_leaks
    from kling_async.testing._leaving import CancelAt
    from kling_async.testing._money import assert_bought_once, duplicates
    from kling_async.testing._secrets import leaked, shown_by
    from kling_async.testing._threaded import ThreadedEmulator
    from kling_async.testing._time import VirtualLoop, run

__all__ = [
    "CancelAt",
    "JumpingClock",
    "ThreadedEmulator",
    "VirtualLoop",
    "assert_bought_once",
    "duplicates",
    "leaked",
    "no_leaks",
    "run",
    "shown_by",
]

_HOMES = ("_secrets", "_leaving", "_money", "_time", "_leaks", "_jumping", "_threaded")
"""Where the names come from, the light modules first: pytest loads the plugin, and so this, in each project of whoever has us installed."""

__getattr__, __dir__ = _offer(__name__, _HOMES)
