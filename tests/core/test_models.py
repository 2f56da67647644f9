from __future__ import annotations

import pickle
from datetime import UTC, datetime

import pytest
from attrs import asdict, evolve
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st

from kling_async.errors import ConfigurationError, InvalidRefError
from kling_async.models import Audio, Image, ParentVideo, Snapshot, Status, TaskRef, Video

REF = TaskRef(
    origin="https://gateway.example:8443",
    action="images",
    action2="kolors-virtual-try-on",
    task_id="831922345719271433",
    external_task_id="order 17, part 2",
    created_at=datetime(2026, 11, 22, 10, 0, 0, 123000, UTC),
)
TEXT = "kling1,https://gateway.example:8443,images,kolors-virtual-try-on,831922345719271433,order%2017%2C%20part%202,1795341600123"
SIGNED = "https://files.example/v.mp4?sign=s3cret"

words = st.text(st.characters(exclude_categories=("C", "Z"), codec="utf-8"), min_size=1, max_size=512)
moments = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001  made aware by `timezones`
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
refs = st.builds(
    TaskRef,
    origin=st.sampled_from(["https://gateway.example", "http://127.0.0.1:8765", "http://[::1]:80"]),
    action=words,
    action2=words,
    task_id=words,
    external_task_id=st.none() | words,
    created_at=st.none() | moments,
)


def test_ref_as_text() -> None:
    """The text of a reference is what it was when the first one was stored."""
    assert str(REF) == TEXT
    assert asdict(TaskRef.parse(TEXT)) == asdict(REF)


def test_refs_to_one_task_are_equal() -> None:
    """Whether they tell when it was created or not: the journal does not know the service's time."""
    later = evolve(REF, created_at=None)
    assert later == REF
    assert hash(later) == hash(REF)
    assert evolve(REF, task_id="another") != REF


@given(refs)
def test_ref_round_trip(ref: TaskRef) -> None:
    """Whatever is in a reference, its text brings it back, on one line without spaces or quotes."""
    text = str(ref)
    assert asdict(TaskRef.parse(text)) == asdict(ref)
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set(" '\"`$\\;&|<>()*?!#")


@given(refs)
@pytest.mark.row("X4")
def test_ref_pickles(ref: TaskRef) -> None:
    """References cross process borders as they are."""
    assert pickle.loads(pickle.dumps(ref)) == ref


def test_ref_is_forgiving_about_white_space() -> None:
    """A line read from a file, with its newline, is a reference."""
    assert TaskRef.parse(f"  {TEXT}\n") == REF


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "kling1"),
        ("831922345719271433", "kling1"),
        (TEXT.replace("kling1", "kling2"), "kling1"),
        (TEXT + ",more", "6 parts"),
        (TEXT.rpartition(",")[0], "6 parts"),
        (TEXT.replace("https", "file"), "origin"),
        (TEXT.replace("gateway", "me:pw@gateway"), "origin"),
        (TEXT.replace("images", ""), "action"),
        (TEXT.replace("831922345719271433", ""), "task_id"),
        (TEXT.replace("831922345719271433", "8%0A9"), "task_id"),
        (TEXT.replace("831922345719271433", "8" * 513), "task_id"),
        (TEXT.replace("831922345719271433", "8%FF"), "UTF-8"),
        (TEXT.replace("order", "a%0Ab"), "external_task_id"),
        (TEXT.replace("1795341600123", "yesterday"), "created_at"),
        (TEXT.replace("1795341600123", "9" * 40), "created_at"),
        (TEXT.replace("1795341600123", "9" * 5000), "created_at"),
        ("gASVKAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOU", "kling1"),
    ],
)
@pytest.mark.row("X4")
def test_what_is_no_ref(text: str, part: str) -> None:
    """Everything else is refused by name of the part, as a wrong setup and as a wrong value."""
    with pytest.raises(InvalidRefError, match=part) as refused:
        TaskRef.parse(text)
    assert isinstance(refused.value, ConfigurationError)
    assert isinstance(refused.value, ValueError)
    assert len(str(refused.value)) < 300


@given(st.text(max_size=80) | st.text(max_size=60).map(lambda text: f"kling1,https://a.example,{text}"))
@pytest.mark.row("X4")
def test_no_text_breaks_parsing(text: str) -> None:
    """Any text is a reference or an `InvalidRefError`, and nothing else comes of it."""
    try:
        ref = TaskRef.parse(text)
    except InvalidRefError:
        return
    assert TaskRef.parse(str(ref)) == ref


def test_route() -> None:
    """The route is the pair of path parts."""
    assert REF.route == "images/kolors-virtual-try-on"


def test_only_two_words_are_final() -> None:
    """A task is over when it succeeded or failed, and never for a word that nobody knows (P8)."""
    assert {status for status in Status if status.final} == {Status.SUCCEED, Status.FAILED}


@pytest.mark.parametrize(
    "entry",
    [
        Video(id="1", url=SIGNED, watermark_url=SIGNED),
        Image(index=0, url=SIGNED, watermark_url=SIGNED),
        Audio(id="1", url=SIGNED, url_wav=SIGNED),
        ParentVideo(id="1", url=SIGNED),
    ],
    ids=lambda entry: type(entry).__name__,
)
def test_no_signature_is_printed(entry: Video | Image | Audio | ParentVideo) -> None:
    """Printing an entry shows where its file is, and not the signature that opens it (P15)."""
    assert "https://files.example/v.mp4" in repr(entry)
    assert "s3cret" not in repr(entry)
    assert entry.url == SIGNED


def test_nothing_of_the_body_is_printed() -> None:
    """A snapshot prints what was understood; the body, which holds links, is kept and not shown."""
    snapshot = Snapshot(task_id="1", status=Status.SUCCEED, videos=(Video(id="2", url=SIGNED),), raw={"url": SIGNED})
    assert "s3cret" not in repr(snapshot)
    assert snapshot.raw == {"url": SIGNED}


def test_snapshots_compare_by_what_was_understood() -> None:
    """Two replies that say the same are equal, whatever else is in them."""
    one = Snapshot(task_id="1", status=Status.PROCESSING, raw={"request_id": "a"})
    assert one == evolve(one, raw={"request_id": "b"})
    assert one != evolve(one, status=Status.SUCCEED)


def test_values_are_frozen() -> None:
    """What was observed does not change afterwards."""
    with pytest.raises(FrozenInstanceError):
        REF.task_id = "2"  # type: ignore[misc]  # the promise is that it cannot be done
