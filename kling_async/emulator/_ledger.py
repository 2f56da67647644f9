"""The ground truth: what really arrived and what was really accepted, whatever the answers said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
from attrs import define, field

from kling_async.emulator._feed import Feed
from kling_async.emulator._tasks import AcceptedTask

_SECRET: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
LONGEST_SHOWN: Final = 20_000
"""Bytes of an answer."""


@define(kw_only=True)
class SeenRequest:
    """One request that was read whole. Moments are emulated seconds since the start."""

    seq: int
    """From 1, in the order of arrival, counted on across `clear`."""
    at: float
    method: str
    path: str = field(repr=lambda path: repr(path.partition("?")[0]))
    """Path and query as sent; links to files are signed there."""
    route: str | None
    """Which endpoint it was for, such as `videos/text2video`; `files` for a result file; else nothing."""
    headers: Mapping[str, str] = field(repr=False)
    """The last of each name, credentials masked."""
    peer: str
    """Address and port it came from: equal for requests over one connection."""
    size: int
    """Bytes of body."""
    body: Any = field(default=None, repr=False)
    """The JSON sent, long media text shortened; nothing when there was none to read."""
    external_task_id: str | None = None
    task_id: str | None = None
    """The task it created or asked about."""
    undocumented: tuple[str, ...] = ()
    """Fields the documentation does not describe."""
    status: int | None = None
    """HTTP status decided on; nothing when none is to be sent."""
    fault: str | None = None
    """The fault that was injected into the answer."""


@define(kw_only=True)
class SentCallback:
    """One post to a `callback_url`."""

    at: float
    task_id: str
    url: str = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)
    status: int | None = None
    """How it was answered; nothing when it was not, or not yet."""


@define
class GroundTruth:
    """Everything the emulator saw and did, oldest first; recorded before any fault touches an answer."""

    requests: list[SeenRequest] = field(factory=list, init=False)
    tasks: list[AcceptedTask] = field(factory=list, init=False)
    callbacks: list[SentCallback] = field(factory=list, init=False)
    _feed: Feed = field(factory=Feed, repr=False, eq=False, alias="feed")
    _seq: int = field(default=0, init=False)

    def posts_for(self, external_task_id: str) -> tuple[SeenRequest, ...]:
        """The creations that carried this key, accepted or not."""
        return tuple(each for each in self.requests if each.method == "POST" and each.external_task_id == external_task_id)

    def reads_for(self, task_id: str) -> tuple[SeenRequest, ...]:
        """The reads of this task."""
        return tuple(each for each in self.requests if each.method == "GET" and each.route != "files" and each.task_id == task_id)

    def clear(self) -> None:
        """Forget what was seen; the tasks live on."""
        self.requests.clear()
        self.tasks.clear()
        self.callbacks.clear()
        self._feed.forget()

    def record(self, **facts: Any) -> SeenRequest:
        """Take down a request that has just been read."""
        self._seq += 1
        seen = SeenRequest(seq=self._seq, **facts)
        self.requests.append(seen)
        self._feed.tell("request", seen.seq, (seen, None))
        return seen

    def answered(self, seen: SeenRequest, body: bytes | None) -> None:
        """It is decided how; the body is for people to look at, and not kept here."""
        self._feed.tell("request", seen.seq, (seen, body and body[:LONGEST_SHOWN]))
        if seen.fault:
            self._feed.tell("faults")

    def accept(self, task: AcceptedTask) -> None:
        """Take down a task that is on the bill."""
        self.tasks.append(task)
        self._feed.tell("task", task.id, task)

    def posted(self, sent: SentCallback) -> None:
        """Take down a callback that leaves, and how it was answered."""
        if sent.status is None:
            self.callbacks.append(sent)
        self._feed.tell("callback", id(sent), sent)

    def as_json(self, now: float) -> dict[str, Any]:
        """All of it, for reading over HTTP."""
        return {
            "requests": [attrs.asdict(seen) for seen in self.requests],
            "tasks": [task.summary(now) for task in self.tasks],
            "callbacks": [attrs.asdict(sent) for sent in self.callbacks],
        }


def masked(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers fit for a log: that a credential came is told, and by which scheme; not the credential."""
    return {name: _mask(name.lower(), value) for name, value in headers.items()}


def _mask(name: str, value: str) -> str:
    if name not in _SECRET:
        return value
    scheme, space, _ = value.partition(" ")
    return f"{scheme} ***" if name.endswith("authorization") and space else "***"
