"""Requests out, and the parts of reading a reply that no recorded reply shows."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async._body import Body
from kling_async._dialects import excerpt, identifier, status_of
from kling_async._wire import Blank, Refusal, Reply, callback_snapshot, creation, decipher, reading, retry_after
from kling_async.errors import CallbackError, ConcurrencyLimitError, InvalidRefError, ProtocolError
from kling_async.jobs import Route
from kling_async.models import Snapshot, Status

BASE = "https://gw.example/kling/v1"
TEXT2VIDEO = Route(action="videos", action2="text2video")
FOX = Body((b'{"prompt":"a fox"}',))


def reply(body: str | bytes, status: int = 200, **headers: str) -> Reply:
    """A reply with that body; underscores in header names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=body.encode() if isinstance(body, str) else body)


def refusal(body: str | bytes, status: int, **headers: str) -> Refusal:
    """The refusal that a reply is."""
    seen = decipher(reply(body, status, **headers), wall=0.0)
    assert isinstance(seen, Refusal)
    return seen


def test_a_creation_is_a_post_to_its_route() -> None:
    """The route hangs under the base, and the body goes out as it is."""
    request = creation(BASE, TEXT2VIDEO, FOX)
    assert (request.method, request.url, request.body) == ("POST", f"{BASE}/videos/text2video", FOX)


def test_a_reading_is_a_get_without_a_body() -> None:
    """The task's id follows the route it was created by."""
    request = reading(BASE, "videos", "text2video", "867283741759111202")
    assert (request.method, request.url, request.body) == ("GET", f"{BASE}/videos/text2video/867283741759111202", None)


def test_a_route_may_have_a_slash_in_its_second_half() -> None:
    """`avatar/image2video` stays two parts of the path."""
    assert reading(BASE, "videos", "avatar/image2video", "1").url == f"{BASE}/videos/avatar/image2video/1"
    assert creation(BASE, Route(action="images", action2="editing/expand"), FOX).url == f"{BASE}/images/editing/expand"


@pytest.mark.parametrize(
    ("task_id", "segment"),
    [
        ("CmCm+rWd/u=", "CmCm%2BrWd%2Fu%3D"),
        ("a?b#c", "a%3Fb%23c"),
        ("%2F", "%252F"),
        ("a b", "a%20b"),
        ("a\r\nHost: evil", "a%0D%0AHost%3A%20evil"),
        ("\x00", "%00"),
        ("狐", "%E7%8B%90"),
        ("...", "..."),
        (".a", ".a"),
        ("a..b", "a..b"),
    ],
)
@pytest.mark.row("V12")
def test_an_id_is_one_part_of_the_path(task_id: str, segment: str) -> None:
    """Whatever characters an id has, it cannot change the request line."""
    assert reading(BASE, "videos", "text2video", task_id).url == f"{BASE}/videos/text2video/{segment}"


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "x/..", "a/./b", "..\\x", "8" * 513, "\ud83d"])
@pytest.mark.row("V12")
def test_an_id_that_cannot_stand_in_a_path_is_refused(text: str) -> None:
    """Dots walk, the empty text asks for a list, half a character cannot be encoded: no request is made of them."""
    with pytest.raises(InvalidRefError, match=r"task_id: .* cannot stand in a path"):
        reading(BASE, "videos", "text2video", text)


@pytest.mark.parametrize(
    ("action", "action2"), [("", "text2video"), ("videos", ""), ("..", "x"), ("videos", "../x"), ("videos", "a//b"), ("videos", "/a")]
)
def test_a_route_that_cannot_stand_in_a_path_is_refused(action: str, action2: str) -> None:
    """A reference from elsewhere cannot lead outside the API."""
    with pytest.raises(InvalidRefError, match=r"action2?: "):
        reading(BASE, action, action2, "1")


@given(st.text(min_size=1, max_size=80))
@pytest.mark.row("V12")
def test_any_id_survives_the_url_or_is_refused(task_id: str) -> None:
    """What the server decodes from the last part of the path is the id."""
    try:
        url = reading(BASE, "videos", "text2video", task_id).url
    except InvalidRefError:
        return
    parts = urlsplit(url)
    assert (parts.netloc, parts.query, parts.fragment) == ("gw.example", "", "")
    assert unquote(parts.path.removeprefix("/kling/v1/videos/text2video/")) == task_id
    assert parts.path.count("/") == 5


