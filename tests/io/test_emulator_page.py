"""The emulator's page as HTTP: its files, its guards, the stream of news, and what it can switch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kling_async import KlingSession
from kling_async.emulator import Emulator
from kling_async.emulator._studio import Studio, sample
from kling_async.jobs import GenerateImage, Image2Video, Job, LipSync, Text2Video, VideoExtend, VirtualTryOn

KEY = {"Authorization": "Bearer sk-emulator"}
T2V = "/kling/v1/videos/text2video"
PICTURE = (resources.files("kling_async.emulator") / "samples" / "picture-1x1.png").read_bytes()
PAGE = [file.name for file in resources.files("kling_async.emulator").joinpath("page").iterdir()]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that sends a key."""
    async with aiohttp.ClientSession(headers=KEY) as session:
        yield session


@pytest.fixture
async def emulator(nothing_is_left: None) -> AsyncIterator[Emulator]:
    """A gateway whose time stands still."""
    del nothing_is_left
    async with Emulator(speed=0, seed=1) as running:
        yield running


async def call(http: aiohttp.ClientSession, method: str, url: str, body: object = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON."""
    async with http.request(method, url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


class Stream:
    """The news, event by event."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.last = ""

    async def next(self) -> tuple[str, Any]:
        """Kind and data of the next event; a comment counts as one."""
        lines: dict[str, str] = {}
        while (line := (await self.answer.content.readline()).decode()) != "\n":
            assert line, "the stream has ended"
            name, _, value = line.rstrip("\n").partition(":")
            lines[name] = value.strip()
        if "data" in lines:
            self.last = lines["id"]
        return lines.get("event", "comment" if "" in lines else "retry"), json.loads(lines.get("data", "null"))

    async def until(self, kind: str) -> list[tuple[str, Any]]:
        """All up to the first of a kind."""
        seen = [await self.next()]
        while seen[-1][0] != kind:
            seen.append(await self.next())
        return seen


def stream(http: aiohttp.ClientSession, emulator: Emulator, last: str | None = None) -> Any:
    """Ask for the news."""
    headers = {"Last-Event-ID": last} if last else {}
    return http.get(f"{emulator.dashboard}events", headers=headers)


@pytest.mark.parametrize("name", ["", *sorted(set(PAGE) - {"index.html"}), "sample.png"])
async def test_the_page_is_there(http: aiohttp.ClientSession, emulator: Emulator, name: str) -> None:
    """Each file has its type and a policy that lets nothing in from elsewhere; none looks elsewhere itself."""
    async with http.get(emulator.dashboard + name) as answer:
        assert answer.status == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        policy = answer.headers["Content-Security-Policy"]
        content = await answer.read()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"https://" not in content.replace("https://…".encode(), b"")
    assert b"http://" not in content.replace(b"http://www.w3.org/2000/svg", b"")
    assert b"innerHTML" not in content


async def test_the_ways_to_the_page(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """The prefix without a slash leads there, and so does the bare address for browsers; to a client it stays a strange path."""
    for path, accept, status in (("/_emulator", "*/*", 302), ("/", "text/html,*/*", 302), ("/", "*/*", 404)):
        async with http.get(emulator.url + path, headers={"Accept": accept}, allow_redirects=False) as answer:
            assert answer.status == status
            assert answer.headers.get("Location") == ("/_emulator/" if status == 302 else None)
    assert [seen.path for seen in emulator.log.requests] == ["/"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
async def test_strangers_are_turned_away(http: aiohttp.ClientSession, emulator: Emulator, headers: dict[str, str]) -> None:
    """A web page from elsewhere reads no prompts and switches nothing, whichever way it finds here."""
    await call(http, "POST", emulator.url + T2V, {"prompt": "private"})
    for method, path, body in (
        ("GET", "", None), ("GET", "events", None), ("GET", "log", None), ("GET", "tasks", None), ("GET", "requests/1", None),
        ("POST", "faults", {"name": "drop"}), ("DELETE", "faults", None), ("PUT", "speed", {"speed": 9}), ("PUT", "slots", {}),
        ("POST", "reset", {}), ("POST", "advance", {"seconds": 1}),
    ):  # fmt: skip
        status, told = await call(http, method, emulator.dashboard + path, body, **headers)
        assert status == 403
        assert "private" not in json.dumps(told)
    assert (emulator.orders, emulator.speed, len(emulator.log.tasks)) == ((), 0, 1)


async def test_the_stream_tells_all_and_then_the_news(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """First what there is, then each change: requests twice (read, answered), tasks, time, slots and faults."""
    await call(http, "POST", emulator.url + T2V, {"prompt": "a fox"})
    async with stream(http, emulator) as answer:
        assert answer.content_type == "text/event-stream"
        news = Stream(answer)
        first = await news.until("ready")
        assert [kind for kind, _ in first] == ["retry", "hello", "clock", "slots", "faults", "task", "request", "ready"]
        told = dict(first)
        assert told["hello"] == {"url": emulator.url, "profile": "gateway", "prefix": "/kling/v1", "key": "sk-emulator"}
        assert told["request"]["status"] == 200
        assert (told["task"]["prompt"], told["task"]["finished"]) == ("a fox", 319)
        emulator.speed = 60
        assert (await news.until("clock"))[-1][1]["speed"] == 60
        emulator.speed = 0
        emulator.slots = {"video": 2}
        assert (await news.until("slots"))[-1][1]["limits"]["video"] == 2
        emulator.fault("status", status=503)
        assert (await news.until("faults"))[-1][1]["orders"][0]["options"] == {"status": 503, "body": "html"}
        async with http.get(f"{emulator.url}{T2V}/1"):
            pass
        seen = await news.until("faults")
        assert [data["status"] for kind, data in seen if kind == "request"][-1] == 503
        assert seen[-1][1]["orders"][0]["hits"] == 1
        emulator.reset()
        again = [kind for kind, _ in await news.until("ready")]
        assert again == ["hello", "clock", "slots", "faults", "faults", "ready"]


async def test_the_stream_goes_on_where_it_broke(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """With the last id it gets what it has missed and no more; with a foreign or a void id it starts again."""
    async with stream(http, emulator) as answer:
        news = Stream(answer)
        await news.until("ready")
        await call(http, "POST", emulator.url + T2V, {"prompt": "seen"})
        while dict([await news.next()]).get("request", {}).get("status") is None:
            pass
    await call(http, "POST", emulator.url + T2V, {"prompt": "missed"})
    async with stream(http, emulator, news.last) as answer:
        resumed = Stream(answer)
        assert await resumed.next() == ("retry", None)
        assert [(kind, data.get("prompt")) for kind, data in (await resumed.next(), await resumed.next())] == [
            ("task", "missed"),
            ("request", None),
        ]
    for last in ("other:3", "nonsense", f"{news.last.partition(':')[0]}:99999", f"{news.last}x"):
        async with stream(http, emulator, last) as answer:
            assert [kind for kind, _ in await Stream(answer).until("hello")] == ["retry", "hello"]
    emulator.log.clear()
    async with stream(http, emulator, news.last) as answer:
        assert (await Stream(answer).until("hello"))[-1][0] == "hello"


async def test_the_stream_says_that_it_lives_and_ends_with_the_emulator(http: aiohttp.ClientSession, nothing_is_left: None) -> None:
    """A comment after 15 quiet seconds; the end of the emulator ends it without waiting for its readers."""
    del nothing_is_left
    async with Emulator(speed=0) as emulator, stream(http, emulator) as answer:
        news = Stream(answer)
        await news.until("ready")
        assert await news.next() == ("comment", None)
        await emulator.aclose()
        assert await answer.content.read() == b""


async def test_requests_are_shown_to_copy(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """Body, answer, curl and Python of each; the key is in none of them, and what is not shown any more is a 404."""
    await call(http, "POST", emulator.url + T2V, {"prompt": "a fox"})
    status, told = await call(http, "GET", f"{emulator.dashboard}requests/1")
    assert status == 200
    assert told["body"] == {"prompt": "a fox"}
    assert told["answer"]["data"]["task_id"] == emulator.log.tasks[0].id
    assert told["headers"]["Authorization"] == "Bearer ***"
    assert "sk-emulator" not in json.dumps(told)
    assert (await call(http, "GET", f"{emulator.dashboard}requests/2"))[0] == 404
    assert (await call(http, "GET", f"{emulator.dashboard}requests/x"))[0] == 404


async def test_media_without_a_trace(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """The page plays a finished task's file, in ranges, and the log knows nothing of it; before the end there is none."""
    await call(http, "POST", f"{emulator.url}/kling/v1/images/generations", {"prompt": "a fox"})
    (task,) = emulator.log.tasks
    url = f"{emulator.dashboard}media/{task.id}/{task.entries[0].id}.png"
    async with http.get(url) as answer:
        assert answer.status == 404
    emulator.advance(100)
    async with http.get(url, headers={"Range": "bytes=0-7"}) as answer:
        assert (answer.status, await answer.read()) == (206, b"\x89PNG\r\n\x1a\n")
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert len(emulator.log.requests) == 1


async def test_speed_slots_and_single_faults_over_http(http: aiohttp.ClientSession, emulator: Emulator) -> None:
    """What Python can set, other languages can; what is wrong is told and changes nothing."""
    base = f"{emulator.url}/_emulator"
    assert (await call(http, "PUT", f"{base}/speed", {"speed": 60}))[1]["speed"] == 60
    assert (await call(http, "PUT", f"{base}/speed", {"speed": -1}))[0] == 400
    assert (await call(http, "PUT", f"{base}/speed", {}))[0] == 400
    assert emulator.speed == 60
    emulator.speed = 0
    for wrong in ({"videos": 1}, {"video": -1}, {"video": "2"}, {"video": True}):
        assert (await call(http, "PUT", f"{base}/slots", wrong))[0] == 400
    told = (await call(http, "PUT", f"{base}/slots", {"video": 1}))[1]
    assert told == {"limits": {"video": 1, "image": 9, "try_on": 5}, "held": {}}
    assert [(await call(http, "POST", emulator.url + T2V, {"prompt": "x"}))[0] for _ in range(2)] == [200, 429]
    ((account, held),) = (await call(http, "GET", f"{base}/slots"))[1]["held"].items()
    assert (account, held) == (emulator.log.tasks[0].account, {"video": 1})
    emulator.fault("drop", times=None)
    emulator.fault("stale")
    emulator.fault("drop", method="GET")
    left = (await call(http, "DELETE", f"{base}/faults/drop"))[1]
    assert [order["name"] for order in left] == ["stale"]
    assert [order.name for order in emulator.orders] == ["stale"]


async def test_time_keeps_its_place_when_its_speed_changes(http: aiohttp.ClientSession) -> None:
    """A new speed holds from now on: no task jumps, and callbacks come when their moment comes."""
    async with Emulator(speed=10, durations=100) as emulator:
        await call(http, "POST", emulator.url + T2V, {"prompt": "x", "callback_url": f"{emulator.url}/hook"})
        await asyncio.sleep(8)
        before = emulator.now
        assert before == pytest.approx(80, abs=1)
        emulator.speed = 0
        await asyncio.sleep(8)
        assert emulator.now == pytest.approx(before, abs=0.1)
        emulator.speed = 1000
        async with stream(http, emulator) as answer:
            news = Stream(answer)
            while [sent.status for sent in emulator.log.callbacks] != [404, 404]:
                await news.next()
        assert emulator.now >= 100


async def test_a_chosen_key_is_not_shown(http: aiohttp.ClientSession) -> None:
    """Only the key that is everybody's comes with the page."""
    async with Emulator(speed=0, api_keys=["sk-chosen"]) as emulator, stream(http, emulator) as answer:
        assert dict(await Stream(answer).until("hello"))["hello"]["key"] is None


JOBS: list[Job[Any]] = [
    GenerateImage(prompt='"quoted" it\'s \\ back', n=2, aspect_ratio="1:1", extra={"seed": 7, "deep": [None, True]}),
    Text2Video(
        prompt="line\nbreak 狐", model_name="kling-v3", duration=7, multi_shot=True, shot_type="customize", sound=True, watermark_info=True,
        multi_prompt=[{"prompt": "one", "duration": 3}, {"prompt": "two" * 60, "duration": 4}],
    ),
    Image2Video(image=PICTURE, prompt="x", model_name="kling-v1", dynamic_masks=[{"mask": PICTURE, "trajectories": [(0, 1), (2, 3)]}]),
    Image2Video(
        image="https://files.example/a.png", prompt="<<<voice_1>>>", model_name="kling-v2-6", mode="pro", sound=True, voice_list=["v1"]
    ),
    Image2Video(image="https://files.example/a.png", prompt="x", model_name="kling-v3", element_list=[5, 6]),
    Text2Video(prompt="x", model_name="kling-v1", camera_control={"type": "simple", "pan": 2.5}, callback_url="http://127.0.0.1:9/hook"),
    VideoExtend(video_id="77", prompt="on"),
    LipSync(video_id="77", text="hello", voice_id="v", voice_language="en", voice_speed=1.2, external_task_id="mine"),
    LipSync(video_url="https://files.example/c.mp4", audio_file=b"ID3" + bytes(4000)),
    VirtualTryOn(human_image=PICTURE, cloth_image="https://files.example/b.png"),
]  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with the files that were sent, and a key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KLING_API_KEY", "sk-emulator")
    for name in ("image", "human_image", "mask"):
        (tmp_path / f"{name}.png").write_bytes(PICTURE)
    (tmp_path / "audio_file.mp3").write_bytes(b"ID3" + bytes(4000))


def without_key(body: Any) -> Any:
    """What is ordered, whichever order it is."""
    return body and {name: value for name, value in body.items() if name != "external_task_id"}


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
async def test_the_python_of_a_request_makes_that_request(http: aiohttp.ClientSession, job: Job[Any]) -> None:
    """Copied and run, files beside it, it makes the same order under a new key and saves the result; a read's reads the same task."""
    profile = "official" if isinstance(job, VirtualTryOn) else "gateway"
    async with Emulator(durations=10, profile=profile, studio=Studio(sample)) as emulator:
        async with KlingSession(emulator.api_key, base_url=emulator.url, profile=profile) as kling:
            handle = await kling.submit(job)
            await kling.get(handle.ref)
        for seq in (1, 2):
            text = (await call(http, "GET", f"{emulator.dashboard}requests/{seq}"))[1]["python"]
            code, end, _ = text.partition("asyncio.run(main())")
            assert end
            scope: dict[str, Any] = {}
            exec(code, scope)
            seen = len(emulator.log.requests)
            await scope["main"]()
            first, again = emulator.log.requests[seq - 1], emulator.log.requests[seen]
            assert (again.method, again.path) == (first.method, first.path)
            assert without_key(again.body) == without_key(first.body)
            if seq == 1:
                assert emulator.log.requests[-1].route == "files"
