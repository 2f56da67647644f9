"""One task as any known server tells it: the service's own shape, new-api's, one-hub's, an OpenAI-style video."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard, TypeVar
from urllib.parse import urlsplit

from kling_async._codec import decode, decode_entries
from kling_async.errors import ProtocolError
from kling_async.models import Audio, Image, ParentVideo, Snapshot, Status, Video

__all__ = ["MAX_ID", "excerpt", "identifier", "is_object", "observe", "status_of"]

Entry = TypeVar("Entry", Video, Image, Audio)

MAX_ID: Final = 512
"""Characters of an id that can be put into a path and into a `TaskRef`; real ones have at most some forty."""
_MAX_EXCERPT: Final = 256
_FIRST_MILLISECOND: Final = 1e11
"""Above it a timestamp is in milliseconds, below in seconds (`api.md` 11)."""

_STATUS: Final = {
    word: status
    for status, words in {
        Status.SUBMITTED: "submitted not_start queued pending waiting queueing initializing",
        Status.PROCESSING: "processing in_progress running",
        Status.SUCCEED: "succeed succeeded success completed succeded",
        Status.FAILED: "failed failure fail error timeout cancelled canceled",
    }.items()
    for word in words.split()
}
"""Every spelling of a state, in lower case (`states.gateway_aliases` of `api.json`)."""

_TAGS: Final = re.compile(r"<[^>]*>?")
_TITLE: Final = re.compile(r"<title[^>]*>([^<]+)", re.IGNORECASE)
_QUERY: Final = re.compile(r"(https?:(?:\\?/){2}[^\s?\"'<>]*)\?[^\s\"'<>]*", re.IGNORECASE)
_PICTURE: Final = (".png", ".jpg", ".jpeg", ".webp")


def excerpt(text: str) -> str:
    """The first characters of what a server said, on one line, for a message: of a page its title, of a link no signature."""
    head = text[: 16 * _MAX_EXCERPT]
    if head.lstrip().startswith("<"):
        title = _TITLE.search(head)
        head = title[1] if title else _TAGS.sub(" ", head)
    line = " ".join("".join(character if character.isprintable() else " " for character in head).split())
    return _QUERY.sub(r"\1?…", line)[:_MAX_EXCERPT]


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value is an object."""
    return isinstance(value, dict)


