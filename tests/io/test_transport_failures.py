from __future__ import annotations

import asyncio
import gzip
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from byte_server import (
    CANARY,
    FAILURES,
    OK,
    Behaviour,
    Client,
    ScriptServer,
    close_unread,
    everything,
    head,
    listening_server,
    opened_transport,
    pay,
    replying,
)
from kling_async._verdict import Failure
from kling_async._wire import Reply, Request
from kling_async.transport import MAX_BODY, FailedExchange, Transport, _failure

pytestmark = pytest.mark.usefixtures("nothing_is_left")

server = pytest.fixture(listening_server)

transport = pytest.fixture(opened_transport)


@pytest.mark.parametrize("row", FAILURES)
@pytest.mark.row("C7", "C8", "S2", "S4")
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
@pytest.mark.row("Q10", "Q11", "Q12")
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
@pytest.mark.row("C16")
async def test_complete_replies(server: ScriptServer, transport: Transport, row: str) -> None:
    """A complete reply is a reply, whatever its status, and comes as it is."""
    server.behaviour, status, body = REPLIES[row]
    reply, _ = await pay(transport, server.post())
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (status, body)
    assert (await transport.read(server.get())).body == body


@pytest.mark.row("C11")
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


@pytest.mark.row("C4")
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
@pytest.mark.row("C5")
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
@pytest.mark.row("C5")
async def test_the_failure_table(error: Exception, cause: str, *, final: bool, sent: bool) -> None:
    """Each exception has its word; whether a byte left is never concluded from it, and nothing is final that was sent."""
    failure = _failure(error, sent=sent)
    assert failure == Failure(cause=cause, sent=sent, final=final and not sent, slow=cause == "timeout")
