from __future__ import annotations

import copy
import pickle
from typing import Any

import aiohttp
import pytest

from kling_async import errors
from kling_async.errors import (
    AccountError,
    ApiError,
    AuthenticationError,
    CallbackError,
    ConcurrencyLimitError,
    ConfigurationError,
    ContentPolicyError,
    DownloadError,
    InvalidJobError,
    InvalidRefError,
    InvalidRequestError,
    JournalError,
    KlingError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    ResultExpiredError,
    ResultMissingError,
    ServiceError,
    SubmitOutcomeUnknown,
    TaskError,
    TaskFailedError,
    TaskTimeoutError,
    TransportError,
    TransportTimeoutError,
    api_error_class,
)
from kling_async.jobs import Text2Video
from kling_async.models import TaskRef

REF = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="8800")
SIGNED = "https://files.example/v.mp4?sign=s3cret#t=1"
API_ERRORS = (
    *(ApiError, AuthenticationError, PermissionDeniedError, AccountError, NotFoundError),
    *(InvalidRequestError, ContentPolicyError, RateLimitError, ConcurrencyLimitError, ServiceError),
)
SAMPLES: tuple[KlingError, ...] = (
    *(kind("no", code=1200, request_id="r-1", http_status=400, retry_after=2.5) for kind in API_ERRORS),
    *(kind("text") for kind in (KlingError, ConfigurationError, InvalidRefError, TransportError, TransportTimeoutError)),
    *(kind("text") for kind in (JournalError, CallbackError)),
    InvalidJobError("duration", "5 or 10"),
    ProtocolError("no task", path="data", excerpt="<html>"),
    SubmitOutcomeUnknown("who knows", external_task_id="ka-1", job=Text2Video(prompt="a fox"), cause="disconnected"),
    *(kind("late", ref=REF) for kind in (TaskError, TaskTimeoutError, ResultMissingError)),
    TaskFailedError("too dark", ref=REF),
    *(kind("cut", url=SIGNED, ref=REF) for kind in (DownloadError, ResultExpiredError)),
)
CLASSES: set[type[KlingError]] = {getattr(errors, name) for name in errors.__all__ if name != "api_error_class"}


def facts(error: KlingError) -> tuple[Any, ...]:
    """All that a program can learn from an error."""
    return type(error), str(error), error.args, vars(error), error.retryable, error.billed


def test_every_class_has_a_sample() -> None:
    """The promises below are checked for every error there is."""
    assert {type(sample) for sample in SAMPLES} == CLASSES


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickles(error: KlingError, protocol: int) -> None:
    """Every error survives pickling with its message and all of its facts."""
    assert facts(pickle.loads(pickle.dumps(error, protocol))) == facts(error)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_copies_apart(error: KlingError) -> None:
    """A copy says the same, and what is noted on it is not noted on the original."""
    twin = copy.copy(error)
    assert facts(twin) == facts(error)
    twin.add_note("elsewhere")
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize(
    ("kind", "parents"),
    [
        (InvalidJobError, (ValueError,)),
        (InvalidRefError, (ConfigurationError, ValueError)),
        (TransportTimeoutError, (TransportError, TimeoutError)),
        (TaskFailedError, (TaskError,)),
        (TaskTimeoutError, (TaskError, TimeoutError)),
        (ResultMissingError, (TaskError,)),
        (ResultExpiredError, (DownloadError,)),
        *((kind, (ApiError,)) for kind in API_ERRORS),
    ],
)
def test_family(kind: type[KlingError], parents: tuple[type[Exception], ...]) -> None:
    """Errors are caught by the families that the public surface names."""
    assert issubclass(kind, KlingError)
    assert all(issubclass(kind, parent) for parent in parents)


def test_not_knowing_is_no_failure_to_retry() -> None:
    """No retry wrapper for the network or for timeouts catches an unknown outcome, and so buys twice (P4)."""
    assert not issubclass(SubmitOutcomeUnknown, (OSError, TimeoutError, aiohttp.ClientError, TransportError, ApiError))
    assert not SubmitOutcomeUnknown.retryable


