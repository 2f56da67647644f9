from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import ssl
import struct
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from attrs import define, field
from yarl import URL

from kling_async._auth import ApiKey, KeyPair
from kling_async._clock import SystemClock
from kling_async._verdict import Failure
from kling_async._wire import Reply, Request
from kling_async.errors import ConfigurationError
from kling_async.transport import MAX_BODY, FailedExchange, Transport, _failure

pytestmark = pytest.mark.usefixtures("nothing_is_left")

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


@pytest.fixture
async def server() -> AsyncIterator[ScriptServer]:
    """A server that listens."""
    made = ScriptServer()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=1 << 20)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    await made.aclose()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
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


@pytest.mark.parametrize("row", FAILURES)
async def test_failures_after_sending(server: ScriptServer, transport: Transport, row: str) -> None:
    """Whatever goes wrong once a byte may have left is told as sent: the rows of `reliability.md` 2.2 that cannot be told apart."""
    server.behaviour, size, causes = FAILURES[row]
    begun = asyncio.get_running_loop().time()
    failure, sent = await pay(transport, server.post(size))
    assert isinstance(failure, Failure)
    assert failure.cause in causes
    assert sent
    assert failure.slow is (failure.cause == "timeout")
    assert asyncio.get_running_loop().time() - begun <= 60 + size / (64 * 1024) + 0.01
    assert len(server.clients) == 1


@pytest.mark.parametrize("row", FAILURES)
async def test_failures_of_reads(server: ScriptServer, transport: Transport, row: str) -> None:
    """The same befalls reads, within 20 seconds and without a trace of the key; aiohttp may repeat a read once by itself."""
    server.behaviour, _, causes = FAILURES[row]
    begun = asyncio.get_running_loop().time()
    with pytest.raises(FailedExchange) as failed:
        await transport.read(server.get())
    causes = causes | ({"connect"} if "reset" in causes else set())
    assert failed.value.failure.cause in causes
    assert asyncio.get_running_loop().time() - begun <= 20.01
    assert CANARY not in everything(failed.value)
    assert 1 <= len(server.clients) <= 2


REPLIES: dict[str, tuple[Behaviour, int, bytes]] = {
    "plain": (replying(OK), 200, b'{"code": 0}'),
    "byte by byte": (replying(*(bytes([byte]) for byte in OK)), 200, b'{"code": 0}'),
    "16 page": (replying(head("Content-Type: text/html", "Content-Length: 6") + b"<html>"), 200, b"<html>"),
    "16 empty": (replying(head("Content-Length: 0")), 200, b""),
    "16 cut without a length": (replying(head() + b'{"code":'), 200, b'{"code":'),
    "204": (replying(head(status="204 No Content")), 204, b""),
    "gzip": (replying(head("Content-Encoding: gzip") + gzip.compress(b"{}")), 200, b"{}"),
    "chunked": (replying(head("Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"), 200, b"{}"),
    "4 MiB": (replying(head(f"Content-Length: {MAX_BODY}") + bytes(MAX_BODY)), 200, bytes(MAX_BODY)),
    "400": (replying(head("Content-Length: 2", status="400 Bad Request") + b"{}"), 400, b"{}"),
    "502": (replying(head("Content-Length: 0", status="502 Bad Gateway")), 502, b""),
    "hints first": (replying(head(status="103 Early Hints") * 20 + OK), 200, b'{"code": 0}'),
    "charset": (replying(head("Content-Type: application/json; charset=nope", "Content-Length: 2") + b"{}"), 200, b"{}"),
}


@pytest.mark.parametrize("row", REPLIES)
async def test_complete_replies(server: ScriptServer, transport: Transport, row: str) -> None:
    """A complete reply is a reply, whatever its status, and comes as it is."""
    server.behaviour, status, body = REPLIES[row]
    reply, _ = await pay(transport, server.post())
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (status, body)
    assert (await transport.read(server.get())).body == body


async def test_a_refusal_in_mid_upload(server: ScriptServer, transport: Transport) -> None:
    """A reply that comes while the body is still being sent is a reply (row 11)."""

    async def refuse(client: Client) -> None:
        await client.reader.readuntil(b"\r\n\r\n")
        client.say(head("Content-Length: 2", "Connection: close", status="413 Too Large") + b"{}")
        while await client.reader.read(1 << 20):
            pass

    server.behaviour = refuse
    reply, _ = await pay(transport, server.post(8 << 20))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (413, b"{}")


async def test_refused_connections(transport: Transport) -> None:
    """Where nobody listens nothing is sent (row 4)."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    failure, sent = await pay(transport, Request(method="POST", url=f"http://127.0.0.1:{port}/"))
    assert (failure, sent) == (Failure(cause="connect", sent=False), False)


async def test_connections_that_are_never_made(transport: Transport) -> None:
    """Where nobody accepts, ten seconds are enough, and nothing is sent (row 5)."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.settimeout(0)
            filler.connect_ex(full.getsockname())
        begun = asyncio.get_running_loop().time()
        failure, sent = await pay(transport, Request(method="POST", url=f"http://127.0.0.1:{full.getsockname()[1]}/"))
        assert (failure, sent) == (Failure(cause="timeout", sent=False, slow=True), False)
        assert asyncio.get_running_loop().time() - begun == pytest.approx(10.0, abs=0.01)
        for filler in fillers:
            filler.close()


async def answer_in_plain(client: Client) -> None:
    """Answer a handshake as if it were a request."""
    await client.reader.read(100)
    client.say(head(status="400 Bad Request"))


@pytest.mark.parametrize(("behaviour", "cause"), [(answer_in_plain, "tls"), (Client.hang, "timeout"), (close_unread, "connect")])
async def test_tls_to_a_plain_port(server: ScriptServer, transport: Transport, behaviour: Behaviour, cause: str) -> None:
    """A handshake that fails or hangs sends nothing (row 7)."""
    server.behaviour = behaviour
    seen, sent = await pay(transport, Request(method="POST", url=server.url.replace("http", "https")))
    assert isinstance(seen, Failure)
    assert seen.cause == cause
    assert (seen.sent, sent) == (False, False)


KEY = ConnectionKey("gateway.example", 443, True, True, None, None, None)  # noqa: FBT003  aiohttp's own order
REFUSED = OSError(111, "refused")


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize(
    ("error", "cause", "final"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, REFUSED), "dns", False),
        (aiohttp.ClientConnectorError(KEY, OSError(24, "too many open files")), "connect", False),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("expired")), "certificate", True),
        (aiohttp.ClientConnectorSSLError(KEY, REFUSED), "tls", True),
        (aiohttp.ConnectionTimeoutError(), "timeout", False),
        (aiohttp.SocketTimeoutError(), "timeout", False),
        (TimeoutError(), "timeout", False),
        (aiohttp.ServerDisconnectedError(), "disconnected", False),
        (aiohttp.ClientResponseError(aiohttp.RequestInfo(URL("/"), "POST", None, URL("/")), (), status=400), "malformed-reply", False),  # type: ignore[arg-type]  # headers do not matter
        (aiohttp.ClientPayloadError(), "cut-reply", False),
        (RuntimeError("the transport is closed"), "broken", False),
        (aiohttp.InvalidURL("x"), "broken", False),
    ],
)
async def test_the_failure_table(error: Exception, cause: str, *, final: bool, sent: bool) -> None:
    """Each exception has its word; whether a byte left is never concluded from it, and nothing is final that was sent."""
    failure = _failure(error, sent=sent)
    assert failure == Failure(cause=cause, sent=sent, final=final and not sent, slow=cause == "timeout")


