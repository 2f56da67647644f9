"""Request values out; any reply in, as a snapshot, a blank or a refusal, or else a `ProtocolError`. Knows no socket."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from urllib.parse import quote

from attrs import field, frozen

from kling_async._body import Body
from kling_async._dialects import MAX_ID, excerpt, identifier, is_object, observe
from kling_async._fault import ConfigurationError, InvalidRefError
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
    "listing",
    "reading",
    "retry_after",
]

_MAX_DEPTH: Final = 64
"""Nesting of a reply; the deepest one known has eight levels (`reliability.md` P18)."""
_FIRST_CODE: Final = 1000
"""The service's codes start here (`api.md` 8.1); a smaller number is some other API's."""
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
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


def _path(action: str, action2: str) -> str:
    # Some routes have a slash in their second half, such as `avatar/image2video`.
    return "/".join((_segment("action", action), *(_segment("action2", piece) for piece in action2.split("/"))))


def _segment(name: str, text: str) -> str:
    # Dots are refused between slashes too: a proxy may decode `..%2F` before it looks at the path.
    if not text or len(text) > MAX_ID or not {".", ".."}.isdisjoint(re.split(r"[/\\]", text)):
        msg = f"{name}: empty, longer than {MAX_ID} characters, or with '.' or '..' as a part, cannot stand in a path: {text[:80]!r}"
        raise InvalidRefError(msg)
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        msg = f"{name}: half of a surrogate pair cannot stand in a path"
        raise InvalidRefError(msg) from None


def decipher(reply: Reply, *, wall: float) -> Snapshot | Blank | Refusal:
    """What a reply says, in any known dialect (`api.md` 2 and 8). `wall` is now in Unix seconds, for a `Retry-After` date.

    Raises:
        ProtocolError: it claims success and is not what the API says. Nothing else leaves, whatever the bytes.
    """
    if not 200 <= reply.status < 300:  # noqa: PLR2004  the 2xx family
        return _refusal(reply, _document_or_none(reply.body), wall)
    document = _document(reply.body)
    if not is_object(document):
        msg = "the reply is no JSON object"
        raise _malformed(msg, "", reply.body)
    if document.get("code") is not None and _code(document["code"]) is None:
        msg = "the code is neither a number nor a word"
        raise _malformed(msg, "code", reply.body)
    if _refuses(document):
        return _refusal(reply, document, wall)
    return observe(document) or Blank()


def decipher_page(reply: Reply, *, wall: float) -> tuple[Snapshot, ...]:
    """The tasks of one page of a list, each as if it had been read by itself; what is no task is left out.

    Raises:
        ApiError: the server refuses to list.
        ProtocolError: the reply is no page.
    """
    document = _document(reply.body) if 200 <= reply.status < 300 else None  # noqa: PLR2004  the 2xx family
    if not is_object(document) or _refuses(document):
        raise _refusal(reply, _document_or_none(reply.body), wall).error()
    data = document.get("data")
    found: list[Snapshot] = []
    for item in data if isinstance(data, list) else [data]:
        with suppress(ProtocolError):
            if is_object(item) and (snapshot := observe({"data": item})) is not None:
                found.append(snapshot)
    return tuple(found)


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
    text = headers.get("retry-after", "").strip()
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
    problem = ""
    try:
        text = body.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError:
        problem = "the reply is not UTF-8"
    except ValueError:
        problem = "the reply is not JSON"
    except RecursionError:
        problem = "the reply is nested too deeply"
    else:
        # The walk is for hostile replies; these two counts tell the others without it.
        if text.count("{") + text.count("[") <= _MAX_DEPTH and "\\ud" not in text.lower():
            return value
        try:
            return _sanitised(value, _MAX_DEPTH)
        except RecursionError:
            problem = "the reply is nested too deeply"
    raise _malformed(problem, "", body)


def _document_or_none(body: bytes) -> object:
    try:
        return _document(body)
    except ProtocolError:
        return None


def _sanitised(value: Any, depth: int) -> Any:
    """The same with lone surrogates replaced: a text that holds one can be neither printed nor stored."""
    if depth < 0:
        raise RecursionError
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value)
        case list():
            return [_sanitised(item, depth - 1) for item in value]
        case dict():
            return {_sanitised(key, 0): _sanitised(item, depth - 1) for key, item in value.items()}
        case _:
            return value


def _no_number(_word: str) -> None:
    """`NaN` and the infinities are not JSON, and no number to reckon with."""


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


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
