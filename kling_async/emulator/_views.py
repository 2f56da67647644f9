"""What the page shows of things, as JSON: short, credentials hidden. The ground truth keeps what it keeps. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from kling_async.emulator import _snippets
from kling_async.emulator._facts import MODELS, endpoint_of
from kling_async.emulator._faults import TRICKS
from kling_async.emulator._ledger import LONGEST_SHOWN, SeenRequest, SentCallback
from kling_async.emulator._tasks import AcceptedTask
from kling_async.jobs import ALL_JOBS

_SECRET: Final = re.compile(r"key$|token|secret|password|authorization|cookie|signature|credential", re.IGNORECASE)
"""Names whose values are nobody's business, in headers, queries and bodies."""
_MASKED: Final = re.compile(r"([A-Za-z]+ )?\*\*\*")
_LONG: Final = 400
"""Characters of text without a space: a file in base64, or as good as one."""


def row(seen: SeenRequest) -> dict[str, Any]:
    """A request as a line of the log."""
    return {
        "seq": seen.seq,
        "at": seen.at,
        "method": seen.method,
        "path": seen.path.partition("?")[0],
        "route": seen.route,
        "task_id": seen.task_id,
        "status": seen.status,
        "fault": seen.fault,
        "size": seen.size,
        "undocumented": seen.undocumented,
    }


def detail(seen: SeenRequest, answer: bytes | None, *, origin: str, profile: str) -> dict[str, Any]:
    """All of a request that can be shown, and the same to copy."""
    path = masked_path(seen.path, signed=seen.route == "files")
    body = hidden(seen.body)
    return {
        **row(seen),
        "path": path,
        "peer": seen.peer,
        "headers": hidden(dict(seen.headers)),
        "body": _short(body),
        "answer": None if answer is None else _answer(answer),
        "curl": _snippets.curl(method=seen.method, url=f"{origin}{path}", route=seen.route, body=body),
        "python": _snippets.python(method=seen.method, origin=origin, profile=profile, route=seen.route, task_id=seen.task_id, body=body),
    }


def card(task: AcceptedTask) -> dict[str, Any]:
    """A task, with the names of its files. Its state follows from its moments and the time."""
    summary = task.summary(task.created)
    return {
        **{name: summary[name] for name in ("id", "route", "account", "slots", "model", "created", "processing", "finished", "reason")},
        "kind": task.kind,
        "prompt": task.body.get("prompt") or (task.body.get("input") or {}).get("text") or "",
        "body": _short(hidden(task.body)),
        "files": [f"{entry.id}{'.mp4' if entry.scene.kind == 'video' else '.png'}" for entry in task.entries],
    }


def post(sent: SentCallback) -> dict[str, Any]:
    """A callback."""
    return {
        "at": sent.at,
        "task_id": sent.task_id,
        "url": masked_path(sent.url),
        "state": sent.body.get("task_status"),
        "status": sent.status,
    }


def catalogue() -> dict[str, Any]:
    """What can be asked for, and what can go wrong: the page makes its form and its switches from it."""
    return {
        "jobs": [{"verb": job.verb, "kind": job.kind, "route": str(job.route), **_form(str(job.route))} for job in ALL_JOBS],
        "models": {name: {"seconds": model["seconds"]} for name, model in MODELS.items()},
        "faults": [{"name": name, "about": trick.what, "method": trick.method, "options": trick.options} for name, trick in TRICKS.items()],
    }


def _form(route: str) -> dict[str, Any]:
    endpoint = endpoint_of(route)
    return {"models": endpoint.models, "default_model": endpoint.default_model, "fields": endpoint.fields, "takes": endpoint.seconds}


def masked_path(path: str, *, signed: bool = False) -> str:
    """A path or URL whose query says nothing but what the API has names for; `signed` links to files must stay whole."""
    bare, mark, query = path.partition("?")
    if signed or not mark:
        return path
    known = {"pageNum", "pageSize"}
    shown = [(name, value if name in known else "***") for name, value in parse_qsl(query, keep_blank_values=True)]
    return f"{bare}?{urlencode(shown, safe='*')}"


def hidden(value: Any) -> Any:
    """A JSON value with everything hidden that is called a key, a token or the like, and what a callback's URL has in its query."""
    match value:
        case dict():
            return {name: _hidden_field(str(name), item) for name, item in value.items()}
        case list():
            return [hidden(item) for item in value]
        case _:
            return value


def _hidden_field(name: str, value: Any) -> Any:
    if name == "callback_url" and isinstance(value, str):
        return masked_path(value)  # people put secrets into it
    if not _SECRET.search(name):
        return hidden(value)
    # What the ground truth has masked already may tell the scheme, such as `Bearer ***`.
    return value if isinstance(value, str) and _MASKED.fullmatch(value) else "***"


def _short(value: Any) -> Any:
    match value:
        case Mapping():
            return {name: _short(item) for name, item in value.items()}
        case list():
            return [_short(item) for item in value]
        case str() if len(value) > _LONG and not any(map(str.isspace, value)):
            return f"{value[:24]}…<{len(value)} characters>"
        case _:
            return value


def _answer(raw: bytes) -> Any:
    text = raw.decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text if len(raw) < LONGEST_SHOWN else f"{text}…"