@pytest.mark.parametrize("kind", sorted(CLASSES, key=repr))
def test_whose_move(kind: type[KlingError]) -> None:
    """`retryable` and `billed` say what the words of each error say."""
    again = {RateLimitError, ConcurrencyLimitError, ServiceError, TransportError, TransportTimeoutError, TaskTimeoutError, DownloadError}
    paid = {TaskError, TaskTimeoutError, ResultMissingError, DownloadError, ResultExpiredError}
    open_ended = {SubmitOutcomeUnknown, TaskFailedError}
    assert kind.retryable is (kind in again)
    assert kind.billed is (True if kind in paid else None if kind in open_ended else False)


OFFICIAL = {
    AuthenticationError: range(1000, 1005),
    AccountError: range(1100, 1103),
    PermissionDeniedError: (1103, 1304),
    InvalidRequestError: range(1200, 1203),
    NotFoundError: (1203,),
    ContentPolicyError: (1300, 1301),
    RateLimitError: (1302,),
    ConcurrencyLimitError: (1303,),
    ServiceError: range(5000, 5003),
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in OFFICIAL.items() for code in codes])
def test_official_codes(kind: type[ApiError], code: int) -> None:
    """Each official code has its class, whatever the HTTP status says."""
    assert {api_error_class(code, status) for status in (200, 400, 429, 500)} == {kind}


@pytest.mark.parametrize(
    ("code", "status", "message", "kind"),
    [
        ("quota_not_enough", 403, "", AccountError),
        ("task_not_exist", 400, "", NotFoundError),
        ("fail_to_fetch_task", 400, "parallel task over resource pack limit", ConcurrencyLimitError),
        ("task_failed", 400, "Parallel task over resource pack limit", ConcurrencyLimitError),
        ("something_new", 400, "", InvalidRequestError),
        (None, 401, "", AuthenticationError),
        (None, 402, "", AccountError),
        (None, 403, "", PermissionDeniedError),
        (None, 404, "", NotFoundError),
        (None, 413, "", InvalidRequestError),
        (None, 429, "", RateLimitError),
        (None, 500, "", ServiceError),
        (None, 524, "", ServiceError),
        (None, 301, "", ApiError),
        (999999, 200, "", ApiError),
    ],
)
def test_other_refusals(code: int | str | None, status: int, message: str, kind: type[ApiError]) -> None:
    """Gateways' words, the text of 1303 and the HTTP status decide where no official code does."""
    assert api_error_class(code, status, message) is kind


def test_api_error_says_all_it_knows() -> None:
    """The message of a refusal holds the reason, the code, the status and the request id."""
    error = InvalidRequestError("bad prompt", code=1201, http_status=400, request_id="r-7")
    assert str(error) == "bad prompt (code 1201, HTTP 400, request r-7)"
    assert error.message == "bad prompt"


@pytest.mark.parametrize(("error", "text"), [(ApiError(""), "the service gave no reason"), (ApiError("no"), "no")])
def test_api_error_says_nothing_it_does_not_know(error: ApiError, text: str) -> None:
    """What was not said is not made up."""
    assert str(error) == text
    assert error.ref is None


@pytest.mark.parametrize("kind", [DownloadError, ResultExpiredError])
def test_download_error_drops_the_signature(kind: type[DownloadError]) -> None:
    """The query of a link is a secret: it is neither in the message nor in an attribute nor in the pickle."""
    error = kind("cut", url=SIGNED, ref=REF)
    assert error.url == "https://files.example/v.mp4"
    assert "s3cret" not in f"{error!s} {error!r} {vars(error)} {error.args}"
    assert b"s3cret" not in pickle.dumps(error)


def test_task_errors_name_their_task() -> None:
    """The text of a task's error holds the text that finds the task again."""
    error = TaskTimeoutError("late", ref=REF)
    assert TaskRef.parse(str(error).partition("[")[2].rstrip("]")) == error.ref == REF
