"""What tests of programs that use kling_async can need: time that jumps, callers that leave, leaks and secrets found, money counted."""

from __future__ import annotations

from kling_async.testing._leaks import no_leaks
from kling_async.testing._leaving import CancelAt
from kling_async.testing._money import assert_bought_once, duplicates
from kling_async.testing._secrets import leaked, shown_by
from kling_async.testing._time import VirtualLoop, run

__all__ = ["CancelAt", "VirtualLoop", "assert_bought_once", "duplicates", "leaked", "no_leaks", "run", "shown_by"]
