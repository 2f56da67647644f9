"""Large files are received past aiohttp's parser: whole over every transport, cut where they are cut, and no faster than they are taken."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from file_hosts import MP4, REF, Asked, ByteHost, FileHost, byte_host, bytes_from, clip, file_host, reply, rest, serving, whole
from kling_async._fault import ConfigurationError
from kling_async.hosts import LARGE
from kling_async.models import TaskRef
from kling_async.observers import Progress, Saved
from kling_async.testing import VirtualLoop, no_leaks

clean = pytest.mark.usefixtures("nothing_is_left")
host = pytest.fixture(byte_host)
web_host = pytest.fixture(file_host)

CERTIFICATES = Path(__file__).parent / "certificates"
MIB = 1 << 20
DATA = clip(LARGE + 5 * MIB + 321)
TAG = 'ETag: "one"'
CUT = LARGE // 2 + 5
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": VirtualLoop}
if sys.platform != "win32":
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


def torn(asked: Asked) -> Iterator[bytes]:
    """All of the file, but the first connection breaks in the middle."""
    if asked.number:
        yield rest(DATA, asked.start, TAG)
    else:
        yield reply(200, f"Content-Length: {len(DATA)}", TAG, body=DATA[:CUT])


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_over_every_transport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str, *, encrypted: bool) -> None:
    """A file arrives byte by byte as it is, in the clear and encrypted, in each event loop, also when it breaks off in between."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "trusted.pem")

    async def save() -> None:
        left = no_leaks() if loop == "asyncio" else contextlib.nullcontext()  # uvloop opens sockets of its own as it likes
        async with left, bytes_from(tls=context if encrypted else None) as host:
            host.answer = torn
            (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
            assert path.read_bytes() == DATA
            *_, saved = host.records
            assert isinstance(saved, Saved)
            assert (saved.size, saved.sha256, saved.verified) == (len(DATA), hashlib.sha256(DATA).hexdigest(), "length")
            assert [asked.start for asked in host.asked] == [0, CUT]
            host.asked.clear()
            streamed = b"".join([piece async for piece in host.files.stream(host.video(), ref=REF)])
            assert streamed == DATA

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(save())


@clean
async def test_closing_meanwhile(host: ByteHost) -> None:
    """A session that is closed waits for no large file; the file is not taken for whole."""
    host.answer = lambda _: (whole(DATA, TAG),)
    pieces = host.files.stream(host.video(), ref=REF)
    assert await anext(pieces)
    assert await anext(pieces)
    async with asyncio.timeout(5):
        await host.files.hosts.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        async for _ in pieces:
            pass


@clean
async def test_progress_is_told_meanwhile(host: ByteHost, tmp_path: Path) -> None:
    """How far a large file is, is told while it comes, and so is its size."""
    host.answer = lambda _: (whole(DATA, TAG),)
    await host.files.save([host.video()], tmp_path, ref=REF)
    told = [record for record in host.records if isinstance(record, Progress)]
    assert {record.total for record in told} == {len(DATA)}
    assert 0 < told[0].received <= told[-1].received <= len(DATA)


@clean
async def test_no_further_than_was_said(host: ByteHost, tmp_path: Path) -> None:
    """What follows a body of that length does not belong to it."""
    host.answer = lambda _: (whole(DATA, TAG), b"HTTP/1.1 200 OK\r\n\r\n" + bytes(5 * MIB))
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    assert path.read_bytes() == DATA


@clean
async def test_no_faster_than_it_is_taken(host: ByteHost) -> None:
    """Who takes a piece and waits has little more sent than that: what is on its way stays in the system's buffers."""
    sent = 0

    def endless(_asked: Asked) -> Iterator[bytes]:
        nonlocal sent
        yield reply(200, f"Content-Length: {500 * MIB}", TAG)
        for _ in range(500):
            sent += 1
            yield bytes(MIB)

    host.answer = endless
    async with contextlib.aclosing(host.files.stream(host.video(), ref=REF)) as pieces:
        assert await anext(pieces)
        assert await anext(pieces)
        await asyncio.sleep(3600)
        assert sent < 40


@clean
@pytest.mark.parametrize(("silent", "waited"), [(5, 5), (3600, 60)])
async def test_silence(host: ByteHost, tmp_path: Path, silent: float, waited: float) -> None:
    """A host that falls silent in the middle of a large file is left when it closes, or after a minute, and asked for the rest."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = int((await reader.readuntil(b"\r\n\r\n")).decode().partition("bytes=")[2].partition("-")[0] or 0)
        writer.write(rest(DATA, start, TAG) if start else reply(200, f"Content-Length: {len(DATA)}", TAG, body=DATA[:CUT]))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(silent):
                await over.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    begun = asyncio.get_running_loop().time()
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    assert path.read_bytes() == DATA
    assert waited <= asyncio.get_running_loop().time() - begun < waited + 5
    over.set()
    server.close()
    await asyncio.sleep(0)


@clean
@pytest.mark.parametrize(("size", "connections"), [(len(MP4), 1), (len(DATA), 2)])
async def test_only_a_large_file_costs_a_connection(web_host: FileHost, tmp_path: Path, size: int, connections: int) -> None:
    """The connection that a usual file came over serves the next one; for a large one it is given up."""
    for number in range(2):
        ref = TaskRef(origin=REF.origin, action=REF.action, action2=REF.action2, task_id=str(number))
        await web_host.files.save([web_host.video(serving(DATA[:size]))], tmp_path, ref=ref)
    assert len({id(request.protocol) for request in web_host.requests}) == connections
