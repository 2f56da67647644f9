"""The emulator's own paths, under `/_emulator`: the same that Python callers have, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from aiohttp import web
from attrs import asdict

from kling_async.emulator._faults import Fault
from kling_async.emulator._ledger import GroundTruth

PREFIX: Final = "/_emulator"


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
    def orders(self) -> tuple[Fault, ...]:
        """The faults ordered so far."""
        ...

    @property
    def health(self) -> dict[str, Any]:
        """A few facts."""
        ...

    def advance(self, seconds: float) -> None:
        """Jump ahead."""

    def fault(
        self,
        name: str,
        *,
        route: str | None = None,
        method: str | None = None,
        times: int | None = 1,
        accepted: bool | None = None,
        **options: Any,
    ) -> Fault:
        """Order a fault."""
        ...

    def clear_faults(self) -> None:
        """Take back all orders."""

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
    ("POST", "/advance"): _advance,
    ("POST", "/reset"): _reset,
}


async def answer(emulator: Controlled, request: web.Request) -> web.Response:
    """Answer a request under `PREFIX`; what is wrong with it comes back as `{"error": …}`."""
    action = _ACTIONS.get((request.method, request.path.removeprefix(PREFIX)))
    if action is None:
        there = ", ".join(f"{method} {PREFIX}{path}" for method, path in _ACTIONS)
        return web.json_response({"error": f"no {request.method} {request.path}; there are {there}"}, status=404)
    raw = await request.read()
    try:
        body = json.loads(raw or b"{}")
        return web.json_response(action(emulator, body))
    except (ValueError, TypeError, KeyError) as error:
        return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
