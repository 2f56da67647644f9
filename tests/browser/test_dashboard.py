"""The emulator's page in a real browser, as a person with a mouse or a keyboard would use it."""

from __future__ import annotations

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from browsers import SECRET, T2V, make, visit
from kling_async.emulator import Emulator

pytest_plugins = ("browsing",)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for the browser and all who talk to it, in real time: the browser has no other."""
    return "asyncio"


async def plays(page: Page) -> None:
    """The clip runs: its time has left zero, and goes on."""
    await page.wait_for_function("() => { const clip = document.querySelector('video'); return clip && clip.currentTime > 0.2; }")
    then = await page.evaluate("document.querySelector('video').currentTime")
    await page.wait_for_function(f"() => document.querySelector('video').currentTime !== {then}")


async def test_a_task_lives_on_the_page(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """It appears when a program creates it, moves on with the time, and plays when it is done, without a reload."""
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        await expect(page.locator("#link")).to_have_text("live")
        await expect(page.locator("#tasks-empty")).to_be_visible()
        task_id = await make(http, emulator, duration="5", model_name="kling-v2-6")
        card = page.locator(f"[data-task='{task_id}']")
        await expect(card.locator(".badge")).to_have_text("submitted")
        await expect(page.locator("#slot-list li").first).to_contain_text("1 of")
        emulator.advance(100)
        await expect(card.locator(".badge")).to_have_text("processing")
        async with http.get(f"{emulator.url}{T2V}/{task_id}"):
            await expect(card.locator(".meta")).to_contain_text("1 read")
        emulator.advance(300)
        await expect(card.locator(".badge")).to_have_text("succeed")
        await plays(page)
        await expect(page.locator("#news")).to_have_text("text2video succeed: a red fox")
        await expect(page.locator("#slot-list li").first).to_contain_text("0 of")
        assert {each.route for each in emulator.log.requests} == {"videos/text2video"}, "the page itself leaves no trace"


async def test_clips_can_be_held(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """A button stops all clips and lets them go on; whoever has asked the system for less motion finds them stopped."""
    await make(http, emulator)
    emulator.advance(400)
    async with visit(browser, emulator.dashboard, calm=True) as seen:
        page: Page = seen.page
        hold = page.get_by_role("button", name="Hold clips")
        await expect(hold).to_have_attribute("aria-pressed", "true")
        await page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
        assert await page.evaluate("document.querySelector('video').currentTime") == 0
        await hold.click()
        await plays(page)
        await hold.click()
        assert await page.evaluate("document.querySelector('video').paused")


async def test_failures_and_pictures(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """A failed task says why; pictures are shown, each of them."""
    await make(http, emulator, prompt="a heron [fail: out of paint]")
    await make(http, emulator, "/kling/v1/images/generations", n=3)
    emulator.advance(400)
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        await expect(page.locator(".reason:visible")).to_have_text("out of paint")
        await expect(page.locator(".card img")).to_have_count(3)
        await page.wait_for_function("() => [...document.querySelectorAll('.card img')].every((image) => image.naturalWidth > 0)")


async def test_the_log_hides_the_key(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """Requests appear as they come, with body, answer and headers when asked for; the key is nowhere on the page."""
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        await make(http, emulator, seed=3)
        row = page.locator("#rows tr[data-kind]").first
        await expect(row).to_contain_text("POST")
        await expect(row).to_contain_text("200")
        await expect(row).to_contain_text("not documented: seed")
        await row.get_by_role("button").click()
        detail = page.locator(".detail")
        await expect(detail).to_contain_text("Bearer ***")
        await expect(detail.get_by_label("Body")).to_contain_text('"prompt": "a red fox"')
        await expect(detail.get_by_label("Answer")).to_contain_text(emulator.log.tasks[0].id)
        assert SECRET not in await page.content()
        await page.locator("#requests-kind").select_option("read")
        await expect(row).to_be_hidden()
        await expect(detail).to_have_count(0)
        await page.locator("#requests-kind").select_option("create")
        await page.locator("#requests-text").fill("no such thing")
        await expect(row).to_be_hidden()
        await page.locator("#requests-text").fill("text2video")
        await expect(row).to_be_visible()


async def test_the_log_has_an_end(browser: Browser, emulator: Emulator) -> None:
    """The page keeps the last 500 requests, also of those that come while it is open; the ground truth has them all."""
    for _ in range(520):
        emulator.log.record(at=0.0, method="GET", path="/", route=None, headers={}, peer="", size=0, task_id=None)
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        await expect(page.locator("#rows tr")).to_have_count(500)
        emulator.log.record(at=0.0, method="GET", path="/the-last", route=None, headers={}, peer="", size=0, task_id=None)
        await expect(page.locator("#rows tr").first).to_contain_text("/the-last")
        await expect(page.locator("#rows tr")).to_have_count(500)
        assert len(emulator.log.requests) == 521


async def test_faults_by_click(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """A click orders a fault with its options, it strikes and is counted; another click takes it back."""
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        switch = page.get_by_role("switch", name="status", exact=True)
        await page.get_by_label("status of status").fill("503")
        await page.get_by_label("body of status").fill("json")
        await switch.click()
        await expect(switch).to_be_checked()
        async with http.get(f"{emulator.url}{T2V}/1") as answer:
            assert (answer.status, answer.content_type) == (503, "application/json")
        await expect(page.locator(".fault.on .struck")).to_have_text("struck 1×")
        await expect(page.locator("#rows .warn")).to_have_text("status")
        await switch.click()
        await expect(switch).not_to_be_checked()
        async with http.get(f"{emulator.url}{T2V}/1") as answer:
            assert answer.status == 404
        await page.get_by_label("How often").select_option("1")
        await page.get_by_label("Where").select_option("files")
        drop = page.get_by_role("switch", name="drop")
        await drop.click()
        await expect(drop).to_be_checked()
        assert [(order.name, order.route, order.left) for order in emulator.orders] == [("drop", "files", 1)]
        await page.get_by_role("button", name="All off").click()
        await expect(drop).not_to_be_checked()
        assert emulator.orders == ()


async def test_clock_and_slots(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """Speed, jumps and limits are set from the page, a change from elsewhere is seen there, and starting over needs two clicks."""
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        await make(http, emulator)
        await expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
        await page.get_by_role("button", name="+10 min").click()
        await expect(page.locator(".face")).to_have_text("00:10:00")
        await page.get_by_label("Videos at once").fill("2")
        await page.get_by_label("Videos at once").press("Enter")
        await page.wait_for_function("() => document.querySelector('meter').max === 2")
        assert emulator.slots["video"] == 2
        await page.get_by_role("button", name="60×", exact=True).click()
        await expect(page.get_by_role("button", name="60×", exact=True)).to_have_attribute("aria-pressed", "true")
        assert emulator.speed == 60
        emulator.speed = 7
        await expect(page.get_by_label("Speed,")).to_have_value("7")
        await page.get_by_role("button", name="Start over").click()
        await expect(page.locator(".card")).to_have_count(1)
        await page.get_by_role("button", name="Forget all tasks?").click()
        await expect(page.locator(".card")).to_have_count(0)
        await expect(page.locator("#rows tr")).to_have_count(0)
        assert emulator.log.tasks == []


async def test_copying(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """Each copy button puts into the clipboard what it stands beside."""
    task_id = await make(http, emulator)
    async with visit(browser, emulator.dashboard, copying=True) as seen:
        page: Page = seen.page
        await page.get_by_label("Details of request 1").click()
        for name, start in (("curl", "curl -sS http"), ("Python", "import asyncio")):
            await page.get_by_role("button", name=f"Copy {name}").click()
            await expect(page.locator("#news")).to_have_text("Copied")
            await page.wait_for_function(f"async () => (await navigator.clipboard.readText()).startsWith('{start}')")
            assert await page.evaluate("navigator.clipboard.readText()") == await page.get_by_label(name, exact=True).text_content()
        await page.locator(".card summary").click()
        await page.get_by_role("button", name="Copy id").click()
        await page.wait_for_function(f"async () => await navigator.clipboard.readText() === '{task_id}'")
        await page.locator("#copy-exports button").click()
        exports = f"export KLING_BASE_URL={emulator.url} KLING_API_KEY=sk-emulator"
        await page.wait_for_function(f"async () => await navigator.clipboard.readText() === '{exports}'")


FOCUSED = """() => {
  const focused = document.activeElement;
  if (focused === document.body) return null;
  const style = getComputedStyle(focused);
  const mark = focused.tabIndex >= 0 && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  return [focused.id || focused.name || focused.getAttribute("aria-label") || focused.textContent.trim(), mark];
}"""


async def test_by_keyboard_alone(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """Tab reaches everything that can be operated and shows where it is; Enter and Space operate it."""
    await make(http, emulator)
    emulator.advance(400)
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        await expect(page.locator(".card video")).to_have_count(1)
        await expect(page.locator("#rows tr")).to_have_count(1)
        stops: list[str] = []
        for _ in range(200):
            await page.keyboard.press("Tab")
            stop = await page.evaluate(FOCUSED)
            if stop is None:
                break
            assert stop[1], f"focus on {stop[0]!r} is not to be seen"
            stops.append(stop[0])
        wanted = {
            "Skip to the tasks", "Copy exports", "Pause", "600×", "+10 min", "Start over", "Open the clip", "Details", "requests-kind",
            "requests-text", "Details of request 1", "model_name", "prompt", "More fields", "Key", "Create", "Videos at once",
            "fault-drop", "status of status",
        }  # fmt: skip
        assert wanted <= set(stops)
        await page.locator("[data-field='prompt'] textarea").focus()
        await page.keyboard.type("typed")
        while (await page.evaluate(FOCUSED))[0] != "Create":
            await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator(".card")).to_have_count(2)
        assert emulator.log.tasks[1].body == {"prompt": "typed"}
        await page.locator("#fault-drop").focus()
        await page.keyboard.press("Space")
        await expect(page.locator("#fault-drop")).to_be_checked()
        await page.get_by_label("Details of request 1").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("curl", exact=True)).to_be_visible()
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("curl", exact=True)).to_have_count(0)
