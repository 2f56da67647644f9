"""A task's whole life, decided when it is accepted and read off by the time that has passed. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from attrs import field, frozen

from kling_async.emulator._studio import Scene

State = Literal["submitted", "processing", "succeed", "failed"]

QUEUED_SHARE: Final = 0.1
"""How much of its life a task spends `submitted`."""
_LONGEST_STRING: Final = 3000
"""Just above the longest prompt: what is longer is a file, and a log is no place for it."""


@frozen(kw_only=True)
class Entry:
    """One entry of a result: a clip or a picture, with the id it will have."""

    id: str
    scene: Scene


@frozen(kw_only=True)
class Parent:
    """The clip an extension or a lip-sync starts from."""

    id: str
    seconds: float
    task_id: str | None = None
    """The task that made it here; `None` for a clip this emulator has not made."""
    url: str | None = field(default=None, repr=False)
    """Where it is, when the caller said so."""


@frozen(kw_only=True)
class AcceptedTask:
    """One task the emulator took: what a real service would run and bill. Moments are emulated seconds since its start."""

    id: str
    """The id the caller was given."""
    service_id: str
    """The id behind a converting gateway; elsewhere the same as `id`."""
    route: str
    kind: str
    account: str
    """A fingerprint of the key that paid."""
    slots: int
    external_task_id: str | None
    body: Mapping[str, Any] = field(repr=False)
    """As sent, long media text shortened."""
    model: str
    created: float
    processing: float
    """When it leaves the queue."""
    finished: float
    """When it ends; infinite for a stuck one."""
    reason: str = ""
    """Why it fails; empty for one that succeeds."""
    entries: tuple[Entry, ...] = ()
    parent: Parent | None = None
    watermark: bool | None = None
    callback_url: str | None = field(default=None, repr=False)

    def status_at(self, now: float) -> State:
        """The state word at a moment (`api.md` section 9)."""
        if now >= self.finished:
            return "failed" if self.reason else "succeed"
        return "processing" if now >= self.processing else "submitted"

    def updated_at(self, now: float) -> float:
        """The moment of the last change until `now`."""
        return max(moment for moment in (self.created, self.processing, self.finished) if moment <= now or moment == self.created)

    def ended(self, now: float) -> bool:
        """Whether it has given its slots back."""
        return now >= self.finished

    def summary(self, now: float) -> dict[str, Any]:
        """It as JSON, for reading over HTTP."""
        return {
            "id": self.id,
            "service_id": self.service_id,
            "route": self.route,
            "account": self.account,
            "slots": self.slots,
            "external_task_id": self.external_task_id,
            "body": self.body,
            "model": self.model,
            "created": self.created,
            "processing": self.processing,
            "finished": None if math.isinf(self.finished) else self.finished,
            "status": self.status_at(now),
            "reason": self.reason,
            "videos" if self.route.startswith("videos/") else "images": [entry.id for entry in self.entries],
            "callback_url": self.callback_url,
        }


@frozen(kw_only=True)
class Marks:
    """What a prompt's markers ask of the emulator."""

    fail: str | None = None
    """From `[fail]` or `[fail: reason]`."""
    block: bool = False
    """From `[block]`: refused at creation."""
    stuck: bool = False
    """From `[stuck]`: never ends."""
    seconds: float | None = None
    """From `[seconds: 42]`: how long the task takes."""

    @classmethod
    def read(cls, text: str) -> Marks:
        """Find them in the text; words around them do not matter."""
        fail, seconds = _FAIL.search(text), _SECONDS.search(text)
        return cls(
            fail=(fail[1] or "").strip() or DEFAULT_REASON if fail else None,
            block="[block]" in text,
            stuck="[stuck]" in text,
            seconds=float(seconds[1]) if seconds else None,
        )


DEFAULT_REASON: Final = "Failure to pass the risk control system"
"""A reason seen in real traffic (`api.md` 8.2)."""
_FAIL: Final = re.compile(r"\[fail(?::([^\]]*))?\]")
_SECONDS: Final = re.compile(r"\[seconds:\s*(\d{1,9}(?:\.\d{1,9})?)\s*\]")


def spoken(body: Mapping[str, Any]) -> str:
    """All words of a request: the prompt, the shots' prompts, the text to speak."""
    nested = body.get("input")
    words = [body.get("prompt"), nested.get("text") if isinstance(nested, dict) else None]
    shots = body.get("multi_prompt")
    words += [shot.get("prompt") for shot in shots if isinstance(shot, dict)] if isinstance(shots, list) else []
    return " ".join(word for word in words if isinstance(word, str))


def shortened(value: Any) -> Any:
    """A JSON value with every file-sized string cut, its length noted."""
    match value:
        case str() if len(value) > _LONGEST_STRING:
            return f"{value[:24]}…<{len(value)} characters>"
        case dict():
            return {key: shortened(item) for key, item in value.items()}
        case list():
            return [shortened(item) for item in value]
        case _:
            return value


def describe(task: AcceptedTask, now: float, *, millis: Callable[[float], int], link: Callable[[str, str], str]) -> dict[str, Any]:
    """The service's own task object at a moment (`api.md` 2.2, 2.3). `link` signs a URL for (task id, file name)."""
    status = task.status_at(now)
    info: dict[str, Any] = {"external_task_id": task.external_task_id} if task.external_task_id else {}
    if task.parent:
        info["parent_video"] = _parent(task.parent, link)
    data: dict[str, Any] = {
        "task_id": task.service_id,
        "task_status": status,
        "task_status_msg": task.reason if status == "failed" else "",
        **({"task_info": info} if info else {}),
        **({} if task.watermark is None else {"watermark_info": {"enabled": task.watermark}}),
        "created_at": millis(task.created),
        "updated_at": millis(task.updated_at(now)),
        "task_result": _result(task, link) if status == "succeed" else {},
    }
    return data


def created(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the creation reply tells of a fresh task object (`api.md` 2.1): no message, no result, always `submitted`."""
    external = data.get("task_info", {}).get("external_task_id")
    return {
        "task_id": data["task_id"],
        **({"task_info": {"external_task_id": external}} if external else {}),
        "task_status": "submitted",
        "created_at": data["created_at"],
        "updated_at": data["created_at"],
    }


def _parent(parent: Parent, link: Callable[[str, str], str]) -> dict[str, Any]:
    url = link(parent.task_id, f"{parent.id}.mp4") if parent.task_id else parent.url
    return {"id": parent.id, **({"url": url} if url else {}), "duration": _seconds(parent.seconds)}


def _result(task: AcceptedTask, link: Callable[[str, str], str]) -> dict[str, Any]:
    entries = []
    for index, entry in enumerate(task.entries):
        ending = ".mp4" if entry.scene.kind == "video" else ".png"
        shown: dict[str, Any] = {"url": link(task.id, f"{entry.id}{ending}")}
        if task.watermark:
            shown["watermark_url"] = link(task.id, f"{entry.id}-watermark{ending}")
        if entry.scene.kind == "video":
            shown = {"id": entry.id, **shown, "duration": _seconds(entry.scene.seconds)}
        else:
            shown = {"index": index, **shown}
        entries.append(shown)
    return {"videos" if task.route.startswith("videos/") else "images": entries}


def _seconds(seconds: float) -> str:
    return f"{seconds:g}"
