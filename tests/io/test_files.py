from __future__ import annotations

import asyncio
import os
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from attrs import define, field

from kling_async import media
from kling_async._auth import ApiKey
from kling_async._clock import SystemClock
from kling_async.errors import DownloadError, KlingError, ResultExpiredError, TransportError
from kling_async.files import _EXTENSIONS, Entry, Files, _Part
from kling_async.models import Audio, Image, TaskRef, Video
from kling_async.transport import Transport

pytestmark = pytest.mark.usefixtures("nothing_is_left")

MP4 = b"\0\0\0\x18ftypisom" + bytes(300_000)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(1000)
REF = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="8800")
CANARY = "sig-c4n4ry"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serving(data: bytes = MP4, **options: Any) -> Handler:
    """A handler that serves these bytes."""

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=data, **options)

    return handle


@define(eq=False)
class FileHost:
    """A host of result files on loopback; keeps the requests it got."""

    files: Files
    handlers: dict[str, Handler] = field(factory=dict)
    requests: list[web.Request] = field(factory=list)
    url: str = ""
    over: asyncio.Event = field(factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.handlers[request.path](request)

    async def stall(self, request: web.Request) -> web.StreamResponse:
        """Send something, then nothing."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(MP4[:200_000])
        await self.over.wait()
        return response

    def video(self, handler: Handler, name: str = "v") -> Video:
        """A clip whose file is served so."""
        self.handlers[f"/{name}"] = handler
        return Video(id="900", url=f"{self.url}/{name}?sign={CANARY}")


@pytest.fixture
async def host() -> AsyncIterator[FileHost]:
    """A file host, and a saver that may talk to it."""
    transport = Transport(ApiKey("sk-c4n4ry"), SystemClock(), public_only=False)
    made = FileHost(Files(transport))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.over.set()
    await transport.aclose()
    await runner.cleanup()


def names(directory: Path) -> list[str]:
    """All there is in a directory."""
    return sorted(path.name for path in directory.iterdir())


def contents(directory: Path) -> list[tuple[str, bytes]]:
    """The files one level down, by name."""
    return [(path.name, path.read_bytes()) for path in directory.glob("*/*")]


async def quiet(directory: Path) -> None:
    """Let threads end that are still at work for a save that was given up."""
    for _ in range(500):
        if not any(path.suffix == ".part" for path in directory.rglob(".*")):
            break
        await anyio.to_thread.run_sync(time.sleep, 0.01)


async def test_saving(host: FileHost, tmp_path: Path) -> None:
    """A result is saved whole, under the task's id, into a directory that is made for it; nothing else is left there."""
    target = tmp_path / "deep" / "er"
    saved = await host.files.save([host.video(serving())], target, ref=REF)
    assert saved == (target / "8800.mp4",)
    assert saved[0].read_bytes() == MP4
    assert names(target) == ["8800.mp4"]


async def test_nothing_to_save(host: FileHost, tmp_path: Path) -> None:
    """No entries are no files, and no directory."""
    assert await host.files.save([], tmp_path / "out") == ()
    assert not (tmp_path / "out").exists()


async def test_many_entries(host: FileHost, tmp_path: Path) -> None:
    """Several entries are numbered in their order, whatever order they come in; a few are fetched at a time."""
    under_way = at_most = 0

    def slowly(data: bytes, seconds: float) -> Handler:
        async def handle(_request: web.Request) -> web.Response:
            nonlocal under_way, at_most
            under_way += 1
            at_most = max(at_most, under_way)
            await asyncio.sleep(seconds)
            under_way -= 1
            return web.Response(body=data)

        return handle

    images = []
    for number in range(20):
        host.handlers[f"/{number}"] = slowly(PNG + bytes([number]), 20 - number)
        images.append(Image(index=number, url=f"{host.url}/{number}"))
    saved = await host.files.save(images, tmp_path, ref=REF)
    assert [path.name for path in saved] == [f"8800-{number}.png" for number in range(20)]
    assert [path.read_bytes()[-1] for path in saved] == list(range(20))
    assert at_most == 8


@pytest.mark.parametrize(
    ("entry", "ref", "name"),
    [
        (Video(id="900", url="u"), REF, "8800"),
        (Video(id="900", url="u"), None, "900"),
        (Audio(id="a/../b c", url="u"), None, "a____b_c"),
        (Video(id="../../etc/x", url="u"), None, "______etc_x"),
        (Video(id="x" * 500, url="u"), None, "x" * 96),
        (Video(id="\u202egnp.exe\0", url="u"), None, "_gnp_exe_"),
        (Video(id="CON", url="u"), None, "CON"),
    ],
)
async def test_names_are_made_here(host: FileHost, tmp_path: Path, entry: Video | Audio, ref: TaskRef | None, name: str) -> None:
    """A file is named after its task or its own id, reduced to harmless characters, whatever link and headers say (P24)."""
    host.handlers["/%2e%2e%2fevil"] = host.handlers["/../evil"] = serving(
        headers={"Content-Disposition": 'attachment; filename="../evil.sh"'}
    )
    entry = type(entry)(id=entry.id, url=f"{host.url}/%2e%2e%2fevil")
    saved = await host.files.save([entry], tmp_path / "out", ref=ref)
    assert [path.relative_to(tmp_path) for path in saved] == [Path("out") / f"{name}.mp4"]
    assert names(tmp_path) == ["out"]


async def test_entries_without_an_id(host: FileHost, tmp_path: Path) -> None:
    """A picture without a task is named after its link without the signature, so that it is known again."""
    host.handlers["/a"] = serving(PNG)
    first, second = Image(index=0, url=f"{host.url}/a?sign=1"), Image(index=0, url=f"{host.url}/a?sign=2")
    saved = await host.files.save([first], tmp_path)
    assert saved == await host.files.save([second], tmp_path)
    assert len(host.requests) == 1
    assert len(saved[0].stem) == 16


@pytest.mark.parametrize(
    ("data", "extension"),
    [(MP4, ".mp4"), (PNG, ".png"), (b"\xff\xd8\xff\xe0", ".jpg"), (b"RIFF\0\0\0\0WAVE", ".wav"), (b"<svg>", ".bin"), (b"MZ\x90", ".bin")],
)
async def test_the_extension_is_the_contents(host: FileHost, tmp_path: Path, data: bytes, extension: str) -> None:
    """The ending of a name comes from the first bytes, and not from what the host calls them (N15)."""
    (path,) = await host.files.save([host.video(serving(data, content_type="video/mp4"))], tmp_path, ref=REF)
    assert path.name == f"8800{extension}"


async def test_all_extensions_are_known() -> None:
    """Whatever ending a file may get is looked for when it may be there already."""
    assert {extension for _, extension, _ in media._MAGIC} | {".bin"} <= set(_EXTENSIONS)


@pytest.mark.parametrize("name", ["8800.mp4", "8800.png"])
async def test_what_is_there_is_left_alone(host: FileHost, tmp_path: Path, name: str) -> None:
    """A file that is there counts as saved: it is neither fetched nor touched."""
    (tmp_path / name).write_bytes(b"mine")
    saved = await host.files.save([host.video(serving())], tmp_path, ref=REF)
    assert saved == (tmp_path / name,)
    assert saved[0].read_bytes() == b"mine"
    assert host.requests == []


async def test_overwriting(host: FileHost, tmp_path: Path) -> None:
    """When asked to, a file that is there is replaced as a whole."""
    (tmp_path / "8800.mp4").write_bytes(b"mine")
    (path,) = await host.files.save([host.video(serving())], tmp_path, ref=REF, overwrite=True)
    assert path.read_bytes() == MP4
    assert names(tmp_path) == ["8800.mp4"]


async def test_a_file_that_appears_meanwhile_is_left_alone(host: FileHost, tmp_path: Path) -> None:
    """Who is faster wins: a file that appeared during the download is kept, and nothing else is left."""

    async def handle(_request: web.Request) -> web.Response:
        (tmp_path / "8800.mp4").write_bytes(b"theirs")
        return web.Response(body=MP4)

    (path,) = await host.files.save([host.video(handle)], tmp_path, ref=REF)
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["8800.mp4"]


async def test_saving_the_same_at_once(host: FileHost, tmp_path: Path) -> None:
    """Two saves of one result at the same time give one whole file."""
    video = host.video(serving())
    one, two = await asyncio.gather(*(host.files.save([video], tmp_path, ref=REF) for _ in range(2)))
    assert one == two == (tmp_path / "8800.mp4",)
    assert one[0].read_bytes() == MP4
    assert names(tmp_path) == ["8800.mp4"]


async def test_links_in_the_way(host: FileHost, tmp_path: Path) -> None:
    """A link under the name is replaced, never followed; a directory under the name is an error (N4)."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "8800.mp4").symlink_to(tmp_path / "precious")
    await host.files.save([host.video(serving())], tmp_path / "out", ref=REF)
    assert not (tmp_path / "precious").exists()
    (tmp_path / "dir" / "8800.mp4").mkdir(parents=True)
    with pytest.raises(DownloadError, match="cannot write"):
        await host.files.save([host.video(serving())], tmp_path / "dir", ref=REF)
    assert names(tmp_path / "dir") == ["8800.mp4"]


async def cut(request: web.Request) -> web.StreamResponse:
    """Promise more than there is."""
    response = web.StreamResponse(headers={"Content-Length": str(len(MP4))})
    await response.prepare(request)
    await response.write(MP4[:200_000])
    assert request.transport is not None
    request.transport.abort()
    return response


TROUBLES: dict[str, tuple[Handler, type[DownloadError], str]] = {
    "cut": (cut, DownloadError, "broke off"),
    "empty": (serving(b""), DownloadError, "empty file"),
    "500": (serving(b"no", status=500), DownloadError, "HTTP 500"),
    "redirect": (serving(b"", status=302, headers={"Location": "http://127.0.0.1:1/x"}), DownloadError, "HTTP 302"),
    "partial": (serving(MP4, status=206), DownloadError, "HTTP 206"),
    "403": (serving(b"no", status=403), ResultExpiredError, "expired"),
    "404": (serving(b"no", status=404), ResultExpiredError, "expired"),
    "410": (serving(b"no", status=410), ResultExpiredError, "expired"),
    "xml": (serving(b"<Error/>", content_type="application/xml"), ResultExpiredError, "expired"),
    "html": (serving(b"<html>", content_type="text/html"), ResultExpiredError, "expired"),
}


async def test_a_stalled_download(host: FileHost, tmp_path: Path) -> None:
    """A download that brings nothing for a minute is given up."""
    begun = asyncio.get_running_loop().time()
    with pytest.raises(DownloadError, match="timeout"):
        await host.files.save([host.video(host.stall)], tmp_path, ref=REF)
    assert asyncio.get_running_loop().time() - begun == pytest.approx(60.0, abs=0.1)
    assert names(tmp_path) == []


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_trouble(host: FileHost, tmp_path: Path, trouble: str) -> None:
    """A download that fails says so, leaves nothing behind, and shows no signature, not even in the most talkative traceback (P15, P21)."""
    handler, kind, text = TROUBLES[trouble]
    with pytest.raises(DownloadError, match=text) as failed:
        await host.files.save([host.video(handler)], tmp_path, ref=REF)
    assert type(failed.value) is kind
    assert failed.value.ref == REF
    assert failed.value.url == f"{host.url}/v"
    assert names(tmp_path) == []
    shown = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
    assert "in save" in shown
    assert CANARY not in shown


async def test_one_failure_hides_no_file(host: FileHost, tmp_path: Path) -> None:
    """Of several entries those that can be saved are, whole; the first that could not is told."""
    entries = [host.video(serving(), "a"), host.video(cut, "b"), host.video(serving(), "c")]
    with pytest.raises(DownloadError, match="/b"):
        await host.files.save(entries, tmp_path, ref=REF)
    assert names(tmp_path) == ["8800-0.mp4", "8800-2.mp4"]


async def test_expired_links_are_renewed(host: FileHost, tmp_path: Path) -> None:
    """However many links have expired, the task is asked once for fresh ones, and those are followed."""
    asked = 0
    fresh = [host.video(serving(MP4 + bytes([number])), f"fresh{number}") for number in range(3)]

    async def refresh() -> tuple[Entry, ...]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(1)
        return tuple(fresh)

    dead = [host.video(serving(b"no", status=403), f"dead{number}") for number in range(3)]
    saved = await host.files.save(dead, tmp_path, ref=REF, refresh=refresh)
    assert [path.read_bytes()[-1] for path in saved] == [0, 1, 2]
    assert asked == 1


@pytest.mark.parametrize("fresh", [0, 1])
async def test_links_that_stay_dead(host: FileHost, tmp_path: Path, fresh: int) -> None:
    """A link that is dead again, or gone, is expired, and is not asked for again."""
    dead = host.video(serving(b"no", status=404))

    async def refresh() -> tuple[Entry, ...]:
        return (dead,) * fresh

    with pytest.raises(ResultExpiredError) as expired:
        await host.files.save([dead], tmp_path, ref=REF, refresh=refresh)
    assert not expired.value.retryable
    assert len(host.requests) == 1 + fresh
    assert names(tmp_path) == []


async def test_trouble_while_renewing(host: FileHost, tmp_path: Path) -> None:
    """When fresh links cannot be asked for, that is the error."""

    async def refresh() -> tuple[Entry, ...]:
        msg = "no reply"
        raise TransportError(msg)

    with pytest.raises(TransportError):
        await host.files.save([host.video(serving(b"", status=403))], tmp_path, ref=REF, refresh=refresh)


async def test_the_key_stays_here(host: FileHost, tmp_path: Path) -> None:
    """The file host gets neither key nor cookie, and is asked for the file as it is (P16)."""
    for number in range(2):
        handler = serving(headers={"Set-Cookie": "spy=1"})
        await host.files.save([host.video(handler, f"v{number}")], tmp_path / str(number), ref=REF)
    for request in host.requests:
        assert "Authorization" not in request.headers
        assert "Cookie" not in request.headers
        assert request.headers["Accept-Encoding"] == "identity"
        assert "c4n4ry" not in str(dict(request.headers))


async def test_encodings_are_not_unpacked(host: FileHost, tmp_path: Path) -> None:
    """What a host packs though nobody asked is not blown up on the way to the disk (N9)."""
    (path,) = await host.files.save([host.video(serving(b"\x1f\x8bpacked", headers={"Content-Encoding": "gzip"}))], tmp_path, ref=REF)
    assert path.read_bytes() == b"\x1f\x8bpacked"


PRIVATE = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "0.0.0.0")
NAMES = ("localhost", "0x7f.1", "0x7f000001")
ODD = ("2130706433", "127.1", "0177.0.0.1")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1/v.mp4", "must be https"),
        *((f"https://{address}/v.mp4", "private network") for address in PRIVATE),
        *((f"https://{name}/v.mp4", "dns") for name in NAMES),
        *((f"https://{address}/v.mp4", "broken") for address in ODD),
        ("https://me:pw@127.0.0.1/v.mp4", "credentials"),
        ("ftp://127.0.0.1/v.mp4", "must be https"),
        ("file:///etc/hostname", "must be https"),
        ("//127.0.0.1/v.mp4", "must be https"),
        ("https://", "must be https"),
        ("https://[/v.mp4", "no address"),
        ("", "must be https"),
    ],
)
async def test_links_that_are_not_followed(tmp_path: Path, url: str, why: str) -> None:
    """A link into a private network, in the clear or with credentials is refused, however it is written; nobody is connected to (P25)."""
    connections: list[asyncio.StreamWriter] = []
    listening = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    transport = Transport(ApiKey("sk"), SystemClock())
    try:
        with pytest.raises(DownloadError, match=why) as refused:
            await Files(transport).save([Video(id="1", url=url.replace("/v.mp4", f":{port}/v.mp4"))], tmp_path, ref=REF)
    finally:
        await transport.aclose()
        listening.close()
        for writer in connections:
            writer.close()
    assert not isinstance(refused.value, ResultExpiredError)
    assert connections == []
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["https://me:pw@127.0.0.1/v", "file:///etc/hostname", "https://[/", ""])
async def test_links_that_are_never_followed(host: FileHost, tmp_path: Path, url: str) -> None:
    """Even where loopback is allowed, a link is http without credentials."""
    with pytest.raises(DownloadError, match="refused"):
        await host.files.save([Video(id="1", url=url)], tmp_path, ref=REF)


async def test_trouble_with_the_disk(host: FileHost, tmp_path: Path) -> None:
    """What the disk refuses is told with the place, and is no trouble of the network (N3)."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"directory .*file"):
        await host.files.save([host.video(serving())], tmp_path / "file", ref=REF)
    with pytest.raises(DownloadError, match=r"directory .*file"):
        await host.files.save([host.video(serving())], tmp_path / "file" / "out", ref=REF)

    async def vanish(_request: web.Request) -> web.Response:
        (tmp_path / "gone").rmdir()
        return web.Response(body=MP4)

    with pytest.raises(DownloadError, match=r"cannot write .*gone"):
        await host.files.save([host.video(vanish)], tmp_path / "gone", ref=REF)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
async def test_a_full_disk(host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told as that, and leaves nothing."""
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: opened(Path("/dev/full"), "wb") if path.suffix == ".part" else opened(path, mode))
    with pytest.raises(DownloadError, match="No space left"):
        await host.files.save([host.video(serving())], tmp_path, ref=REF)
    assert names(tmp_path) == []


async def test_large_files_are_streamed(host: FileHost, tmp_path: Path) -> None:
    """A file larger than what is held at a time arrives whole."""
    large = os.urandom(1 << 20) * 5 + b"end"
    (path,) = await host.files.save([host.video(serving(large))], tmp_path, ref=REF)
    assert path.read_bytes() == large


async def test_cancelling_at_any_time(host: FileHost, tmp_path: Path) -> None:
    """A save that is cancelled leaves the whole file or nothing, whichever thread was at work (N12)."""
    large = MP4 * 12

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(large))})
        await response.prepare(request)
        for start in range(0, len(large), 100_000):
            await response.write(large[start : start + 100_000])
            await asyncio.sleep(0)
        return response

    finished = 0
    for turns in [*range(0, 60, 2), *range(60, 600, 15)]:
        target = tmp_path / str(turns)
        saving = asyncio.ensure_future(host.files.save([host.video(handle)], target, ref=REF))
        for _ in range(turns):
            await asyncio.sleep(0)
        saving.cancel()
        await asyncio.wait([saving])
        finished += not saving.cancelled()
    await quiet(tmp_path)
    assert {(path, data == large) for path, data in contents(tmp_path)} == {("8800.mp4", True)}
    assert finished <= len(contents(tmp_path)) < len(names(tmp_path))


async def test_a_thread_that_outlives_its_save_cleans_up(tmp_path: Path) -> None:
    """What a thread still writes for a save that was given up is removed by that thread, when it is done."""
    part = _Part(tmp_path / "8800", "u", REF)
    begun, end = threading.Event(), threading.Event()

    def write() -> None:
        part.temporary.write_bytes(b"half")
        begun.set()
        end.wait()

    saving = asyncio.ensure_future(part._in_thread(write))
    await anyio.to_thread.run_sync(begun.wait)
    saving.cancel()
    await asyncio.wait([saving])
    part.discard()
    assert names(tmp_path) == [part.temporary.name]
    end.set()
    await quiet(tmp_path)
    assert names(tmp_path) == []


async def test_closing_during_a_download(host: FileHost, tmp_path: Path) -> None:
    """Closing the transport ends the downloads under way and those that would follow, with an error and without litter."""
    entries = [host.video(host.stall, f"v{number}") for number in range(12)]
    saving = asyncio.ensure_future(host.files.save(entries, tmp_path, ref=REF))
    await asyncio.sleep(10)
    await host.files.transport.aclose()
    with pytest.raises(KlingError):
        await saving
    assert names(tmp_path) == []
    assert len(host.requests) == 8
