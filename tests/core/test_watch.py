from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve

from kling_async._pacing import Pace, Polling
from kling_async._verdict import Failure
from kling_async._watch import Change, News, Seen, Watch, entries_of, snapshot_from
from kling_async._wire import Blank, Refusal
from kling_async.errors import (
    ApiError,
    AuthenticationError,
    KlingError,
    NotFoundError,
    ProtocolError,
    ResultMissingError,
    TaskFailedError,
    TaskTimeoutError,
    TransportError,
    TransportTimeoutError,
)
from kling_async.models import Audio, Image, Snapshot, Status, TaskRef, Video

REF = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="8800")
PACE = Pace(first=10.0, interval=5.0, max_interval=15.0)
VIDEO = Video(id="1", url="https://files.example/v.mp4?sign=a")
SUBMITTED = Snapshot(task_id="8800", status=Status.SUBMITTED, raw_status="submitted")
PROCESSING = evolve(SUBMITTED, status=Status.PROCESSING, raw_status="processing")
SUCCEEDED = evolve(SUBMITTED, status=Status.SUCCEED, raw_status="succeed", videos=(VIDEO,))
EMPTY = evolve(SUCCEEDED, videos=())
FAILED = evolve(SUBMITTED, status=Status.FAILED, raw_status="failed", message="too dark")
DROPPED = Failure(cause="disconnected", sent=False)


def refusal(status: int, code: int | None = None, wait: float | None = None) -> Refusal:
    """A refused look."""
    return Refusal(code=code, message="no", request_id=None, http_status=status, retry_after=wait, readable=True)


GONE = refusal(404, 1203)
SHUT = refusal(401, 1000)
NOISE: tuple[Seen, ...] = (
    DROPPED,
    Failure(cause="timeout", sent=False, slow=True),
    ProtocolError("the reply is not JSON"),
    *map(refusal, (408, 425, 429, 500, 502, 503, 504, 524)),
    refusal(200, 5000),
)


def watch(**polling: Any) -> Watch:
    """A task that was created at time 100."""
    made = Watch(ref=REF, pace=PACE, polling=Polling(**polling), snapshot=SUBMITTED)
    made.begin(100.0, 0.5)
    return made


def attached(**polling: Any) -> Watch:
    """A task of which nothing is known yet."""
    return Watch(ref=REF, pace=PACE, polling=Polling(**polling))


def see(task: Watch, seen: Seen, now: float = 110.0, **rest: Any) -> News:
    """Look, with the middle of the dice."""
    return task.note(seen, now=now, **{"roll": 0.5, **rest})


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
    assert task.next_look == pytest.approx(151.25 + 5 * 1.25**3)


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
    link: Change | None = task.latest
    for seen in (PROCESSING, DROPPED, PROCESSING, SUCCEEDED):
        see(task, seen)
    states = []
    while link is not None:
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
    assert task.latest is not None
    assert task.latest.snapshot == fresh


@pytest.mark.row("Q9")
def test_another_task_is_never_taken() -> None:
    """A reply about another task is noise: nothing of it is used, and the wait goes on."""
    task = watch()
    assert see(task, evolve(SUCCEEDED, task_id="8801")) == News()
    assert (task.done, task.snapshot) == (False, SUBMITTED)
    with pytest.raises(ProtocolError, match="another task"):
        snapshot_from(evolve(SUCCEEDED, task_id="8801"), REF)


@pytest.mark.parametrize("make", [watch, attached])
@pytest.mark.parametrize("noise", NOISE, ids=repr)
@pytest.mark.row("Q1", "Q2")
def test_noise_is_sat_out(noise: Seen, make: Callable[..., Watch]) -> None:
    """Failed looks end no wait before the error budget is spent, and then as a timeout that tells the last of them (P9)."""
    task = make(error_budget=60.0)
    known = task.snapshot
    assert [see(task, noise, 100.0 + second).error for second in range(60)] == [None] * 60
    spent = see(task, noise, 160.0).error
    assert isinstance(spent, TaskTimeoutError)
    assert spent.ref == REF
    assert "60 s" in str(spent)
    assert (task.done, task.snapshot) == (False, known)
    assert see(task, noise, 161.0).error is None


def test_a_good_look_refills_the_budget() -> None:
    """Only failures in a row spend the budget."""
    task = watch(error_budget=60.0)
    for second in range(0, 600, 59):
        assert see(task, DROPPED, 100.0 + second).error is None
        see(task, PROCESSING, 101.0 + second)


def test_a_new_wait_has_a_new_budget() -> None:
    """A failure from an earlier wait is not held against the next."""
    task = watch(error_budget=60.0)
    see(task, DROPPED, 100.0)
    task.resume()
    assert see(task, DROPPED, 1000.0).error is None


