"""The web application of `examples/web`, in a process of its own and a real browser, as its users would use it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from attrs import define, field
from playwright.async_api import Browser, Locator, Page, Route, expect

from browsers import SECRET, visit
from kling_async.emulator import Emulator, SeenRequest
from kling_async.emulator._studio import Studio, sample

pytest_plugins = ("browsing",)

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "kling_async" / "emulator" / "samples" / "picture-1x1.png"


def free_port() -> int:
    """A port below those that connections are made from: while a server is away nobody takes its place."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


@define
class Shop:
    """The application beside an emulator whose time stands still, always on the same port and in the same folder."""

    emulator: Emulator
    folder: Path
    port: int = field(factory=free_port)
    said: list[str] = field(factory=list)
    """What it wrote to its terminal."""
    _process: asyncio.subprocess.Process | None = None
    _listening: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Start it, until it can be visited."""
        command = (sys.executable, "-W", "error", str(ROOT / "examples" / "web" / "app.py"))
        settings = {
            "KLING_API_KEY": SECRET,
            "KLING_BASE_URL": self.emulator.url,
            "PORT": str(self.port),
            "PUBLIC_URL": self.url,
            "STUDIO_FOLDER": str(self.folder),
        }
        self._process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **settings}, stderr=asyncio.subprocess.PIPE)
        opened = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(self._process, opened))
        await opened.wait()
        assert self._process.returncode is None, "".join(self.said)

    async def close(self, how: signal.Signals) -> None:
        """End it, one way or another."""
        assert self._process
        assert self._listening
        self._process.send_signal(how)
        await self._process.wait()
        await self._listening

    def posts(self, prompt: str) -> list[SeenRequest]:
        """The purchases of that prompt which reached the service."""
        return [each for each in self.emulator.log.requests if each.method == "POST" and each.body["prompt"] == prompt]

    async def _listen(self, process: asyncio.subprocess.Process, opened: asyncio.Event) -> None:
        assert process.stderr
        async for line in process.stderr:
            self.said.append(line.decode())
            if "Uvicorn running" in self.said[-1]:
                opened.set()
        await process.wait()
        opened.set()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for the browser and all who talk to it, in real time: the browser has no other."""
    return "asyncio"


