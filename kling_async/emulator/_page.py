"""The emulator's page: its files, what it needs to know, and a stream of what is new."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final

from aiohttp import web
from attrs import asdict, field, frozen

from kling_async.emulator import _views
from kling_async.emulator._auth import ANY_KEY
from kling_async.emulator._control import PREFIX, Controlled
from kling_async.emulator._delivery import send
from kling_async.emulator._feed import Feed, News
from kling_async.emulator._files import Files
from kling_async.emulator._guard import HEADERS, POLICY
from kling_async.emulator._time import EmulatedTime

HOME: Final = f"{PREFIX}/"
_HEARTBEAT: Final = 15.0
"""Real seconds without news after which a stream says that it lives."""
_RETRY: Final = 500
"""Milliseconds after which a browser that lost the stream asks for it again."""
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_FILES: Final = {
    f"{HOME}{'' if file.name == 'index.html' else file.name}": file
    for file in resources.files("kling_async.emulator").joinpath("page").iterdir()
    if file.name.endswith(tuple(_TYPES))
} | {f"{HOME}sample.png": resources.files("kling_async.emulator").joinpath("samples", "picture-16x9.png")}
"""Path → file. The sample is for trying a form that wants a picture."""


@frozen(kw_only=True)
class Page:
    """Everything the page can ask for."""

    emulator: Controlled
    feed: Feed
    files: Files
    time: EmulatedTime
    epoch: str = field(repr=False)
    """Tells this emulator from one that ran on the same port before."""
    origin: str
    api_key: str = field(repr=False)

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """Answer what the page asks for; nothing for what it does not."""
        path = request.path
        if request.method != "GET":
            return None
        if path in _FILES:
            return _file(path)
        if path in {PREFIX, "/"}:
            return web.Response(status=302, headers={**HEADERS, "Location": HOME})
        if path == f"{HOME}events":
            return await self._stream(request)
        if path == f"{HOME}catalogue":
            return web.json_response(_views.catalogue(), headers=HEADERS)
        name, _, rest = request.raw_path.partition("?")[0].removeprefix(HOME).partition("/")
        if name == "media" and rest:
            reply = await self.files.shown(rest, request.headers)
            response = send(reply)
            response.headers.update(HEADERS)
            return response
        if name == "requests" and rest.isascii() and rest.isdigit():
            return self._detail(int(rest[:12]))
        return None

    def _detail(self, seq: int) -> web.Response:
        found = self.feed.find("request", seq)
        if found is None:
            return web.json_response({"error": f"request {seq} is not shown any more"}, status=404, headers=HEADERS)
        seen, answer = found
        profile = str(self.emulator.health["profile"])
        return web.json_response(_views.detail(seen, answer, origin=self.origin, profile=profile), headers=HEADERS)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**HEADERS, "X-Accel-Buffering": "no"})
        response.content_type, response.charset = "text/event-stream", "utf-8"
        await response.prepare(request)
        mark = self._resumed(request.headers.get("Last-Event-ID", ""))
        text = f"retry: {_RETRY}\n\n"
        while not self.time.closed:
            bell = self.feed.bell()
            mark, news = self._news(mark)
            try:
                await response.write((text + news or ":\n\n").encode())
                text = ""
                await self.time.pause(_HEARTBEAT, bell)
            except ConnectionError:
                break  # the browser has left
            finally:
                self.feed.silence(bell)
        return response

    def _resumed(self, last: str) -> int:
        epoch, _, revision = last.partition(":")
        return int(revision) if epoch == self.epoch and revision.isascii() and revision.isdigit() and len(revision) < 16 else -1  # noqa: PLR2004  no count gets that far

    def _news(self, mark: int) -> tuple[int, str]:
        revision, news = self.feed.since(mark)
        if news is not None:
            return revision, self._events(news)
        first = [_event(self.epoch, 0, "hello", self._hello()), *(_event(self.epoch, 0, kind, self._state(kind)) for kind in _STATES)]
        return revision, "".join(first) + self._events(self.feed.everything()) + _event(self.epoch, revision, "ready", {})

    def _events(self, news: Iterable[News]) -> str:
        return "".join(_event(self.epoch, each.revision, each.kind, self._shown(each)) for each in news)

    def _shown(self, news: News) -> Mapping[str, Any]:
        match news.kind:
            case "request":
                return _views.row(news.thing[0])
            case "task":
                return _views.card(news.thing)
            case "callback":
                return {"key": str(id(news.thing)), **_views.post(news.thing)}
            case _:
                return self._state(news.kind)

    def _state(self, kind: str) -> Mapping[str, Any]:
        match kind:
            case "clock":
                return {"now": self.time.now(), "speed": self.time.speed}
            case "slots":
                return {"limits": self.emulator.slots}
            case _:
                return {"orders": [asdict(order) for order in self.emulator.orders]}

    def _hello(self) -> Mapping[str, Any]:
        # A key that somebody chose is not for the screen; the one for everybody is.
        key = self.api_key if self.api_key == ANY_KEY else None
        health = self.emulator.health
        return {"url": self.origin, "profile": health["profile"], "prefix": health["prefix"], "key": key}


_STATES: Final = ("clock", "slots", "faults")


def _file(path: str) -> web.Response:
    file = _FILES[path]
    content_type = _TYPES[f".{file.name.rpartition('.')[2]}"]
    headers = {**HEADERS, "Content-Security-Policy": POLICY, "Content-Type": content_type}
    return web.Response(body=file.read_bytes(), headers=headers)


def _event(epoch: str, revision: int, kind: str, data: Mapping[str, Any]) -> str:
    return f"id: {epoch}:{revision}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
