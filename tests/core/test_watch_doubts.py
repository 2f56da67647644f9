from __future__ import annotations

from collections.abc import Callable

import pytest

from kling_async._watch import Seen, Watch
from kling_async._wire import Refusal
from kling_async.errors import (
    ApiError,
    NotFoundError,
    ResultMissingError,
    TaskTimeoutError,
)
from looks import (
    DROPPED,
    EMPTY,
    GONE,
    NOISE,
    PROCESSING,
    REF,
    SHUT,
    SUBMITTED,
    SUCCEEDED,
    attached,
    refusal,
    see,
    watch,
)


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
