"""The emulator's own paths, under `/_emulator`: the same that Python callers have, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from aiohttp import web
from attrs import asdict

from kling_async.emulator._faults import Fault
from kling_async.emulator._guard import HEADERS
from kling_async.emulator._ledger import GroundTruth

PREFIX: Final = "/_emulator"
_FAULT: Final = "/faults/"


class Controlled(Protocol):
    """What can be asked of an emulator."""

    @property
    def log(self) -> GroundTruth:
        """The ground truth."""
        ...

    @property
    def now(self) -> float:
        """Emulated seconds since the start."""
        ...

    @property
    def speed(self) -> float:
        """Emulated seconds to a real one."""
        ...

    @speed.setter
    def speed(self, speed: float) -> None: ...

    @property
    def slots(self) -> Mapping[str, int]:
        """Tasks at once per kind and account."""
        ...

    @slots.setter
    def slots(self, slots: Mapping[str, int]) -> None: ...

    @property
    def held(self) -> Mapping[str, Mapping[str, int]]:
        """Account → kind → slots in use."""
        ...

    @property
    def orders(self) -> tuple[Fault, ...]:
        """The faults ordered so far."""
        ...

    @property
    def health(self) -> dict[str, Any]:
        """A few facts."""
        ...

    def advance(self, seconds: float) -> None:
        """Jump ahead."""

    def fault(self, name: str, **order: Any) -> Fault:
        """Order a fault."""
        ...

    def clear_faults(self, name: str | None = None) -> None:
        """Take back orders."""

    def reset(self) -> None:
        """Forget everything."""


def _log(emulator: Controlled, _body: Mapping[str, Any]) -> Any:
    return emulator.log.as_json(emulator.now)


def _tasks(emulator: Controlled, _body: Mapping[str, Any]) -> Any:
    return [task.summary(emulator.now) for task in emulator.log.tasks]


def _advance(emulator: Controlled, body: Mapping[str, Any]) -> Any:
    emulator.advance(body["seconds"])
    return emulator.health


def _order(emulator: Controlled, body: Mapping[str, Any]) -> Any:
    return asdict(emulator.fault(**body))


def _clear_faults(emulator: Controlled, _body: Mapping[str, Any]) -> Any:
    emulator.clear_faults()
    return []


def _clear_fault(emulator: Controlled, name: str) -> Any:
    emulator.clear_faults(name)
    return [asdict(fault) for fault in emulator.orders]


def _speed(emulator: Controlled, body: Mapping[str, Any]) -> Any:
    emulator.speed = body["speed"]
    return emulator.health


def _slots(emulator: Controlled, _body: Mapping[str, Any]) -> Any:
    return {"limits": emulator.slots, "held": emulator.held}


def _set_slots(emulator: Controlled, body: Mapping[str, Any]) -> Any:
    emulator.slots = body
    return _slots(emulator, body)


def _reset(emulator: Controlled, _body: Mapping[str, Any]) -> Any:
    emulator.reset()
    return emulator.health


_ACTIONS: Final[Mapping[tuple[str, str], Callable[[Controlled, Mapping[str, Any]], Any]]] = {
    ("GET", "/health"): lambda emulator, _body: emulator.health,
    ("GET", "/log"): _log,
    ("GET", "/tasks"): _tasks,
    ("GET", "/faults"): lambda emulator, _body: [asdict(fault) for fault in emulator.orders],
    ("POST", "/faults"): _order,
    ("DELETE", "/faults"): _clear_faults,
    ("PUT", "/speed"): _speed,
    ("POST", "/advance"): _advance,
    ("GET", "/slots"): _slots,
    ("PUT", "/slots"): _set_slots,
    ("POST", "/reset"): _reset,
}


async def answer(emulator: Controlled, request: web.Request) -> web.Response:
    """Answer a request under `PREFIX`; what is wrong with it comes back as `{"error": …}`."""
    path = request.path.removeprefix(PREFIX)
    action = _ACTIONS.get((request.method, path))
    if action is None and request.method == "DELETE" and path.startswith(_FAULT):
        return _said(_clear_fault(emulator, path.removeprefix(_FAULT)))
    if action is None:
        there = ", ".join(f"{method} {PREFIX}{path}" for method, path in (*_ACTIONS, ("DELETE", f"{_FAULT}{{name}}")))
        return _said({"error": f"no {request.method} {request.path}; there are {there}"}, 404)
    raw = await request.read()
    try:
        body = json.loads(raw or b"{}")
        return _said(action(emulator, body))
    except (ValueError, TypeError, KeyError) as error:
        return _said({"error": f"{type(error).__name__}: {error}"}, 400)


def _said(data: Any, status: int = 200) -> web.Response:
    return web.json_response(data, status=status, headers=HEADERS)
