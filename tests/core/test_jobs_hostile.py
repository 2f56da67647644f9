"""Rows V1 to V11 of the fault matrix, by the thousand: what is built can be sent, and nothing else happens than a refusal."""

from __future__ import annotations

import json
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async._codec import encode, sealed, to_body
from kling_async.errors import InvalidJobError
from kling_async.jobs import ALL_JOBS, Job

PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big") + bytes(60)
URL = "https://cdn.example/a.png"

TEXTS = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    ["a fox", "on", "<<<voice_1>>>", "text2video", "customize", URL]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, 3, 5, 10, 0.5, -0.0, True, 10**400])
SCALARS = st.none() | st.booleans() | TEXTS | NUMBERS | st.binary(max_size=20) | st.just(PICTURE)
NESTED = st.sampled_from(["prompt", "duration", "type", "zoom", "mask", "trajectories", "input", "x"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(NESTED, inner, max_size=3),
    max_leaves=8,
)


def _likely(attribute: attrs.Attribute[Any]) -> st.SearchStrategy[Any]:
    """Values that have a chance of being right, mixed with values that have none."""
    words = st.sampled_from(attribute.metadata["choices"]) if attribute.metadata["choices"] else st.nothing()
    return words | VALUES


def _check(cls: type[Job[Any]], fields: dict[str, Any]) -> bool:
    refusal, job = None, None
    try:
        job = cls(**fields)
    except (InvalidJobError, TypeError) as error:
        refusal = error
    if job is None:
        if isinstance(refusal, InvalidJobError):
            assert refusal.field.partition("[")[0].partition(".")[0] in attrs.fields_dict(cls)
        else:
            assert "missing" in str(refusal)
        assert str(refusal).encode()
        return False
    data = b"".join(to_body(sealed(encode(job, external_task_id="ka-1"))).steps())
    assert json.loads(data, parse_constant=pytest.fail)["external_task_id"] == "ka-1"
    assert pickle.loads(pickle.dumps(job)) == job
    assert isinstance(hash(job), int)
    assert repr(job).encode()
    return True


LEAST: dict[str, dict[str, Any]] = {
    "generate_image": {"prompt": "a fox"},
    "text2video": {"prompt": "a fox"},
    "image2video": {"prompt": "a fox", "image": URL},
    "video_extend": {"video_id": "1"},
    "lip_sync": {"video_id": "1", "text": "hello", "voice_id": "uk_boy1", "voice_language": "en"},
    "virtual_try_on": {"human_image": PICTURE, "cloth_image": URL},
}


@pytest.mark.parametrize("cls", ALL_JOBS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_anything_at_all_is_refused_or_can_be_sent(cls: type[Job[Any]], data: st.DataObject) -> None:
    """For any values in a few fields: a job whose JSON reads back without NaN, or `InvalidJobError` for one of its fields."""
    assert _check(cls, LEAST[cls.verb])
    odd = data.draw(st.lists(st.sampled_from(attrs.fields(cls)), min_size=1, max_size=3))
    _check(cls, {**LEAST[cls.verb], **{attribute.name: data.draw(_likely(attribute)) for attribute in odd}})


@pytest.mark.parametrize("cls", ALL_JOBS)
def test_least_and_nothing(cls: type[Job[Any]]) -> None:
    """The least that an endpoint takes is taken, and nothing at all is refused."""
    assert _check(cls, LEAST[cls.verb])
    assert not _check(cls, {})
