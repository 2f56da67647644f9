"""Every recorded reply gives the verdict written beside it."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from kling_async._wire import Blank, Refusal, Reply, decipher
from kling_async.errors import ProtocolError
from kling_async.models import Snapshot

SAMPLES = Path(__file__).parents[1] / "samples"
NAMES = sorted(path.relative_to(SAMPLES).with_suffix("").as_posix() for path in SAMPLES.rglob("*.json"))
WALL = 1774805076.0
"""29 March 2026, 17:24:36 UTC, when most of the samples were made."""


def sample_named(name: str) -> dict[str, Any]:
    """The sample as written."""
    sample: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text("utf-8"))
    return sample


def body_of(sample: dict[str, Any]) -> bytes:
    """The bytes of a sample's body, written as JSON, as text, or as base64."""
    if "body_base64" in sample:
        return base64.b64decode(sample["body_base64"])
    body = sample["body"]
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def facts_of(sample: dict[str, Any]) -> dict[str, Any]:
    """What the decoder makes of a sample, in JSON's types."""
    reply = Reply(status=sample["status"], headers=sample["headers"], body=body_of(sample))
    try:
        seen = decipher(reply, wall=WALL)
    except ProtocolError as error:
        return {"kind": "protocol_error", "path": error.path}
    match seen:
        case Blank():
            return {"kind": "blank"}
        case Refusal():
            return {"kind": "refusal", "error": type(seen.error()).__name__, **attrs.asdict(seen)}
        case Snapshot():
            return {"kind": "snapshot", **attrs.asdict(seen, value_serializer=_plain)}


def _plain(_instance: object, _attribute: object, value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


def assert_holds(expected: Any, found: Any, path: str) -> None:
    """Every fact of `expected` is in `found`; `found` may know more."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            assert_holds(value, found.get(key), f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        assert len(found) == len(expected), f"{path}: {found!r}"
        for index, value in enumerate(expected):
            assert_holds(value, found[index], f"{path}[{index}]")
    else:
        assert found == expected, path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.row("S1", "S11")
def test_the_verdict_is_the_one_written_beside_the_reply(name: str) -> None:
    """A recorded reply gives its kind and every fact that its file names."""
    sample = sample_named(name)
    assert_holds(sample["expect"], facts_of(sample), name)


@pytest.mark.parametrize("name", [name for name in NAMES if sample_named(name)["expect"]["kind"] == "snapshot"])
def test_nothing_of_a_snapshot_is_dropped(name: str) -> None:
    """`Snapshot.raw` is the whole decoded body, in JSON's own types."""
    sample = sample_named(name)
    seen = decipher(Reply(status=200, headers={}, body=body_of(sample)), wall=WALL)
    assert isinstance(seen, Snapshot)
    assert json.loads(json.dumps(seen.raw, allow_nan=False)) == seen.raw
    if isinstance(sample.get("body"), dict):
        assert seen.raw == sample["body"]


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_says_where_it_comes_from(name: str) -> None:
    """A sample has an origin, a status, headers in lower case, one body, and a verdict of a known kind."""
    sample = sample_named(name)
    assert sample.keys() - {"note"} in ({"origin", "status", "headers", body, "expect"} for body in ("body", "body_base64"))
    assert sample["origin"].startswith(("api.md ", "reliability.md "))
    assert all(header == header.lower() for header in sample["headers"])
    assert sample["expect"]["kind"] in {"snapshot", "blank", "refusal", "protocol_error"}


def test_every_official_code_has_a_sample() -> None:
    """The table of `api.md` 8.1 is covered, row by row."""
    codes = {*range(1000, 1005), *range(1100, 1104), *range(1200, 1204), *range(1300, 1305), *range(5000, 5003)}
    assert {int(name.partition("/")[2]) for name in NAMES if name.startswith("errors-official/")} == codes