async def test_paid_requests_never_share_a_connection(server: ScriptServer, transport: Transport) -> None:
    """Each paid request has a connection of its own, reads share one (row 17)."""

    async def keep_alive(client: Client) -> None:
        while True:
            await client.read()
            client.say(OK)

    server.behaviour = keep_alive
    for _ in range(3):
        await pay(transport, server.post())
    assert len(server.clients) == 3
    for _ in range(3):
        await transport.read(server.get())
    assert len(server.clients) == 4


async def test_replies_are_waited_for(server: ScriptServer, transport: Transport) -> None:
    """A paid request has a minute for its reply, and longer the more there is to upload; a read has twenty seconds."""
    server.behaviour = hang_read
    loop = asyncio.get_running_loop()
    for size, seconds in ((20, 60.0), (4 << 20, 124.0)):
        begun = loop.time()
        await pay(transport, server.post(size))
        assert loop.time() - begun == pytest.approx(seconds, abs=0.1)
    begun = loop.time()
    with pytest.raises(FailedExchange):
        await transport.read(server.get())
    assert loop.time() - begun == pytest.approx(20.0, abs=0.1)


async def test_what_is_sent(server: ScriptServer, transport: Transport) -> None:
    """A request carries the key as a bearer, JSON, its length, and no cookie."""
    server.behaviour = replying(head("Set-Cookie: spy=1", "Content-Length: 0"))
    for _ in range(2):
        await pay(transport, server.post())
        await transport.read(server.get())
    for client in server.clients:
        lines = client.head.decode().lower().split("\r\n")
        assert f"authorization: bearer {CANARY}" in lines
        assert "content-type: application/json" in lines
        assert not any(line.startswith("cookie") for line in lines)
    assert {client.body for client in server.clients} == {b"x" * 20, b""}


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirects_are_not_followed(server: ScriptServer, transport: Transport, status: str) -> None:
    """Nothing goes anywhere else than to the configured origin, whatever it answers (C14, P16)."""
    server.behaviour = replying(head(f"Location: http://localhost:{server.port}/elsewhere", "Content-Length: 0", status=status))
    reply, _ = await pay(transport, server.post())
    assert isinstance(reply, Reply)
    assert reply.headers["location"] == f"http://localhost:{server.port}/elsewhere"
    await transport.read(server.get())
    assert len(server.clients) == 2
    assert all(b"elsewhere" not in client.head for client in server.clients)


