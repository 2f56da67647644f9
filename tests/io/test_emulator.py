"""The emulator over real sockets, as a plain HTTP client sees it: profile `gateway`, the control paths, its end."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from kling_async.emulator import Emulator

KEY = {"Authorization": "Bearer sk-emulator"}
T2V = "/kling/v1/videos/text2video"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that sends a key."""
    async with aiohttp.ClientSession(headers=KEY) as session:
        yield session


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway whose time stands still."""
    async with Emulator(speed=0, seed=1) as running:
        yield running


async def post(http: aiohttp.ClientSession, url: str, body: object, **headers: str) -> tuple[int, Any]:
    """Status and JSON."""
    async with http.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def get(http: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, Any]:
    """Status and JSON."""
    async with http.get(url, headers=headers) as answer:
        return answer.status, await answer.json()


async def make(http: aiohttp.ClientSession, emulator: Emulator, path: str = T2V, **fields: Any) -> str:
    """The id of a new task."""
    status, reply = await post(http, emulator.url + path, {"prompt": "a fox", **fields})
    assert status == 200, reply
    return str(reply["data"]["task_id"])


async def test_create_and_read(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """A creation is answered in the service's envelope, and the task goes its way as time passes."""
    status, reply = await post(http, emulator.url + T2V, {"prompt": "a fox", "external_task_id": "mine"})
    assert status == 200
    assert (reply["code"], reply["message"]) == (0, "SUCCEED")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", reply["request_id"])
    data = reply["data"]
    assert set(data) == {"task_id", "task_info", "task_status", "created_at", "updated_at"}
    assert data["task_info"] == {"external_task_id": "mine"}
    assert data["task_status"] == "submitted"
    assert len(str(data["created_at"])) == 13
    seen = []
    for step in (0, 100, 300):
        emulator.advance(step)
        _, read = await get(http, f"{emulator.url}{T2V}/{data['task_id']}")
        seen.append(read["data"]["task_status"])
    assert seen == ["submitted", "processing", "succeed"]
    assert read["data"]["updated_at"] - read["data"]["created_at"] == 319_000
    video = read["data"]["task_result"]["videos"][0]
    assert video["duration"] == "5"
    assert video["url"].startswith(f"{emulator.url}/_files/")


@pytest.mark.parametrize(
    ("route", "body", "kind"),
    [
        ("images/generations", {"prompt": "x", "n": 2}, "images"),
        ("videos/text2video", {"prompt": "x"}, "videos"),
        ("videos/image2video", {"prompt": "x", "image": "https://files.example/a.png"}, "videos"),
        ("videos/video-extend", {"video_id": "1"}, "videos"),
        (
            "videos/lip-sync",
            {"input": {"video_id": "1", "mode": "text2video", "text": "x", "voice_id": "v", "voice_language": "en"}},
            "videos",
        ),
        (
            "images/kolors-virtual-try-on",
            {"human_image": "https://files.example/a.png", "cloth_image": "https://files.example/b.png"},
            "images",
        ),
    ],
)
@pytest.mark.parametrize("profile", ["gateway", "official", "newapi", "onehub"])
async def test_every_route_under_every_profile(
    http: aiohttp.ClientSession, route: str, body: dict[str, Any], kind: str, profile: str
) -> None:
    """The six creations and their reads work everywhere, each in the profile's own dress."""
    async with Emulator(profile=profile, speed=0, durations=10) as emulator:
        url = f"{emulator.url}{'/v1' if profile == 'official' else '/kling/v1'}/{route}"
        status, reply = await post(http, url, body)
        assert status == 200, reply
        task_id = reply["task_id"] if profile == "newapi" else reply["data"]["task_id"]
        emulator.advance(20)
        status, read = await get(http, f"{url}/{task_id}")
        data = read["data"]["data"]["data"] if profile == "newapi" else read["data"]
        assert data["task_status"] == "succeed"
        assert all(entry["url"].startswith(emulator.url) for entry in data["task_result"][kind])
        assert emulator.log.tasks[0].status_at(20) == "succeed"


