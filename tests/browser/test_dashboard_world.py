"""The emulator's page in a real browser: how it looks, and what it bears from a broken line and from people with bad intentions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from browsers import make, visit
from kling_async.emulator import Emulator

pytest_plugins = ("browsing",)
SCRIPT = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for the browser and all who talk to it, in real time: the browser has no other."""
    return "asyncio"


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const pixel = (color) => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (color) => pixel(color).slice(0, 3)
    .map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" && element.parentElement ? behind(element.parentElement) : color;
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!words || !element.checkVisibility() || element.disabled || element.closest(".media, .quiet, noscript")) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    if ((one + 0.05) / (other + 0.05) < 4.5) faint.push(`${element.tagName} ${element.className} ${element.textContent.slice(0, 20)}`);
  }
  return [getComputedStyle(document.body).backgroundColor, faint];
}"""


async def test_dark_and_light(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """Both are served as the system asks, and in both every text stands out from its ground (4.5 to 1)."""
    for prompt in ("a fox", "a heron [fail]", "[seconds: 900]", "[stuck]"):
        await make(http, emulator, prompt=prompt)
    emulator.advance(400)
    emulator.fault("drop")
    grounds = set()
    for dark in (False, True):
        async with visit(browser, emulator.dashboard, dark=dark) as seen:
            await expect(seen.page.locator(".card video")).to_have_count(1)
            await seen.page.get_by_label("Details of request 1").click()
            await expect(seen.page.get_by_label("curl", exact=True)).to_be_visible()
            ground, faint = await seen.page.evaluate(CONTRAST)
            assert faint == []
            grounds.add(ground)
    assert len(grounds) == 2


async def test_a_narrow_screen(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """On 400 pixels nothing sticks out at the side, opened details and long words included."""
    await make(http, emulator, prompt="word" * 200, external_task_id="k" * 128)
    emulator.advance(400)
    async with visit(browser, emulator.dashboard, width=400) as seen:
        page: Page = seen.page
        await page.locator(".card summary").click()
        await page.get_by_label("Details of request 1").click()
        await expect(page.get_by_label("curl", exact=True)).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") <= 400
        cut = "[...document.querySelectorAll('.prompt, .request, .id')].filter((part) => part.scrollWidth > part.clientWidth).length"
        assert await page.evaluate(cut) == 0


async def test_what_is_sent_stays_text(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """Markup in a prompt, a field, a reason, a path or a header is shown as it was written, and does nothing."""
    await make(
        http, emulator, prompt=f"{SCRIPT} [fail: {SCRIPT}]", callback_url=f"{emulator.url}/{SCRIPT}".replace(" ", "+"), **{SCRIPT: SCRIPT}
    )
    async with http.get(f"{emulator.url}/<script>window.hit=3</script>", headers={"X-Odd": SCRIPT}):
        emulator.advance(400)
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        await expect(page.locator(".card .prompt")).to_contain_text(SCRIPT)
        await expect(page.locator(".card .reason")).to_contain_text(SCRIPT)
        for seq in (1, 2):
            await page.get_by_label(f"Details of request {seq}").click()
        await expect(page.locator(".detail")).to_have_count(2)
        await expect(page.get_by_label("Headers").first).to_contain_text("onerror")
        assert await page.evaluate("window.hit") is None
        assert await page.locator("script").count() == 1
        assert await page.locator("img").count() == 0


async def test_the_stream_is_taken_up_again(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """When the connection breaks, the page says so, comes back by itself and has missed nothing; what it showed, it kept."""
    first = await make(http, emulator)
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        await page.locator(f"[data-task='{first}']").evaluate("(card) => { card.dataset.mark = 'kept'; }")
        running = emulator._running
        assert running
        server = running.runner.server
        assert server
        for connection in server.connections:
            if connection.transport:
                connection.transport.abort()
        await expect(page.locator("#link")).to_have_text("lost, trying again")
        missed = await make(http, emulator, prompt="missed")
        await expect(page.locator(f"[data-task='{missed}']")).to_be_visible()
        await expect(page.locator("#link")).to_have_text("live")
        await expect(page.locator("[data-mark=kept]")).to_have_count(1)
        await expect(page.locator(".card")).to_have_count(2)
        seen.expected("net::ERR_")


@asynccontextmanager
async def page_of_a_stranger() -> AsyncIterator[str]:
    """The address of a page of another origin."""

    async def home(_request: web.Request) -> web.Response:
        return web.Response(text="<!DOCTYPE html><link rel=icon href=data:,>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", home)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


STRANGER = """async (there) => {
  const send = (method, path, options) =>
    fetch(there + path, { method, ...options }).then((answer) => answer.text()).catch(() => "refused");
  const plain = { mode: "no-cors", headers: { "Content-Type": "text/plain" } };
  return Promise.all([
    send("POST", "faults", { ...plain, body: '{"name": "drop", "times": null}' }),
    send("POST", "reset", plain),
    send("PUT", "speed", { body: '{"speed": 9}' }),
    send("GET", "tasks", {}),
    send("GET", "tasks", plain),
  ]);
}"""


async def test_pages_from_elsewhere(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """A page of another origin in the same browser switches nothing and reads nothing."""
    await make(http, emulator, prompt="private")
    async with page_of_a_stranger() as url, visit(browser, url) as seen:
        told = await seen.page.evaluate(STRANGER, emulator.dashboard)
        assert "private" not in str(told)
        seen.complaints.clear()
    assert (emulator.orders, emulator.speed, len(emulator.log.tasks)) == ((), 0, 1)