async def test_the_environment_is_not_asked(
    server: ScriptServer, transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Proxies and netrc change neither where nor as whom we talk, unless asked for (P17)."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password pw\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.behaviour = replying(OK)
    reply, _ = await pay(transport, server.post())
    assert isinstance(reply, Reply)
    assert (await transport.read(server.get())).status == 200


async def test_kept_headers(server: ScriptServer, transport: Transport) -> None:
    """Of the reply's headers those are kept that mean something here, by their names in lower case."""
    server.behaviour = replying(head("RETRY-After: 7", "X-Request-Id: r", "Set-Cookie: spy=1", "Content-Length: 0"))
    reply = await transport.read(server.get())
    assert reply.headers == {"retry-after": "7", "x-request-id": "r"}


async def test_replies_are_bounded(server: ScriptServer, transport: Transport) -> None:
    """A small reply that unpacks to half a gigabyte costs a few megabytes (P18)."""
    server.behaviour = replying(bomb(512))
    tracemalloc.start()
    try:
        await pay(transport, server.post())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize("behaviour", [hang_read, trickle_body])
async def test_a_cancelled_call_shows_no_key(server: ScriptServer, transport: Transport, behaviour: Behaviour) -> None:
    """A timeout around a read keeps the cancelled call as its cause, and with it no frame that holds the key (X1)."""
    server.behaviour = behaviour
    with pytest.raises(TimeoutError) as late:
        async with asyncio.timeout(10):
            await transport.read(server.get())
    assert isinstance(late.value.__cause__, asyncio.CancelledError)
    assert "transport.py" in everything(late.value)
    assert CANARY not in everything(late.value)


@pytest.mark.parametrize("row", ["12 close after reading", "13 never answered", "14 garbage status line", "15 cut body"])
async def test_logs_show_no_key(server: ScriptServer, transport: Transport, row: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever turns on all logging finds no key in it (X2)."""
    caplog.set_level(logging.DEBUG)
    server.behaviour, _, _ = FAILURES[row]
    await pay(transport, server.post())
    assert CANARY not in caplog.text
    assert CANARY not in repr(transport)


async def test_reading_with_the_callers_session(server: ScriptServer) -> None:
    """Reads go through a session that was given, whatever its defaults, and leave it open; paid requests never do (`http=`)."""
    server.behaviour = replying(head("Content-Length: 2", status="404 Not Found") + b"{}")
    async with aiohttp.ClientSession(raise_for_status=True, headers={"X-Mine": "1"}) as given:
        transport = Transport(ApiKey(CANARY), SystemClock(), injected=given)
        assert (await transport.read(server.get())).status == 404
        reply, _ = await pay(transport, server.post())
        assert isinstance(reply, Reply)
        await transport.aclose()
        assert not given.closed
    assert [b"X-Mine" in client.head for client in server.clients] == [True, False]
    with pytest.raises(ConfigurationError, match="closed"):
        await Transport(ApiKey(CANARY), SystemClock(), injected=given).read(server.get())


async def test_tracing_in_the_callers_session(server: ScriptServer) -> None:
    """Whoever traces a session that was given sees no context of ours."""
    seen: list[Any] = []

    async def note(_session: aiohttp.ClientSession, names: Any, _params: Any) -> None:
        seen.append(names.trace_request_ctx)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(note)
    server.behaviour = replying(OK)
    async with aiohttp.ClientSession(trace_configs=[trace]) as given:
        await Transport(ApiKey(CANARY), SystemClock(), injected=given).read(server.get())
    assert seen == [None]


async def test_nothing_opens_after_closing(server: ScriptServer, transport: Transport) -> None:
    """A closed transport opens nothing more; closing twice is fine."""
    server.behaviour = replying(OK)
    await transport.read(server.get())
    await transport.aclose()
    await transport.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await transport.read(server.get())
    with pytest.raises(ConfigurationError, match="closed"):
        await transport.pay(server.post(), on_sent=lambda: None)
    assert len(server.clients) == 1


@pytest.mark.parametrize(
    ("date", "skew"),
    [
        ("Sun, 22 Nov 2026 10:00:00 GMT", 3600.0),
        ("Sun, 22 Nov 2026 10:00:00 -0000", 3600.0),
        ("Sun, 22 Nov 2026 11:00:00 +0100", 3600.0),
        ("", 0.0),
        ("yesterday", 0.0),
        ("Sun, 22 Nov 999999999999999999999 10:00:00 GMT", 0.0),
        ("Sun, 99 Nov 2026 10:00:00 GMT", 0.0),
    ],
)
async def test_the_servers_clock(date: str, skew: float) -> None:
    """Tokens are signed by the server's clock once it has told its time; a date that is none changes nothing."""

    class Late(SystemClock):
        def wall(self) -> float:
            return 1795338000.0  # 09:00 of that day

    transport = Transport(KeyPair(access_key="a", secret_key="s"), Late())
    transport.correct_clock(Reply(status=401, headers={"date": date}, body=b""))
    assert transport._skew == skew
