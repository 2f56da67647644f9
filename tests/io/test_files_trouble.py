from __future__ import annotations

import asyncio
import os
import traceback
from pathlib import Path

import pytest
from aiohttp import web

from file_hosts import CANARY, MP4, REF, WAYS, FileHost, Handler, contents, file_host, names, quiet, serving
from kling_async._clock import SystemClock
from kling_async.errors import DownloadError, KlingError, ResultExpiredError, TransportError
from kling_async.files import Entry, Files
from kling_async.hosts import Hosts
from kling_async.models import Video

pytestmark = pytest.mark.usefixtures("nothing_is_left")

host = pytest.fixture(file_host, params=WAYS)


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
    "redirect": (serving(b"", status=302, headers={"Location": "http://127.0.0.1:1/x"}), DownloadError, "connect"),
    "partial": (serving(MP4, status=206), DownloadError, "HTTP 206"),
    "403": (serving(b"no", status=403), ResultExpiredError, "expired"),
    "404": (serving(b"no", status=404), ResultExpiredError, "expired"),
    "410": (serving(b"no", status=410), ResultExpiredError, "expired"),
    "xml": (serving(b"<Error/>", content_type="application/xml"), ResultExpiredError, "expired"),
    "html": (serving(b"<html>", content_type="text/html"), ResultExpiredError, "expired"),
}


async def test_a_stalled_download(host: FileHost, tmp_path: Path) -> None:
    """A connection that brings nothing for a minute is given up, and the download after four of them."""
    begun = asyncio.get_running_loop().time()
    with pytest.raises(DownloadError, match="timeout"):
        await host.files.save([host.video(host.stall)], tmp_path, ref=REF)
    assert 240 <= asyncio.get_running_loop().time() - begun <= 250
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


@pytest.mark.row("N9")
async def test_encodings_are_not_unpacked(host: FileHost, tmp_path: Path) -> None:
    """What a host packs though nobody asked is refused, and neither blown up nor saved as it came."""
    with pytest.raises(DownloadError, match="packed"):
        await host.files.save([host.video(serving(b"\x1f\x8bpacked", headers={"Content-Encoding": "gzip"}))], tmp_path, ref=REF)
    assert names(tmp_path) == []


PRIVATE = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "0.0.0.0")
ODD = ("localhost", "a.localhost.", "0x7f.1", "0x7f000001", "2130706433", "127.1", "0177.0.0.1", "127.0.0.1.", "１２７.0.0.1", "127。1")  # noqa: RUF001
OLD = ("[::127.0.0.1]", "[fec0::1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1/v.mp4", "must be https"),
        *((f"https://{address}/v.mp4", "private network") for address in (*PRIVATE, *ODD, *OLD)),
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
    hosts = Hosts()
    try:
        video = Video(id="1", url=url.replace("/v.mp4", f":{port}/v.mp4"))
        with pytest.raises(DownloadError, match=why) as refused:
            await Files(hosts, SystemClock(), lambda _: None).save([video], tmp_path, ref=REF)
    finally:
        await hosts.aclose()
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
    opened = os.open

    def full(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith(".part"):
            Path(path).symlink_to("/dev/full")
            return opened("/dev/full", os.O_RDWR)
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(DownloadError, match=r"cannot write .*8800.* after 0 bytes: No space left"):
        await host.files.save([host.video(serving())], tmp_path, ref=REF)
    assert names(tmp_path) == []


async def test_slow_and_steady(host: FileHost, tmp_path: Path) -> None:
    """A download that takes long, and brings more than 1 KiB/s, is waited for."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(MP4))})
        await response.prepare(request)
        for start in range(0, len(MP4), 70_000):
            await asyncio.sleep(50)
            await response.write(MP4[start : start + 70_000])
        return response

    (path,) = await host.files.save([host.video(handle)], tmp_path, ref=REF)
    assert path.read_bytes() == MP4
    assert len(host.requests) == 1


@pytest.mark.row("N2")
async def test_a_part_as_the_whole(host: FileHost, tmp_path: Path) -> None:
    """A part that is served as if it were the whole, to somebody who asked for no part, is no file."""
    part = serving(MP4[1000:], headers={"Content-Range": f"bytes 1000-{len(MP4) - 1}/{len(MP4)}"})
    with pytest.raises(DownloadError, match="a part of the file"):
        await host.files.save([host.video(part)], tmp_path, ref=REF)
    assert names(tmp_path) == []


async def test_large_files_are_streamed(host: FileHost, tmp_path: Path) -> None:
    """A file larger than what is held at a time arrives whole."""
    large = os.urandom(1 << 20) * 5 + b"end"
    (path,) = await host.files.save([host.video(serving(large))], tmp_path, ref=REF)
    assert path.read_bytes() == large


@pytest.mark.row("N12")
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
    await host.files.save([host.video(handle)], tmp_path / "left alone", ref=REF)
    await quiet(tmp_path)
    assert {(path, data == large) for path, data in contents(tmp_path)} == {("8800.mp4", True)}
    assert finished <= len(contents(tmp_path)) < len(names(tmp_path))


async def test_closing_during_a_download(host: FileHost, tmp_path: Path) -> None:
    """Closing the transport ends the downloads under way and those that would follow, with an error and without litter."""
    entries = [host.video(host.stall, f"v{number}") for number in range(12)]
    saving = asyncio.ensure_future(host.files.save(entries, tmp_path, ref=REF))
    await asyncio.sleep(10)
    await host.files.hosts.aclose()
    with pytest.raises(KlingError):
        await saving
    assert names(tmp_path) == []
    assert len(host.requests) == 8
