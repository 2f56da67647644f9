from __future__ import annotations

import asyncio
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exchanges import CANARY, FAILURES, OK, everything, look, opened, order, pay, trickle_body
from kling_async._auth import ApiKey, KeyPair
from kling_async._clock import SystemClock
from kling_async._wire import Reply
from kling_async.errors import ConfigurationError
from kling_async.transport import FailedExchange, Transport
from scripted import Behaviour, Client, Gateway, bomb, hang_read, listening, saying, whole

pytestmark = pytest.mark.usefixtures("nothing_is_left")

gateway = pytest.fixture(listening)
transport = pytest.fixture(opened)


@pytest.mark.row("C12")
async def test_paid_requests_never_share_a_connection(gateway: Gateway, transport: Transport) -> None:
    """Each paid request has a connection of its own, reads share one (row 17)."""

    async def keep_alive(client: Client) -> None:
        while True:
            await client.read()
            client.say(OK)

    gateway.behaviour = keep_alive
    for _ in range(3):
        await pay(transport, order(gateway))
    assert len(gateway.clients) == 3
    for _ in range(3):
        await transport.read(look(gateway))
    assert len(gateway.clients) == 4


async def test_replies_are_waited_for(gateway: Gateway, transport: Transport) -> None:
    """A paid request has a minute for its reply, and longer the more there is to upload; a read has twenty seconds."""
    gateway.behaviour = hang_read
    loop = asyncio.get_running_loop()
    for size, seconds in ((0, 60.0), (4 << 20, 124.0)):
        begun = loop.time()
        await pay(transport, order(gateway, size))
        assert loop.time() - begun == pytest.approx(seconds, abs=0.1)
    begun = loop.time()
    with pytest.raises(FailedExchange):
        await transport.read(look(gateway))
    assert loop.time() - begun == pytest.approx(20.0, abs=0.1)


async def test_what_is_sent(gateway: Gateway, transport: Transport) -> None:
    """A request carries the key as a bearer, JSON, its length, and no cookie."""
    gateway.behaviour = saying(whole(b"", "Set-Cookie: spy=1"))
    for _ in range(2):
        await pay(transport, order(gateway))
        await transport.read(look(gateway))
    for client in gateway.clients:
        lines = client.head.decode().lower().split("\r\n")
        assert f"authorization: bearer {CANARY}" in lines
        assert "content-type: application/json" in lines
        assert not any(line.startswith("cookie") for line in lines)
    assert {client.body for client in gateway.clients} == {b'{"external_task_id": "mine", "padding": ""}', b""}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.row("C14")
async def test_redirects_are_not_followed(gateway: Gateway, transport: Transport, status: int) -> None:
    """Nothing goes anywhere else than to the configured origin, whatever it answers (C14, P16)."""
    gateway.behaviour = saying(whole(b"", f"Location: http://localhost:{gateway.port}/elsewhere", status=status))
    reply, _ = await pay(transport, order(gateway))
    assert isinstance(reply, Reply)
    assert reply.headers["location"] == f"http://localhost:{gateway.port}/elsewhere"
    await transport.read(look(gateway))
    assert len(gateway.clients) == 2
    assert all(b"elsewhere" not in client.head for client in gateway.clients)


@pytest.mark.row("X3")
async def test_the_environment_is_not_asked(
    gateway: Gateway, transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Proxies and netrc change neither where nor as whom we talk, unless asked for (P17)."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password pw\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    gateway.behaviour = saying(OK)
    reply, _ = await pay(transport, order(gateway))
    assert isinstance(reply, Reply)
    assert (await transport.read(look(gateway))).status == 200


async def test_kept_headers(gateway: Gateway, transport: Transport) -> None:
    """Of the reply's headers those are kept that mean something here, by their names in lower case."""
    gateway.behaviour = saying(whole(b"", "RETRY-After: 7", "X-Request-Id: r", "Set-Cookie: spy=1"))
    reply = await transport.read(look(gateway))
    assert reply.headers == {"retry-after": "7", "x-request-id": "r"}


async def test_replies_are_bounded(gateway: Gateway, transport: Transport) -> None:
    """A small reply that unpacks to half a gigabyte costs a few megabytes (P18)."""
    gateway.behaviour = saying(bomb(512))
    tracemalloc.start()
    try:
        await pay(transport, order(gateway))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize("behaviour", [hang_read, trickle_body])
async def test_a_cancelled_call_shows_no_key(gateway: Gateway, transport: Transport, behaviour: Behaviour) -> None:
    """A timeout around a read keeps the cancelled call as its cause, and with it no frame that holds the key (X1)."""
    gateway.behaviour = behaviour
    with pytest.raises(TimeoutError) as late:
        async with asyncio.timeout(10):
            await transport.read(look(gateway))
    assert isinstance(late.value.__cause__, asyncio.CancelledError)
    assert "transport.py" in everything(late.value)
    assert CANARY not in everything(late.value)


@pytest.mark.parametrize("row", ["12 close after reading", "13 never answered", "14 garbage status line", "15 cut body"])
async def test_logs_show_no_key(gateway: Gateway, transport: Transport, row: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever turns on all logging finds no key in it (X2)."""
    caplog.set_level(logging.DEBUG)
    gateway.behaviour, _, _ = FAILURES[row]
    await pay(transport, order(gateway))
    assert CANARY not in caplog.text
    assert CANARY not in repr(transport)


async def test_reading_with_the_callers_session(gateway: Gateway) -> None:
    """Reads go through a session that was given, whatever its defaults, and leave it open; paid requests never do (`http=`)."""
    gateway.behaviour = saying(whole({}, status=404))
    async with aiohttp.ClientSession(raise_for_status=True, headers={"X-Mine": "1"}) as given:
        transport = Transport(ApiKey(CANARY), SystemClock(), injected=given)
        assert (await transport.read(look(gateway))).status == 404
        reply, _ = await pay(transport, order(gateway))
        assert isinstance(reply, Reply)
        await transport.aclose()
        assert not given.closed
    assert [b"X-Mine" in client.head for client in gateway.clients] == [True, False]
    with pytest.raises(ConfigurationError, match="closed"):
        await Transport(ApiKey(CANARY), SystemClock(), injected=given).read(look(gateway))


async def test_tracing_in_the_callers_session(gateway: Gateway) -> None:
    """Whoever traces a session that was given sees no context of ours."""
    seen: list[Any] = []

    async def note(_session: aiohttp.ClientSession, names: Any, _params: Any) -> None:
        seen.append(names.trace_request_ctx)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(note)
    gateway.behaviour = saying(OK)
    async with aiohttp.ClientSession(trace_configs=[trace]) as given:
        await Transport(ApiKey(CANARY), SystemClock(), injected=given).read(look(gateway))
    assert seen == [None]


async def test_nothing_opens_after_closing(gateway: Gateway, transport: Transport) -> None:
    """A closed transport opens nothing more; closing twice is fine."""
    gateway.behaviour = saying(OK)
    await transport.read(look(gateway))
    await transport.aclose()
    await transport.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await transport.read(look(gateway))
    with pytest.raises(ConfigurationError, match="closed"):
        await transport.pay(order(gateway), on_sent=lambda: None)
    assert len(gateway.clients) == 1


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
