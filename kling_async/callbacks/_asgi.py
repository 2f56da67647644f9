"""The receiver in an ASGI server: messages in, messages out, nothing decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeAlias

from kling_async.callbacks._posts import Answer, Body, Post, flat
from kling_async.errors import CallbackError

__all__ = ["Application", "application"]

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def application(answer: Answer, base: str) -> Application:
    """An ASGI application that hands everything to `answer`; `base` is the path of the public URL."""

    # A function and nothing cleverer: servers tell by that which version of ASGI it speaks.
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await _answer(answer, base, scope, receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            case _:
                await _live(receive, send)

    return serve


async def _answer(answer: Answer, base: str, scope: Scope, receive: Receive, send: Send) -> None:
    pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    post = Post(
        method=scope["method"],
        path=_below(scope["path"], scope.get("root_path", ""), base),
        query=bool(scope["query_string"]),
        headers=flat(pairs),
    )
    status = await answer(post, _body(receive))
    headers = [(b"content-length", b"0")]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append((b"allow", b"POST"))
    if status is not HTTPStatus.OK and scope.get("http_version", "").startswith("1"):
        headers.append((b"connection", b"close"))  # the body may not have been read
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _below(path: str, root: str, base: str) -> str:
    # Servers differ in whether the path still has what the app is mounted under.
    for prefix in (root, base, ""):
        if path.startswith(f"{prefix}/"):
            tail = path[len(prefix) + 1 :]
            if "/" not in tail:
                return tail
    return ""


def _body(receive: Receive) -> Body:
    more = True

    async def piece() -> bytes | None:
        nonlocal more
        if not more:
            return None
        message = await receive()
        if message["type"] != "http.request":
            raise CallbackError("the sender has gone")
        more = message.get("more_body", False)
        data: bytes = message.get("body", b"")
        return data

    return piece


async def _live(receive: Receive, send: Send) -> None:
    # The server starts and stops; there is nothing to be done for either.
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})
