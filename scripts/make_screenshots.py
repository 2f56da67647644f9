"""Make the pictures of web pages that the documentation shows, the emulator's and the example's: real requests in a real browser.

Needs the package with the extra `emulator`, the group `web`, Playwright, and chromium; `nox -s screenshots` sees to them. Look at the
pictures before you commit them.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import ClientSession
from PIL import Image
from playwright.async_api import Browser, Page, async_playwright

from kling_async.emulator import Emulator

_ROOT: Final = Path(__file__).parents[1]
_ASSETS: Final = _ROOT / "docs" / "assets"
_PORT: Final = 8799
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


@asynccontextmanager
async def _example(emulator: Emulator) -> AsyncIterator[str]:
    """The address of the web application, which runs."""
    url = f"http://127.0.0.1:{_PORT}"
    environment = {"KLING_API_KEY": emulator.api_key, "KLING_BASE_URL": emulator.url, "PORT": str(_PORT), "PUBLIC_URL": url}
    with tempfile.TemporaryDirectory() as folder:
        app = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_ROOT / "examples" / "web" / "app.py"),
            env={**os.environ, **environment, "STUDIO_FOLDER": folder},
            stderr=asyncio.subprocess.PIPE,
        )
        lines = app.stderr or asyncio.StreamReader()
        async for line in lines:
            if b"running on" in line:
                break
        yield url
        app.terminate()
        await lines.read()
        await app.wait()


async def _afternoon(page: Page, emulator: Emulator) -> None:
    """An afternoon at the web application: clips that are ready, one that failed, one in the making."""

    async def ask(prompt: str, shape: str, state: str, picture: str | None = None) -> None:
        await page.get_by_label("What is to be seen").fill(prompt)
        await page.get_by_label("Shape").select_option(shape)
        if picture is not None:
            await page.get_by_label("A picture to start from").set_input_files(picture)
        await page.get_by_role("button", name="Make the clip").click()
        await page.locator(".card", has_text=prompt).and_(page.locator(f"[data-state={state}]")).wait_for()

    await ask("a glacier under the moon", "9:16", "submitted")
    await ask("a lighthouse at dusk, waves roll in", "16:9", "submitted")
    await ask("a red fox in fresh snow", "16:9", "submitted")
    emulator.advance(500)
    await page.locator("[data-state=ready]").nth(2).wait_for()
    await page.clock.fast_forward("16:40")
    emulator.fault("fail", reason="no room for so many feathers")
    await ask("a heron at dawn", "16:9", "submitted")
    emulator.advance(500)
    await page.locator("[data-state=failed]").wait_for()
    await page.clock.fast_forward("05:10")
    sample = _ROOT / "kling_async" / "emulator" / "samples" / "picture-16x9.png"
    await ask("boats leave the harbour", "16:9", "submitted", str(sample))
    emulator.advance(100)
    await page.locator("[data-state=processing]").wait_for()
    await page.clock.fast_forward("02:10")
    await page.evaluate("document.querySelectorAll('video').forEach((clip) => { clip.muted = true; clip.play(); })")
    await page.mouse.move(0, 0)
    # The controls are gone then.
    await page.wait_for_function("() => [...document.querySelectorAll('video')].every((clip) => clip.currentTime > 4)")


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
        async with Emulator(speed=0, seed=7) as fresh, _example(fresh) as url:
            context = await browser.new_context(viewport={"width": 1280, "height": 780})
            page = await context.new_page()
            await page.clock.install()
            await page.goto(url)
            await _afternoon(page, fresh)
            await _keep(page, "web.png")
            await context.close()
        await browser.close()


if __name__ == "__main__":
    asyncio.run(_main())
