"""Fixtures for tests in a browser: chromium, in which nothing but loopback can be reached, and an emulator to look at.

They need Playwright, so a test module asks for them by `pytest_plugins`; it makes its own `anyio_backend`, in real time for the module.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import aiohttp
import pytest
from playwright.async_api import Browser, async_playwright, expect

from browsers import SECRET
from kling_async.emulator import Emulator
from kling_async.emulator._studio import Studio, sample

NAMES = ("chromium", "chromium-browser", "google-chrome")
LONELY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """The chromium of this machine, else the one that Playwright has downloaded, which plays no H.264."""
    expect.set_options(timeout=30_000)  # of a machine that has other work
    path = next(filter(None, map(shutil.which, NAMES)), None)
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=path, chromium_sandbox=not as_root, args=[LONELY])
        yield started
        await started.close()


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway whose time stands still, and which serves samples instead of drawing."""
    studio = Studio(sample)
    async with Emulator(speed=0, seed=1, studio=studio) as running:
        yield running
    await studio.aclose()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A program of somebody's, with a key that must not be seen."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as session:
        yield session
