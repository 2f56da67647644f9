from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import pytest
from aiohttp import web
from attrs import define, field

from kling_async import KlingSession, Text2Video, Video
from kling_async.emulator import Emulator
from kling_async.errors import KlingError

KEY, TOKEN = "sk-c4n4ry-key", "c4n4ry-token"
FOX = Text2Video(prompt="a fox")
CERTIFICATE = Path(__file__).with_name("loopback.pem")
"""A certificate that signs itself, for 127.0.0.1, and its key, which opens nothing else."""


@define(eq=False)
class Elsewhere:
    """A server that answers as it is told, and keeps what it is asked."""

    location: str = ""
    status: int = 200
    requests: list[web.Request] = field(factory=list)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        return web.json_response({}, status=self.status, headers={"Location": self.location, "Set-Cookie": f"spy={TOKEN}; Path=/"})

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
    """Whatever a gateway or a file host redirects, the other origin hears nothing; a cookie is given back to nobody (P16)."""
    async with Elsewhere() as other, Elsewhere(location=f"{other.url}/?sign={TOKEN}", status=status) as gateway:
        async with KlingSession(KEY, base_url=gateway.url) as kling:
            ref = f"kling1,{gateway.url},videos,text2video,8800,,"
            link = Video(id="900", url=f"{gateway.url}/v.mp4?sign={TOKEN}")
            for call in (kling.submit(FOX), kling.get(ref), kling.get(ref), kling.save([link], tmp_path)):
                with pytest.raises(KlingError) as raised:
                    await call
                assert TOKEN not in f"{raised.value!r}{raised.value.__cause__!r}{raised.value.__context__!r}"
        assert [request.method for request in gateway.requests] == ["POST", "GET", "GET", "GET"]
        assert [request.headers.get("Authorization") for request in gateway.requests] == [f"Bearer {KEY}"] * 3 + [None]
        assert not any("Cookie" in request.headers for request in gateway.requests)
        assert other.requests == []


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
