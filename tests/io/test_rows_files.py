"""Downloads, row by row: resuming, redirects, hostile hosts (`reliability.md` 4.9)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from file_hosts import CANARY, PNG, REF, WAYS, Answer, ByteHost, FileHost, byte_host, clip, file_host, names, reply, rest, serving, whole
from kling_async._clock import SystemClock
from kling_async._links import is_public
from kling_async.errors import DownloadError, ResultExpiredError
from kling_async.files import Entry, Files
from kling_async.hosts import REDIRECTS, Hosts
from kling_async.models import Video

pytestmark = pytest.mark.usefixtures("nothing_is_left")

host = pytest.fixture(byte_host, params=WAYS)
web_host = pytest.fixture(file_host, params=WAYS)

DATA, OTHER = clip(200_000), clip(200_000, seed=1)
CUT = 150_000
TAG, WEAK, DATE = 'ETag: "one"', 'ETag: W/"one"', "Last-Modified: Sun, 01 Nov 2026 10:00:00 GMT"


def cut_first(*headers: str, then: Answer) -> Answer:
    """Three quarters of the file, then whatever."""
    begun = reply(200, f"Content-Length: {len(DATA)}", *headers, body=DATA[:CUT])
    return lambda asked: (begun,) if asked.number == 0 else then(asked)


def honest(*headers: str) -> Answer:
    """What a good host says to a range, and to none."""
    return lambda asked: (rest(DATA, asked.start, *headers) if asked.start else whole(DATA, *headers),)


def at_first(first: bytes) -> Answer:
    """One strange reply to a range; after that all is well."""
    return lambda asked: (first,) if asked.number == 1 else honest(TAG)(asked)


SHORT = rest(DATA, CUT, TAG, end=CUT + 10_000)
RESUMED: dict[str, tuple[Answer, bytes, list[int]]] = {
    # What is said; what the file is in the end; from where each request asked.
    "206 right": (cut_first(TAG, then=honest(TAG)), DATA, [0, CUT]),
    "206 right, by date": (cut_first(DATE, then=honest(DATE)), DATA, [0, CUT]),
    "206 wrong start": (cut_first(TAG, then=at_first(rest(DATA, CUT - 1, TAG))), DATA, [0, CUT, 0]),
    "206 short": (cut_first(TAG, then=at_first(SHORT)), DATA, [0, CUT, CUT + 10_000]),
    "206 shorter than it says": (cut_first(TAG, then=at_first(rest(DATA, CUT, TAG)[:-1000])), DATA, [0, CUT, 199_000]),
    "206 without Content-Range": (cut_first(TAG, then=at_first(reply(206, TAG, body=DATA[CUT:]))), DATA, [0, CUT, 0]),
    "206 of another length": (cut_first(TAG, then=at_first(rest(DATA + b"x", CUT, TAG))), DATA, [0, CUT, 0]),
    "206 of another version": (cut_first(TAG, then=at_first(rest(OTHER, CUT, 'ETag: "two"'))), DATA, [0, CUT, 0]),
    "200 to a range": (cut_first(TAG, then=lambda _: (whole(DATA, TAG),)), DATA, [0, CUT]),
    "200 carrying a range": (
        cut_first(TAG, then=at_first(rest(DATA, CUT, TAG).replace(b"206", b"200", 1))),
        DATA,
        [0, CUT, 0],
    ),
    "200 with the rest": (cut_first(TAG, then=at_first(whole(DATA[CUT:], TAG))), DATA, [0, CUT, 0]),
    "416 of another length": (cut_first(TAG, then=at_first(reply(416, "Content-Range: bytes */150001"))), DATA, [0, CUT, 0]),
    "416 without a length": (cut_first(TAG, then=at_first(reply(416))), DATA, [0, CUT, 0]),
    "changed ETag": (cut_first(TAG, then=lambda _: (whole(OTHER, 'ETag: "two"'),)), OTHER, [0, CUT]),
    "weak ETag": (cut_first(WEAK, then=lambda asked: (whole(OTHER, WEAK),) if not asked.start else ()), OTHER, [0, 0]),
    "weak ETag with a date": (cut_first(WEAK, DATE, then=honest(WEAK)), DATA, [0, 0]),
    "no validator": (cut_first(then=honest()), DATA, [0, 0]),
    "changed this second": (cut_first(DATE, DATE.replace("Last-Modified", "Date"), then=honest()), DATA, [0, 0]),
    "503, then well": (cut_first(TAG, then=at_first(reply(503, "Retry-After: 7"))), DATA, [0, CUT, CUT]),
}


@pytest.mark.row("N2")
@pytest.mark.parametrize("kind", RESUMED)
async def test_resuming(host: ByteHost, tmp_path: Path, kind: str) -> None:
    """A download goes on only where validator, start and total agree, and else begins again: the file is always exactly right."""
    host.answer, right, starts = RESUMED[kind]
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    assert path.read_bytes() == right
    assert [asked.start for asked in host.asked] == starts
    assert all(("if-range" in asked.headers) == bool(asked.start) for asked in host.asked)
    assert names(tmp_path) == ["8800.mp4"]


@pytest.mark.row("N2")
async def test_416_to_a_whole_file(host: ByteHost, tmp_path: Path) -> None:
    """A file that came without a length is whole when the host says that nothing is behind it."""
    sound = b"\xff\xf1" + bytes(1000)  # AAC, whose frames have no end
    host.answer = lambda asked: (reply(416, "Content-Range: bytes */1002", TAG) if asked.start else reply(200, TAG, body=sound),)
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    assert path.read_bytes() == sound
    assert [asked.start for asked in host.asked] == [0, 1002]


@pytest.mark.row("N1")
@pytest.mark.parametrize("data", [DATA[:CUT], PNG, b"\xff\xf1" + bytes(1000), b"<svg>"])
async def test_no_end_is_no_file(host: ByteHost, tmp_path: Path, data: bytes) -> None:
    """What ends with the connection is a file only when its own structure says that it is whole."""
    host.answer = lambda _: (reply(200, body=data),)
    with pytest.raises(DownloadError, match=r"cut off|whether the file is whole"):
        await host.files.save([host.video()], tmp_path, ref=REF)
    assert names(tmp_path) == []
    host.answer = lambda _: (reply(200, body=DATA),)
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    assert path.read_bytes() == DATA


class Rebinding(AbstractResolver):
    """Tells a public address first, and loopback when asked again."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        address = "93.184.216.34" if self.asked.count(host) == 1 else "127.0.0.1"
        return [{"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


@pytest.mark.row("N6")
@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://example.com/v", "https"),
        ("file:///etc/passwd", "https"),
        ("https://me:pw@example.com/v", "credentials"),
        ("https://10.0.0.1/v", "private network"),
        ("https://[::ffff:169.254.169.254]/v", "private network"),
        ("https://[64:ff9b::7f00:1]/v", "private network"),
        ("https://rebound.example/v", "private network"),
        ("//", "https"),
        ("https://[", "https"),
    ],
)
async def test_redirects_that_are_not_followed(
    web_host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, why: str
) -> None:
    """Where a redirect leads is checked as the link was, down to the address that is connected to."""
    resolver = Rebinding()
    await resolver.resolve("rebound.example")
    hosts = Hosts(allowed=lambda address: is_public(address) and address != "203.0.113.1", resolver=lambda: resolver)
    answers = iter([web_host.video(serving(status=302, headers={"Location": location})).url])
    # The first hop cannot be https on a public address here: it is fetched from the host on loopback, the second by the rules.
    plain = Hosts(public_only=False)
    ask = Hosts._get

    async def get(self: Hosts, url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        return await ask(plain, first, headers) if (first := next(answers, "")) else await ask(self, url, headers)

    monkeypatch.setattr(Hosts, "_get", get)
    with pytest.raises(DownloadError, match=why) as refused:
        await Files(hosts, SystemClock(), lambda _: None).save([Video(id="1", url="https://example.com/v")], tmp_path)
    assert not refused.value.retryable
    assert len(web_host.requests) == 1
    assert names(tmp_path) == []
    await hosts.aclose()
    await plain.aclose()


@pytest.mark.row("N6", "N7")
@pytest.mark.parametrize("hops", [1, REDIRECTS, REDIRECTS + 1, None])
async def test_redirects(web_host: FileHost, tmp_path: Path, hops: int | None) -> None:
    """Up to three redirects are followed, without key or cookie; a fourth, or a loop, is refused (P25)."""

    async def handle(request: web.Request) -> web.StreamResponse:
        number = int(request.query.get("n", "0"))
        if hops is None or number < hops:
            response = web.Response(status=307, headers={"Location": f"/v?n={number + 1 if hops else 0}"})
            response.set_cookie("spy", "1")
            return response
        return web.Response(body=DATA)

    saving = web_host.files.save([web_host.video(handle)], tmp_path, ref=REF)
    if hops in {1, REDIRECTS}:
        (path,) = await saving
        assert path.read_bytes() == DATA
    else:
        with pytest.raises(DownloadError, match="redirects more than 3 times"):
            await saving
    for request in web_host.requests:
        assert {"Authorization", "Cookie", "X-API-Key", "Referer"}.isdisjoint(request.headers)


@pytest.mark.row("N8")
@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_link_that_dies_in_the_middle(host: ByteHost, tmp_path: Path, status: int) -> None:
    """A link that expires while it is read is asked for afresh, once, and the download goes on where it was."""
    asks = 0

    async def refresh() -> tuple[Entry, ...]:
        nonlocal asks
        asks += 1
        return (host.video(),)

    host.answer = cut_first(TAG, then=lambda asked: (reply(status),) if asked.number == 1 else honest(TAG)(asked))
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF, refresh=refresh)
    assert path.read_bytes() == DATA
    assert [asked.start for asked in host.asked] == [0, CUT, CUT]
    assert asks == 1


