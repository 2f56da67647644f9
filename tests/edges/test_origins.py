from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import pytest
from aiohttp import web
from attrs import define, field

from kling_async import ApiKey, Credentials, KeyPair, KlingSession, Text2Video, Video
from kling_async.emulator import Emulator
from kling_async.errors import AuthenticationError, KlingError, ProtocolError, TransportError
from kling_async.hosts import Hosts, RefusedLink
from kling_async.testing import leaked
from kling_async.transport import FailedExchange

KEY, TOKEN = "sk-c4n4ry-key", "c4n4ry-token"
FOX = Text2Video(prompt="a fox")
CERTIFICATE = Path(__file__).with_name("loopback.pem")
"""A certificate that signs itself, for 127.0.0.1, and its key, which opens nothing else."""


@define(eq=False)
class Elsewhere:
    """A server that answers as it is told, and keeps what it is asked."""

    location: str = ""
    status: int = 200
    body: dict[str, Any] = field(factory=dict)
    requests: list[web.Request] = field(factory=list)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        said = {"message": f"Incorrect API key provided: {request.headers.get('Authorization')}"} if self.status == 401 else {}
        return web.json_response(
            self.body | said, status=self.status, headers={"Location": self.location, "Set-Cookie": f"spy={TOKEN}; Path=/"}
        )

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


@pytest.mark.row("C14")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int, tmp_path: Path) -> None:
    """Whatever a gateway redirects, the other origin hears nothing; where a file host leads, it hears neither key nor cookie (P16, P25)."""
    async with Elsewhere() as other, Elsewhere(location=f"{other.url}/?sign={TOKEN}", status=status) as gateway:
        async with KlingSession(KEY, base_url=gateway.url) as kling:
            ref = f"kling1,{gateway.url},videos,text2video,8800,,"
            link = Video(id="900", url=f"{gateway.url}/v.mp4?sign={TOKEN}")
            for call in (kling.submit(FOX), kling.get(ref), kling.get(ref)):
                with pytest.raises(KlingError) as raised:
                    await call
                assert TOKEN not in f"{raised.value!r}{raised.value.__cause__!r}{raised.value.__context__!r}"
            assert other.requests == []
            await kling.save([link], tmp_path)
        assert [request.method for request in gateway.requests] == ["POST", "GET", "GET", "GET"]
        assert [request.headers.get("Authorization") for request in gateway.requests] == [f"Bearer {KEY}"] * 3 + [None]
        assert not any("Cookie" in request.headers for request in gateway.requests)
        (followed,) = other.requests
        assert {"Authorization", "Cookie"}.isdisjoint(followed.headers)


