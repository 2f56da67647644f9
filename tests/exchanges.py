"""What tests of the transport share: a transport whose key is easy to find, requests to send with it, and ways in which replies fail."""

from __future__ import annotations

import asyncio
import gzip
import json
import traceback
from collections.abc import AsyncIterator

from kling_async._auth import ApiKey
from kling_async._body import Body
from kling_async._clock import SystemClock
from kling_async._verdict import Failure
from kling_async._wire import Reply, Request
from kling_async.transport import MAX_BODY, FailedExchange, Transport
from scripted import (
    KEY,
    Behaviour,
    Client,
    Gateway,
    bomb,
    close_half_read,
    close_unread,
    hang_read,
    head,
    reset_half_read,
    reset_read,
    reset_unread,
    saying,
    whole,
)

CANARY = "sk-c4n4ry"
OK = whole({"code": 0})


async def opened() -> AsyncIterator[Transport]:
    """A transport with that key; to be made a fixture."""
    made = Transport(ApiKey(CANARY), SystemClock())
    yield made
    await made.aclose()


def look(gateway: Gateway) -> Request:
    """A harmless request."""
    return Request(method="GET", url=f"{gateway.url}/kling/v1/videos/text2video/8800")


def order(gateway: Gateway, padding: int = 0) -> Request:
    """A paid request, with so many bytes more than it needs."""
    body = json.dumps({"external_task_id": KEY, "padding": "x" * padding}).encode()
    return Request(method="POST", url=f"{gateway.url}/kling/v1/videos/text2video", body=Body((body,)))


async def pay(transport: Transport, request: Request) -> tuple[Reply | Failure, bool]:
    """The reply or the failure of a paid request, and whether it was said to be sent."""
    marks: list[bool] = []
    try:
        return await transport.pay(request, on_sent=lambda: marks.append(True)), marks == [True]
    except FailedExchange as error:
        failed = error
    assert failed.failure.sent is bool(marks)
    assert failed.__cause__ is failed.__context__ is None
    assert CANARY not in everything(failed)
    return failed.failure, bool(marks)


def everything(error: BaseException) -> str:
    """All that the most talkative traceback shows."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


async def trickle_head(client: Client) -> None:
    """Send a header now and then."""
    await client.read()
    client.say(b"HTTP/1.1 200 OK\r\n")
    while True:
        client.say(b"X-Slow: 1\r\n")
        await asyncio.sleep(5)


async def trickle_body(client: Client) -> None:
    """Send a byte now and then."""
    await client.read()
    client.say(head("Content-Length: 1000000"))
    while True:
        client.say(b" ")
        await asyncio.sleep(5)


FAILURES: dict[str, tuple[Behaviour, int, set[str]]] = {
    # The behaviour, how much there is to send, what may be told: a close may be seen as a reset.
    "9 close before reading": (close_unread, 0, {"disconnected", "reset"}),
    "9 reset before reading": (reset_unread, 0, {"disconnected", "reset"}),
    "10 close in mid-upload": (close_half_read, 8 << 20, {"disconnected", "reset"}),
    "10 reset in mid-upload": (reset_half_read, 8 << 20, {"disconnected", "reset"}),
    "12 close after reading": (saying(), 0, {"disconnected"}),
    "12 reset after reading": (reset_read, 0, {"disconnected", "reset"}),
    "13 never read": (Client.hang, 0, {"timeout"}),
    "13 never answered": (hang_read, 0, {"timeout"}),
    "13 head by drops": (trickle_head, 0, {"timeout", "malformed-reply"}),
    "13 body by drops": (trickle_body, 0, {"timeout"}),
    "14 garbage status line": (saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), 0, {"malformed-reply"}),
    "14 20 KB header": (saying(whole(b"", f"X-Long: {'x' * 20_000}")), 0, {"malformed-reply"}),
    "14 300 headers": (saying(whole(b"", *(f"X-{n}: 1" for n in range(300)))), 0, {"malformed-reply"}),
    "14 two lengths": (saying(whole(b"{}", "Content-Length: 3")), 0, {"malformed-reply"}),
    "14 length and chunked": (
        saying(head("Content-Length: 2", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"),
        0,
        {"malformed-reply"},
    ),
    "15 cut body": (saying(head("Content-Length: 100") + b'{"code": 0'), 0, {"cut-reply"}),
    "15 cut chunk": (saying(head("Transfer-Encoding: chunked") + b'64\r\n{"code": 0'), 0, {"cut-reply"}),
    "15 broken gzip": (saying(head("Content-Encoding: gzip") + gzip.compress(OK)[:-8] + bytes(8)), 0, {"cut-reply"}),
    "15 no gzip": (saying(whole(b'{"code": 0}', "Content-Encoding: gzip")), 0, {"cut-reply"}),
    "head without end": (saying(b"HTTP/1.1 200 OK\r\nContent-Le"), 0, {"disconnected", "malformed-reply"}),
    "too large": (saying(whole(bytes(MAX_BODY + 1))), 0, {"cut-reply"}),
    "gzip bomb": (saying(bomb(64)), 0, {"cut-reply"}),
}
