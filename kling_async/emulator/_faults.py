"""Faults by name: a table of small functions, each spoiling an answer in one way. What was decided before is already on record."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

from aiohttp import web
from attrs import define, evolve, field, frozen

from kling_async.emulator import _delivery
from kling_async.emulator._facts import CODES, Refusal
from kling_async.emulator._profiles import Profile
from kling_async.emulator._replies import Reply
from kling_async.emulator._tasks import DEFAULT_REASON, Marks
from kling_async.emulator._time import EmulatedTime

Options = Mapping[str, Any]
Swap = Callable[[Reply, Profile, Options], Reply]
Edit = Callable[[dict[str, Any], Options], bool]
Deliver = Callable[[web.Request, Reply, Options, EmulatedTime], Awaitable[web.StreamResponse]]

_PAGE: Final = "<!DOCTYPE html><html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>"


@frozen(kw_only=True)
class Trick:
    """What a name stands for: one of four ways to interfere."""

    swap: Swap | None = None
    """Another answer instead."""
    deliver: Deliver | None = None
    """The same answer, delivered badly."""
    edit: Edit | None = None
    """Another truth about the task; tells whether there was anything to change, else it waits for the next read."""
    mark: Callable[[Options, Marks], Marks] | None = None
    """Another fate for the task."""
    accepted: bool = False
    """Whether a creation is carried out, when the caller of `fault` does not say."""
    silent: bool = False
    """Whether no answer goes out."""
    options: Options = field(factory=dict)
    """What can be said about it, with what holds when nothing is said."""
    what: str
    """What a client meets."""

    @property
    def method(self) -> str | None:
        """The only kind of request it has a meaning for; nothing: any."""
        return "GET" if self.edit else "POST" if self.mark else None


@define(kw_only=True)
class Fault:
    """One order to misbehave."""

    name: str
    route: str | None
    method: str | None
    accepted: bool
    options: Options
    left: int | None
    """How many more times; `None` for ever."""
    hits: int = 0

    @property
    def trick(self) -> Trick:
        """What it does."""
        return TRICKS[self.name]

    def spend(self) -> None:
        """Count one use."""
        self.hits += 1
        if self.left is not None:
            self.left -= 1

    def meets(self, route: str, method: str) -> bool:
        """Whether it is meant for such a request. Result files are only hit by their own name, `files`."""
        return (
            self.left != 0
            and (self.route == route or (self.route is None and route != "files"))
            and (self.method is None or self.method == method)
        )


@define
class Faults:
    """The orders in force, first come first served."""

    orders: list[Fault] = field(factory=list, init=False)

    def order(
        self, name: str, *, route: str | None, method: str | None, times: int | None, accepted: bool | None, options: Options
    ) -> Fault:
        """Take an order.

        Raises:
            ValueError: unknown name, option, method or number; the message lists what there is.
        """
        trick = TRICKS.get(name)
        if trick is None:
            msg = f"fault: no {name!r}; there are {', '.join(sorted(TRICKS))}"
            raise ValueError(msg)
        strange = sorted(set(options).difference(trick.options))
        if strange:
            msg = f"fault {name}: no option {strange[0]!r}; it takes {', '.join(sorted(trick.options)) or 'none'}"
            raise ValueError(msg)
        if method not in {None, "GET", "POST"} or (method and trick.method and method != trick.method):
            msg = f"fault {name}: method must be {trick.method or 'GET, POST or None'}, got {method!r}"
            raise ValueError(msg)
        if times is not None and times < 1:
            msg = f"fault {name}: times must be 1 or more, or None for ever, got {times!r}"
            raise ValueError(msg)
        options = {**trick.options, **options}
        if name == "code" and options["code"] not in CODES:
            msg = f"fault code: no code {options['code']!r}; there are {', '.join(map(str, CODES))}"
            raise ValueError(msg)
        fault = Fault(
            name=name,
            route=route,
            method=method or trick.method,
            accepted=trick.accepted if accepted is None else accepted,
            options=options,
            left=times,
        )
        self.orders.append(fault)
        return fault

    def take(self, route: str, method: str) -> Fault | None:
        """The fault for this request, spent; one that edits the truth is taken by `edits`."""
        fault = next((each for each in self.orders if not each.trick.edit and each.meets(route, method)), None)
        if fault:
            fault.spend()
        return fault

    def edits(self, route: str) -> Iterator[Fault]:
        """The faults that may edit what this read tells; the caller spends the one that did."""
        return (each for each in self.orders if each.trick.edit and each.meets(route, "GET"))


def _status(_reply: Reply, _profile: Profile, options: Options) -> Reply:
    status = int(options["status"])
    match options["body"]:
        case "json":
            return Reply.json({"error": {"message": f"upstream error {status}", "type": "upstream_error", "code": ""}}, status)
        case "empty":
            return Reply(status=status, content_type="text/plain")
        case _:
            return _html(status, f"Error {status}")


def _html(status: int, title: str) -> Reply:
    return Reply(status=status, body=_PAGE.format(title=title).encode(), content_type="text/html; charset=utf-8")


def _front_page(_reply: Reply, _profile: Profile, options: Options) -> Reply:
    return _html(int(options["status"]), "Welcome")


def _empty(_reply: Reply, _profile: Profile, options: Options) -> Reply:
    return Reply(status=int(options["status"]))


def _code(_reply: Reply, profile: Profile, options: Options) -> Reply:
    refusal = Refusal.standard(int(options["code"]))
    return profile.refused(evolve(refusal, message=options["message"] or refusal.message), options["http"])


def _retry_after(_reply: Reply, profile: Profile, options: Options) -> Reply:
    refused = profile.refused(Refusal.standard(1302), options["status"])
    return evolve(refused, headers={**refused.headers, "Retry-After": str(options["seconds"])})


def _not_found(_reply: Reply, profile: Profile, _options: Options) -> Reply:
    return profile.not_found("")


def _garbage(reply: Reply, _profile: Profile, _options: Options) -> Reply:
    return evolve(reply, body=reply.body[:-2] + b',"\xff')


def _string_code(reply: Reply, _profile: Profile, _options: Options) -> Reply:
    payload = reply.payload
    if not isinstance(payload, dict) or "code" not in payload:
        return reply
    return evolve(reply, body=json.dumps({**payload, "code": str(payload["code"])}, ensure_ascii=False).encode())


def _entries(data: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return list((data.get("task_result") or {}).get(kind) or ())


def _missing_result(data: dict[str, Any], _options: Options) -> bool:
    return data["task_status"] == "succeed" and data.pop("task_result", None) is not None


def _null_videos(data: dict[str, Any], _options: Options) -> bool:
    kinds = list(data["task_result"])
    data["task_result"] = dict.fromkeys(kinds)
    return bool(kinds)


def _no_index(data: dict[str, Any], _options: Options) -> bool:
    images = _entries(data, "images")
    for image in images:
        image.pop("index")
        image["id"] = ""  # as one gateway was seen to answer (`api.md` 2.3)
    return bool(images)


def _odd_duration(data: dict[str, Any], options: Options) -> bool:
    videos = _entries(data, "videos")
    for video in videos:
        video["duration"] = options["duration"]
    return bool(videos)


def _stale(data: dict[str, Any], _options: Options) -> bool:
    before = {"processing": "submitted", "succeed": "processing", "failed": "processing"}.get(data["task_status"])
    if before:
        data.update(task_status=before, task_status_msg="", task_result={}, updated_at=data["created_at"])
    return before is not None


def _unknown_status(data: dict[str, Any], options: Options) -> bool:
    data.update(task_status=options["status"], task_result={})
    return True


def _fail(options: Options, marks: Marks) -> Marks:
    return evolve(marks, fail=options["reason"])


def _stick(_options: Options, marks: Marks) -> Marks:
    return evolve(marks, stuck=True)


TRICKS: Final[Mapping[str, Trick]] = {
    "chunked": Trick(what="The answer without its length, in chunks.", deliver=_delivery.chunked, accepted=True),
    "code": Trick(what="A refusal of the service, by its code.", swap=_code, options={"code": 1302, "http": None, "message": ""}),
    "drop": Trick(what="The connection closes without an answer.", deliver=_delivery.drop, silent=True),
    "empty": Trick(what="A status, and no body.", swap=_empty, options={"status": 200}),
    "fail": Trick(what="The task is accepted, and fails.", mark=_fail, accepted=True, options={"reason": DEFAULT_REASON}),
    "garbage_json": Trick(what="A body that breaks off in the middle of its JSON.", swap=_garbage, accepted=True),
    "hang": Trick(what="Silence, then a closed connection.", deliver=_delivery.hang, silent=True, options={"seconds": None}),
    "html": Trick(what="Somebody's web page in place of the answer.", swap=_front_page, options={"status": 200}),
    "missing_result": Trick(what="A task that succeeded, without its result.", edit=_missing_result),
    "no_index": Trick(what="Pictures of a result without their index.", edit=_no_index),
    "not_found": Trick(what="No such task, although there is.", swap=_not_found),
    "null_videos": Trick(what="A result whose list of files is null.", edit=_null_videos),
    "odd_duration": Trick(what="A clip of an odd length.", edit=_odd_duration, options={"duration": "5.041"}),
    "reset": Trick(what="The connection breaks.", deliver=_delivery.reset, silent=True),
    "retry_after": Trick(what="Too many requests: come back later.", swap=_retry_after, options={"seconds": 2, "status": None}),
    "slow": Trick(what="The answer, in slow pieces.", deliver=_delivery.slow, accepted=True, options={"seconds": 2.0, "pieces": 8}),
    "stale": Trick(what="The task as it was a while ago.", edit=_stale),
    "status": Trick(what="An error of a proxy on the way.", swap=_status, options={"status": 502, "body": "html"}),
    "string_code": Trick(what="The answer with its code as text.", swap=_string_code, accepted=True),
    "stuck": Trick(what="The task is accepted, and never ends.", mark=_stick, accepted=True),
    "truncated": Trick(
        what="The connection closes in the middle of the answer.", deliver=_delivery.truncated, accepted=True, options={"share": 0.5}
    ),
    "unknown_status": Trick(what="A state that nobody has heard of.", edit=_unknown_status, options={"status": "reviewing"}),
}
"""Every fault there is, by name."""