async def test_refusals(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """Refusals carry a code, a message that names the field, and no data; nothing is accepted."""
    status, reply = await post(http, emulator.url + T2V, {"prompt": "x", "duration": 5})
    assert (status, reply["code"]) == (400, 1201)
    assert "duration" in reply["message"]
    assert "data" not in reply
    assert (await post(http, emulator.url + T2V, {"prompt": "x", "model_name": "kling-v9"}))[1]["code"] == 1203
    assert (await post(http, emulator.url + T2V, {"prompt": "[block]"}))[1]["code"] == 1301
    assert emulator.log.tasks == []
    assert [seen.status for seen in emulator.log.requests] == [400, 404, 400]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"prompt": NaN}', b"\xff", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"])
async def test_bodies_that_are_no_json(http: aiohttp.ClientSession, emulator: Emulator, raw: bytes) -> None:
    """Whatever is sent, the answer is 1200, never a broken server."""
    async with http.post(emulator.url + T2V, data=raw, headers={"Content-Type": "application/json"}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, 1200)


async def test_content_type(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """JSON must be called JSON."""
    async with http.post(emulator.url + T2V, data=b'{"prompt": "x"}', headers={"Content-Type": "text/plain"}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, 1200)


async def test_a_lone_surrogate_does_no_harm(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """Text that is no text is echoed with a replacement."""
    async with http.post(
        emulator.url + T2V, data=b'{"prompt": "x", "external_task_id": "\\ud800"}', headers={"Content-Type": "application/json"}
    ) as answer:
        assert (await answer.json())["data"]["task_info"] == {"external_task_id": "?"}
    async with http.get(f"{emulator.url}/_emulator/log") as answer:
        assert answer.status == 200


async def test_the_old_model_field_is_honoured(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """Gateways take `model` for `model_name`; the service itself ignores it."""
    await make(http, emulator, model="kling-v2-6")
    assert emulator.log.tasks[0].model == "kling-v2-6"
    async with Emulator(profile="official", speed=0) as official:
        await post(http, f"{official.url}/v1/videos/text2video", {"prompt": "x", "model": "kling-v2-6"})
        assert official.log.tasks[0].model == "kling-v1"
        assert official.log.requests[0].undocumented == ("model",)


async def test_keys(http: aiohttp.ClientSession) -> None:
    """Without a good key there is a 401 in the gateway's own words, and nothing is bought."""
    async with Emulator(speed=0, api_keys=["good"]) as emulator:
        assert emulator.api_key == "good"
        for authorization in ("", "Bearer bad", "good"):
            status, reply = await post(http, emulator.url + T2V, {"prompt": "x"}, Authorization=authorization)
            assert status == 401
            assert set(reply["error"]) == {"message", "type", "code"}
        status, _ = await post(http, emulator.url + T2V, {"prompt": "x"}, Authorization="Bearer good")
        assert status == 200
        assert len(emulator.log.tasks) == 1


async def test_accounts_do_not_see_each_other(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """Another key's task is not found."""
    task_id = await make(http, emulator)
    status, reply = await get(http, f"{emulator.url}{T2V}/{task_id}", Authorization="Bearer other")
    assert (status, reply["code"]) == (404, 1203)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/kling/v1/videos/text2video", 404),
        ("GET", "/kling/v1/videos/Text2Video/1", 404),
        ("GET", "/kling/v1/videos/text2video/", 404),
        ("POST", "/v1/videos/text2video", 404),
        ("POST", "/kling/v1/videos/unheard-of", 404),
        ("GET", "/", 404),
    ],
)
async def test_unknown_paths(http: aiohttp.ClientSession, emulator: Emulator, method: str, path: str, status: int) -> None:
    """What is none of its paths, letter case and slashes included, gets the gateway's 404; lists are none of them."""
    async with http.request(method, emulator.url + path) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["message"] == f"Invalid URL ({method} {path})"


async def test_wrong_method_and_wrong_family(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """A known path by another method is 1202; a task asked for under another route does not exist."""
    task_id = await make(http, emulator)
    async with http.delete(f"{emulator.url}{T2V}/{task_id}") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, 1202)
    assert (await get(http, f"{emulator.url}/kling/v1/videos/image2video/{task_id}"))[1]["code"] == 1203
    assert (await get(http, f"{emulator.url}{T2V}/none%2Fsuch"))[1]["code"] == 1203


async def test_slots(http: aiohttp.ClientSession) -> None:
    """Over the limit is 429/1303 without data; a task that ends makes room."""
    async with Emulator(speed=0, slots={"video": 2}, durations={"video": 60}) as emulator:
        answers = await asyncio.gather(*(post(http, emulator.url + T2V, {"prompt": "x"}) for _ in range(5)))
        refused = [reply for status, reply in answers if status == 429]
        assert [set(reply) for reply in refused] == [{"code", "message", "request_id"}] * 3
        assert all(reply["code"] == 1303 for reply in refused)
        emulator.advance(60)
        await make(http, emulator)
        assert len(emulator.log.tasks) == 3


async def test_strict_parent(http: aiohttp.ClientSession) -> None:
    """Asked to, the gateway wants the parent task beside the video."""
    async with Emulator(speed=0, strict_parent=True) as emulator:
        parent = await make(http, emulator)
        emulator.advance(400)
        _, read = await get(http, f"{emulator.url}{T2V}/{parent}")
        body = {"video_id": read["data"]["task_result"]["videos"][0]["id"]}
        url = f"{emulator.url}/kling/v1/videos/video-extend"
        status, reply = await post(http, url, body)
        assert (status, reply["code"]) == (400, 1201)
        assert (await post(http, url, {**body, "task_id": parent}))[0] == 200


async def test_ground_truth(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """The log knows every request in order, by key and by task, and holds no secret and no files."""
    picture = "A" * 5000
    await post(http, f"{emulator.url}/kling/v1/videos/image2video", {"prompt": "x", "image": picture, "external_task_id": "k"})
    task_id = await make(http, emulator, external_task_id="k", seed=3)
    await get(http, f"{emulator.url}{T2V}/{task_id}?x=1")
    first, second, third = emulator.log.requests
    assert [seen.seq for seen in emulator.log.requests] == [1, 2, 3]
    assert emulator.log.posts_for("k") == (first, second)
    assert emulator.log.reads_for(task_id) == (third,)
    assert (first.status, first.task_id, second.task_id, second.status) == (400, None, task_id, 200)
    assert first.body["image"].endswith("…<5000 characters>")
    assert first.size > 5000
    assert second.undocumented == ("seed",)
    assert third.path == f"{T2V}/{task_id}?x=1"
    assert first.headers["Authorization"] == "Bearer ***"
    assert emulator.log.tasks[0].external_task_id == "k"
    assert "sk-emulator" not in repr(emulator.log)
    emulator.log.clear()
    assert emulator.log.requests == []
    assert (await get(http, f"{emulator.url}{T2V}/{task_id}"))[0] == 200
    assert emulator.log.requests[0].seq == 4


async def test_control_over_http(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """Health, log, tasks, time, faults and reset are there for any language."""
    base = f"{emulator.url}/_emulator"
    task_id = await make(http, emulator)
    assert (await get(http, f"{base}/health"))[1]["profile"] == "gateway"
    assert (await post(http, f"{base}/advance", {"seconds": 319}))[1]["now"] == 319
    tasks = (await get(http, f"{base}/tasks"))[1]
    assert [(task["id"], task["status"]) for task in tasks] == [(task_id, "succeed")]
    status, order = await post(http, f"{base}/faults", {"name": "status", "status": 503, "times": None, "method": "GET"})
    assert (status, order["left"]) == (200, None)
    async with http.get(f"{emulator.url}{T2V}/{task_id}") as answer:
        assert answer.status == 503
    log = (await get(http, f"{base}/log"))[1]
    assert [seen["fault"] for seen in log["requests"]] == [None, "status"]
    assert (await get(http, f"{base}/faults"))[1][0]["hits"] == 1
    async with http.delete(f"{base}/faults") as answer:
        assert await answer.json() == []
    assert (await get(http, f"{emulator.url}{T2V}/{task_id}"))[0] == 200
    assert (await post(http, f"{base}/reset", {}))[1]["tasks"] == 0
    assert (await get(http, f"{emulator.url}{T2V}/{task_id}"))[0] == 404
    assert (await post(http, f"{base}/advance", {"seconds": -1}))[0] == 400
    assert (await post(http, f"{base}/advance", []))[0] == 400
    assert (await post(http, f"{base}/faults", {"name": "nonsense"}))[0] == 400
    assert (await get(http, f"{base}/nonsense"))[0] == 404


async def test_several_side_by_side(http: aiohttp.ClientSession) -> None:
    """Emulators share nothing."""
    async with Emulator(speed=0) as one, Emulator(speed=0) as other:
        assert one.url != other.url
        task_id = await make(http, one)
        assert (await get(http, f"{other.url}{T2V}/{task_id}"))[0] == 404
        one.advance(100)
        assert (one.now, other.now) == (100, 0)


async def test_seeded_ids_repeat(http: aiohttp.ClientSession) -> None:
    """The same seed makes the same ids; without one they differ."""
    made = []
    for seed in (5, 5, None):
        async with Emulator(speed=0, seed=seed) as emulator:
            made.append(await make(http, emulator))
    assert made[0] == made[1] != made[2]


async def test_nothing_is_left_behind(http: aiohttp.ClientSession) -> None:
    """Closing ends a hanging request, a posted callback and the render thread; no task and no thread stays."""
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with Emulator(speed=0, durations=0) as emulator:
        image_path = "/kling/v1/images/generations"
        image_id = await make(http, emulator, image_path)
        image = (await get(http, f"{emulator.url}{image_path}/{image_id}"))[1]["data"]["task_result"]["images"][0]
        async with http.get(image["url"]) as answer:
            assert answer.status == 200
        assert set(threading.enumerate()) - threads
        emulator.fault("hang", method="GET")
        task_id = await make(http, emulator, callback_url=f"{emulator.url}/nowhere")
        reading = asyncio.ensure_future(get(http, f"{emulator.url}{T2V}/{task_id}"))
        while not emulator.log.reads_for(task_id):
            await get(http, f"{emulator.url}/_emulator/health")
    with pytest.raises(aiohttp.ClientError):
        await reading
    await emulator.aclose()
    assert not set(threading.enumerate()) - threads
    assert asyncio.all_tasks() <= tasks


async def test_before_and_after() -> None:
    """Not started, an emulator says how to start it; once ended, it does not start again; closing early is harmless."""
    emulator = Emulator()
    await emulator.aclose()
    with pytest.raises(RuntimeError, match="async with"):
        _ = emulator.url
    async with emulator:
        pass
    with pytest.raises(RuntimeError, match="another one"):
        await emulator.__aenter__()


async def test_a_taken_port_is_an_os_error() -> None:
    """Two cannot listen on one port, and the second leaves nothing open."""
    async with Emulator() as emulator:
        port = int(emulator.url.rpartition(":")[2])
        with pytest.raises(OSError, match="address already in use"):
            await Emulator(port=port).__aenter__()


@pytest.mark.parametrize("wrong", [{"profile": "nobody"}, {"durations": {"videos": 3}}])
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    """A wrong word is told with those that there are."""
    with pytest.raises(ValueError, match="there are"):
        Emulator(**wrong)
