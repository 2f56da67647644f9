from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kling_async import ApiError, SubmitOutcomeUnknown, TaskHandle, TransportError, TransportTimeoutError
from kling_async.journal import State
from scripted import PROFILES, Behaviour, Client, Gateway, close_unread, head, listening, reset_unread, whole

pytestmark = pytest.mark.usefixtures("nothing_is_left")

CERTIFICATES = Path(__file__).parent / "certificates"


@pytest.fixture
async def closed() -> AsyncIterator[Gateway]:
    """A gateway that has yet to be opened."""
    made = Gateway()
    yield made
    await made.aclose()


gateway = pytest.fixture(listening)


@pytest.fixture
def _authority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the environment trust the authority of these tests, for sessions that ask it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "authority.pem"))


def encrypted(certificate: str, newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> ssl.SSLContext:
    """A server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    if newest is not ssl.TLSVersion.MAXIMUM_SUPPORTED:
        with warnings.catch_warnings(action="ignore"):
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def shaking_hands(context: ssl.SSLContext) -> Behaviour:
    """Begin TLS with whoever connects, and say why when that fails, which asyncio's own servers do not."""

    async def behave(client: Client) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls, shaking = context.wrap_bio(incoming, outgoing, server_side=True), True
        while shaking and incoming.write(await client.reader.read(1 << 14)):
            try:
                tls.do_handshake()
                shaking = False
            except ssl.SSLError as error:
                shaking = isinstance(error, ssl.SSLWantReadError)
            client.say(outgoing.read())
            await client.writer.drain()

    return behave


async def spoken(port: int) -> str | None:
    """The version of TLS that a port speaks with somebody who takes any."""
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings(action="ignore"):
        anyone.minimum_version = ssl.TLSVersion.TLSv1
    anyone.set_ciphers("ALL:@SECLEVEL=0")
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anyone)
    version = writer.get_extra_info("ssl_object").version()
    writer.transport.abort()
    return str(version)


@pytest.mark.row("C5")
@pytest.mark.usefixtures("_authority")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("certificate", ["expired", "elsewhere", "self-signed"])
async def test_certificates_that_will_never_do(closed: Gateway, profile: str, certificate: str) -> None:
    """A certificate that is too old, for another host or signed by nobody ends the creation with one attempt: nothing is sent."""
    await closed.open(tls=encrypted(certificate))
    outcome, row = await closed.buy(profile=profile, base_url=closed.url.replace("http", "https"), trust_env=True)
    assert type(outcome) is TransportError
    assert "certificate" in str(outcome)
    assert (outcome.billed, row.state, row.attempt) == (False, State.REJECTED, 1)
    assert (closed.connections, closed.requests) == (0, []), "no handshake was ended"


@pytest.mark.row("C5")
@pytest.mark.usefixtures("_authority")
@pytest.mark.parametrize("asked", [True, False])
async def test_a_certificate_that_does(closed: Gateway, *, asked: bool) -> None:
    """The authority that signed those certificates is trusted, by a session that asks the environment and by no other."""
    await closed.open(tls=encrypted("trusted"))
    outcome, row = await closed.buy(base_url=closed.url.replace("http", "https"), trust_env=asked)
    assert isinstance(outcome, TaskHandle) is asked
    assert (row.attempt, closed.posts) == (1, int(asked))


@pytest.mark.row("C5")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_a_protocol_that_is_too_old(gateway: Gateway, profile: str, newest: ssl.TLSVersion) -> None:
    """A server that speaks no newer TLS than 1.1 ends the creation with one attempt: nothing is sent."""
    if not (ssl.HAS_TLSv1 and ssl.HAS_TLSv1_1):
        pytest.skip("this OpenSSL cannot be a server that is so old")
    gateway.behaviour = shaking_hands(encrypted("self-signed", newest))
    assert await spoken(gateway.port) == newest.name.replace("_", ".")
    outcome, row = await gateway.buy(profile=profile, base_url=gateway.url.replace("http", "https"))
    assert type(outcome) is TransportError
    assert "tls" in str(outcome)
    assert (outcome.billed, row.state, row.attempt, gateway.connections) == (False, State.REJECTED, 1, 2)


async def answer_in_plain(client: Client) -> None:
    """Answer a handshake as if it were a request."""
    await client.reader.read(100)
    client.say(head(status=400))


