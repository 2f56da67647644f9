from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from kling_async import (
    AccountError,
    Anomaly,
    ApiError,
    AuthenticationError,
    ContentPolicyError,
    InvalidRequestError,
    Job,
    Journal,
    KlingError,
    KlingSession,
    NotFoundError,
    PermissionDeniedError,
    SubmitOutcomeUnknown,
    TaskHandle,
    Text2Video,
    TransportTimeoutError,
)
from kling_async.journal import State
from scripted import (
    FOX,
    KEY,
    PROFILES,
    Behaviour,
    Client,
    Gateway,
    bomb,
    close_half_read,
    close_unread,
    hang_read,
    head,
    listening,
    picture_job,
    refusal,
    refuse_early,
    reset_half_read,
    reset_read,
    reset_unread,
    saying,
    whole,
)

pytestmark = pytest.mark.usefixtures("nothing_is_left")

PAGE = b"<!doctype html><title>Welcome</title>"
MEGABYTE = 1 << 20


gateway = pytest.fixture(listening)


async def read_slowly(client: Client) -> None:
    """Read a kilobyte a second."""
    while await client.reader.read(1024):  # noqa: ASYNC110  the pace of a line, not a wait for anything
        await asyncio.sleep(1)


def answering(dress: Callable[[bytes], bytes | list[bytes]], seconds: float = 0.0) -> Behaviour:
    """Accept, and after a while answer truly, in whatever form."""

    async def behave(client: Client) -> None:
        await client.read()
        answer = dress(json.dumps(client.accept()).encode())
        await asyncio.sleep(seconds)
        for piece in [answer] if isinstance(answer, bytes) else answer:
            client.say(piece)
            await client.writer.drain()

    return behave


def editing(change: Callable[[dict[str, Any]], Any]) -> Behaviour:
    """Accept, and answer something else than the truth."""

    def dress(data: bytes) -> bytes:
        said = json.loads(data)
        told = change(said)
        return whole(said if told is None else told)

    return answering(dress)


def with_data(value: Any) -> Behaviour:
    """Accept, and answer with this as the data."""
    return editing(lambda said: {**said, "data": value})


def with_id(value: Any) -> Behaviour:
    """Accept, and answer with this as the task's id."""
    return editing(lambda said: said["data"].update(task_id=value))


def with_text(text: bytes) -> Behaviour:
    """Accept, and answer truly, with a field more."""
    return answering(lambda data: whole(data[:-1] + b', "x": ' + text + b"}"))


@frozen
class Lost:
    """A creation whose answer tells nothing; whether it was accepted all the same, and where that is found out."""

    row: str
    behaviour: Behaviour
    accepted: bool = True
    job: Job[Any] = FOX