@pytest.mark.row("X3")
@pytest.mark.parametrize("trust_env", [False, True])
async def test_a_proxy_of_the_environment(trust_env: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: FBT001
    """A proxy in the environment hears nothing, and a netrc changes nothing, unless the environment was asked for (P17)."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password pw\n")
    (tmp_path / ".env").write_text("KLING_API_KEY=wrong\n")
    monkeypatch.chdir(tmp_path)
    async with Elsewhere(status=418) as proxy, Emulator(api_keys=[KEY]) as emulator:
        if not trust_env:
            monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with KlingSession(KEY, base_url=emulator.url, trust_env=trust_env) as kling:
            if trust_env:
                with pytest.raises(KlingError):
                    await kling.submit(FOX)
            else:
                assert len(await (await kling.submit(FOX)).save(tmp_path)) == 1
        assert bool(proxy.requests) is trust_env


@pytest.mark.row("X1")
@pytest.mark.parametrize("credentials", [ApiKey(KEY), KeyPair(access_key="c4n4ry-access", secret_key="c4n4ry-secret")])
async def test_a_key_that_is_said_back(credentials: Credentials) -> None:
    """A gateway that repeats the key or the signed token in its refusal brings it into no error, and its message is kept."""
    async with Elsewhere(status=401, body={"code": 1002}) as gateway, KlingSession(credentials, base_url=gateway.url) as kling:
        for call in (kling.submit(FOX), kling.get(f"kling1,{gateway.url},videos,text2video,8800,,")):
            with pytest.raises(AuthenticationError, match=r"Incorrect API key provided: Bearer \[masked\]") as raised:
                await call
            said = {request.headers["Authorization"].partition(" ")[2] for request in gateway.requests}
            assert leaked(said | {token.rpartition(".")[2] for token in said}, raised.value) == []


@pytest.mark.parametrize("identifier", ["8800", "{other}/8800", "//{host}/8800", "@{host}/8800", "8800?to={other}"])
async def test_a_reply_does_not_say_where_to_look(identifier: str) -> None:
    """Addresses in the body of a creation, and ids made to be taken for one, lead nobody away from the gateway with the key (P16)."""
    async with Elsewhere() as other, Elsewhere(location=other.url) as gateway:
        task_id = identifier.format(other=other.url, host=other.url.removeprefix("http://"))
        links = dict.fromkeys(("url", "status_url", "poll_url", "href", "location"), f"{other.url}/8800")
        gateway.body = {"code": 0, **links, "data": {"task_id": task_id, "task_status": "submitted", **links}}
        async with KlingSession(KEY, base_url=gateway.url) as kling:
            with contextlib.suppress(KlingError):
                handle = await kling.submit(FOX)
                await handle.refresh()
        assert {request.path.partition("/text2video")[0] for request in gateway.requests} == {"/kling/v1/videos"}
        assert len(gateway.requests) >= 2, "it was looked at, or looked for"
        assert other.requests == []


PASSWORD = "c4n4ry-password"


def proxies(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Name this proxy for everything, and nothing else."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.delenv(spelling, raising=False)
    monkeypatch.setenv("all_proxy", url)


@pytest.mark.row("X3")
async def test_a_netrc_speaks_to_no_gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also when the environment is asked for, the key is what the API gets, and file hosts get nothing."""
    (tmp_path / "netrc").write_text(f"default login me password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with Elsewhere() as host, KlingSession(KEY, base_url=host.url, trust_env=True) as kling:
        for call in (kling.submit(FOX), kling.get(f"kling1,{host.url},videos,text2video,8800,,")):
            with pytest.raises(KlingError):
                await call
        await kling.save([Video(id="900", url=f"{host.url}/v.mp4")], tmp_path)
    assert [request.headers.get("Authorization") for request in host.requests] == [f"Bearer {KEY}"] * 2 + [None]


@pytest.mark.row("X3")
@pytest.mark.parametrize("place", ["address", "netrc"])
async def test_the_password_of_a_proxy(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A proxy gets its password, from its address or from the netrc, and nobody else does; no error shows it, and exceptions hold."""
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc") if place == "netrc" else "/nowhere")
    async with Elsewhere() as host, KlingSession(KEY, base_url=host.url, trust_env=True) as kling:
        proxies(monkeypatch, host.url.replace("//", f"//me:{PASSWORD}@") if place == "address" else host.url.removeprefix("http://"))
        for exceptions in ("", "127.0.0.1"):
            monkeypatch.setenv("no_proxy", exceptions)
            with pytest.raises(ProtocolError) as raised:
                await kling.get(f"kling1,{host.url},videos,text2video,8800,,")
            assert leaked([KEY, PASSWORD], raised.value, kling) == []
        basic = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
        assert [request.headers.get("Proxy-Authorization") for request in host.requests] == [basic, None]
        assert [request.headers["Authorization"] for request in host.requests] == [f"Bearer {KEY}"] * 2
        proxies(monkeypatch, f"socks5://me:{PASSWORD}@127.0.0.1:1")
        with pytest.raises(TransportError, match="proxy") as refused:
            await kling.submit(FOX)
        assert leaked([KEY, PASSWORD], refused.value) == []


@pytest.mark.row("X3")
async def test_a_download_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy may stand in a private network, which is its user's choice; a link may not lead there through it."""
    heads: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    hosts = Hosts(trust_env=True)
    proxies(monkeypatch, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    for url in ("https://127.0.0.1/v.mp4", "https://[::ffff:10.0.0.1]/v.mp4"):
        with pytest.raises(RefusedLink):
            await hosts.open(url, {})
    assert heads == []
    with pytest.raises(FailedExchange) as raised:
        await hosts.open(f"https://files.example/v.mp4?sign={TOKEN}", {})
    assert raised.value.failure.cause == "proxy"
    assert [line.split(b" ")[:2] for line in heads] == [[b"CONNECT", b"files.example:443"]]
    assert TOKEN.encode() not in heads[0]
    monkeypatch.setenv("no_proxy", "localhost")
    with pytest.raises(RefusedLink, match="private network"):
        await hosts.open("https://localhost/v.mp4", {})
    await hosts.aclose()
    server.close()


@pytest.mark.row("X3")
@pytest.mark.parametrize(("trust_env", "ends"), [(False, "TransportError"), (True, "SubmitOutcomeUnknown")])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_certificate_of_the_environment(trust_env: bool, ends: str) -> None:  # noqa: FBT001
    """Whom to trust is not the environment's to say either, unless it was asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    code = f"""
import asyncio, kling_async
async def main():
    async with kling_async.KlingSession("{KEY}", base_url="{url}", trust_env={trust_env}) as kling:
        await kling.text2video(prompt="a fox")
try:
    asyncio.run(main())
except kling_async.KlingError as error:
    print(type(error).__name__)
"""
    answer = await anyio.run_process([sys.executable, "-c", code], env={"SSL_CERT_FILE": str(CERTIFICATE)}, check=False)
    server.close()
    assert answer.stdout.decode().strip() == ends, answer.stderr.decode()
