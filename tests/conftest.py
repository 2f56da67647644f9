"""What the tests share: an event loop whose time jumps, so that a wait of minutes takes no time at all, and a check for leaks."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import settings

from kling_async.testing import VirtualLoop, no_leaks

pytest_plugins = ("matrix", "postgres")
settings.register_profile("untimed", deadline=None)  # a busy machine is no defect
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Take all that was imported out of the garbage collector's sight: tests that collect would look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run asynchronous tests in a `VirtualLoop`."""
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def nothing_is_left() -> AsyncIterator[None]:
    """Fail a test that leaves something running, open or unheard."""
    async with no_leaks():
        yield