def test_bodies_stay_out_of_reprs() -> None:
    """A request's prompt and a reply's signed links are not printed by accident."""
    assert "fox" not in repr(creation(BASE, TEXT2VIDEO, FOX))
    assert "fox" not in repr(reply("fox"))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.SUBMITTED, "submitted SUBMITTED NOT_START QUEUED queued pending waiting queueing initializing"),
        (Status.PROCESSING, "processing IN_PROGRESS in_progress running RUNNING Processing"),
        (Status.SUCCEED, "succeed succeeded SUCCESS success completed COMPLETED succeded Succeed"),
        (Status.FAILED, "failed FAILURE fail FAILED error TIMEOUT CANCELLED canceled"),
        (Status.UNKNOWN, "UNKNOWN unknown reviewing done 99 succeed! unfailed"),
    ],
)
@pytest.mark.row("Q5")
def test_every_known_spelling_of_a_state_is_understood(status: Status, words: str) -> None:
    """The words of `states.gateway_aliases` in `api.json`, in any case; any other word is still running."""
    assert {word: status_of(word) for word in words.split()} == dict.fromkeys(words.split(), status)


def test_no_word_is_no_state() -> None:
    """An empty word means nothing; spaces around a known one do."""
    assert status_of("") is Status.UNKNOWN
    assert status_of(" succeed\n") is Status.SUCCEED


@pytest.mark.parametrize("status", [199, 300, 304, 400, 404, 418, 429, 499, 500, 503, 599, 999, 0, -1])
def test_any_status_but_2xx_is_a_refusal(status: int) -> None:
    """Even with a task in its body: a proxy or a cache may have put it there."""
    body = '{"code":0,"message":"SUCCEED","data":{"task_id":"1","task_status":"submitted"}}'
    seen = refusal(body, status)
    assert seen.http_status == status
    assert not seen.readable


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_any_2xx_may_bring_a_task(status: int) -> None:
    """Gateways are free with 201 and 202."""
    assert isinstance(decipher(reply('{"task_id":"1"}', status), wall=0.0), Snapshot)


