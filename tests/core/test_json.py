from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kling_async import _json
from kling_async._json import BadJsonError, parsed
from kling_async._wire import Reply, decipher
from kling_async.errors import ProtocolError
from kling_async.models import Snapshot

SAMPLES = Path(__file__).parents[1] / "samples"
BODIES = [json.dumps(json.loads(path.read_text("utf-8")).get("body")).encode() for path in sorted(SAMPLES.rglob("*.json"))]
DEEP = 200_000
scalars = st.none() | st.booleans() | st.integers() | st.integers(10**17, 10**30) | st.floats() | st.text(max_size=20)
documents = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3))

ODD: list[bytes] = [
    *(b"1" * 25, b"-" + b"9" * 30, b"-0", b"-0.0", b"1e400", b"-1e400", b"1E5", b"1.0", b"0.1e-400", b"123456789012345678.5", b"1" * 5000),
    *(b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809", b"01", b"+1", b".5", b"1.", b"0x1"),
    *(
        b"NaN",
        b"Infinity",
        b"[-Infinity]",
        b"nan",
        b'"\\ud800"',
        b'"\\uD83D\\uDE00"',
        b'{"\\udc00":"\\ud800x"}',
        b'"\\ud83d\\ude00\\ud83d"',
    ),
    *(b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}', b"[1,]", b"{,}", b'{"a":1,}', b"[1 2]", b"1 2", b"", b" ", b"\x00", b"\x0c1", b"//\n1"),
    *(b"\xef\xbb\xbf{}", b"\xef\xbb\xbf", b'"\xff"', b'"\xed\xa0\x80"', b'"\x01"', b'"a\tb"', b'"\\x"', b'"\\u00"', b"'a'", b'"a', b"tru"),
    *(b"[" * 64 + b"]" * 64, b"[" * 65 + b"]" * 65, b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * 65 + b"1" + b"}" * 65),
    *(b'["' + b"[" * 100 + b'"]', b"[" + b",".join([b'{"a":[]}'] * 100) + b"]", b'{"\\ud800":' * 64 + b"1" + b"}" * 64),
]


def without_extra(body: bytes) -> Any:
    """The value, or the error, that comes where the extra is not installed."""
    return outcome(body, lambda: None)


def outcome(body: bytes, fast: Callable[[], Any] | None = None) -> Any:
    """The value or the error; `fast` in place of the decoder that is installed."""
    usual = _json._fast
    try:
        if fast is not None:
            _json._fast = fast  # type: ignore[assignment]  # as if it were installed, or were not
        return repr(parsed(body))
    except BadJsonError as bad:
        return str(bad), bad.__cause__, bad.__context__
    finally:
        _json._fast = usual


def test_the_extra_changes_no_value() -> None:
    """Odd, hostile and recorded replies read the same with the decoder of the extra `speed` and without it."""
    pytest.importorskip("msgspec")
    assert _json._fast() is not None
    assert [body[:80] for body in (*ODD, *BODIES) if outcome(body) != without_extra(body)] == []


@given(st.one_of(documents.map(lambda value: json.dumps(value).encode()), st.sampled_from(BODIES), st.binary(max_size=60)), st.data())
@example(b'{"code":0}', None)
def test_nor_does_it_for_damaged_ones(body: bytes, data: st.DataObject | None) -> None:
    """Nor does it change what becomes of any JSON, any bytes, and any recorded reply with a piece cut out or put in."""
    pytest.importorskip("msgspec")
    if data is not None and body:
        at = data.draw(st.integers(0, len(body)))
        tokens = [b"", b"NaN", b"1e999", b"\\ud83d", b"\xff", b"9" * 20, b"-0", b'"a":1,', b"[", b"]"]
        body = body[:at] + data.draw(st.sampled_from(tokens)) + body[data.draw(st.integers(at, min(len(body), at + 5))) :]
    fast, slow = outcome(body), without_extra(body)
    assert fast == slow


def test_values_are_those_of_json() -> None:
    """Without the extra values are those of `json`, but for infinities, which are no numbers, and halves of characters."""
    assert parsed(b'{"a":[1,2.5,true,null,"\\u00e9"],"a":[NaN,1e999,"\\ud800"]}') == {"a": [None, None, "\ufffd"]}
    assert not math.isfinite(json.loads("1e999"))


def test_many_rows_are_not_depth() -> None:
    """A page of five hundred rows is no deeper than a row, and a text full of brackets is not deep at all."""
    page = b'{"data":[%b]}' % b",".join([b'{"task_id":"1","task_result":{"videos":[{"id":"[[[["}]}}'] * 500)
    value: Any = parsed(page)
    assert len(value["data"]) == 500


def test_it_is_imported_when_needed() -> None:
    """Importing the package loads no decoder; without one the package works."""
    code = (
        "import sys; sys.modules['msgspec'] = sys.modules['msgspec.json'] = None\n"
        "from kling_async._json import parsed, _fast; assert parsed(b'{\"a\": 1}') == {'a': 1}; assert _fast() is None"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import kling_async, kling_async.models, sys; assert 'msgspec' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RUNNING = b'{"code":0,"message":"SUCCEED","request_id":"%b","data":{"task_id":"8800","task_status":"%b","updated_at":%d}}'


def read(body: bytes, known: Snapshot | None = None) -> Any:
    """What a reply says, given what an earlier one has said."""
    try:
        return decipher(Reply(status=200, headers={}, body=body), wall=0.0, known=known)
    except ProtocolError as error:
        return str(error)


def test_what_says_the_same_is_not_read_again() -> None:
    """A reply that differs in the number of the request only gives back what is known; any other difference is read."""
    first = read(RUNNING % (b"a", b"processing", 1774805076166))
    assert read(RUNNING % (b"b-2", b"processing", 1774805076166), first) is first
    assert read(RUNNING % (b"", b"processing", 1774805076166), first) is first
    later = read(RUNNING % (b"a", b"processing", 1774805076167), first)
    assert later is not first
    assert later.updated_at > first.updated_at
    assert read(RUNNING % (b"a", b"succeed", 1774805076166), first).status.final
    assert first.raw["request_id"] == "a"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"a"', b'"a'),
        (b'"a"', b'"\xff"'),
        (b'"a"', b'"\\ud800"'),
        (b'"a"', b'"\n"'),
        (b'"a"', b"a"),
        (b'"a",', b'"a",,'),
        (b'"request_id":"a"', b'"request_id" "a"'),
        (b'"request_id":"a",', b","),
        (b'"request_id":"a"', b'"task_id":"a"'),
        (b'"data"', b'"request_id":"x","data"'),
        (b"}}", b'},"request_id":7}'),
        (b"}}", b"}} "),
        (b"8800", b"8801"),
        (b'"code":0', b'"code":1303'),
    ],
)
def test_nothing_slips_through(old: bytes, new: bytes) -> None:
    """Whatever else is changed in a reply, it comes to what it comes to when nothing is known."""
    body = RUNNING % (b"a", b"processing", 1774805076166)
    known = read(body)
    changed = body.replace(old, new, 1)
    assert changed != body
    assert read(changed, known) == read(changed)
