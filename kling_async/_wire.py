"""Request values out; any reply in, as a snapshot, a blank or a refusal, or else a `ProtocolError`. Knows no socket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final, Literal
from urllib.parse import quote

from attrs import field, frozen

from kling_async._body import Body
from kling_async._dialects import MAX_ID, excerpt, identifier, is_object, observe
from kling_async._fault import ConfigurationError, InvalidRefError
from kling_async._json import BadJsonError, parsed
from kling_async._profile import origin_of
from kling_async.errors import ApiError, CallbackError, ProtocolError, api_error_class
from kling_async.jobs import Route
from kling_async.models import Snapshot

__all__ = [
    "Blank",
    "Refusal",
    "Reply",
    "Request",
    "callback_snapshot",
    "creation",
    "decipher",
    "decipher_page",
    "in_row",
    "listing",
    "reading",
    "retry_after",
    "rows_of",
]

_FIRST_CODE: Final = 1000
"""The service's codes start here (`api.md` 8.1); a smaller number is some other API's."""
_PLAIN: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_ID}}}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_REQUEST_ID: Final = re.compile(r"\(request id: ([^()\s]+)\)")


@frozen(kw_only=True)
class Request:
    """What to send. Everything that is the same for all requests, the key above all, is the transport's."""

    method: Literal["GET", "POST"]
    url: str
    body: Body | None = field(default=None, repr=False)


@frozen(kw_only=True)
class Reply:
    """A complete reply: header names in lower case, the body decompressed."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@frozen
class Blank:
    """Success, and nothing said about the task yet: one-hub before it has looked upstream (`api.md` 8.5)."""


@frozen(kw_only=True)
class Refusal:
    """The answer is no, or is no answer of this API at all."""

    code: int | str | None
    """The service's number, a gateway's word, or `None` when none was said."""
    message: str
    """What the service said, or the gist of a page in its place; one line."""
    request_id: str | None
    http_status: int
    retry_after: float | None
    """Seconds."""
    readable: bool
    """Whether the body is an error in a shape that is known to come from the service or a gateway. A page
    from a proxy in front of them is not: it cannot say what happened behind it."""

    def error(self) -> ApiError:
        """The refusal as an exception."""
        return api_error_class(self.code, self.http_status, self.message)(
            self.message,
            code=self.code,
            request_id=self.request_id,
            http_status=self.http_status,
            retry_after=self.retry_after,
        )


def creation(base: str, route: Route, body: Body) -> Request:
    """The paid request: `body` to the route under `base`, which is a result of `base_url`."""
    return Request(method="POST", url=f"{base}/{_path(route.action, route.action2)}", body=body)


def reading(base: str, action: str, action2: str, task_id: str) -> Request:
    """The request for a task by its id, or by its `external_task_id` where the profile finds by it.

    Raises:
        InvalidRefError: a part cannot stand in a path.
    """
    return Request(method="GET", url=f"{base}/{_path(action, action2)}/{_segment('task_id', task_id)}")


def listing(base: str, action: str, action2: str, *, page: int, size: int) -> Request:
    """The request for a page of tasks, the newest first, where the profile lists (`api.md` 7); pages count from 1."""
    return Request(method="GET", url=f"{base}/{_path(action, action2)}?pageNum={page}&pageSize={size}")


@lru_cache(64)
def _path(action: str, action2: str) -> str:
    # Some routes have a slash in their second half, such as `avatar/image2video`.
    return "/".join((_segment("action", action), *(_segment("action2", piece) for piece in action2.split("/"))))


def _segment(name: str, text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    # Dots are refused between slashes too: a proxy may decode `..%2F` before it looks at the path.
    if not text or len(text) > MAX_ID or not {".", ".."}.isdisjoint(re.split(r"[/\\]", text)):
        msg = f"{name}: empty, longer than {MAX_ID} characters, or with '.' or '..' as a part, cannot stand in a path: {text[:80]!r}"
        raise InvalidRefError(msg)
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        msg = f"{name}: half of a surrogate pair cannot stand in a path"
        raise InvalidRefError(msg) from None


def decipher(reply: Reply, *, wall: float, known: Snapshot | None = None) -> Snapshot | Blank | Refusal:
    """What a reply says, in any known dialect (`api.md` 2 and 8). `wall` is now in Unix seconds, for a `Retry-After` date.

    `known` is what an earlier reply about the task said: where this one says the same it is given back, and nothing is decoded.

    Raises:
        ProtocolError: it claims success and is not what the API says. Nothing else leaves, whatever the bytes.
    """
    if not 200 <= reply.status < 300:  # noqa: PLR2004  the 2xx family
        return _refusal(reply, _document_or_none(reply.body), wall)
    if known is not None and known.repeated(reply.body):
        return known
    document = _document(reply.body)
    if not is_object(document):
        msg = "the reply is no JSON object"
        raise _malformed(msg, "", reply.body)
    if document.get("code") is not None and _code(document["code"]) is None:
        msg = "the code is neither a number nor a word"
        raise _malformed(msg, "code", reply.body)
    if _refuses(document):
        return _refusal(reply, document, wall)
    return observe(document, reply.body) or Blank()


def decipher_page(reply: Reply, *, wall: float) -> tuple[Snapshot, ...]:
    """The tasks of one page of a list, each as if it had been read by itself; what is no task is left out.

    Raises:
        ApiError: the server refuses to list.
        ProtocolError: the reply is no page.
    """
    return tuple(filter(None, map(in_row, rows_of(reply, wall=wall))))


def rows_of(reply: Reply, *, wall: float) -> list[dict[str, Any]]:
    """The rows of one page of a list, as they came.

    Raises:
        ApiError: the server refuses to list.
        ProtocolError: the reply is no page.
    """
    document = _document(reply.body) if 200 <= reply.status < 300 else None  # noqa: PLR2004  the 2xx family
    if not is_object(document) or _refuses(document):
        raise _refusal(reply, _document_or_none(reply.body), wall).error()
    data: Any = document.get("data")
    rows = data if isinstance(data, list) else [data]
    return [row for row in rows if is_object(row)]


def in_row(row: dict[str, Any]) -> Snapshot | None:
    """The task in a row of a list, as if it had been read by itself; `None` when it cannot be read."""
    try:
        return observe({"data": row})
    except ProtocolError:
        return None


def callback_snapshot(body: bytes) -> Snapshot:
    """The task that a callback's body tells of: the object without its envelope (`api.md` 3.1).

    Raises:
        CallbackError: it tells of none.
    """
    problem = "the body is an error or is empty, not a task"
    try:
        seen = decipher(Reply(status=200, headers={}, body=body), wall=0.0)
        if isinstance(seen, Snapshot):
            return seen
    except ProtocolError as error:
        problem = str(error)
    del body  # it may hold signed links, and some tracebacks show locals
    raise CallbackError(f"not a callback: {problem}")


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds the server asks to wait, told as seconds or as a date; `None` when it says nothing that makes sense."""
    if (text := headers.get("retry-after", "").strip()) == "":
        return None
    if _SECONDS.fullmatch(text):
        return float(text)
    wish, theirs = _moment(text), _moment(headers.get("date", ""))
    # By the server's clock where it tells it: this machine's may be a day off.
    return None if wish is None else max(0.0, wish - (wall if theirs is None else theirs))


