"""How an answer reaches the wire: properly, or as badly as asked."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import hdrs, web

from kling_async.emulator._replies import Reply
from kling_async.emulator._time import EmulatedTime

_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing sends a reset instead of a goodbye."""


def send(reply: Reply) -> web.StreamResponse:
    """The whole answer, at once, with its length."""
    return web.Response(status=reply.status, body=reply.body, headers=_headers(reply))


async def drop(request: web.Request, *_: object) -> web.StreamResponse:
    """Close without a word."""
    if request.transport:
        request.transport.close()
    return web.Response()  # the server wants one; it goes nowhere


async def reset(request: web.Request, *_: object) -> web.StreamResponse:
    """Break the connection."""
    if request.transport:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        request.transport.abort()
    return web.Response()  # as above


async def hang(request: web.Request, _reply: Reply, options: Mapping[str, Any], time: EmulatedTime) -> web.StreamResponse:
    """Say nothing for `seconds`, or until the emulator closes; then close the connection."""
    await time.pause(options["seconds"])
    return await drop(request)


async def slow(request: web.Request, reply: Reply, options: Mapping[str, Any], time: EmulatedTime) -> web.StreamResponse:
    """Head first, then the body in `pieces` spread over `seconds`."""
    pieces, seconds = int(options["pieces"]), float(options["seconds"])
    size = -(-len(reply.body) // pieces) or 1
    response = await _start(request, reply, length=len(reply.body))
    for at in range(0, len(reply.body), size):
        await time.pause(seconds / pieces)
        await _write(response, reply.body[at : at + size])
    return response


async def truncated(request: web.Request, reply: Reply, options: Mapping[str, Any], time: EmulatedTime) -> web.StreamResponse:
    """Promise the whole body, send a `share` of it, close."""
    del time
    response = await _start(request, reply, length=len(reply.body))
    await _write(response, reply.body[: int(len(reply.body) * float(options["share"]))])
    if request.transport:
        request.transport.close()
    return response


async def chunked(request: web.Request, reply: Reply, options: Mapping[str, Any], time: EmulatedTime) -> web.StreamResponse:
    """The whole body without telling its length."""
    del options, time
    response = await _start(request, reply, length=None)
    await _write(response, reply.body)
    return response


async def _start(request: web.Request, reply: Reply, *, length: int | None) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=_headers(reply))
    if length is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = length
    await response.prepare(request)
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    try:
        await response.write(data)
    except ConnectionError:
        return  # the client has left; nothing to tell anyone


def _headers(reply: Reply) -> dict[str, str]:
    return {hdrs.CONTENT_TYPE: reply.content_type, **reply.headers}
