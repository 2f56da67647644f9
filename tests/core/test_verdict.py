from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve

from kling_async._profile import GATEWAY, OFFICIAL, Profile
from kling_async._verdict import Accepted, Failure, Move, Rejected, Unknown, Verdict, judge
from kling_async._wire import Blank, Reply, decipher
from kling_async.errors import (
    AccountError,
    AuthenticationError,
    ConcurrencyLimitError,
    ContentPolicyError,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    ServiceError,
    TransportError,
    TransportTimeoutError,
)
from kling_async.models import Snapshot, Status

KEY = "ka-1"
FULL = "parallel task over resource pack limit"
PAGE = b"<html><head><title>502 Bad Gateway</title></head></html>"


def replied(status: int, body: bytes | dict[str, Any], profile: Profile = GATEWAY) -> Verdict:
    """The verdict on a complete reply."""
    reply = Reply(status=status, headers={}, body=body if isinstance(body, bytes) else json.dumps(body).encode())
    try:
        seen = decipher(reply, wall=0.0)
    except ProtocolError as error:
        return judge(error, key=KEY, profile=profile)
    return judge(seen, key=KEY, profile=profile)


def native(code: int, message: str = "no") -> dict[str, Any]:
    """A refusal as the service writes it."""
    return {"code": code, "message": message, "request_id": "r-1"}


def flat(code: str, message: str = "no") -> dict[str, Any]:
    """A refusal as new-api's task layer writes it."""
    return {"code": code, "message": message, "data": None}


def openai(message: str = "no", code: str = "") -> dict[str, Any]:
    """A refusal as gateways write it before they have looked at the route."""
    return {"error": {"message": message, "type": "new_api_error", "code": code}}


CREATED: dict[str, Any] = {"code": 0, "message": "SUCCEED", "data": {"task_id": "8800", "task_status": "submitted"}}
FOREIGN = {**CREATED, "data": {**CREATED["data"], "task_info": {"external_task_id": "ka-2"}}}
OURS = {**CREATED, "data": {**CREATED["data"], "task_info": {"external_task_id": KEY}}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, CREATED),
        (201, CREATED),
        (200, OURS),
        (200, {**CREATED, "code": "0"}),
        (200, {"id": "task_1", "task_id": "task_1", "object": "video", "status": "", "progress": 0}),
        (200, {"code": "success", "message": "", "data": {"task_id": "task_1", "status": "SUBMITTED"}}),
    ],
)
@pytest.mark.row("S1", "S11")
def test_accepted(status: int, body: dict[str, Any]) -> None:
    """A success with a task id is a task, in every known shape."""
    verdict = replied(status, body)
    assert isinstance(verdict, Accepted)
    assert verdict.snapshot.task_id in {"8800", "task_1"}


REFUSED = [
    *((status, native(code), Move.GIVE_UP, AuthenticationError) for status in (401, 200) for code in (1000, 1001, 1002)),
    *((status, native(code), Move.RESIGN, AuthenticationError) for status in (401, 200) for code in (1003, 1004)),
    *((status, native(code), Move.GIVE_UP, AccountError) for status in (429, 400) for code in (1100, 1101, 1102)),
    (403, native(1103), Move.GIVE_UP, PermissionDeniedError),
    *((400, native(code), Move.GIVE_UP, InvalidRequestError) for code in (1200, 1201)),
    (404, native(1202), Move.GIVE_UP, InvalidRequestError),
    (404, native(1203), Move.GIVE_UP, NotFoundError),
    *((status, native(code), Move.GIVE_UP, ContentPolicyError) for status in (400, 200) for code in (1300, 1301)),
    (429, native(1302), Move.LATER, RateLimitError),
    *((status, native(1303, FULL), Move.LATER, ConcurrencyLimitError) for status in (429, 200, 400)),
    (429, native(1304), Move.GIVE_UP, PermissionDeniedError),
    (400, flat("task_failed", FULL), Move.LATER, ConcurrencyLimitError),
    (400, flat("task_failed"), Move.GIVE_UP, InvalidRequestError),
    (400, openai(), Move.GIVE_UP, InvalidRequestError),
    (403, flat("quota_not_enough"), Move.GIVE_UP, AccountError),
    (403, openai("no quota", "insufficient_user_quota"), Move.GIVE_UP, PermissionDeniedError),
    (429, flat("too_many_requests"), Move.LATER, RateLimitError),
    (429, openai(), Move.LATER, RateLimitError),
    # Statuses that need no body.
    *((status, body, Move.GIVE_UP, KlingError) for status in (301, 302, 307, 308, 402) for body in (b"", PAGE)),
    *((status, body, Move.GIVE_UP, KlingError) for status in (401, 404, 405, 413, 415, 422, 501, 505) for body in (b"", PAGE)),
    *((429, body, Move.LATER, RateLimitError) for body in (b"", PAGE)),
    *((425, body, Move.ONCE, KlingError) for body in (b"", PAGE)),
]


