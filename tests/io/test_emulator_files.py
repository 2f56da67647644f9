"""Result files and callbacks of the emulator, and the program that runs it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, Self

import aiohttp
import anyio
import pytest
from aiohttp import web

from kling_async.emulator import Emulator

T2V, IMAGE = "/kling/v1/videos/text2video", "/kling/v1/images/generations"
KEY = {"Authorization": "Bearer sk-emulator"}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that sends no key by itself."""
    async with aiohttp.ClientSession() as session:
        yield session


async def made(http: aiohttp.ClientSession, emulator: Emulator, path: str = T2V, **fields: Any) -> str:
    """The URL of a new task."""
    async with http.post(emulator.url + path, json={"prompt": "x", **fields}, headers=KEY) as answer:
        return f"{emulator.url}{path}/{(await answer.json())['data']['task_id']}"


async def result(http: aiohttp.ClientSession, url: str, kind: str = "videos") -> dict[str, Any]:
    """The first entry of its result."""
    async with http.get(url, headers=KEY) as answer:
        entries: list[dict[str, Any]] = (await answer.json())["data"]["task_result"][kind]
        return entries[0]


async def test_files_are_real(http: aiohttp.ClientSession) -> None:
    """A clip is an MP4 and a picture a PNG, with their length and type told; the watermarked twin is there too."""
    async with Emulator(speed=0, durations=0) as emulator:
        video = await result(http, await made(http, emulator, watermark_info={"enabled": True}))
        image = await result(http, await made(http, emulator, IMAGE), "images")
        for url, kind, magic in (
            (video["url"], "video/mp4", b"ftyp"),
            (video["watermark_url"], "video/mp4", b"ftyp"),
            (image["url"], "image/png", b"PNG"),
        ):
            async with http.get(url) as answer:
                data = await answer.read()
                assert (answer.status, answer.content_type, int(answer.headers["Content-Length"])) == (200, kind, len(data))
                assert magic in data[:8]
        assert [seen.route for seen in emulator.log.requests[-3:]] == ["files"] * 3


async def test_ranges(http: aiohttp.ClientSession) -> None:
    """One range is served exactly, under a tag that stays; nonsense gets the whole, the impossible 416; HEAD has no body."""
    async with Emulator(speed=0, durations=0) as emulator:
        url = (await result(http, await made(http, emulator)))["url"]
        async with http.get(url) as answer:
            whole, tag = await answer.read(), answer.headers["ETag"]
            assert answer.headers["Accept-Ranges"] == "bytes"
        size = len(whole)
        for wanted, part, told in (
            ("bytes=0-99", whole[:100], f"bytes 0-99/{size}"),
            ("bytes=100-", whole[100:], f"bytes 100-{size - 1}/{size}"),
            ("bytes=-7", whole[-7:], f"bytes {size - 7}-{size - 1}/{size}"),
            (f"bytes=5-{size * 2}", whole[5:], f"bytes 5-{size - 1}/{size}"),
        ):
            async with http.get(url, headers={"Range": wanted, "If-Range": tag}) as answer:
                assert (answer.status, answer.headers["Content-Range"], answer.headers["ETag"]) == (206, told, tag)
                assert await answer.read() == part
        for headers in (
            {"Range": "bytes=0-1,3-4"},
            {"Range": "bytes=-"},
            {"Range": "lines=1-2"},
            {"Range": "bytes=0-9", "If-Range": '"x"'},
        ):
            async with http.get(url, headers=headers) as answer:
                assert (answer.status, await answer.read()) == (200, whole)
        for impossible in (f"bytes={size}-", "bytes=9-3", "bytes=-0"):
            async with http.get(url, headers={"Range": impossible}) as answer:
                assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{size}")
        async with http.head(url) as answer:
            assert (answer.status, await answer.read(), answer.headers["Content-Length"]) == (200, b"", str(size))


async def test_links_run_out(http: aiohttp.ClientSession) -> None:
    """After its time a link is 403 in XML, and a fresh read of the task signs one that works; after 30 days the file is gone."""
    async with Emulator(speed=0, durations=0, link_ttl=60) as emulator:
        task = await made(http, emulator, IMAGE)
        old = (await result(http, task, "images"))["url"]
        emulator.advance(61)
        async with http.get(old) as answer:
            assert (answer.status, answer.content_type) == (403, "application/xml")
            assert "expired" in await answer.text()
        async with http.get((await result(http, task, "images"))["url"]) as answer:
            assert answer.status == 200
        emulator.advance(31 * 86400)
        async with http.get((await result(http, task, "images"))["url"]) as answer:
            assert answer.status == 404


