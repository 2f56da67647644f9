from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest
from attrs import evolve

from kling_async._verdict import Failure
from kling_async._watch import Change, News, Seen, entries_of, snapshot_from
from kling_async._wire import Blank
from kling_async.errors import (
    AuthenticationError,
    KlingError,
    ProtocolError,
    TaskFailedError,
    TransportError,
    TransportTimeoutError,
)
from kling_async.models import Audio, Image, Snapshot, Status, Video
from looks import (
    DROPPED,
    EMPTY,
    FAILED,
    GONE,
    PROCESSING,
    REF,
    SHUT,
    SUBMITTED,
    SUCCEEDED,
    VIDEO,
    attached,
    see,
    watch,
)


def test_first_look() -> None:
    """A task just created is looked at after its usual first pause; one attached to is looked at at once."""
    assert watch().next_look == 110.0
    assert attached().next_look == 0.0


@pytest.mark.row("Q16")
def test_pace() -> None:
    """Looks follow the pace, later when the server wishes so, and never earlier."""
    task = watch()
    see(task, SUBMITTED, 110.0)
    assert task.next_look == 115.0
    see(task, SUBMITTED, 115.0)
    assert task.next_look == 121.25
    see(task, SUBMITTED, 121.25, hint=30.0)
    assert task.next_look == 151.25
    see(task, SUBMITTED, 151.25, hint=0.1)
    assert task.next_look == 166.25  # by its age, it has long been looked at seldom


def test_life() -> None:
    """Each state is news once, and success ends the task with its result."""
    task = watch()
    assert not see(task, SUBMITTED).changed
    assert see(task, PROCESSING).changed
    assert not see(task, PROCESSING).changed
    assert not task.done
    assert see(task, SUCCEEDED).changed
    assert (task.done, task.failure, task.snapshot) == (True, None, SUCCEEDED)


@pytest.mark.row("Q6")
def test_failure_is_the_services_word() -> None:
    """A failed task says why in the words of `task_status_msg`."""
    task = watch()
    assert see(task, FAILED).error is None
    assert task.done
    assert isinstance(task.failure, TaskFailedError)
    assert (task.failure.reason, task.failure.ref) == ("too dark", REF)


def test_a_new_time_is_no_news() -> None:
    """A reply that differs in its time of update alone changes nothing."""
    task = watch()
    see(task, evolve(PROCESSING, updated_at=datetime(2026, 1, 1, tzinfo=UTC)))
    assert not see(task, evolve(PROCESSING, updated_at=datetime(2026, 1, 2, tzinfo=UTC))).changed


def test_changes_are_a_chain() -> None:
    """A reader that is slow sees every change, in order."""
    task = watch()
    link: Change | None = task.follow()
    for seen in (PROCESSING, DROPPED, PROCESSING, SUCCEEDED):
        see(task, seen)
    states = []
    while link is not None:
        assert link.snapshot is not None
        states.append(link.snapshot.status)
        link = link.following
    assert states == [Status.SUBMITTED, Status.PROCESSING, Status.SUCCEED]


@pytest.mark.row("Q5")
def test_unknown_words_wait_on(caplog: pytest.LogCaptureFixture) -> None:
    """A word that nobody knows is still running, kept as it was sent, and logged once (P8)."""
    task = watch()
    for _ in range(3):
        see(task, evolve(SUBMITTED, status=Status.UNKNOWN, raw_status="reviewing"))
    assert not task.done
    assert task.snapshot is not None
    assert task.snapshot.raw_status == "reviewing"
    assert [record.getMessage().count("reviewing") for record in caplog.records] == [1]
    see(task, SUCCEEDED)
    assert task.done


def test_a_blank_is_no_news() -> None:
    """A gateway that has not looked yet is neither news nor noise."""
    task = watch()
    assert see(task, Blank()) == News()
    assert (task.snapshot, task.next_look) == (SUBMITTED, 115.0)


@pytest.mark.parametrize("stale", [PROCESSING, SUBMITTED, EMPTY, FAILED, DROPPED, GONE, Blank()], ids=repr)
@pytest.mark.row("Q8")
def test_terminal_is_final(stale: Seen) -> None:
    """Nothing that comes later moves a finished task (P10)."""
    task = watch()
    see(task, SUCCEEDED)
    for _ in range(5):
        assert not see(task, stale, 10_000.0).changed
    assert (task.done, task.snapshot, task.failure) == (True, SUCCEEDED, None)


@pytest.mark.parametrize("later", [SUCCEEDED, evolve(FAILED, videos=(VIDEO,)), PROCESSING], ids=repr)
@pytest.mark.row("Q8")
def test_a_failed_task_stays_failed(later: Snapshot) -> None:
    """The first final word counts (P10)."""
    task = watch()
    see(task, FAILED)
    see(task, later)
    assert isinstance(task.failure, TaskFailedError)
    assert task.snapshot == FAILED


@pytest.mark.row("Q8")
def test_contradictions_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Two different final words are worth a warning (P10)."""
    task = watch()
    see(task, SUCCEEDED)
    see(task, SUCCEEDED)
    see(task, PROCESSING)
    assert not caplog.records
    see(task, FAILED)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_links_are_renewed() -> None:
    """A fresh read of a finished task may sign its links anew, for those who ask later too."""
    task = watch()
    see(task, SUCCEEDED)
    fresh = evolve(SUCCEEDED, videos=(evolve(VIDEO, url="https://files.example/v.mp4?sign=b"),))
    assert not see(task, fresh).changed
    assert task.snapshot == fresh
    assert task.follow().snapshot == fresh


@pytest.mark.row("Q9")
def test_another_task_is_never_taken() -> None:
    """A reply about another task is noise: nothing of it is used, and the wait goes on."""
    task = watch()
    assert see(task, evolve(SUCCEEDED, task_id="8801")) == News()
    assert (task.done, task.snapshot) == (False, SUBMITTED)
    with pytest.raises(ProtocolError, match="another task"):
        snapshot_from(evolve(SUCCEEDED, task_id="8801"), REF)


@pytest.mark.parametrize(("action", "kind"), [("videos", Video), ("images", Image), ("audio", Audio), ("new", Video)])
def test_entries(action: str, kind: type[object]) -> None:
    """A task's entries are those its kind is for, else whatever there is."""
    image, audio = Image(index=0, url="https://i.example"), Audio(id="1", url="https://a.example")
    full = evolve(SUCCEEDED, images=(image,), audios=(audio,))
    assert [type(entry) for entry in entries_of(full, action)] == [kind]
    assert entries_of(SUCCEEDED, action) == (VIDEO,)


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (SHUT, AuthenticationError),
        (DROPPED, TransportError),
        (Failure(cause="timeout", sent=False, slow=True), TransportTimeoutError),
        (ProtocolError("not JSON"), ProtocolError),
    ],
)
def test_one_look(seen: Seen, kind: type[KlingError]) -> None:
    """Who asks for one look hears what came of it."""
    with pytest.raises(kind):
        snapshot_from(seen, REF)


def test_one_look_that_was_good() -> None:
    """A look gives the snapshot; nothing said yet is a state nobody knows."""
    assert snapshot_from(PROCESSING, REF) is PROCESSING
    assert snapshot_from(Blank(), REF) == Snapshot(task_id="8800", status=Status.UNKNOWN)
