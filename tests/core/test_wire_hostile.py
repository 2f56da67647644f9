"""Whatever a server sends, a verdict or a `ProtocolError` comes of it, and nothing else."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async._wire import Blank, Refusal, Reply, decipher
from kling_async.errors import ProtocolError
from kling_async.models import Snapshot, TaskRef

SAMPLES = Path(__file__).parents[1] / "samples"
DEEP = 200_000

statuses = st.integers(200, 204) | st.sampled_from([301, 400, 401, 404, 429, 500, 502]) | st.integers(0, 999)
header_values = st.text(st.characters(codec="latin-1"), max_size=40)
header_names = st.sampled_from(["retry-after", "x-request-id", "x-oneapi-request-id", "location", "content-type"])
headers = st.dictionaries(header_names, header_values)

numbers = st.integers() | st.integers(10**11, 10**30) | st.floats() | st.just(10**4000)
WORDS = ["succeed", "FAILURE", "SUCCESS", "submitted", "success", "0", "1303", "", "https://files.example/v.mp4", "https://[", "\ud83d"]
words = st.sampled_from(WORDS)
scalars = st.none() | st.booleans() | numbers | words | st.text(max_size=20)
KEYS = [
    *("code", "message", "msg", "request_id", "data", "error", "type", "id", "object", "task_id", "task_status", "status"),
    *("task_status_msg", "fail_reason", "result_url", "metadata", "url", "action", "task_result", "task_info", "videos", "images"),
    *("series_images", "audios", "index", "duration", "watermark_url", "parent_video", "external_task_id", "created_at", "updated_at"),
    *("submit_time", "finish_time"),
]
keys = st.sampled_from(KEYS) | st.text(max_size=4)
documents = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=8), max_leaves=25)
tasks = st.fixed_dictionaries({}, optional={"task_id": scalars, "task_status": words, "data": documents, "task_result": documents})
fillings = {
    "code": st.sampled_from([0, "0", "success", None]),
    "data": st.tuples(st.dictionaries(keys, documents, max_size=6), tasks).map(lambda parts: parts[0] | parts[1]),
}
envelopes = st.fixed_dictionaries({}, optional=fillings)


def check(status: int, head: dict[str, str], body: bytes) -> None:
    """Decipher, and hold what came of it to its promises."""
    seen: Snapshot | Blank | Refusal | ProtocolError
    try:
        seen = decipher(Reply(status=status, headers=head, body=body), wall=1774805076.0)
    except ProtocolError as error:
        seen = error
    if not isinstance(seen, Refusal):
        assert 200 <= status < 300
    match seen:
        case ProtocolError():
            assert len(seen.excerpt) <= 256
            str(seen).encode()
        case Refusal():
            assert len(seen.message) <= 256
            f"{seen.error()} {seen!r}".encode()
        case Snapshot():
            f"{seen!r} {seen.message}".encode()
            ref = TaskRef(origin="https://gw.example", action="videos", action2="text2video", task_id=seen.task_id)
            assert TaskRef.parse(str(ref)) == ref
            json.dumps(seen.raw, allow_nan=False, ensure_ascii=False).encode()
        case Blank():
            pass


@given(statuses, headers, st.binary(max_size=200))
def test_any_bytes_give_a_verdict(status: int, head: dict[str, str], body: bytes) -> None:
    """No bytes under any status make the decoder fail in another way."""
    check(status, head, body)


@given(statuses, headers, documents)
def test_any_json_gives_a_verdict(status: int, head: dict[str, str], document: Any) -> None:
    """Nor does any JSON, with the API's own words in the wrong places."""
    check(status, head, json.dumps(document).encode())


@given(envelopes)
def test_any_task_in_an_envelope_gives_a_verdict(document: Any) -> None:
    """Nor does a well-formed envelope around a task of odd parts."""
    check(200, {}, json.dumps(document).encode())


def _bodies() -> list[bytes]:
    samples = [json.loads(path.read_text("utf-8")) for path in sorted(SAMPLES.rglob("*.json"))]
    return [
        base64.b64decode(sample["body_base64"])
        if "body_base64" in sample
        else (sample["body"] if isinstance(sample["body"], str) else json.dumps(sample["body"])).encode()
        for sample in samples
    ]


BODIES = _bodies()


@given(st.sampled_from(BODIES), statuses, st.data())
@settings(max_examples=300)
def test_any_damaged_sample_gives_a_verdict(body: bytes, status: int, data: st.DataObject) -> None:
    """Nor does a recorded reply with bytes cut out, put in or exchanged."""
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 40)))
    tokens = [b"", b"null", b"{}", b"[]", b'"', b"NaN", b"-1", b"1e999", b"\\ud83d", b"\xff", b"task_id", b"9" * 20]
    check(status, {}, body[:start] + data.draw(st.sampled_from(tokens) | st.binary(max_size=4)) + body[end:])


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"data":' * DEEP + b"1" + b"}" * DEEP,
        b'{"code":0,"data":' + b"[" * 80 + b"]" * 80 + b"}",
        b'{"code":0,"data":{"task_id":' + b"9" * 5000 + b"}}",
        b'{"code":' + b"9" * 4000 + b',"message":"x"}',
        b'{"code":0,"data":{"task_id":"' + b"8" * 1_000_000 + b'"}}',
        b"<" * 1_000_000,
        b'{"error":{"message":"' + b"<" * 1_000_000 + b'"}}',
        b'{"code":"a","message":"{' + b"[" * DEEP + b'"}',
        b"https://?" * 100_000,
    ],
    ids=["open", "lists", "objects", "81-deep", "5000-digits", "code", "endless-id", "tags", "error", "nested-error", "links"],
)
@pytest.mark.row("S6", "Q12")
def test_replies_made_to_hurt_give_a_verdict(status: int, body: bytes) -> None:
    """Depth, digits and length are refused, not suffered."""
    check(status, {}, body)


@pytest.mark.parametrize("key", ["created_at", "updated_at"])
@pytest.mark.parametrize("value", [10**15, 10**16, 10**17, 10**30, 10**400, -1, 1e300, "9" * 17, "1e5", True, [], {}])
def test_no_timestamp_ends_a_reading(key: str, value: object) -> None:
    """A time that no calendar has is not known."""
    body = json.dumps({"code": 0, "data": {"task_id": "1", "task_status": "submitted", key: value}}).encode()
    seen = decipher(Reply(status=200, headers={}, body=body), wall=0.0)
    assert isinstance(seen, Snapshot)
    assert getattr(seen, key) is None


@pytest.mark.row("S6")
def test_depth_is_bounded_at_sixty_four() -> None:
    """64 levels are read, 65 are not: what is kept in `raw` can be pickled and printed."""

    def nested(levels: int) -> Reply:
        lists = b"[" * (levels - 2) + b"1" + b"]" * (levels - 2)
        return Reply(status=200, headers={}, body=b'{"code":0,"data":{"task_id":"1","x":' + lists + b"}}")

    assert isinstance(decipher(nested(64), wall=0.0), Snapshot)
    with pytest.raises(ProtocolError, match="nested too deeply"):
        decipher(nested(65), wall=0.0)
