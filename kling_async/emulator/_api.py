"""One request, one answer: found, decided, put on record, and only then perhaps spoilt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from aiohttp import web
from attrs import frozen

from kling_async.emulator import _files
from kling_async.emulator._auth import Doors
from kling_async.emulator._callbacks import Courier
from kling_async.emulator._delivery import send
from kling_async.emulator._facts import LIMITS, Refusal, Refused, endpoint_of
from kling_async.emulator._faults import Fault, Faults
from kling_async.emulator._ledger import GroundTruth, SeenRequest, masked
from kling_async.emulator._profiles import Profile
from kling_async.emulator._replies import Reply
from kling_async.emulator._service import Service
from kling_async.emulator._tasks import AcceptedTask, Marks, describe, shortened, spoken
from kling_async.emulator._time import EmulatedTime
from kling_async.emulator._validate import vet

T = TypeVar("T")

_LARGE: Final = 1 << 17
"""Bodies above this are parsed and checked in a thread: base64 pictures take long enough to be felt on the loop."""


@frozen(kw_only=True)
class Api:
    """Everything an answer needs."""

    profile: Profile
    kinds: Mapping[str, str]
    """Route → kind of task, for every route served."""
    doors: Doors
    service: Service
    files: _files.Files
    courier: Courier
    faults: Faults
    log: GroundTruth
    time: EmulatedTime

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request but those to the emulator itself."""
        raw = await request.read()
        path = request.raw_path.partition("?")[0]
        route, task_id = self._locate(path)
        seen = self.log.record(
            at=self.time.now(),
            method=request.method,
            path=request.raw_path,
            route=route,
            headers=masked(request.headers),
            peer=_peer(request),
            size=len(raw),
            task_id=task_id,
        )
        known = route == "files" or (route is not None and self._serves(request.method, task_id))
        fault = self.faults.take(route, request.method) if known and route else None
        if fault:
            seen.fault = fault.name
        reply = await self._decided(request, raw, seen, fault)
        if fault and fault.trick.swap:
            reply = fault.trick.swap(reply, self.profile, fault.options)
        seen.status = None if fault and fault.trick.silent else reply.status
        self.log.answered(seen, None if seen.status is None or seen.route == "files" else reply.body)
        if fault and fault.trick.deliver:
            return await fault.trick.deliver(request, reply, fault.options, self.time)
        return send(reply)

    def _locate(self, path: str) -> tuple[str | None, str | None]:
        """The route of a path, and the task id in it; each may be missing. A match is exact, letter case included."""
        if path.startswith(_files.PREFIX):
            return "files", unquote(path.removeprefix(_files.PREFIX).partition("/")[0])
        if not path.startswith(f"{self.profile.prefix}/"):
            return None, None
        rest = path.removeprefix(f"{self.profile.prefix}/")
        if rest in self.kinds:
            return rest, None
        route, _, task_id = rest.rpartition("/")
        return (route, unquote(task_id)) if route in self.kinds and task_id else (None, None)

    def _serves(self, method: str, task_id: str | None) -> bool:
        return method == "GET" if task_id else method == "POST" or (method == "GET" and self.profile.lists)

    async def _decided(self, request: web.Request, raw: bytes, seen: SeenRequest, fault: Fault | None) -> Reply:
        path, authorization = request.raw_path.partition("?")[0], request.headers.get("Authorization")
        if seen.route == "files":
            return await self.files.answer(path.removeprefix(_files.PREFIX), request.query, request.headers)
        if seen.route is None or (seen.task_id is None and request.method == "GET" and not self.profile.lists):
            return self.profile.no_route(request.method, path)
        if not self._serves(request.method, seen.task_id):
            return self.profile.wrong_method(request.method, path)
        body = await self._body(raw, seen) if request.method == "POST" else None
        if request.method == "POST" and fault and not fault.accepted:
            return self.profile.refused(Refusal.standard(5001))
        try:
            account = self.doors.account(authorization, self.time.real_wall())
        except Refused as refused:
            return self.profile.locked(refused.refusal)
        try:
            if request.method == "POST":
                return await self._create(body, request.content_type, account, seen, fault)
            if seen.task_id is not None:
                return self._read(seen.route, seen.task_id, account, seen)
            return self._list(seen.route, account, request.query)
        except Refused as refused:
            return self.profile.refused(refused.refusal)

    async def _body(self, raw: bytes, seen: SeenRequest) -> dict[str, Any] | None:
        body, seen.body = await _aside(len(raw), lambda: _parsed(raw))
        if isinstance(body, dict):
            key = body.get("external_task_id")
            seen.external_task_id = key if isinstance(key, str) else None
            return body
        return None

    async def _create(self, body: dict[str, Any] | None, content_type: str, account: str, seen: SeenRequest, fault: Fault | None) -> Reply:
        route = str(seen.route)
        if content_type != "application/json":
            raise Refused(1200, "Content-Type must be application/json")
        if body is None:
            raise Refused(1200, "the body must be a JSON object")
        taken = self.profile.relayed(route, body)
        if isinstance(taken, Reply):
            return taken
        vetted = await _aside(seen.size, lambda: vet(route, taken))
        seen.undocumented = vetted.undocumented
        marks = Marks.read(spoken(taken))
        if fault and fault.trick.mark:
            marks = fault.trick.mark(fault.options, marks)
        now = self.time.now()
        task = self.service.accept(taken, vetted, account=account, route=route, kind=self.kinds[route], now=now, marks=marks)
        self.log.accept(task)
        seen.task_id = task.id
        self._announce(task)
        return self.profile.accepted(task, self._described(task, now))

    def _announce(self, task: AcceptedTask) -> None:
        url = task.callback_url
        if not url:
            return

        def post(moment: float) -> Callable[[], None]:
            return lambda: self.courier.send(url, task.id, self.profile.posted(self._described(task, moment)))

        if task.processing < task.finished:
            self.time.call_at(task.processing, post(task.processing))
        if task.finished < float("inf"):
            self.time.call_at(task.finished, post(task.finished))

    def _read(self, route: str, task_id: str, account: str, seen: SeenRequest) -> Reply:
        task = self.service.find(account, route, task_id, by_key=self.profile.by_key and endpoint_of(route).external_lookup)
        if task is None:
            return self.profile.not_found(task_id)
        seen.task_id = task.id
        moment = self.profile.seen_at(task, self.time.now())
        data = self._described(task, task.created if moment is None else moment)
        if moment is not None:
            for fault in self.faults.edits(route):
                if fault.trick.edit and fault.trick.edit(data, fault.options):
                    fault.spend()
                    seen.fault = fault.name
                    break
        return self.profile.read(task, data, looked=moment is not None)

    def _list(self, route: str, account: str, query: Mapping[str, str]) -> Reply:
        page, size = (_page(query, name, LIMITS[limit]) for name, limit in (("pageNum", "list_page"), ("pageSize", "list_size")))
        rows: Iterable[AcceptedTask] = self.service.listed(account, route)[(page - 1) * size : page * size]
        return self.profile.listed([self._described(task, self.time.now()) for task in rows])

    def _described(self, task: AcceptedTask, moment: float) -> dict[str, Any]:
        return describe(task, moment, millis=self.time.millis, link=self.files.link)


def _peer(request: web.Request) -> str:
    name = request.transport.get_extra_info("peername") if request.transport else None
    return f"{name[0]}:{name[1]}" if name else ""


def _page(query: Mapping[str, str], name: str, limit: tuple[int, int, int]) -> int:
    low, high, default = limit
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and low <= int(text) <= high):  # noqa: PLR2004  longer numbers are out of range anyway
        raise Refused(1201, f"{name}: must be {low} to {high}")
    return int(text)


def _no_constant(name: str) -> None:
    msg = f"{name} is no JSON"
    raise ValueError(msg)


def _parsed(raw: bytes) -> tuple[Any, Any]:
    """The JSON in a body, and the same fit for a log."""
    try:
        body = json.loads(raw, parse_constant=_no_constant)
        return body, shortened(body)
    except (ValueError, RecursionError):
        return None, None


async def _aside(size: int, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if size > _LARGE else work()
