"""What tests of the transport share: a server that behaves, byte by byte, as each test says, and ways in which it may misbehave."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import traceback
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable

from attrs import define, field

from kling_async._auth import ApiKey
from kling_async._clock import SystemClock
from kling_async._verdict import Failure
from kling_async._wire import Reply, Request
from kling_async.transport import MAX_BODY, FailedExchange, Transport

CANARY = "sk-c4n4ry"
Behaviour = Callable[["Client"], Awaitable[None]]


@define(eq=False)
class Client:
    """The server's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = field(default=b"", repr=False)
    body: bytes = field(default=b"", repr=False)

    async def read(self) -> None:
        """Read one whole request."""
        self.head = await self.reader.readuntil(b"\r\n\r\n")
        length = next((line.split(b":")[1] for line in self.head.lower().split(b"\r\n") if line.startswith(b"content-length")), b"0")
        self.body = await self.reader.readexactly(int(length))

    def say(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)

    def reset(self) -> None:
        """End the connection without a goodbye."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Say nothing for ever."""
        await asyncio.sleep(1e9)


@define(eq=False)
class ScriptServer:
    """A server that behaves, byte by byte, as each test says; keeps what it read."""

    behaviour: Behaviour = lambda client: client.hang()
    clients: list[Client] = field(factory=list)
    port: int = 0
    _running: set[asyncio.Task[None]] = field(factory=set)

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(reader, writer)
        self.clients.append(client)
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._running.add(task)

    async def _serve(self, client: Client) -> None:
        try:
            await self.behaviour(client)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other end has gone, as some tests want it
        finally:
            client.writer.close()

    async def aclose(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self) -> Request:
        """A harmless request here."""
        return Request(method="GET", url=f"{self.url}/kling/v1/videos/text2video/8800")

    def post(self, size: int = 20) -> Request:
        """A paid request here."""
        return Request(method="POST", url=f"{self.url}/kling/v1/videos/text2video", body=b"x" * size)


async def listening_server() -> AsyncIterator[ScriptServer]:
    """A server that listens."""
    made = ScriptServer()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=1 << 20)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    await made.aclose()


async def opened_transport() -> AsyncIterator[Transport]:
    """A transport with a key that is easy to find."""
    made = Transport(ApiKey(CANARY), SystemClock(), public_only=False)
    yield made
    await made.aclose()


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


OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"code": 0}'


def replying(*pieces: bytes) -> Behaviour:
    """Read the request, then say this and close."""

    async def behave(client: Client) -> None:
        await client.read()
        for piece in pieces:
            client.say(piece)
            await client.writer.drain()

    return behave


def head(*lines: str, status: str = "200 OK") -> bytes:
    """The head of a reply."""
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode()


async def close_unread(client: Client) -> None:
    """Close before reading."""
    client.writer.close()


async def reset_unread(client: Client) -> None:
    """Reset before reading."""
    client.reset()


async def close_half_read(client: Client) -> None:
    """Close in the middle of the body."""
    await client.reader.read(100_000)
    client.writer.close()


async def reset_half_read(client: Client) -> None:
    """Reset in the middle of the body."""
    await client.reader.read(100_000)
    client.reset()


async def reset_read(client: Client) -> None:
    """Read all, then reset."""
    await client.read()
    client.reset()


async def hang_read(client: Client) -> None:
    """Read all, and never answer."""
    await client.read()
    await client.hang()


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


def bomb(megabytes: int) -> bytes:
    """A small reply that unpacks to a large one."""
    packer = zlib.compressobj(9, wbits=31)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()
    return head("Content-Encoding: gzip", f"Content-Length: {len(data)}") + data


FAILURES: dict[str, tuple[Behaviour, int, set[str]]] = {
    # The behaviour, the size of the body, what may be told: a close may be seen as a reset.
    "9 close before reading": (close_unread, 20, {"disconnected", "reset"}),
    "9 reset before reading": (reset_unread, 20, {"disconnected", "reset"}),
    "10 close in mid-upload": (close_half_read, 8 << 20, {"disconnected", "reset"}),
    "10 reset in mid-upload": (reset_half_read, 8 << 20, {"disconnected", "reset"}),
    "12 close after reading": (replying(), 20, {"disconnected"}),
    "12 reset after reading": (reset_read, 20, {"disconnected", "reset"}),
    "13 never read": (Client.hang, 20, {"timeout"}),
    "13 never answered": (hang_read, 20, {"timeout"}),
    "13 head by drops": (trickle_head, 20, {"timeout", "malformed-reply"}),
    "13 body by drops": (trickle_body, 20, {"timeout"}),
    "14 garbage status line": (replying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), 20, {"malformed-reply"}),
    "14 20 KB header": (replying(head(f"X-Long: {'x' * 20_000}", "Content-Length: 0")), 20, {"malformed-reply"}),
    "14 300 headers": (replying(head(*(f"X-{n}: 1" for n in range(300)), "Content-Length: 0")), 20, {"malformed-reply"}),
    "14 two lengths": (replying(head("Content-Length: 2", "Content-Length: 3") + b"{} "), 20, {"malformed-reply"}),
    "14 length and chunked": (
        replying(head("Content-Length: 2", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"),
        20,
        {"malformed-reply"},
    ),
    "15 cut body": (replying(head("Content-Length: 100") + b'{"code": 0'), 20, {"cut-reply"}),
    "15 cut chunk": (replying(head("Transfer-Encoding: chunked") + b'64\r\n{"code": 0'), 20, {"cut-reply"}),
    "15 broken gzip": (replying(head("Content-Encoding: gzip") + gzip.compress(OK)[:-8] + bytes(8)), 20, {"cut-reply"}),
    "15 no gzip": (replying(head("Content-Encoding: gzip", "Content-Length: 11") + b'{"code": 0}'), 20, {"cut-reply"}),
    "head without end": (replying(b"HTTP/1.1 200 OK\r\nContent-Le"), 20, {"disconnected", "malformed-reply"}),
    "too large": (replying(head(f"Content-Length: {MAX_BODY + 1}") + bytes(MAX_BODY + 1)), 20, {"cut-reply"}),
    "gzip bomb": (replying(bomb(64)), 20, {"cut-reply"}),
}
