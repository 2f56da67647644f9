"""The form of the emulator's page in a real browser: what is filled in is what arrives."""

from __future__ import annotations

from importlib import resources
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from browsers import make, visit
from kling_async.emulator import Emulator
from kling_async.jobs import ALL_JOBS

pytest_plugins = ("browsing",)
PICTURE = str(resources.files("kling_async.emulator") / "samples" / "picture-1x1.png")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for the browser and all who talk to it, in real time: the browser has no other."""
    return "asyncio"


async def fill(page: Page, route: str, clip: str) -> dict[str, Any]:
    """Fill in what a job needs, and give what must arrive."""
    form = page.locator("#form")
    await form.get_by_label("Job").select_option(route)
    text = form.locator("[data-field='prompt'] textarea")

    def named(name: str) -> Locator:
        return form.locator(f"[name='{name}']")

    match route:
        case "images/generations":
            await text.fill("a castle of glass")
            await named("n").fill("2")
            return {"prompt": "a castle of glass", "n": 2}
        case "videos/text2video":
            await text.fill("a lighthouse")
            await named("model_name").select_option("kling-v2-6")
            await named("duration").select_option("10")
            await named("sound").select_option("on")
            return {"prompt": "a lighthouse", "model_name": "kling-v2-6", "duration": "10", "sound": "on"}
        case "videos/image2video":
            await named("image").set_input_files(PICTURE)
            await text.fill("it moves")
            await form.get_by_text("More fields").first.click()
            await form.locator("[data-field='watermark_info'] select").select_option("true")
            return {"prompt": "it moves", "watermark_info": {"enabled": True}}
        case "videos/video-extend":
            await named("video_id").fill(clip)
            return {"video_id": clip}
        case "videos/lip-sync":
            await named("video_id").fill(clip)
            await named("mode").select_option("text2video")
            await named("text").fill("good morning")
            await named("voice_id").fill("v1")
            await named("voice_language").select_option("en")
            await named("voice_speed").fill("1.2")
            words = {"text": "good morning", "voice_id": "v1", "voice_language": "en", "voice_speed": 1.2}
            return {"input": {"video_id": clip, "mode": "text2video", **words}}
        case _:
            await form.get_by_label("human_image: use a sample picture").click()
            await form.get_by_label("cloth_image: URL").fill("https://files.example/dress.png")
            return {"cloth_image": "https://files.example/dress.png"}


async def test_the_form_creates_every_job(browser: Browser, emulator: Emulator, http: aiohttp.ClientSession) -> None:
    """Each job can be chosen, filled in and sent; what arrives is what was filled in, files as base64, and the reply is shown."""
    await make(http, emulator, model_name="kling-v1")
    emulator.advance(400)
    clip = emulator.log.tasks[0].entries[0].id
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        for job in ALL_JOBS:
            route = str(job.route)
            expected = await fill(page, route, clip)
            await page.get_by_role("button", name="Create").click()
            await expect(page.locator("#reply .status")).to_have_text("200 OK")
            task = emulator.log.tasks[-1]
            assert task.route == route
            assert {name: value for name, value in task.body.items() if "image" not in name or name in expected} == expected
            await expect(page.get_by_label("Reply")).to_contain_text(task.id)
        assert emulator.log.requests[-1].size > 10_000, "the sample picture was sent"
        assert len(await page.locator(".card").all()) == 1 + len(ALL_JOBS)
        assert await page.locator("#clips option").count() >= 1


async def test_the_form_follows_the_model(browser: Browser, emulator: Emulator) -> None:
    """Fields that a model does not take are hidden and not sent; lists have entries to add; a refusal is shown in full."""
    async with visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        form = page.locator("#form")
        sound = form.locator("[data-field='sound']")
        await expect(sound).to_be_hidden()
        await form.locator("[name='model_name']").select_option("kling-v3")
        await sound.locator("select").select_option("on")
        await form.get_by_text("More fields").click()
        await form.locator("[data-field='multi_shot'] select").select_option("true")
        await form.locator("[name='shot_type']").select_option("customize")
        for seconds in ("2", "3"):
            await form.get_by_role("button", name="Add to multi_prompt").click()
            entry = form.locator(".entry").last
            await entry.locator("[name='index']").fill(str(int(seconds) - 1))
            await entry.locator("[name='prompt']").fill("a shot")
            await entry.locator("[name='duration']").select_option(seconds)
        await page.get_by_role("button", name="Create").click()
        await expect(page.locator("#reply .status")).to_have_text("200 OK")
        shots = [{"index": 1, "prompt": "a shot", "duration": "2"}, {"index": 2, "prompt": "a shot", "duration": "3"}]
        assert emulator.log.tasks[0].body["multi_prompt"] == shots
        await form.locator("[name='model_name']").select_option("kling-v1")
        await page.get_by_role("button", name="Create").click()
        await expect(page.get_by_label("Reply")).to_contain_text('"code": 1201')
        assert "sound" not in emulator.log.requests[-1].body
        seen.expected("400 (Bad Request)")


async def test_a_key_of_ones_own(browser: Browser) -> None:
    """Where the emulator has keys of its own, the page shows none and asks for one; what is wrong is sent and refused as of any client."""
    async with Emulator(speed=0, api_keys=["sk-chosen"]) as emulator, visit(browser, emulator.dashboard) as seen:
        page: Page = seen.page
        key = page.get_by_label("Sent as Bearer")
        await expect(key).to_have_attribute("type", "password")
        assert "sk-chosen" not in await page.content()
        await page.locator("[data-field='prompt'] textarea").fill("x" * 3000)
        for word, status in (("wrong", "401 Unauthorized"), ("sk-chosen", "400 Bad Request")):
            await key.fill(word)
            await page.get_by_role("button", name="Create").click()
            await expect(page.locator("#reply .status")).to_have_text(status)
        await expect(page.locator("#news")).to_have_text("Reply: 400 Bad Request")
        seen.expected("Failed to load resource")
