"""The recipes for web applications: each is taken from its page, served over loopback as its reader would serve it, and used."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kling_async import KlingSession, Text2Video
from kling_async.emulator import Emulator
from receivers import by_uvicorn

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "web.md"
RECIPE = r"^## ([\w.]+)\n\n(?:(?!```)[^\n]+\n\n)?```python\n(.*?)^```$"  # at most a line stands before it
RECIPES = dict(re.findall(RECIPE, PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


@asynccontextmanager
async def served(name: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of that recipe; it is made anew each time, as by another process."""
    made: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(RECIPES[name], f"{PAGE.name}:{name}", "exec", dont_inherit=True), made)
    with socket.create_server(("127.0.0.1", 0)) as door:
        async with (by_aiohttp if name == "aiohttp.web" else by_uvicorn)(made["app"], door):
            patient = aiohttp.ClientTimeout()  # events come for as long as it takes
            fresh = aiohttp.TCPConnector(force_close=True)  # one that is kept may be closed just when it is used again
            async with aiohttp.ClientSession(f"http://127.0.0.1:{door.getsockname()[1]}", timeout=patient, connector=fresh) as http:
                yield http


@asynccontextmanager
async def by_aiohttp(app: web.Application, door: socket.socket) -> AsyncIterator[None]:
    """Serve it with aiohttp's own server."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.SockSite(runner, door).start()
    yield
    await runner.cleanup()


async def buy(http: aiohttp.ClientSession, order: str) -> dict[str, str]:
    """What the order comes to."""
    async with http.post("/clips", json={"order": order, "prompt": "a red fox in fresh snow"}) as answer:
        assert answer.status == 202
        where: dict[str, str] = await answer.json()
        return where


async def told(http: aiohttp.ClientSession, where: dict[str, str]) -> list[str]:
    """The states that the events of a task speak of, until the stream ends by itself."""
    async with http.get("/events", params=where) as answer:
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-cache"
        lines = (await answer.text()).splitlines()
    return [json.loads(line.removeprefix("data: "))["status"] for line in lines if line.startswith("data: ")]


def test_all_are_found() -> None:
    """No recipe escapes by an unusual heading."""
    assert list(RECIPES) == ["FastAPI", "Starlette", "aiohttp.web"]


@pytest.mark.parametrize("name", RECIPES)
async def test_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One order is one task, also after a restart; its events end with the clip, whose file plays; what is wrong is explained."""
    monkeypatch.chdir(tmp_path)
    async with Emulator(durations=60) as emulator:
        monkeypatch.setenv("KLING_BASE_URL", emulator.url)
        monkeypatch.setenv("KLING_API_KEY", emulator.api_key)
        async with served(name) as http:
            where = await buy(http, "17")
            assert await buy(http, "17") == where
            states = await told(http, where)
            assert (states[0], states[-1]) == ("submitted", "succeed")
        async with served(name) as http:
            where = await buy(http, "17")
            assert await told(http, where) == ["succeed"]
            async with http.get("/file", params=where) as answer:
                assert (answer.status, answer.content_type) == (200, "video/mp4")
                assert (await answer.read())[4:8] == b"ftyp"
            async with http.post("/clips", json={"order": "18", "prompt": ""}) as answer:
                assert answer.status == 422
                assert "prompt" in (await answer.json())["detail"]
            async with http.get("/events", params={"ref": "nonsense"}) as answer:
                assert answer.status == 422
        assert len(emulator.log.tasks) == 1
    assert len(list((tmp_path / "clips").iterdir())) == 1


@pytest.mark.parametrize(("journal", "bought"), [(None, 2), ("orders.db", 1)])
async def test_a_session_per_request(journal: str | None, bought: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page says: without a journal an order is not known to another session; with one it is, in another worker, too."""
    monkeypatch.chdir(tmp_path)
    async with Emulator() as emulator:
        for _ in range(2):
            async with KlingSession(emulator.api_key, base_url=emulator.url, journal=journal) as kling:
                await kling.submit(Text2Video(prompt="a red fox"), dedupe="17")
        assert len(emulator.log.tasks) == bought