@pytest.mark.parametrize("profile", [GATEWAY, OFFICIAL], ids=lambda profile: profile.name)
@pytest.mark.parametrize(("status", "body", "move", "kind"), REFUSED)
@pytest.mark.row("S1", "K3")
def test_refused(status: int, body: bytes | dict[str, Any], move: Move, kind: type[KlingError], profile: Profile) -> None:
    """A refusal whose shape is known, or a status that is one by itself, is no task, and says what may follow (`reliability.md` 2.3)."""
    verdict = replied(status, body, profile)
    assert isinstance(verdict, Rejected)
    assert verdict.move is move
    assert isinstance(verdict.error, kind)


UNKNOWN = [
    *((status, body, f"http-{status}") for status in (303, 408, 409) for body in (b"", PAGE, openai())),
    *((status, body, f"http-{status}") for status in (500, 502, 503, 504, 520, 524, 527, 530) for body in (b"", PAGE, openai())),
    *((status, native(code), f"http-{status}") for status, code in ((500, 5000), (503, 5001), (504, 5002), (429, 5001))),
    *((status, PAGE, f"http-{status}") for status in (400, 403)),
    *((status, b"", f"http-{status}") for status in (400, 403)),
    (418, openai(), "http-418"),
    (300, b"", "http-300"),
    (200, native(5000), "code-5000"),
    (200, native(1999), "code-1999"),
    (200, b"", "malformed-reply"),
    (204, b"", "malformed-reply"),
    (200, PAGE, "malformed-reply"),
    (200, json.dumps(CREATED).encode()[:-3], "malformed-reply"),
    (200, b"\xff\xfe{}", "malformed-reply"),
    (200, b"[" * 200_000, "malformed-reply"),
    (200, b"[]", "malformed-reply"),
    (200, {**CREATED, "data": "8800"}, "malformed-reply"),
    (200, {**CREATED, "data": {"task_id": "", "task_status": "submitted"}}, "malformed-reply"),
    (200, {**CREATED, "data": {"task_id": None, "task_status": "submitted"}}, "malformed-reply"),
    (200, {**CREATED, "data": None}, "no-task-id"),
    (200, FOREIGN, "other-key"),
]


@pytest.mark.parametrize("profile", [GATEWAY, OFFICIAL], ids=lambda profile: profile.name)
@pytest.mark.parametrize(("status", "body", "cause"), UNKNOWN)
@pytest.mark.row("S1")
def test_unknown(status: int, body: bytes | dict[str, Any], cause: str, profile: Profile) -> None:
    """Whatever else comes back proves nothing, and is never sent again (`reliability.md` 2.3)."""
    assert replied(status, body, profile) == Unknown(cause=cause)


def test_only_a_gateways_own_words_may_clear_a_5xx() -> None:
    """Where it is known that an error was not charged, this holds for errors the gateway wrote, and for no page in front of it."""
    known = evolve(GATEWAY, json_error_means_not_charged=True)
    verdict = replied(500, flat("do_request_failed"), known)
    assert isinstance(verdict, Rejected)
    assert verdict.move is Move.GIVE_UP
    assert isinstance(verdict.error, ServiceError)
    assert replied(502, PAGE, known) == Unknown(cause="http-502")
    assert replied(503, native(5001), known) == Unknown(cause="http-503")


@pytest.mark.row("S7")
def test_empty_success_is_unknown() -> None:
    """Success without a task is neither (one-hub, S7)."""
    assert judge(Blank(), key=KEY, profile=GATEWAY) == Unknown(cause="no-task-id")


@pytest.mark.parametrize("external", [None, "", KEY])
def test_the_key_decides(external: str | None) -> None:
    """A task under our key, or under none that we were told, is ours."""
    seen = Snapshot(task_id="8800", status=Status.SUBMITTED, external_task_id=external)
    assert judge(seen, key=KEY, profile=GATEWAY) == Accepted(snapshot=seen)


@pytest.mark.parametrize("cause", ["dns", "connect", "timeout", "certificate", "disconnected", "reset", "cut-reply"])
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("slow", [True, False])
def test_failures(cause: str, *, final: bool, slow: bool) -> None:
    """Whether the request had left decides, and nothing else about a failure does (`reliability.md` 2.1)."""
    failure = Failure(cause=cause, sent=False, final=final, slow=slow)
    verdict = judge(failure, key=KEY, profile=OFFICIAL)
    assert isinstance(verdict, Rejected)
    assert verdict.move is (Move.GIVE_UP if final else Move.AGAIN)
    assert isinstance(verdict.error, TransportTimeoutError if slow else TransportError)
    assert isinstance(verdict.error, TransportTimeoutError) is slow
    assert cause in str(verdict.error)
    assert judge(evolve(failure, sent=True), key=KEY, profile=OFFICIAL) == Unknown(cause=cause)