@pytest.mark.row("N8")
@pytest.mark.parametrize("page", [b"<?xml version='1.0'?><Error/>", b"\n<!DOCTYPE html><html>", b"\xef\xbb\xbf<html>", b"<Error><Code/>"])
async def test_pages_under_another_name(host: ByteHost, tmp_path: Path, page: bytes) -> None:
    """An error page is an expired link also where the host calls it a video."""
    host.answer = lambda _: (whole(page, "Content-Type: video/mp4"),)
    with pytest.raises(ResultExpiredError, match="expired") as expired:
        await host.files.save([host.video()], tmp_path, ref=REF)
    assert expired.value.ref == REF
    assert names(tmp_path) == []


@pytest.mark.row("N10")
@pytest.mark.parametrize("kind", ["told", "endless", "absurd"])
async def test_too_large(host: ByteHost, tmp_path: Path, kind: str) -> None:
    """A file above the cap is refused by its length, or cut off once it is above; nothing stays on the disk."""

    def endless() -> Iterator[bytes]:
        yield reply(200, TAG)
        yield from repeat(DATA)

    told = reply(200, f"Content-Length: {10 * 2**30 if kind == 'told' else '9' * 18}", TAG, body=DATA)
    host.answer = lambda _: endless() if kind == "endless" else (told,)
    with pytest.raises(DownloadError, match=r"the file has .* bytes") as refused:
        await host.files.save([host.video()], tmp_path, ref=REF, max_size=3_000_000 if kind == "endless" else 2 * 2**30)
    assert not refused.value.retryable
    assert len(host.asked) == 1
    assert names(tmp_path) == []


