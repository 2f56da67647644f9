"""What each profile of the emulator does its own way."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from kling_async.emulator import Emulator

T2V = "/kling/v1/videos/text2video"
OFFICIAL = "/v1/videos/text2video"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that sends a key."""
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-emulator"}) as session:
        yield session


async def post(http: aiohttp.ClientSession, url: str, body: object, **headers: str) -> tuple[int, Any]:
    """Status and JSON."""
    async with http.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def get(http: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    """Status and JSON."""
    async with http.get(url) as answer:
        return answer.status, await answer.json()


def token(**claims: Any) -> str:
    """A signed token, good unless told otherwise."""
    now = int(time.time())
    parts = ({"alg": "HS256", "typ": "JWT"}, {"iss": "ak", "exp": now + 1800, "nbf": now - 5, **claims})
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    return (signed + b"." + base64.urlsafe_b64encode(hmac.digest(b"sk", signed, "sha256")).rstrip(b"=")).decode()


@pytest.mark.parametrize(
    ("authorization", "code"),
    [("", 1001), ("Bearer nonsense", 1002), (f"Bearer {token(nbf=4e9)}", 1003), (f"Bearer {token(exp=1)}", 1004), (f"Bearer {token()}", 0)],
)
async def test_official_tokens(http: aiohttp.ClientSession, authorization: str, code: int) -> None:
    """The service checks signed tokens by real time, however fast the emulator runs, and answers by its own codes."""
    async with Emulator(profile="official", speed=0, access_keys={"ak": "sk"}) as emulator:
        emulator.advance(1e6)
        status, reply = await post(http, emulator.url + OFFICIAL, {"prompt": "x"}, Authorization=authorization)
        assert (status, reply["code"]) == (401 if code else 200, code)


async def test_official_finds_by_external_id(http: aiohttp.ClientSession) -> None:
    """The path takes either id; a used external id is refused; try-on knows no such look-up."""
    async with Emulator(profile="official", speed=0) as emulator:
        body = {"prompt": "x", "external_task_id": "mine"}
        _, made = await post(http, emulator.url + OFFICIAL, body)
        _, found = await get(http, f"{emulator.url}{OFFICIAL}/mine")
        assert found["data"]["task_id"] == made["data"]["task_id"]
        assert emulator.log.reads_for(made["data"]["task_id"])
        status, reply = await post(http, emulator.url + OFFICIAL, body)
        assert (status, reply["code"]) == (400, 1201)
        assert len(emulator.log.posts_for("mine")) == 2
        assert len(emulator.log.tasks) == 1
        picture = "https://files.example/a.png"
        try_on = f"{emulator.url}/v1/images/kolors-virtual-try-on"
        await post(http, try_on, {"human_image": picture, "cloth_image": picture, "external_task_id": "shirt"})
        assert (await get(http, f"{try_on}/shirt"))[0] == 404


async def test_gateways_do_not_find_by_external_id(http: aiohttp.ClientSession) -> None:
    """Behind a gateway an external id finds nothing, and may be used again."""
    async with Emulator(speed=0) as emulator:
        for _ in range(2):
            assert (await post(http, emulator.url + T2V, {"prompt": "x", "external_task_id": "mine"}))[0] == 200
        assert (await get(http, f"{emulator.url}{T2V}/mine"))[0] == 404


async def test_official_lists(http: aiohttp.ClientSession) -> None:
    """Lists show one route's tasks, newest first, page by page; numbers out of range are refused."""
    async with Emulator(profile="official", speed=0) as emulator:
        assert (await get(http, emulator.url + OFFICIAL))[1]["data"] == []
        made = [(await post(http, emulator.url + OFFICIAL, {"prompt": str(n)}))[1]["data"]["task_id"] for n in range(5)]
        await post(http, f"{emulator.url}/v1/images/generations", {"prompt": "x"})
        pages = [(await get(http, f"{emulator.url}{OFFICIAL}?pageNum={page}&pageSize=2"))[1]["data"] for page in (1, 2, 3, 4)]
        assert [[row["task_id"] for row in page] for page in pages] == [made[:2:-1], made[2:0:-1], made[:1], []]
        for query in ("pageNum=0", "pageSize=501", "pageNum=x", "pageNum=1001"):
            status, reply = await get(http, f"{emulator.url}{OFFICIAL}?{query}")
            assert (status, reply["code"]) == (400, 1201)


async def test_official_unknown_path(http: aiohttp.ClientSession) -> None:
    """The service refuses in its own envelope."""
    async with Emulator(profile="official", speed=0) as emulator:
        status, reply = await get(http, f"{emulator.url}{T2V}/1")
        assert (status, reply["code"], "data" in reply) == (404, 1203, False)


async def test_newapi_shapes(http: aiohttp.ClientSession) -> None:
    """Converted replies: ids of its own, seconds, upper-case words, the service's answer inside, as of the last 15 s round."""
    async with Emulator(profile="newapi", speed=0, durations=10) as emulator:
        emulator.advance(2)
        status, made = await post(http, emulator.url + T2V, {"prompt": "x", "model_name": "kling-v2-6"})
        assert (status, made["object"], made["status"], made["model"]) == (200, "video", "", "kling-v2-6")
        assert made["id"] == made["task_id"]
        assert made["task_id"].startswith("task_")
        assert len(str(made["created_at"])) == 10
        url = f"{emulator.url}{T2V}/{made['task_id']}"
        emulator.advance(12)
        early = (await get(http, url))[1]
        assert (early["code"], early["data"]["status"]) == ("success", "SUBMITTED")
        assert early["data"]["data"]["data"]["task_status"] == "submitted"
        emulator.advance(1)
        late = (await get(http, url))[1]["data"]
        assert (late["status"], late["progress"]) == ("SUCCESS", "100%")
        inner = late["data"]["data"]
        assert inner["task_id"] == emulator.log.tasks[0].service_id != made["task_id"]
        assert late["fail_reason"] == inner["task_result"]["videos"][0]["url"]
        assert late["finish_time"] == inner["updated_at"] // 1000


async def test_newapi_failure(http: aiohttp.ClientSession) -> None:
    """A failed task says so in both layers."""
    async with Emulator(profile="newapi", speed=0, durations=10) as emulator:
        _, made = await post(http, emulator.url + T2V, {"prompt": "[fail: too dark]"})
        emulator.advance(30)
        row = (await get(http, f"{emulator.url}{T2V}/{made['id']}"))[1]["data"]
        assert (row["status"], row["fail_reason"]) == ("FAILURE", "too dark")
        assert row["data"]["data"]["task_status_msg"] == "too dark"


async def test_newapi_refusals(http: aiohttp.ClientSession) -> None:
    """Words instead of numbers; the service's text inside a message; every 429 alike; every reply stamped."""
    async with Emulator(profile="newapi", speed=0, slots={"video": 0}, api_keys=["sk-emulator"]) as emulator:
        url = emulator.url + T2V
        assert (await post(http, url, {"prompt": "x", "duration": 5}))[1]["code"] == "build_request_failed"
        assert (await post(http, url, {"image": "https://files.example/a.png"}))[1]["code"] == "invalid_request"
        status, reply = await post(http, url, {"prompt": "x", "mode": "ultra"})
        assert (status, reply["code"], json.loads(reply["message"])["code"]) == (400, "fail_to_fetch_task", 1201)
        status, reply = await post(http, url, {"prompt": "x"})
        assert status == 429
        assert "1303" not in reply["message"]
        status, reply = await get(http, f"{url}/task_unknown")
        assert (status, reply["code"], reply["data"]) == (400, "task_not_exist", None)
        status, reply = await post(http, url, {"prompt": "x"}, Authorization="Bearer bad")
        assert (status, reply["error"]["type"]) == (401, "new_api_error")
        emulator.fault("code", code=1303, http=200)
        assert (await post(http, url, {"prompt": "x"}))[1]["code"] == "task_failed"
        async with http.get(f"{url}/task_unknown") as answer:
            assert answer.headers["X-Oneapi-Request-Id"]


async def test_newapi_drops_and_adds_fields(http: aiohttp.ClientSession) -> None:
    """What it does not know never reaches the service; a ratio not given is made square."""
    async with Emulator(profile="newapi", speed=0) as emulator:
        body = {"prompt": "x", "cfg_scale": 0, "watermark_info": {"enabled": True}, "multi_shot": True}
        assert (await post(http, emulator.url + T2V, body))[0] == 200
        task = emulator.log.tasks[0]
        assert task.body == {"prompt": "x", "aspect_ratio": "1:1"}
        assert task.entries[0].scene.width == task.entries[0].scene.height
        assert emulator.log.requests[0].body == body


async def test_onehub_shapes(http: aiohttp.ClientSession) -> None:
    """Kling's envelope without `task_info`, and nothing in it before the first round."""
    async with Emulator(profile="onehub", speed=0, durations=10) as emulator:
        _, made = await post(http, emulator.url + T2V, {"prompt": "x", "external_task_id": "mine"})
        assert set(made["data"]) == {"task_id", "task_status", "created_at", "updated_at"}
        url = f"{emulator.url}{T2V}/{made['data']['task_id']}"
        emulator.advance(14)
        assert (await get(http, url))[1] == {"code": 0, "message": "", "request_id": "", "data": None}
        emulator.advance(1)
        data = (await get(http, url))[1]["data"]
        assert data["task_status"] == "succeed"
        assert "task_info" not in data


async def test_onehub_refusals(http: aiohttp.ClientSession) -> None:
    """The number is lost, the status and the words are kept."""
    async with Emulator(profile="onehub", speed=0, slots={"video": 0}) as emulator:
        status, reply = await post(http, emulator.url + T2V, {"prompt": "x"})
        assert (status, reply) == (429, {"code": "", "message": "parallel task over resource pack limit"})
        assert await get(http, f"{emulator.url}{T2V}/1") == (404, {"code": "task_not_exist", "message": ""})