BIG = picture_job(6 * MEGABYTE)
LOST: dict[str, Lost] = {
    "close before reading": Lost("C7", close_unread, accepted=False),
    "reset before reading": Lost("C7", reset_unread, accepted=False),
    "close in mid-upload": Lost("C8", close_half_read, accepted=False, job=BIG),
    "reset in mid-upload": Lost("C8", reset_half_read, accepted=False, job=BIG),
    "close after reading": Lost("C9", saying()),
    "reset after reading": Lost("C9", reset_read),
    "silence": Lost("C18", hang_read),
    "an upload at 1 KiB/s": Lost("C15", read_slowly, accepted=False, job=BIG),
    "a head without a body": Lost("C20", saying(head("Content-Length: 100"))),
    "303": Lost("C14", saying(whole(b"", "Location: http://127.0.0.1:1/", status=303))),
    "garbage status line": Lost("S2", saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")),
    "20 KB header": Lost("S2", answering(lambda data: whole(data, f"X-Long: {'x' * 20_000}"))),
    "300 headers": Lost("S2", answering(lambda data: whole(data, *(f"X-{n}: 1" for n in range(300))))),
    "two lengths": Lost("S2", answering(lambda data: whole(data, "Content-Length: 3"))),
    "length and chunked": Lost(
        "S2", answering(lambda data: whole(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data), "Transfer-Encoding: chunked"))
    ),
    "front page": Lost("S3", saying(whole(PAGE, "Content-Type: text/html"))),
    "cut with a length": Lost("S4", answering(lambda data: whole(data)[:-5])),
    "cut without a length": Lost("S4", answering(lambda data: head() + data[:-5])),
    "cut chunk": Lost("S4", answering(lambda data: head("Transfer-Encoding: chunked") + b"%x\r\n%s" % (len(data), data[:-5]))),
    "wrong length": Lost("S4", answering(lambda data: head(f"Content-Length: {len(data) - 5}") + data)),
    "broken gzip": Lost("S4", answering(lambda data: whole(gzip.compress(data)[:-8] + bytes(8), "Content-Encoding: gzip"))),
    "gzip that is none": Lost("S4", answering(lambda data: whole(data, "Content-Encoding: gzip"))),
    "gzip bomb": Lost("S5", saying(bomb(64))),
    "5 MB": Lost("S6", with_text(b'"' + b"x" * (5 * MEGABYTE) + b'"')),
    "200,000 deep": Lost("S6", with_text(b"[" * 200_000 + b"]" * 200_000)),
    "5,000 digits": Lost("S6", with_text(b"9" * 5000)),
    "not UTF-8": Lost("S6", with_text(b'"\xff"')),
    "1,000 cookies": Lost("S10", answering(lambda data: whole(data, *(f"Set-Cookie: spy{n}=x" for n in range(1000))))),
    "data null": Lost("S7", with_data(None)),
    "data list": Lost("S7", with_data([])),
    "data text": Lost("S7", with_data("8800")),
    "no data": Lost("S7", editing(lambda said: said.pop("data") and said)),
    "id empty": Lost("S7", with_id("")),
    "id null": Lost("S7", with_id(None)),
    "id of 1 MB": Lost("S7", with_id("8" * MEGABYTE)),
    "another's key": Lost("S8", editing(lambda said: said["data"].update(task_info={"external_task_id": "theirs"}))),
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("case", [pytest.param(lost, id=name, marks=pytest.mark.row(lost.row, "C10")) for name, lost in LOST.items()])
async def test_lost_answers(gateway: Gateway, case: Lost, profile: str) -> None:
    """A creation whose answer is lost is sent once; it is found where the profile can look, and elsewhere it is an unknown by its key."""
    gateway.script.append(case.behaviour)
    outcome, row = await gateway.buy(case.job, profile=profile)
    assert gateway.posts <= 1
    assert sum(key == KEY for key, _ in gateway.tasks.values()) == case.accepted == len(gateway.tasks)
    if case.accepted and profile == "official":
        assert isinstance(outcome, TaskHandle)
        assert (row.state, row.task_id, row.attempt) == (State.ACCEPTED, outcome.task_id, 1)
        assert outcome.task_id in gateway.tasks
    else:
        assert isinstance(outcome, SubmitOutcomeUnknown)
        assert (outcome.external_task_id, outcome.billed, outcome.retryable) == (KEY, None, False)
        assert (row.state, row.task_id, row.attempt) == (State.UNKNOWN, None, 1)


BORNE: dict[str, tuple[str, Behaviour, Job[Any]]] = {
    "an upload at 100 KiB/s": ("C15", answering(whole), BIG),
    "byte by byte": ("C16", answering(lambda data: [bytes([byte]) for byte in whole(data)]), FOX),
    "after 35 s": ("C17", answering(whole, seconds=35), FOX),
    "wrong content type": ("S3", answering(lambda data: whole(data, "Content-Type: text/html")), FOX),
    "gzip": ("S4", answering(lambda data: whole(gzip.compress(data), "Content-Encoding: gzip")), FOX),
    "a key twice": ("S6", with_text(b'1, "x": 2'), FOX),
    "NaN": ("S6", with_text(b"NaN"), FOX),
    "lone surrogate": ("S6", with_text(b'"\\ud800"'), FOX),
    "NUL": ("S6", with_text(b'"\\u0000"'), FOX),
    "BOM": ("S6", answering(lambda data: whole(b"\xef\xbb\xbf" + data)), FOX),
    "id as number": ("S7", with_id(8800), FOX),
    "2,000 hints": ("S9", answering(lambda data: head(status=103) * 2000 + whole(data)), FOX),
    "100 cookies": ("S10", answering(lambda data: whole(data, *(f"Set-Cookie: spy{n}={'x' * 4000}" for n in range(100)))), FOX),
    "new-api's shape": (
        "S11",
        editing(lambda _: {"code": "success", "message": "", "data": {"task_id": "8800", "status": "SUBMITTED"}}),
        FOX,
    ),
    "one-hub's shape": ("S11", with_data({"task_id": "8800", "task_status": "submitted"}), FOX),
    "OpenAI's shape": ("S11", editing(lambda _: {"id": "8800", "task_id": "8800", "object": "video", "status": "queued"}), FOX),
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("case", [pytest.param(case, id=name, marks=pytest.mark.row(case[0])) for name, case in BORNE.items()])
async def test_odd_answers(gateway: Gateway, case: tuple[str, Behaviour, Job[Any]], profile: str) -> None:
    """An answer that is odd but true is an answer: one request, one task, accepted."""
    _, behaviour, job = case
    gateway.script.append(behaviour)
    outcome, row = await gateway.buy(job, profile=profile)
    assert isinstance(outcome, TaskHandle)
    assert (row.state, row.task_id, outcome.task_id) == (State.ACCEPTED, "8800", "8800")
    assert (gateway.posts, row.attempt, len(gateway.tasks), gateway.looked) == (1, 1, 1, [])


REFUSED: list[tuple[int, int | bytes, type[KlingError], int]] = [
    # Status, the service's code or the whole body, the error, how often it is asked.
    *((status, b"", ApiError, 1) for status in (301, 302, 307, 308, 501, 505)),
    *((status, PAGE, ApiError, 1) for status in (404, 405, 413, 415, 422)),
    *((status, code, AuthenticationError, 1) for status in (200, 401) for code in (1000, 1001, 1002)),
    *((401, code, AuthenticationError, 2) for code in (1003, 1004)),
    *((429, code, AccountError, 1) for code in (1100, 1101, 1102)),
    (403, 1103, PermissionDeniedError, 1),
    (429, 1304, PermissionDeniedError, 1),
    *((status, code, InvalidRequestError, 1) for status in (200, 400) for code in (1200, 1201)),
    (404, 1202, InvalidRequestError, 1),
    (404, 1203, NotFoundError, 1),
    *((status, code, ContentPolicyError, 1) for status in (200, 400) for code in (1300, 1301)),
    (400, whole({"error": {"message": "no", "type": "t", "code": ""}}), InvalidRequestError, 1),
    (425, b"", ApiError, 2),
]


@pytest.mark.row("S1", "C14")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("case", REFUSED)
async def test_refusals(gateway: Gateway, profile: str, case: tuple[int, int | bytes, type[KlingError], int]) -> None:
    """Every refusal of the table is its error, final in the journal, asked as often as the table says, and never a task."""
    status, body, kind, posts = case
    elsewhere = Gateway()
    await elsewhere.open()
    location = f"Location: {elsewhere.url}/here"
    said = refusal(status, body, location) if isinstance(body, int) else whole(body.rpartition(b"\r\n\r\n")[2], location, status=status)
    gateway.script.extend([saying(said, accept=False)] * posts)
    outcome, row = await gateway.buy(profile=profile)
    await elsewhere.aclose()
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, SubmitOutcomeUnknown)
    assert (row.state, row.attempt, gateway.posts, gateway.tasks) == (State.REJECTED, posts, posts, {})
    assert elsewhere.connections == 0


@pytest.mark.row("C11")
@pytest.mark.parametrize("profile", PROFILES)
async def test_an_early_refusal(gateway: Gateway, profile: str) -> None:
    """A request that is too large for somebody on the way is final, though it was never sent whole."""
    gateway.script.append(refuse_early)
    outcome, row = await gateway.buy(BIG, profile=profile)
    assert isinstance(outcome, ApiError)
    assert (outcome.http_status, outcome.billed, outcome.retryable) == (413, False, False)
    assert (row.state, row.attempt, gateway.connections, gateway.tasks) == (State.REJECTED, 1, 1, {})


@pytest.mark.row("S1")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("status", [200, 408, 409, 418, 500, 502, 503, 504, 520, 524, 530])
async def test_answers_that_tell_nothing(gateway: Gateway, profile: str, status: int) -> None:
    """What a proxy may say of a request that went through is no refusal: the task is looked for, never bought again."""
    gateway.script.append(saying(refusal(status, 5000)))
    outcome, row = await gateway.buy(profile=profile)
    assert isinstance(outcome, TaskHandle if profile == "official" else SubmitOutcomeUnknown)
    assert row.state is (State.ACCEPTED if profile == "official" else State.UNKNOWN)
    assert (gateway.posts, len(gateway.tasks)) == (1, 1)


@pytest.mark.row("S1")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("code", [1302, 1303, b""])
async def test_waiting_for_room(gateway: Gateway, profile: str, code: int | bytes) -> None:
    """A service that is full is asked again under the same key until it takes the one task, or the caller's time is up."""
    full = saying(refusal(429, code) if isinstance(code, int) else whole(code, status=429), accept=False)
    gateway.script.extend([full] * 3)
    outcome, row = await gateway.buy(profile=profile)
    assert isinstance(outcome, TaskHandle)
    assert (row.state, row.attempt, gateway.posts, len(gateway.tasks)) == (State.ACCEPTED, 4, 4, 1)
    gateway.script.extend([full] * 99)
    late, row = await gateway.buy(profile=profile, timeout=20.0)
    assert isinstance(late, TransportTimeoutError)
    assert "last answer" in str(late)
    assert row.state is State.WITHDRAWN
    assert len(gateway.tasks) == 1


@pytest.mark.row("S12")
async def test_a_task_given_out_twice(gateway: Gateway) -> None:
    """A gateway that gives two creations one task is caught at it: both rows say so, and whoever observes is told of the clash."""
    gateway.script.extend([with_id("8800")] * 2)
    told: list[Any] = []
    async with Journal() as journal, KlingSession("sk-x", base_url=gateway.url, journal=journal, observers=[told.append]) as kling:
        for key in ("one", "two"):
            await kling.submit(Text2Video(prompt="a fox", external_task_id=key))
        assert [(await journal.get(key)).task_id for key in ("one", "two")] == ["8800", "8800"]
    (twin,) = (record for record in told if isinstance(record, Anomaly))
    assert twin.what == "twin-task-id"
    assert "one" in twin.detail
    assert "two" in twin.detail


@pytest.mark.row("S13")
async def test_an_answer_just_too_late(gateway: Gateway) -> None:
    """An answer a millisecond after the caller's bound is not lost: the caller has the key, and the session the task."""
    gateway.script.append(answering(whole, seconds=5.001))
    async with Journal() as journal, KlingSession("sk-x", base_url=gateway.url, journal=journal) as kling:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(SubmitOutcomeUnknown) as unknown:
            await kling.submit(FOX, timeout=5.0)
        assert asyncio.get_running_loop().time() - begun == pytest.approx(5.0, abs=1e-3)
        assert (unknown.value.external_task_id, kling.orphans()) == (KEY, ())
        await asyncio.sleep(0.01)
        assert [ref.task_id for ref in kling.orphans()] == ["8800"]
        row = await journal.get(KEY)
        assert (row.state, row.task_id) == (State.ACCEPTED, "8800")


@pytest.mark.row("S7")
@pytest.mark.parametrize("profile", PROFILES)
async def test_an_id_that_is_a_path(gateway: Gateway, profile: str) -> None:
    """An id that would lead a read elsewhere is recorded as it came, and never becomes part of a path that says something else."""
    gateway.script.append(with_id("../x?y#z"))
    outcome, row = await gateway.buy(profile=profile)
    assert isinstance(outcome, TaskHandle | SubmitOutcomeUnknown)
    assert row.task_id in {"../x?y#z", "8800", None}
    assert all("/../" not in path and "?y" not in path for _, _, path in gateway.requests)
    assert gateway.posts == 1