def identifier(value: object) -> str:
    """An id as text, `""` when it is none: ids are strings, an integer is taken too, a float has lost digits."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) and value else value
    return text if isinstance(text, str) and text.strip() and text.isprintable() and len(text) <= MAX_ID else ""


def status_of(word: str) -> Status:
    """The state that a word means; an unknown one means still running."""
    return _STATUS.get(word.strip().lower(), Status.UNKNOWN)


def observe(document: dict[str, Any], body: bytes | None = None) -> Snapshot | None:
    """The task that a reply tells of; `None` when there is an envelope and nothing in it yet (one-hub, `api.md` 8.5).

    `body` is what the document was decoded from, where that is kept in its place.

    Raises:
        ProtocolError: there is no task, or it has no id.
    """
    data = _only(document.get("data"))
    if document.get("code") is None and (_own_id(document) or (identifier(document.get("id")) and not is_object(data))):
        return _snapshot(document, document, body, bare=True)
    if data in (None, {}):
        if _own_id(document):
            return _snapshot(document, document, body, bare=True)
        if document.get("code") is not None:
            return None
    if not is_object(data):
        msg = "no task in the reply"
        raise _malformed(msg, "data", document)
    return _snapshot(document, data, body, bare=False)


def _snapshot(document: dict[str, Any], task: dict[str, Any], body: bytes | None, *, bare: bool) -> Snapshot:
    # new-api wraps the service's last reply (`api.md` 8.5). The id to ask for is the wrapper's; the clips, the times and the
    # reason are the service's. A final word of the service is final, even where the wrapper, up to 15 s behind, has not heard
    # it. Otherwise the wrapper's word counts: the reply inside may still be the one to the creation, and a gateway may give
    # a task up by itself.
    inner = _wrapped(task.get("data"))
    task_id = _own_id(task) or (identifier(task.get("id")) if bare else "") or _own_id(inner)
    if not task_id:
        msg = "no task id in the reply"
        raise _malformed(msg, "task_id" if bare else "data.task_id", document)
    word, status = _state(task)
    inner_word, inner_status = _state(inner)
    if inner_status.final or (status is Status.UNKNOWN and inner_status is not Status.UNKNOWN):
        word, status = inner_word, inner_status
    elif bare and not word:
        status = Status.SUBMITTED  # new-api acknowledges a creation with an empty word
    result = _object(inner.get("task_result")) or _object(task.get("task_result"))
    videos = _entries(result.get("videos"), Video) if result else ()  # a task that runs has none, and is looked at very often
    images = (_entries(result.get("images"), Image) or _entries(result.get("series_images"), Image)) if result else ()
    audios = _entries(result.get("audios"), Audio) if result else ()
    link = next(_links(task), "") if status is Status.SUCCEED and not (videos or images or audios) else ""
    if link and _is_picture(link, task):
        images = (Image(index=0, url=link),)
    elif link:
        videos = (Video(id="", url=link),)
    info = _object(inner.get("task_info")) or _object(task.get("task_info"))
    return Snapshot(
        task_id=task_id,
        status=status,
        raw_status=word,
        message=next(_reasons(task, inner, failed=status is Status.FAILED), ""),
        created_at=_moment(inner.get("created_at"), task.get("created_at"), task.get("submit_time")),
        updated_at=_moment(inner.get("updated_at"), task.get("updated_at"), task.get("finish_time")),
        videos=videos,
        images=images,
        audios=audios,
        parent_video=_parent(info.get("parent_video")),
        external_task_id=identifier(info.get("external_task_id")) or None,
        raw=document if body is None else body,
    )


def _wrapped(value: object) -> dict[str, Any]:
    """The service's task inside a gateway's: in its envelope or without; `{}` when there is none."""
    inner = _object(value)
    if "task_status" not in inner and "data" in inner:
        inner = _object(_only(inner["data"]))
    return inner


def _state(task: dict[str, Any]) -> tuple[str, Status]:
    word = task.get("task_status")
    if word is None:
        word = task.get("status")
    if not isinstance(word, str):
        word = str(word) if isinstance(word, int) and not isinstance(word, bool) else ""
    return word, status_of(word)


def _reasons(task: dict[str, Any], inner: dict[str, Any], *, failed: bool) -> Iterator[str]:
    # Never the envelope's `message`: it says SUCCEED of failed tasks too (`api.md` 10).
    said = [task.get("task_status_msg"), inner.get("task_status_msg")]
    if failed:
        said = [task.get("fail_reason"), *said, _object(task.get("error")).get("message")]
    return (text for text in said if isinstance(text, str) and text and not _is_link(text))


def _links(task: dict[str, Any]) -> Iterator[str]:
    # Older new-api keeps the result's link in `fail_reason`; an OpenAI-style video has it in `metadata` (`api.md` 8.5).
    said = (task.get("result_url"), _object(task.get("metadata")).get("url"), task.get("fail_reason"))
    return (text for text in said if isinstance(text, str) and _is_link(text))


def _is_link(text: str) -> bool:
    return text.lower().startswith(("https://", "http://")) and text.isprintable() and " " not in text


def _is_picture(link: str, task: dict[str, Any]) -> bool:
    try:
        path = urlsplit(link).path
    except ValueError:
        return False
    return path.lower().endswith(_PICTURE) or task.get("action") in {"image", "images"}


def _own_id(task: dict[str, Any]) -> str:
    return identifier(task.get("task_id"))


def _object(value: object) -> dict[str, Any]:
    return value if is_object(value) else {}


def _only(value: Any) -> Any:
    # Two old pages print a list with one task in it where others have the task (`api.md` 7).
    return value[0] if _is_list(value) and len(value) == 1 else value


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _entries(value: object, type_: type[Entry]) -> tuple[Entry, ...]:
    try:
        return decode_entries(value, type_)
    except ProtocolError:
        return ()


def _parent(value: object) -> ParentVideo | None:
    if not identifier(_object(value).get("id")):
        return None
    try:
        return decode(value, ParentVideo)
    except ProtocolError:
        return None


def _moment(*values: object) -> datetime | None:
    """The first that is a time: Unix milliseconds, or seconds from new-api; zero is Go's way to say never."""
    for value in values:
        number = float(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,17}(\.[0-9]{1,9})?", value) else value
        if isinstance(number, int | float) and not isinstance(number, bool) and number > 0:
            try:
                return datetime.fromtimestamp(number / 1000 if number > _FIRST_MILLISECOND else number, UTC)
            except (ValueError, OverflowError, OSError):
                continue
    return None


def _malformed(what: str, path: str, document: dict[str, Any]) -> ProtocolError:
    return ProtocolError(what, path=path, excerpt=excerpt(json.dumps(document, ensure_ascii=False)))
