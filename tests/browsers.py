"""What tests in a browser do: visit a page, which then must not complain or look elsewhere; make a task for it to show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from attrs import define, field
from playwright.async_api import Browser, ConsoleMessage, Page, Request

from kling_async.emulator import Emulator

T2V = "/kling/v1/videos/text2video"
SECRET = "sk-c4n4ry-of-the-page"


async def make(http: aiohttp.ClientSession, emulator: Emulator, path: str = T2V, **body: Any) -> str:
    """The id of a new task."""
    async with http.post(emulator.url + path, json={"prompt": "a red fox", **body}) as answer:
        assert answer.status == 200
        return str((await answer.json())["data"]["task_id"])


@define
class Visit:
    """A page, and what must not have happened when it is left."""

    page: Page
    complaints: list[str] = field(factory=list)
    """What the console calls an error or a warning, and what a script did not catch."""
    strange: list[str] = field(factory=list)
    """Requests to anywhere but this machine."""

    def expected(self, text: str) -> None:
        """The test has brought about complaints of this kind."""
        assert any(text in complaint for complaint in self.complaints)
        self.complaints[:] = [complaint for complaint in self.complaints if text not in complaint]


@asynccontextmanager
async def visit(
    browser: Browser, url: str, *, dark: bool = False, width: int = 1280, copying: bool = False, calm: bool = False
) -> AsyncIterator[Visit]:
    """Open a page in a browser that remembers nothing; leaving it fails if it complained or asked elsewhere."""
    context = await browser.new_context(
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if calm else "no-preference",
        viewport={"width": width, "height": 900},
    )
    if copying:
        await context.grant_permissions(["clipboard-read", "clipboard-write"])
    made = Visit(await context.new_page())

    def heard(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            made.complaints.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith("http://127.0.0.1:"):
            made.strange.append(request.url)

    made.page.on("console", heard)
    made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
    made.page.on("request", asked)
    made.page.set_default_timeout(30_000)
    try:
        await made.page.goto(url)
        yield made
    finally:
        await context.close()
    assert made.complaints == []
    assert made.strange == []
