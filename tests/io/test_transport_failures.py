from __future__ import annotations

import asyncio
import gzip
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from exchanges import CANARY, FAILURES, OK, everything, look, opened, order, pay
from kling_async._verdict import Failure
from kling_async._wire import Reply, Request
from kling_async.transport import MAX_BODY, FailedExchange, Transport, failure_of
from scripted import Behaviour, Client, Gateway, close_unread, head, listening, refuse_early, saying, whole

pytestmark = pytest.mark.usefixtures("nothing_is_left")

gateway = pytest.fixture(listening)
transport = pytest.fixture(opened)


@pytest.mark.parametrize("row", FAILURES)
@pytest.mark.row("C7", "C8", "S2", "S4")
async def test_failures_after_sending(gateway: Gateway, transport: Transport, row: str) -> None:
    """Whatever goes wrong once a byte may have left is told as sent: the rows of `reliability.md` 2.2 that cannot be told apart."""
    gateway.behaviour, size, causes = FAILURES[row]
    begun = asyncio.get_running_loop().time()
    failure, sent = await pay(transport, order(gateway, size))
    assert isinstance(failure, Failure)
    assert failure.cause in causes
    assert sent
    assert failure.slow is (failure.cause == "timeout")
    assert asyncio.get_running_loop().time() - begun <= 60 + size / (64 * 1024) + 0.01
    assert len(gateway.clients) == 1


@pytest.mark.parametrize("row", FAILURES)
@pytest.mark.row("Q10", "Q11", "Q12")
async def test_failures_of_reads(gateway: Gateway, transport: Transport, row: str) -> None:
    """The same befalls reads, within 20 seconds and without a trace of the key; aiohttp may repeat a read once by itself."""
    gateway.behaviour, _, causes = FAILURES[row]
    begun = asyncio.get_running_loop().time()
    with pytest.raises(FailedExchange) as failed:
        await transport.read(look(gateway))
    causes = causes | ({"connect"} if "reset" in causes else set())
    assert failed.value.failure.cause in causes
    assert asyncio.get_running_loop().time() - begun <= 20.01
    assert CANARY not in everything(failed.value)
    assert 1 <= len(gateway.clients) <= 2


REPLIES: dict[str, tuple[Behaviour, int, bytes]] = {
    "plain": (saying(OK), 200, b'{"code": 0}'),
    "byte by byte": (saying(*(bytes([byte]) for byte in OK)), 200, b'{"code": 0}'),
    "16 page": (saying(whole(b"<html>", "Content-Type: text/html")), 200, b"<html>"),
    "16 empty": (saying(whole(b"")), 200, b""),
    "16 cut without a length": (saying(head() + b'{"code":'), 200, b'{"code":'),
    "204": (saying(head(status=204)), 204, b""),
    "gzip": (saying(head("Content-Encoding: gzip") + gzip.compress(b"{}")), 200, b"{}"),
    "chunked": (saying(head("Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"), 200, b"{}"),
    "4 MiB": (saying(whole(bytes(MAX_BODY))), 200, bytes(MAX_BODY)),
    "400": (saying(whole({}, status=400)), 400, b"{}"),
    "502": (saying(whole(b"", status=502)), 502, b""),
    "hints first": (saying(head(status=103) * 20 + OK), 200, b'{"code": 0}'),
    "charset": (saying(whole({}, "Content-Type: application/json; charset=nope")), 200, b"{}"),
}


@pytest.mark.parametrize("row", REPLIES)
@pytest.mark.row("C16")
async def test_complete_replies(gateway: Gateway, transport: Transport, row: str) -> None:
    """A complete reply is a reply, whatever its status, and comes as it is."""
    gateway.behaviour, status, body = REPLIES[row]
    reply, _ = await pay(transport, order(gateway))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (status, body)
    assert (await transport.read(look(gateway))).body == body


@pytest.mark.row("C11")
async def test_a_refusal_in_mid_upload(gateway: Gateway, transport: Transport) -> None:
    """A reply that comes while the body is still being sent is a reply (row 11)."""
    gateway.behaviour = refuse_early
    reply, _ = await pay(transport, order(gateway, 8 << 20))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (413, b"")


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
    client.say(head(status=400))


@pytest.mark.parametrize(("behaviour", "cause"), [(answer_in_plain, "tls"), (Client.hang, "timeout"), (close_unread, "connect")])
@pytest.mark.row("C5")
async def test_tls_to_a_plain_port(gateway: Gateway, transport: Transport, behaviour: Behaviour, cause: str) -> None:
    """A handshake that fails or hangs sends nothing (row 7)."""
    gateway.behaviour = behaviour
    seen, sent = await pay(transport, Request(method="POST", url=gateway.url.replace("http", "https")))
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
    failure = failure_of(error, sent=sent)
    assert failure == Failure(cause=cause, sent=sent, final=final and not sent, slow=cause == "timeout")