@pytest.mark.row("C5")
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_port_without_tls(gateway: Gateway, profile: str) -> None:
    """A port that speaks no TLS ends the creation with one attempt: nothing is sent."""
    gateway.behaviour = answer_in_plain
    outcome, row = await gateway.buy(profile=profile, base_url=gateway.url.replace("http", "https"))
    assert type(outcome) is TransportError
    assert "tls" in str(outcome)
    assert (outcome.billed, row.state, row.attempt, gateway.connections) == (False, State.REJECTED, 1, 1)


@pytest.mark.row("C5", "D1")
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_handshake_that_stalls(gateway: Gateway, profile: str) -> None:
    """A handshake that hangs is tried again until the caller's bound, and nothing is sent."""
    loop = asyncio.get_running_loop()
    gateway.behaviour = Client.hang
    begun = loop.time()
    outcome, row = await gateway.buy(profile=profile, base_url=gateway.url.replace("http", "https"), timeout=25.0)
    assert loop.time() - begun == pytest.approx(25.0, abs=0.1)
    assert isinstance(outcome, TransportTimeoutError)
    assert (row.state, row.attempt, gateway.connections, gateway.requests) == (State.WITHDRAWN, 3, 3, [])


async def demand_a_password(client: Client) -> None:
    """A proxy that lets nobody through."""
    await client.read()
    client.say(whole(b"", "Proxy-Authenticate: Basic", status=407))


async def close_when_asked(client: Client) -> None:
    """A proxy that dies over a request."""
    await client.read()


async def close_after_connecting(client: Client) -> None:
    """A proxy that dies once it has connected."""
    await client.read()
    client.say(head())
    await client.writer.drain()


async def unreachable(client: Client) -> None:
    """A proxy that cannot reach the gateway."""
    await client.read()
    client.say(whole(b"", status=502))


@pytest.fixture
def proxy(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """A proxy, as the environment knows it."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, gateway.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return gateway


@pytest.mark.row("C13")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("behaviour", "attempts"),
    [
        (demand_a_password, 1),
        (unreachable, 5),
        (close_when_asked, 5),
        (close_after_connecting, 5),
        (close_unread, 5),
        (reset_unread, 5),
        (Client.hang, 5),
    ],
)
async def test_tunnels(proxy: Gateway, profile: str, behaviour: Behaviour, attempts: int) -> None:
    """A proxy that fails before it has a tunnel got nothing to pass on: tried again, but not where it wants a password."""
    proxy.behaviour = behaviour
    outcome, row = await proxy.buy(profile=profile, base_url="https://gateway.invalid", trust_env=True)
    assert isinstance(outcome, TransportError)
    assert (outcome.billed, row.state, row.attempt) == (False, State.REJECTED, attempts)
    assert proxy.connections == attempts
    assert {(method, path) for _, method, path in proxy.requests} <= {("CONNECT", "gateway.invalid:443")}
    assert set(proxy.tokens) <= {""}, "the proxy never sees the key"


@pytest.mark.row("C13")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_not_there(closed: Gateway, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """A proxy that refuses connections is tried five times, and nothing is bought."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    outcome, row = await closed.buy(base_url=f"{scheme}://gateway.invalid", trust_env=True, insecure=True)
    assert type(outcome) is TransportError
    assert (outcome.billed, row.state, row.attempt) == (False, State.REJECTED, 5)


@pytest.mark.row("C13")
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_password_for_a_plain_request(proxy: Gateway, profile: str) -> None:
    """A proxy that gets the creation itself and wants a password has passed nothing on: final, one attempt."""
    proxy.behaviour = demand_a_password
    outcome, row = await proxy.buy(profile=profile, base_url="http://gateway.invalid", trust_env=True, insecure=True)
    assert isinstance(outcome, ApiError)
    assert (outcome.http_status, outcome.billed, outcome.retryable) == (407, False, False)
    assert (row.state, row.attempt, proxy.posts) == (State.REJECTED, 1, 1)


@pytest.mark.row("C13")
async def test_a_proxy_that_dies_with_the_request(proxy: Gateway) -> None:
    """A proxy that gets the creation itself and dies may have passed it on: unknown, and not sent again."""
    proxy.behaviour = close_when_asked
    outcome, row = await proxy.buy(base_url="http://gateway.invalid", trust_env=True, insecure=True)
    assert isinstance(outcome, SubmitOutcomeUnknown)
    assert (row.state, row.attempt, proxy.posts) == (State.UNKNOWN, 1, 1)