def test_pauses_after_failures() -> None:
    """Failed looks are repeated ever more slowly, up to 20 s, and not before the server said."""
    task = watch()
    gaps = []
    for now in range(100, 108):
        see(task, DROPPED, float(now), roll=1.0)
        gaps.append(task.next_look - now)
    assert gaps == [1, 2, 4, 8, 16, 20, 20, 20]
    see(task, refusal(429, wait=45.0), 200.0)
    assert task.next_look == 245.0
    see(task, refusal(503), 200.0, hint=50.0)
    assert task.next_look == 250.0
    see(task, PROCESSING, 300.0)
    see(task, DROPPED, 301.0, roll=1.0)
    assert task.next_look == 302.0


@pytest.mark.row("Q3", "Q4")
def test_a_young_task_may_not_be_found_yet() -> None:
    """A task is not believed missing in its first minute, nor before three looks agree (`reliability.md` 2.7)."""
    task = watch()
    assert [see(task, GONE, 100.0 + second).error for second in range(0, 60, 5)] == [None] * 12
    assert see(task, GONE, 160.0).error is None
    assert see(task, GONE, 161.0).error is None
    error = see(task, GONE, 162.0).error
    assert isinstance(error, NotFoundError)
    assert error.ref == REF


def test_a_task_that_shows_up_is_not_missing() -> None:
    """Looks that found nothing count only in a row."""
    task = watch()
    see(task, GONE, 200.0)
    see(task, GONE, 201.0)
    see(task, PROCESSING, 202.0)
    assert see(task, GONE, 203.0).error is None


@pytest.mark.row("Q4")
def test_an_attached_task_that_is_not_there() -> None:
    """A reference to nothing ends after three looks."""
    task = attached()
    errors = [see(task, GONE, 5000.0 + second).error for second in range(3)]
    assert errors[:2] == [None, None]
    assert isinstance(errors[2], NotFoundError)


@pytest.mark.parametrize("refused", [SHUT, refusal(403), refusal(400, 1201), refusal(200, 1999)], ids=repr)
def test_a_wrong_key_or_reference_ends_at_once(refused: Refusal) -> None:
    """Where no look was ever good, waiting will not mend a refusal."""
    error = see(attached(), refused).error
    assert isinstance(error, ApiError)
    assert error.ref == REF


@pytest.mark.row("K8")
def test_a_revoked_key_does_not_end_the_wait_at_once() -> None:
    """Where looks were good before, a refusal is sat out within the budget, and told then (K8)."""
    task = watch(error_budget=60.0)
    assert see(task, SHUT, 110.0).error is None
    error = see(task, SHUT, 170.0).error
    assert isinstance(error, TaskTimeoutError)
    assert "code 1000" in str(error)


@pytest.mark.row("Q7")
def test_a_success_without_a_result_is_doubted() -> None:
    """A success with nothing in it is looked at again, and believed the third time (Q7)."""
    task = watch()
    assert not see(task, EMPTY).changed
    see(task, EMPTY)
    assert not task.done
    assert see(task, EMPTY).changed
    assert task.done
    assert isinstance(task.failure, ResultMissingError)


def test_only_empty_results_in_a_row_are_believed() -> None:
    """A task that runs again between was not empty-handed."""
    task = watch()
    for seen in (EMPTY, EMPTY, PROCESSING, EMPTY, EMPTY):
        see(task, seen)
    assert not task.done


@pytest.mark.parametrize("doubtful", [GONE, EMPTY], ids=["gone", "empty"])
def test_doubts_of_two_kinds_do_not_add_up(doubtful: Seen) -> None:
    """Being absent and being empty are different doubts."""
    task = watch()
    for seen in (GONE, GONE, EMPTY, EMPTY, doubtful):
        news = see(task, seen, 1000.0)
        assert news.error is None
    assert task.done is (doubtful is EMPTY)


def test_a_late_result_is_taken() -> None:
    """A result that turns up after all is given to whoever asks again."""
    task = watch()
    for _ in range(3):
        see(task, EMPTY)
    see(task, SUCCEEDED)
    assert (task.snapshot, task.failure) == (SUCCEEDED, None)


def test_queued_too_long() -> None:
    """A task that stays queued ends the wait, though not the task; being processed has no such bound."""
    task = watch(queued_timeout=60.0)
    assert see(task, SUBMITTED, 159.0).error is None
    assert isinstance(see(task, SUBMITTED, 160.0).error, TaskTimeoutError)
    assert see(task, SUBMITTED, 219.0).error is None
    assert see(task, PROCESSING, 500.0).error is None


def test_queued_too_long_counts_from_the_first_look() -> None:
    """What the clock showed before a task was attached to is not counted."""
    task = attached(queued_timeout=60.0)
    assert see(task, SUBMITTED, 5000.0).error is None
    assert isinstance(see(task, SUBMITTED, 5060.0).error, TaskTimeoutError)


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
