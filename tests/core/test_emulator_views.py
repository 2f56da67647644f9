"""What the emulator's page shows, and to whom: guards, masks, news and requests as text, without a socket."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kling_async.emulator import GroundTruth, SeenRequest
from kling_async.emulator._feed import KEPT, Feed
from kling_async.emulator._guard import complaint
from kling_async.emulator._ledger import masked
from kling_async.emulator._snippets import curl, python
from kling_async.emulator._tasks import shortened
from kling_async.emulator._views import catalogue, detail, hidden, masked_path
from kling_async.jobs import ALL_JOBS

NASTY = "it's \"5$\" `id` $(id) \\n \\ 100% ${HOME}\nJSON\n'''\t<b> \ufdd0 狐 FILE"


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST", "kling.localhost:1", "[::1]:8765", "10.1.2.3:8765", "gateway:8765"]
)
def test_who_is_welcome(host: str) -> None:
    """Addresses, localhost and the name it was told to listen on, with the origin of its own page or none."""
    assert complaint(host, None, "Gateway") is None
    assert complaint(host, f"http://{host}", "gateway") is None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("evil.example:8765", None),
        ("evil.example:8765", "http://evil.example:8765"),
        ("127.0.0.1.evil.example", None),
        ("localhost.evil.example", None),
        ("", None),
        (None, None),
        ("[::1", None),
        ("127.0.0.1:8765", "http://evil.example"),
        ("127.0.0.1:8765", "http://127.0.0.1:8766"),
        ("127.0.0.1:8765", "null"),
        ("127.0.0.1:8765", ""),
        ("127.0.0.1:8765", "http://[::1"),
    ],
)
def test_who_is_not(host: str | None, origin: str | None) -> None:
    """A name that a stranger may point here, and the pages of strangers, are turned away."""
    assert complaint(host, origin, "127.0.0.1")


def test_a_feed_tells_each_thing_once_and_in_order() -> None:
    """Whoever catches up gets what changed since, the newest state of each, and starts again after it was all forgotten."""
    feed = Feed()
    for key in (1, 2, 1):
        feed.tell("request", key, f"request {key}")
    feed.tell("faults")
    now, news = feed.since(0)
    assert [(each.kind, each.thing) for each in news or ()] == [("request", "request 2"), ("request", "request 1"), ("faults", None)]
    assert feed.since(now) == (now, [])
    assert feed.since(-1)[1] is None
    assert feed.since(now + 1)[1] is None
    feed.forget()
    assert feed.since(now)[1] is None
    assert feed.everything() == []


def test_a_feed_keeps_what_a_page_shows() -> None:
    """The log is bounded; a task that runs is kept however many came after it."""
    feed = Feed(needed=lambda task: task == "runs")
    feed.tell("task", "first", "runs")
    for number in range(KEPT["request"] + 50):
        feed.tell("request", number, number)
        feed.tell("task", number, "over")
    kinds = [news.kind for news in feed.everything()]
    assert kinds.count("request") == KEPT["request"]
    assert kinds.count("task") == KEPT["task"]
    assert feed.find("task", "first") == "runs"
    assert feed.find("request", 0) is None
    assert feed.find("request", KEPT["request"] + 49) == KEPT["request"] + 49


def test_masks() -> None:
    """Keys, tokens and the like are hidden wherever they stand; so is what a query says that the API has no name for."""
    headers = hidden(masked({"Authorization": "Bearer sk-1", "X-Goog-Api-Key": "sk-2", "Cookie": "sk-3", "Host": "here"}))
    assert headers == {"Authorization": "Bearer ***", "X-Goog-Api-Key": "***", "Cookie": "***", "Host": "here"}
    body = {"prompt": "x", "apiKey": "sk-4", "deep": [{"access_token": ["sk-5"]}], "callback_url": "https://me.example/hook?s=sk-6", "n": 1}
    assert "sk-" not in json.dumps(hidden(body))
    assert hidden(body)["prompt"] == "x"
    assert hidden({"api_key": "sk-7 ***"}) == {"api_key": "***"}
    assert masked_path("/v1/x?pageNum=2&key=sk-8") == "/v1/x?pageNum=2&key=***"
    assert masked_path("/_files/a?sig=1", signed=True) == "/_files/a?sig=1"


def test_detail_shows_no_key_and_no_file() -> None:
    """All that is shown of a request with a key in every corner and a picture in its body."""
    log = GroundTruth()
    seen = log.record(
        at=0.0, method="POST", path="/kling/v1/videos/image2video?key=sk-1", route="videos/image2video", peer="", size=1, task_id=None,
        headers=masked({"Authorization": "Bearer sk-2"}),
    )  # fmt: skip
    seen.body = shortened({"image": "A" * 5000, "static_mask": "B" * 2000, "prompt": "a fox", "token": "sk-3"})
    shown = detail(seen, b'{"code": 0}', origin="http://127.0.0.1:1", profile="gateway")
    assert "sk-" not in json.dumps(shown)
    assert shown["body"]["image"].endswith("…<5000 characters>")
    assert shown["body"]["static_mask"].endswith("…<2000 characters>")
    assert shown["answer"] == {"code": 0}


def test_the_catalogue_has_every_job() -> None:
    """The form is made from it: each job with its fields."""
    told = catalogue()
    assert [job["route"] for job in told["jobs"]] == [str(job.route) for job in ALL_JOBS]
    assert all(job["fields"] for job in told["jobs"])
    assert json.dumps(told)
    assert all(fault["about"].endswith(".") for fault in told["faults"])


def in_a_shell(script: str, directory: Path) -> tuple[list[str], Any]:
    """The arguments that `curl` gets, and the JSON that it sends."""
    fake = 'curl() { printf "%s\\0" "$@"; for word; do if [ "$word" = @- ]; then cat; fi; done; }\n'
    environment = {"PATH": "/usr/bin:/bin", "KLING_API_KEY": "sk-mine"}
    done = subprocess.run(["/bin/sh", "-c", fake + script], cwd=directory, env=environment, capture_output=True, check=True)
    assert done.stderr == b""
    *words, rest = done.stdout.decode().split("\0")
    data = rest or (words[words.index("-d") + 1] if "-d" in words else "null")
    return words, json.loads(data)


def test_curl_says_what_was_sent(tmp_path: Path) -> None:
    """In a real shell the same URL, key and body come out, whatever the prompt holds; a file comes from the directory."""
    body: dict[str, Any] = {"prompt": NASTY, "n": 2, "deep": [{"x": None, "y": True}]}
    words, sent = in_a_shell(curl(method="POST", url="http://h/x?a=1&b", route="videos/text2video", body=body), tmp_path)
    assert sent == body
    assert words[:4] == ["-sS", "http://h/x?a=1&b", "-H", "Authorization: Bearer sk-mine"]
    (tmp_path / "image.png").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "image_tail.png").write_bytes(b"tail" * 1000)
    files = {name: base64.b64encode((tmp_path / f"{name}.png").read_bytes()).decode() for name in ("image", "image_tail")}
    text = curl(method="POST", url="http://h/x", route="videos/image2video", body=shortened({**body, **files}))
    assert "sk-" not in text
    assert in_a_shell(text, tmp_path)[1] == {**body, **files}
    words, _ = in_a_shell(curl(method="DELETE", url="http://h/x", route=None, body=None), tmp_path)
    assert words[:3] == ["-sS", "-X", "DELETE"]
    assert "KLING_API_KEY" not in curl(method="GET", url="http://h/_files/x", route="files", body=None)


@pytest.mark.parametrize(
    ("route", "body", "expected"),
    [
        ("videos/text2video", {"prompt": "a", "duration": "5", "sound": "off"}, ["prompt='a'", "duration=5", "sound=False"]),
        ("videos/text2video", {"prompt": "a", "seed": 1}, ["prompt='a'", "extra={'seed': 1}"]),
        ("videos/text2video", {"prompt": "a", "duration": "five"}, ["prompt='a'", "extra={'duration': 'five'}"]),
        (
            "videos/text2video",
            {"camera_control": {"type": "simple", "config": {"pan": 1}}},
            ["camera_control={'type': 'simple', 'pan': 1}"],
        ),
        ("videos/text2video", {"camera_control": "left"}, ["extra={'camera_control': 'left'}"]),
        ("videos/text2video", {"multi_prompt": [{"index": 2, "prompt": "x"}]}, ["extra={'multi_prompt': [{'index': 2, 'prompt': 'x'}]}"]),
        ("videos/lip-sync", {"input": {"video_id": "1"}, "callback_url": "u"}, ["video_id='1'", "callback_url='u'"]),
    ],
)
def test_python_says_what_the_sdk_takes(route: str, body: dict[str, Any], expected: list[str]) -> None:
    """Wire forms become the SDK's simpler ones; what does not look like one goes as `extra`."""
    text = python(method="POST", origin="http://h", profile="gateway", route=route, task_id=None, body=body)
    assert text
    call = text[text.index("handle = await") :].splitlines()[1:]
    given = [line.strip().rstrip(",") for line in call[: len(expected)]]
    assert [line.replace('"', "'") for line in given] == expected


def test_python_has_no_words_for_some() -> None:
    """Result files, lists, strange paths and bodies that are no objects."""
    said: dict[str, Any] = {"origin": "http://h", "profile": "gateway"}
    assert python(method="GET", route="files", task_id="1", body=None, **said) is None
    assert python(method="GET", route=None, task_id=None, body=None, **said) is None
    assert python(method="GET", route="videos/text2video", task_id=None, body=None, **said) is None
    assert python(method="POST", route="videos/text2video", task_id=None, body=[1], **said) is None


def test_a_request_under_way_is_shown_without_an_answer() -> None:
    """There is nothing yet, and that is said as nothing."""
    seen = SeenRequest(seq=1, at=0, method="GET", path="/x", route=None, headers={}, peer="", size=0)
    assert detail(seen, None, origin="http://h", profile="gateway")["answer"] is None
