"""The emulator's faults: each spoils an answer in its one way, after the truth is on record."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from kling_async.emulator import Emulator
from kling_async.emulator._faults import TRICKS

T2V, IMAGE = "/kling/v1/videos/text2video", "/kling/v1/images/generations"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that sends a key."""
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-emulator"}) as session:
        yield session


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway whose time stands still."""
    async with Emulator(speed=0) as running:
        yield running


async def post(http: aiohttp.ClientSession, emulator: Emulator, path: str = T2V, **fields: Any) -> tuple[int, bytes]:
    """Status and body of a creation."""
    async with http.post(emulator.url + path, json={"prompt": "x", **fields}) as answer:
        return answer.status, await answer.read()


async def finished(http: aiohttp.ClientSession, emulator: Emulator, path: str = T2V) -> str:
    """The URL of a task that has succeeded."""
    _, raw = await post(http, emulator, path)
    emulator.advance(400)
    return f"{emulator.url}{path}/{json.loads(raw)['data']['task_id']}"


async def read(http: aiohttp.ClientSession, url: str) -> Any:
    """The task object."""
    async with http.get(url) as answer:
        return (await answer.json())["data"]


@pytest.mark.parametrize("name", ["drop", "reset", "hang", "truncated"])
@pytest.mark.parametrize("accepted", [True, False])
async def test_answers_that_never_arrive(http: aiohttp.ClientSession, emulator: Emulator, name: str, accepted: bool) -> None:  # noqa: FBT001  a parameter
    """The request is read whole and the truth recorded, accepted or not, whatever the caller sees."""
    options: dict[str, Any] = {"seconds": 1} if name == "hang" else {}
    emulator.fault(name, accepted=accepted, **options)
    with pytest.raises(aiohttp.ClientError):
        await post(http, emulator, external_task_id="k")
    (seen,) = emulator.log.posts_for("k")
    assert seen.fault == name
    assert [task.external_task_id for task in emulator.log.tasks] == (["k"] if accepted else [])
    assert (await post(http, emulator))[0] == 200


async def test_nothing_is_bought_unless_told(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """A fault that leaves no true answer to give accepts nothing by default."""
    for name in ("drop", "reset", "status", "code", "html", "empty", "not_found", "retry_after"):
        emulator.fault(name)
        try:
            await post(http, emulator)
        except aiohttp.ClientError:
            assert name in {"drop", "reset"}
    assert len(emulator.log.requests) == 8
    assert emulator.log.tasks == []


async def test_reset_is_a_reset(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """`reset` breaks the connection, `drop` closes it properly."""
    emulator.fault("reset")
    with pytest.raises(aiohttp.ClientOSError):
        await post(http, emulator)
    emulator.fault("drop")
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await post(http, emulator)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("status", {}, (502, b"<!DOCTYPE html>")),
        ("status", {"status": 524, "body": "empty"}, (524, b"")),
        ("status", {"status": 503, "body": "json"}, (503, b'{"error":')),
        ("code", {}, (429, b'{"code": 1302')),
        ("code", {"code": 1303}, (429, b'{"code": 1303')),
        ("code", {"code": 1102, "http": 200, "message": "no money"}, (200, b'{"code": 1102, "message": "no money"')),
        ("html", {}, (200, b"<!DOCTYPE html>")),
        ("empty", {}, (200, b"")),
        ("not_found", {}, (404, b'{"code": 1203')),
        ("retry_after", {"status": 503}, (503, b'{"code": 1302')),
    ],
)
async def test_other_answers(
    http: aiohttp.ClientSession, emulator: Emulator, name: str, options: dict[str, Any], expected: tuple[int, bytes]
) -> None:
    """Another answer comes instead; nothing is bought unless `accepted` says so."""
    status, body = expected
    emulator.fault(name, **options)
    got, raw = await post(http, emulator)
    assert (got, raw[: len(body)]) == (status, body)
    if not body:
        assert raw == b""
    assert emulator.log.tasks == []
    emulator.fault(name, accepted=True, **options)
    assert (await post(http, emulator))[0] == status
    assert len(emulator.log.tasks) == 1
    assert (await post(http, emulator))[0] == 200


async def test_retry_after(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """The header says what it was told to say."""
    emulator.fault("retry_after", seconds=7)
    async with http.post(emulator.url + T2V, json={"prompt": "x"}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")


async def test_true_answers_badly_delivered(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """Slow and chunked bodies are whole, garbage is no JSON, a code may be text; the task exists each time."""
    emulator.fault("slow", seconds=3, pieces=5)
    emulator.fault("chunked")
    for _ in range(2):
        assert json.loads((await post(http, emulator))[1])["code"] == 0
    emulator.fault("string_code")
    assert json.loads((await post(http, emulator))[1])["code"] == "0"
    emulator.fault("garbage_json")
    status, raw = await post(http, emulator)
    assert status == 200
    with pytest.raises(UnicodeDecodeError):
        json.loads(raw)
    assert len(emulator.log.tasks) == 4


async def test_chunked_tells_no_length(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """A chunked answer has no `Content-Length`."""
    emulator.fault("chunked")
    async with http.post(emulator.url + T2V, json={"prompt": "x"}) as answer:
        assert "Content-Length" not in answer.headers
        assert answer.headers["Transfer-Encoding"] == "chunked"


async def test_results_gone_wrong(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """A finished task may be told without its result, with null, or with an odd length; once, then rightly."""
    url = await finished(http, emulator)
    emulator.fault("missing_result")
    assert "task_result" not in await read(http, url)
    emulator.fault("null_videos")
    assert (await read(http, url))["task_result"] == {"videos": None}
    emulator.fault("odd_duration")
    assert (await read(http, url))["task_result"]["videos"][0]["duration"] == "5.041"
    assert (await read(http, url))["task_result"]["videos"][0]["duration"] == "5"
    pictures = await finished(http, emulator, IMAGE)
    emulator.fault("no_index")
    (image,) = (await read(http, pictures))["task_result"]["images"]
    assert (image["id"], "index" in image) == ("", False)


async def test_states_gone_wrong(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """A state may be told that is over, or that nobody has heard of."""
    url = await finished(http, emulator)
    emulator.fault("stale")
    assert (await read(http, url))["task_status"] == "processing"
    emulator.fault("unknown_status", status="dreaming")
    assert (await read(http, url))["task_status"] == "dreaming"
    assert (await read(http, url))["task_status"] == "succeed"


async def test_a_fault_waits_for_something_to_spoil(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """What spoils a result is not used up by a read that has none."""
    order = emulator.fault("missing_result")
    _, raw = await post(http, emulator)
    url = f"{emulator.url}{T2V}/{json.loads(raw)['data']['task_id']}"
    assert (await read(http, url))["task_result"] == {}
    assert order.hits == 0
    emulator.advance(400)
    assert "task_result" not in await read(http, url)
    assert order.hits == 1


async def test_fates(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """A task may be made to fail or to hang, also where there is no prompt to write it into."""
    emulator.fault("fail", reason="too dark")
    emulator.fault("stuck")
    await post(http, emulator)
    await post(http, emulator)
    first, second = emulator.log.tasks
    assert (first.reason, first.status_at(1e6)) == ("too dark", "failed")
    assert second.status_at(1e6) == "processing"


async def test_orders_are_kept_to(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """A fault strikes only its route and method, only so often, and orders are served in turn."""
    emulator.fault("status", status=500, route="images/generations", times=None)
    emulator.fault("status", status=501, method="POST", times=2)
    emulator.fault("status", status=502, method="POST")
    answers = [(await post(http, emulator))[0] for _ in range(4)]
    assert answers == [501, 501, 502, 200]
    assert [(await post(http, emulator, IMAGE))[0] for _ in range(3)] == [500, 500, 500]
    task_id = emulator.log.tasks[0].id
    emulator.fault("status", status=503, method="GET")
    async with http.get(f"{emulator.url}{T2V}/{task_id}") as answer:
        assert answer.status == 503
    emulator.clear_faults()
    assert (await post(http, emulator, IMAGE))[0] == 200


async def test_result_files_are_only_hit_by_name(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """A fault for everything leaves result files alone; `files` names them."""
    video = (await read(http, await finished(http, emulator)))["task_result"]["videos"][0]
    emulator.fault("status", times=None)
    async with http.get(video["url"]) as answer:
        assert answer.status == 200
    emulator.fault("truncated", route="files", share=0.25)
    async with http.get(video["url"]) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ({"name": "nonsense"}, "there are chunked, code, drop"),
        ({"name": "drop", "seconds": 1}, "it takes none"),
        ({"name": "status", "code": 1}, "it takes body, status"),
        ({"name": "code", "code": 1}, "there are 1000"),
        ({"name": "stale", "method": "POST"}, "method must be GET"),
        ({"name": "drop", "method": "PUT"}, "method must be"),
        ({"name": "drop", "times": 0}, "times must be"),
    ],
)
def test_wrong_orders(order: dict[str, Any], told: str) -> None:
    """An order that cannot be followed is refused at once, with what there is."""
    with pytest.raises(ValueError, match=told):
        Emulator().fault(**order)


def test_the_docstring_names_every_fault() -> None:
    """The list that people read is the list that there is."""
    text = str(Emulator.fault.__doc__)
    assert [name for name in TRICKS if name not in text] == []
    assert list(TRICKS) == sorted(TRICKS)