def test_a_refusal_becomes_the_error_of_its_code_with_all_its_facts() -> None:
    """Code, message, request id, status and pause reach the user."""
    body = '{"code":1303,"message":"parallel task over resource pack limit","request_id":"r-1"}'
    error = refusal(body, 429, retry_after="2").error()
    assert type(error) is ConcurrencyLimitError
    assert (error.code, error.message, error.request_id, error.http_status, error.retry_after) == (
        1303,
        "parallel task over resource pack limit",
        "r-1",
        429,
        2.0,
    )
    assert pickle.loads(pickle.dumps(error)).request_id == "r-1"


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ('{"code":1200,"message":"x (request id: in-text)","request_id":"in-body"}', {"x_oneapi_request_id": "one"}, "in-body"),
        ('{"code":1200,"message":"x (request id: in-text)"}', {"x_oneapi_request_id": "one", "x_request_id": "two"}, "one"),
        ('{"code":1200,"message":"x (request id: in-text)","request_id":""}', {"x_request_id": "two"}, "two"),
        ('{"code":1200,"message":"x (request id: in-text)","request_id":null}', {}, "in-text"),
        ('{"code":1200,"message":"x"}', {}, None),
        ("", {"x_request_id": "two"}, "two"),
    ],
)
def test_the_request_id_is_taken_from_where_it_is(body: str, headers: dict[str, str], expected: str | None) -> None:
    """The body's own first, then the headers', then the one inside the message (`api.md` 8.3)."""
    assert refusal(body, 400, **headers).request_id == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        (" 2 ", 2.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("999999", 999999.0),
        ("-1", None),
        ("abc", None),
        ("", None),
        ("1e9", None),
        ("2, 5", None),
        ("٣", None),
        ("9" * 400, None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:02:00 -0000", None),
        ("Thursday, 01-Jan-70 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 01:02:00 +0100", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 32 Jan 1970 00:00:00 GMT", None),
        ("Thu, 01 Jan 1970 99:99:99 GMT", None),
    ],
)
@pytest.mark.row("K6")
def test_the_servers_wish_for_a_pause_is_understood(text: str, seconds: float | None) -> None:
    """`Retry-After` in seconds or as a date (read at 100 s after 1970); what makes no sense is not heard."""
    assert retry_after({"retry-after": text}, 100.0) == seconds


def test_no_wish_for_a_pause_is_none() -> None:
    """Most replies have no such header."""
    assert retry_after({}, 100.0) is None


DATE_LIKE = r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{1,9} ?[A-Z+0-9-]{0,6}"


@given(st.text(max_size=60) | st.from_regex(DATE_LIKE, fullmatch=True))
def test_any_wish_is_a_number_from_zero_up_or_none(text: str) -> None:
    """No header text makes the reader fail."""
    seconds = retry_after({"retry-after": text}, 100.0)
    assert seconds is None or 0.0 <= seconds < float("inf")


def test_a_callback_is_a_task_without_its_envelope() -> None:
    """The body that the service posts reads like the `data` of a reply."""
    seen = callback_snapshot(b'{"task_id":"1","task_status":"failed","task_status_msg":"no fox","updated_at":1774805076166}')
    assert (seen.task_id, seen.status, seen.message) == ("1", Status.FAILED, "no fox")
    assert seen.updated_at == datetime(2026, 3, 29, 17, 24, 36, 166000, tzinfo=UTC)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff", b"<html>", b'{"code":0}', b'{"code":1200,"message":"no"}', b'{"task_id":""}', b"[" * 100_000]
)
def test_what_is_no_callback_is_a_callback_error(body: bytes) -> None:
    """A stranger's post ends in one kind of error."""
    with pytest.raises(CallbackError, match="not a callback"):
        callback_snapshot(body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  two\r\n\tlines ", "two lines"),
        ("<html><head><TITLE lang=en> 502 Bad\nGateway </TITLE></head>", "502 Bad Gateway"),
        ("<p>no <b>title</b></p>", "no title"),
        ("a < b", "a < b"),
        ("see https://files.example/a.png?sig=1&x=2 now", "see https://files.example/a.png?… now"),
        (r'{"url":"https:\/\/files.example\/a.png?sig=1"}', r'{"url":"https:\/\/files.example\/a.png?…"}'),
        ("bell\x07 half\ud83d", "bell half"),
        ("狐" * 300, "狐" * 256),
    ],
)
def test_an_excerpt_is_one_short_printable_line_without_signatures(text: str, expected: str) -> None:
    """What goes into messages and logs is safe to print, and opens nothing."""
    assert excerpt(text) == expected


@given(st.text(max_size=5000))
def test_an_excerpt_of_anything_can_be_printed(text: str) -> None:
    """At most 256 characters, all of them printable."""
    line = excerpt(text)
    assert len(line) <= 256
    assert line.isprintable()


def test_a_malformed_reply_says_where_and_shows_its_start() -> None:
    """The error is enough to recognise the page that came instead."""
    with pytest.raises(ProtocolError, match=r"no task id in the reply at data.task_id") as caught:
        decipher(reply('{"code":0,"data":{"task_id":null,"link":"https://files.example/v.mp4?sig=1"}}'), wall=0.0)
    assert caught.value.path == "data.task_id"
    assert caught.value.excerpt.startswith('{"code": 0, "data": {"task_id": null')
    assert "sig" not in str(caught.value)
    with pytest.raises(ProtocolError, match="not JSON") as caught:
        decipher(reply(f"<html><title>The gateway</title>{'x' * 9000}"), wall=0.0)
    assert caught.value.excerpt == "The gateway"


@pytest.mark.parametrize("value", [True, False, 0, 1.0, None, "", " ", "\n", "a\x00", "\ud83d", [], {}, "8" * 513])
@pytest.mark.row("S7")
def test_what_is_no_id_is_not_taken_for_one(value: object) -> None:
    """Only printable texts and whole numbers name a task; a float may have lost its last digits."""
    assert not identifier(value)


@pytest.mark.row("S7")
def test_an_integer_id_keeps_its_digits() -> None:
    """Eighteen digits are more than a float holds."""
    assert identifier(867283741759111203) == "867283741759111203"


def test_blank_replies_are_one_value() -> None:
    """There is nothing to tell them apart by."""
    assert decipher(reply('{"code":0}'), wall=0.0) == decipher(reply('{"code":"success","data":null}'), wall=0.0) == Blank()