@pytest.mark.row("N11")
async def test_a_trickle(web_host: FileHost, tmp_path: Path) -> None:
    """Less than 1 KiB/s over a minute is given up; what came is kept for another try, which goes on there."""
    large = clip(1_500_000)
    starts: list[str | None] = []

    async def drip(request: web.Request) -> web.StreamResponse:
        starts.append(request.headers.get("Range"))
        start = int((starts[-1] or "bytes=0-")[6:-1])
        headers = {"ETag": '"one"', "Content-Length": str(len(large) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(large) - 1}/{len(large)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        await response.write(large[start : 1_200_000 if start < 1_200_000 else start + 1])
        while request.transport is not None and not request.transport.is_closing():
            await response.write(large[:1])
            await asyncio.sleep(1)
        return response

    begun = asyncio.get_running_loop().time()
    with pytest.raises(DownloadError, match="timeout"):
        await web_host.files.save([web_host.video(drip)], tmp_path, ref=REF)
    assert asyncio.get_running_loop().time() - begun < 500
    await asyncio.sleep(2)
    part, sidecar = names(tmp_path)
    assert (part.endswith(".part"), sidecar) == (True, f"{part}.json")
    assert CANARY not in (tmp_path / sidecar).read_text()
    kept = (tmp_path / part).stat().st_size
    assert kept > 1_200_000

    async def well(request: web.Request) -> web.StreamResponse:
        assert request.headers["Range"] == f"bytes={kept}-"
        return web.Response(status=200, body=large, headers={"ETag": '"one"'})

    (path,) = await web_host.files.save([web_host.video(well)], tmp_path, ref=REF)
    assert path.read_bytes() == large
    assert names(tmp_path) == ["8800.mp4"]