async def test_links_are_signed(http: aiohttp.ClientSession) -> None:
    """Nothing in a link can be changed."""
    async with Emulator(speed=0, durations=0) as emulator:
        url = (await result(http, await made(http, emulator, IMAGE), "images"))["url"]
        expires = int(url.rpartition("=")[2])
        for forged in (url.replace(f"exp={expires}", f"exp={expires + 1}"), url.replace(".png", "0.png"), url.partition("?")[0], f"{url}x"):
            async with http.get(forged) as answer:
                assert answer.status == 403


class Receiver:
    """Somewhere for callbacks to arrive."""

    def __init__(self) -> None:
        self.url = ""
        self._posts: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self._posts.put_nowait((await request.read(), dict(request.headers)))
        return web.Response()

    async def next(self) -> tuple[dict[str, Any], bytes, dict[str, str]]:
        with anyio.fail_after(60):
            raw, headers = await self._posts.get()
        return json.loads(raw), raw, headers


async def test_callbacks(http: aiohttp.ClientSession) -> None:
    """Both changes are posted when they happen, without an envelope; gateways leave the caller's own id out."""
    async with Receiver() as receiver, Emulator(speed=0) as emulator:
        await made(http, emulator, callback_url=receiver.url, external_task_id="mine")
        emulator.advance(50)
        first, _, headers = await receiver.next()
        assert first["task_status"] == "processing"
        assert "webhook-signature" not in headers
        emulator.advance(400)
        second, _, _ = await receiver.next()
        assert (second["task_status"], second["task_id"]) == ("succeed", emulator.log.tasks[0].id)
        assert "code" not in second
        assert "task_info" not in second
        async with http.get(second["task_result"]["videos"][0]["url"]) as answer:
            assert answer.status == 200
        assert [sent.body["task_status"] for sent in emulator.log.callbacks] == ["processing", "succeed"]


async def test_callbacks_come_by_themselves(http: aiohttp.ClientSession) -> None:
    """Time that runs by itself posts them too."""
    async with Receiver() as receiver, Emulator(speed=1000) as emulator:
        await made(http, emulator, callback_url=receiver.url)
        assert [(await receiver.next())[0]["task_status"] for _ in range(2)] == ["processing", "succeed"]


async def test_callbacks_of_other_profiles(http: aiohttp.ClientSession) -> None:
    """The service tells the caller's id; behind new-api the post comes with the service's id, not the gateway's."""
    async with Receiver() as receiver, Emulator(profile="official", speed=0, durations=0) as official:
        body = {"prompt": "x", "callback_url": receiver.url, "external_task_id": "mine"}
        async with http.post(f"{official.url}/v1/videos/text2video", json=body, headers=KEY):
            pass
        assert (await receiver.next())[0]["task_info"] == {"external_task_id": "mine"}
        async with Emulator(profile="newapi", speed=0, durations=0) as newapi:
            async with http.post(newapi.url + T2V, json=body, headers=KEY):
                pass
            assert (await receiver.next())[0]["task_id"] == newapi.log.tasks[0].service_id != newapi.log.tasks[0].id


async def test_signed_callbacks(http: aiohttp.ClientSession) -> None:
    """With a secret, a post carries a Standard Webhooks signature over its exact bytes."""
    secret = "whsec_" + base64.b64encode(b"0123456789abcdef").decode()
    async with Receiver() as receiver, Emulator(speed=0, durations=0, webhook_secret=secret) as emulator:
        await made(http, emulator, callback_url=receiver.url)
        _, raw, headers = await receiver.next()
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + raw
        expected = base64.b64encode(hmac.digest(b"0123456789abcdef", signed, "sha256")).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"


async def test_a_callback_nobody_takes(http: aiohttp.ClientSession) -> None:
    """A receiver that is not there is not waited for and harms nothing."""
    async with Emulator(speed=0, durations=0) as emulator:
        task = await made(http, emulator, callback_url="http://127.0.0.1:9/")
        assert await result(http, task)
        assert emulator.log.callbacks[0].status is None


def test_as_a_program() -> None:
    """It prints where it is and what to export, listens on loopback, and ends cleanly on Ctrl-C."""
    program = subprocess.Popen(
        [sys.executable, "-X", "dev", "-m", "kling_async.emulator", "--port", "0", "--profile", "official", "--speed", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert program.stdout
    url, exports = program.stdout.readline().strip(), program.stdout.readline().strip()
    program.send_signal(signal.SIGINT)
    _, talk = program.communicate(timeout=20)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    assert exports == f"export KLING_BASE_URL={url} KLING_API_KEY=sk-emulator"
    assert (program.returncode, talk) == (0, f"To watch it, open {url}/_emulator/\n")


def test_program_that_cannot_start() -> None:
    """An address that cannot be had is one line and exit code 1."""
    done = subprocess.run(
        [sys.executable, "-m", "kling_async.emulator", "--host", "203.0.113.1"], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