def _moment(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        # Without a zone it would be read in this machine's.
        return date.timestamp() if date.tzinfo else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _document(body: bytes) -> object:
    try:
        return parsed(body)
    except BadJsonError as bad:
        problem = str(bad)
    raise _malformed(problem, "", body)


def _document_or_none(body: bytes) -> object:
    try:
        return parsed(body)
    except BadJsonError:
        return None


def _malformed(problem: str, path: str, body: bytes) -> ProtocolError:
    return ProtocolError(problem, path=path, excerpt=excerpt(body[:4096].decode("utf-8-sig", errors="replace")))


def _code(value: object) -> int | str | None:
    """A code as the number it is or stands for, or as a word (`""` included); `None` when it is neither."""
    if isinstance(value, str):
        word = value.strip()
        return int(word) if re.fullmatch(r"-?[0-9]{1,9}", word) else word[:64]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _refuses(document: dict[str, Any]) -> bool:
    if is_object(document.get("error")):
        # A failed task in OpenAI's shape has an `error` too, and an id.
        return not any(map(document.get, ("task_id", "id", "data")))
    code = _code(document.get("code"))
    if code is None:
        return False
    if code == "":
        return not isinstance(document.get("data"), dict)
    return code != 0 and str(code).lower() != "success"


def _refusal(reply: Reply, document: object, wall: float) -> Refusal:
    said = _said(document)
    if said.readable and said.text.lstrip().startswith("{"):
        # new-api's fail_to_fetch_task: the message is the upstream's whole reply, and that knows the code (`api.md` 8.3).
        nested = _said(_document_or_none(said.text.encode()))
        said = nested if nested.readable else said
    inside = _REQUEST_ID.search(said.text)
    request_ids = (said.request_id, reply.headers.get("x-oneapi-request-id"), reply.headers.get("x-request-id"), inside and inside[1])
    return Refusal(
        code=said.code,
        message=excerpt(said.text) if said.readable or said.text else _gist(reply),
        request_id=next(filter(None, map(identifier, request_ids)), None),
        http_status=reply.status,
        retry_after=retry_after(reply.headers, wall),
        readable=said.readable,
    )


@frozen(kw_only=True)
class _Said:
    code: int | str | None = None
    text: str = ""
    request_id: object = None
    readable: bool = False


def _said(document: object) -> _Said:
    """What an error body says, in the service's shape, a task layer's or OpenAI's (`api.md` 8.1 and 8.3)."""
    if not is_object(document):
        return _Said()
    error = document.get("error")
    nested = is_object(error)
    source = error if is_object(error) else document
    code = _code(source.get("code"))
    if nested and code in {None, ""}:
        code = _code(source.get("type")) or None
    text = source.get("message", source.get("msg"))
    ours = nested or isinstance(code, str) or (code is not None and code >= _FIRST_CODE)
    return _Said(
        code=code,
        text=text if isinstance(text, str) else "",
        request_id=document.get("request_id"),
        readable=ours and isinstance(source.get("message"), str),
    )


def _gist(reply: Reply) -> str:
    """What can be said of a reply that says nothing itself."""
    if 300 <= reply.status < 400:  # noqa: PLR2004  the 3xx family
        try:
            return f"redirected to {origin_of(reply.headers.get('location', ''))}; is the base URL right?"
        except ConfigurationError:
            return "redirected; is the base URL right?"
    return excerpt(reply.body[:4096].decode("utf-8-sig", errors="replace"))
