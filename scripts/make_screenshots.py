"""Make the pictures of the emulator's page that the documentation shows: a program's requests, really made, in a real browser.

Needs the package installed with the extra `emulator`, Playwright, and chromium; `nox -s screenshots` sees to them. Look at the pictures
before you commit them.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from aiohttp import ClientSession
from PIL import Image
from playwright.async_api import Browser, Page, async_playwright

from kling_async.emulator import Emulator

_ASSETS: Final = Path(__file__).parents[1] / "docs" / "assets"
_HEAVIEST: Final = 150 << 10
"""Bytes of a picture. A documentation is read over slow lines too."""
_COLOURS: Final = 256
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


async def _post(http: ClientSession, emulator: Emulator, route: str, **body: object) -> str:
    async with http.post(f"{emulator.url}/kling/v1/{route}", json=body) as answer:
        said = await answer.json(content_type=None) if answer.ok else {}
    return str(said.get("data", {}).get("task_id", ""))


async def _work(http: ClientSession, emulator: Emulator) -> None:
    """An afternoon of somebody's program: clips, pictures, a failure, an error on the way."""
    fox = await _post(http, emulator, "videos/text2video", prompt="a red fox in fresh snow", model_name="kling-v2-6", duration="5")
    await _post(http, emulator, "images/generations", prompt="a castle of glass", model_name="kling-v2-1", n=4, aspect_ratio="16:9")
    await _post(http, emulator, "videos/text2video", prompt="a heron at dawn [fail: out of paint]", model_name="kling-v2-6")
    for _ in range(4):
        emulator.advance(70)
        async with http.get(f"{emulator.url}/kling/v1/videos/text2video/{fox}") as answer:
            await answer.read()
    await _post(http, emulator, "videos/text2video", prompt="a lighthouse at dusk, waves roll in", model_name="kling-v2-6")
    emulator.advance(110)
    emulator.fault("status", status=503, route="videos/lip-sync", times=None)
    await _post(http, emulator, "videos/lip-sync", input={})
    picture = "https://pictures.example/harbour.png"
    await _post(http, emulator, "videos/image2video", prompt="boats leave the harbour", model_name="kling-v3", image=picture, mode="pro")
    emulator.advance(75)


async def _opened(browser: Browser, emulator: Emulator, *, dark: bool, width: int, height: int) -> Page:
    context = await browser.new_context(color_scheme="dark" if dark else "light", viewport={"width": width, "height": height})
    page = await context.new_page()
    await page.goto(emulator.dashboard)
    await page.wait_for_function("() => [...document.querySelectorAll('video')].some((clip) => clip.currentTime > 1.5)")
    await page.wait_for_function("() => [...document.querySelectorAll('.card img')].every((image) => image.naturalWidth)")
    return page


async def _keep(page: Page, name: str) -> None:
    shot = Image.open(io.BytesIO(await page.screenshot(animations="disabled"))).convert("RGB")
    path = _ASSETS / name
    await asyncio.to_thread(shot.quantize(_COLOURS).save, path, optimize=True)
    size = path.stat().st_size
    print(f"{path.name}: {size} bytes")
    if size > _HEAVIEST:
        sys.exit(f"{path.name} has {size} bytes, and {_HEAVIEST} is the limit: show less, or use fewer colours")


async def _main() -> None:
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    async with Emulator(speed=0, seed=7) as emulator, async_playwright() as playwright:
        async with ClientSession(headers={"Authorization": f"Bearer {emulator.api_key}"}) as http:
            await _work(http, emulator)
        browser = await playwright.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0)
        page = await _opened(browser, emulator, dark=False, width=1280, height=900)
        await _keep(page, "dashboard-light.png")
        page = await _opened(browser, emulator, dark=True, width=1280, height=900)
        await page.get_by_label("Details of request 10").click()
        await page.locator(".parts").wait_for()
        await page.locator("#requests").scroll_into_view_if_needed()
        await page.evaluate("window.scrollTo(0, document.getElementById('requests').offsetTop - 70)")
        await _keep(page, "dashboard-dark.png")
        await browser.close()


if __name__ == "__main__":
    asyncio.run(_main())