@pytest.fixture(scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    """One for all tests, as it is one for all customers. It ends when it is told to, at once and without a complaint."""
    studio = Studio(sample)
    async with Emulator(speed=0, seed=1, studio=studio) as emulator:
        shop = Shop(emulator, tmp_path_factory.mktemp("shop"))
        await shop.open()
        yield shop
        await shop.close(signal.SIGTERM)
    await studio.aclose()
    assert not [line for line in shop.said if not line.startswith(("INFO:", "outcome-unknown:"))]
    assert SECRET not in "".join(shop.said)


async def ask(page: Page, prompt: str) -> Locator:
    """Fill in the form and send it; gives the card."""
    await page.get_by_label("What is to be seen").fill(prompt)
    await page.get_by_role("button", name="Make the clip").click()
    return card_of(page, prompt)


def card_of(page: Page, prompt: str) -> Locator:
    """The card of that prompt."""
    return page.locator(".card", has=page.get_by_text(prompt, exact=True))


async def plays(card: Locator) -> None:
    """A click on the clip starts it, and it goes on."""
    clip = card.locator("video")
    await clip.click()
    await card.page.wait_for_function("(clip) => clip.readyState >= 2 && clip.currentTime > 0.2", arg=await clip.element_handle())


async def test_a_clip_from_the_form(browser: Browser, shop: Shop) -> None:
    """A double click buys one clip; its card follows it by callbacks; it plays, and does so when every link of the service is dead."""
    async with visit(browser, shop.url) as seen:
        page: Page = seen.page
        await expect(page.locator("#link")).to_have_text("live")
        await expect(page.locator("#none")).to_be_visible()
        await page.get_by_label("What is to be seen").fill("a red fox")
        await page.get_by_label("Shape").select_option("9:16")
        await page.get_by_role("button", name="Make the clip").dblclick()
        card = card_of(page, "a red fox")
        await expect(card).to_have_attribute("data-state", "submitted")
        shop.emulator.advance(100)
        await expect(card).to_have_attribute("data-state", "processing")
        await expect(card.locator(".fact")).to_contain_text(re.compile(r"in the making · for \d+ s"))
        shop.emulator.advance(300)
        await expect(card).to_have_attribute("data-state", "ready")
        await expect(page.locator("#news")).to_have_text("ready: a red fox")
        await plays(card)
        place = await card.locator("video").bounding_box()
        assert place
        assert place["width"] > place["height"], "a tall clip takes no more room than any other"
        (task,) = shop.emulator.log.tasks
        assert len(shop.posts("a red fox")) == 1
        assert {sent.status for sent in shop.emulator.log.callbacks} == {200}
        assert len(shop.emulator.log.reads_for(task.id)) <= 3, "it was looked at when it was called, and not else"
        shop.emulator.advance(30 * 86400)
        await page.reload()
        await plays(card)
        async with page.expect_download() as started:
            await card.get_by_role("link", name="Download").click()
        assert (await (await started.value).path()).stat().st_size > 0


async def test_a_restart_in_the_middle(browser: Browser, shop: Shop) -> None:
    """The server is killed while a clip is in the making, which ends unheard; the next one finishes it on a page that stayed open."""
    async with visit(browser, shop.url) as seen:
        page: Page = seen.page
        card = await ask(page, "a heron at dawn")
        await expect(card).to_have_attribute("data-state", "submitted")
        shop.emulator.advance(100)
        await expect(card).to_have_attribute("data-state", "processing")
        await shop.close(signal.SIGKILL)
        await expect(page.locator("#link")).to_have_text("connecting again")
        shop.emulator.advance(300)
        await shop.open()
        await expect(card).to_have_attribute("data-state", "ready")
        await expect(page.locator("#link")).to_have_text("live")
        await plays(card)
        await shop.close(signal.SIGTERM)  # which does not wait for the page that is open
        await shop.open()
        await expect(page.locator("#link")).to_have_text("live")
        await expect(card).to_have_attribute("data-state", "ready")
        assert len(shop.posts("a heron at dawn")) == 1
        seen.expected("net::ERR_")


async def test_a_lost_answer(browser: Browser, shop: Shop) -> None:
    """The server takes the order and the browser never hears of it: pressing again, also after a reload, is the same order."""

    async def lose(route: Route) -> None:
        await route.fetch()
        await route.abort()

    async with visit(browser, shop.url) as seen:
        page: Page = seen.page
        await page.route("**/orders", lose)
        card = await ask(page, "a castle of glass")
        await expect(page.get_by_role("alert")).to_contain_text("never bought twice")
        await page.unroute("**/orders")
        await page.reload()
        await expect(page.get_by_label("What is to be seen")).to_have_value("a castle of glass")
        await page.get_by_role("button", name="Make the clip").click()
        await expect(page.get_by_label("What is to be seen")).to_have_value("")
        await expect(card).to_have_count(1)
        await expect(card).to_have_attribute("data-state", "submitted")
        assert len(shop.posts("a castle of glass")) == 1
        await card.get_by_role("button", name="Use again").click()
        await page.get_by_role("button", name="Make the clip").click()
        await expect(card).to_have_count(2)
        await expect(card.first).to_have_attribute("data-state", "submitted")
        assert len(shop.posts("a castle of glass")) == 2, "another wish, though in the same words"
        seen.expected("net::ERR_FAILED")


async def test_what_goes_wrong_is_told(browser: Browser, shop: Shop) -> None:
    """What cannot be sent is told at the form; what was refused, failed, or is not known, on its card. Nothing is bought for it."""
    async with visit(browser, shop.url) as seen:
        page: Page = seen.page
        await ask(page, "x" * 2501)
        await expect(page.get_by_role("alert")).to_contain_text("prompt: ")
        seen.expected("422")
        refused = await ask(page, "a duel [block]")
        await expect(refused.locator(".note")).to_contain_text("Nothing was bought.")
        await expect(page.get_by_role("alert")).to_be_hidden()
        shop.emulator.fault("drop", method="POST", accepted=True)
        unknown = await ask(page, "a storm")
        await expect(unknown.locator(".note")).to_contain_text("it is not sent again")
        failed = await ask(page, "a lighthouse [fail: out of paint]")
        await expect(failed).to_have_attribute("data-state", "submitted")
        shop.emulator.advance(400)
        await expect(failed.locator(".note")).to_have_text("The task failed: out of paint.")
        assert [len(shop.posts(prompt)) for prompt in ("x" * 2501, "a duel [block]", "a storm")] == [0, 1, 1]


async def test_a_picture_comes_alive(browser: Browser, shop: Shop) -> None:
    """With a picture it is `image2video` that is bought. By keyboard, on a narrow and dark screen that needs no scrolling aside."""
    async with visit(browser, shop.url, dark=True, width=380, calm=True) as seen:
        page: Page = seen.page
        await page.keyboard.press("Tab")
        await page.keyboard.type("boats leave the harbour")
        await page.get_by_label("A picture to start from").set_input_files(PICTURE)
        await page.keyboard.press("Tab")
        for _ in range(3):
            await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        card = card_of(page, "boats leave the harbour")
        await expect(card).to_have_attribute("data-state", "submitted")
        assert [post.route for post in shop.posts("boats leave the harbour")] == ["videos/image2video"]
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_other_sites_cannot_order(shop: Shop) -> None:
    """A form that another site's page sends is refused: it would spend the owner's money."""
    form = {"order": "0" * 32, "prompt": "a trap", "duration": "5", "aspect_ratio": "16:9"}
    async with (
        aiohttp.ClientSession(headers={"Sec-Fetch-Site": "cross-site"}) as http,
        http.post(f"{shop.url}/orders", data=form) as answer,
    ):
        assert answer.status == 403
    assert shop.posts("a trap") == []
