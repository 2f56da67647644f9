"""Results as streams and into writers, and what is told and recorded of files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve

from file_hosts import REF, WAYS, Asked, ByteHost, byte_host, clip, reply, rest, whole
from kling_async import Artifact, Journal, KlingSession, Text2Video
from kling_async.emulator import Emulator
from kling_async.errors import DownloadError, JournalError, ResultExpiredError
from kling_async.files import Entry
from kling_async.observers import Progress, Record, Saved

pytestmark = pytest.mark.usefixtures("nothing_is_left")

host = pytest.fixture(byte_host, params=WAYS)

DATA, OTHER = clip(3_000_000), clip(3_000_000, seed=1)
SHA256 = hashlib.sha256(DATA).hexdigest()
TAG = 'ETag: "one"'
CUT = reply(200, f"Content-Length: {len(DATA)}", TAG, body=DATA[:1_000_000])
SAVED = Saved(path=None, size=len(DATA), sha256=SHA256, verified="length", ref=REF)


class Writer:
    """Somewhere for bytes to go, one write at a time."""

    def __init__(self, pause: float = 90) -> None:  # longer than a host may be silent
        self.pause = pause
        self.data = bytearray()
        self.largest = 0

    async def write(self, data: bytes) -> int:
        await asyncio.sleep(self.pause)
        self.data += data
        self.largest = max(self.largest, len(data))
        return len(data)


async def test_streaming(host: ByteHost) -> None:
    """A stream that ends without an error was the whole file, and is told as such."""
    host.answer = lambda _: (whole(DATA, TAG),)
    assert b"".join([piece async for piece in host.files.stream(host.video(), ref=REF)]) == DATA
    assert host.records[-1] == SAVED


@pytest.mark.parametrize("ranges", [True, False])
async def test_streams_go_on(host: ByteHost, *, ranges: bool) -> None:
    """A stream that breaks goes on where it was; where the host begins again, what was given is compared and left out."""

    def again(asked: Asked) -> bytes:
        return rest(DATA, asked.start, TAG) if ranges else whole(DATA, TAG)

    host.answer = lambda asked: (again(asked) if asked.number else CUT,)
    assert b"".join([piece async for piece in host.files.stream(host.video(), ref=REF)]) == DATA
    assert host.records[-1] == SAVED


@pytest.mark.parametrize("changed", [OTHER, clip(900_000)])
async def test_streams_that_changed(host: ByteHost, changed: bytes) -> None:
    """Two versions are never mixed in a stream: one that changed in between is an error."""
    host.answer = lambda asked: (whole(changed, 'ETag: "two"') if asked.number else CUT,)
    writer = Writer(pause=0)
    with pytest.raises(DownloadError, match="changed while it was read"):
        await host.files.copy(host.video(), writer)
    assert writer.data == DATA[: len(writer.data)]


async def test_leaving_a_stream(host: ByteHost) -> None:
    """A stream that is left early lets go of its connection, and of its turn."""
    host.answer = lambda _: (whole(DATA, TAG),)
    for _ in range(20):
        async with contextlib.aclosing(host.files.stream(host.video())) as pieces:
            assert await anext(pieces)
    assert not any(isinstance(record, Saved) for record in host.records)


async def test_copying(host: ByteHost) -> None:
    """A writer gets all bytes, a few at a time; one that is slow is waited for, and that is not the host's fault."""
    host.answer = lambda asked: (rest(DATA, asked.start, TAG) if asked.start else whole(DATA, TAG),)
    writer = Writer()
    assert await host.files.copy(host.video(), writer, ref=REF) == SAVED
    assert writer.data == DATA
    assert writer.largest <= 4 << 20


async def test_streams_renew_their_link(host: ByteHost) -> None:
    """A dead link of a stream is asked for afresh by the entry's own id."""
    host.answer = lambda asked: (whole(DATA, TAG) if asked.number else reply(403),)

    async def refresh() -> tuple[Entry, ...]:
        return evolve(host.video(), id="899", url="https://wrong.example"), host.video()

    assert b"".join([piece async for piece in host.files.stream(host.video(), refresh=refresh)]) == DATA


async def test_how_old_an_expired_result_is(host: ByteHost, tmp_path: Path) -> None:
    """The error of an expired result tells the task and its age."""
    host.answer = lambda _: (reply(404),)
    old = evolve(REF, created_at=datetime.now(UTC) - timedelta(days=31))
    with pytest.raises(ResultExpiredError, match=r"31\.0 days ago") as expired:
        await host.files.save([host.video()], tmp_path, ref=old)
    assert expired.value.age == pytest.approx(31 * 86400, abs=60)


@pytest.mark.parametrize(("age", "requests"), [(5, 5), (3601, 2)])
async def test_a_file_that_is_not_there_yet(host: ByteHost, tmp_path: Path, age: float, requests: int) -> None:
    """Right after its task has ended a file may be late: it is asked for a few times more; a link of old is simply dead."""
    host.answer = lambda _: (reply(404),)
    made = evolve(REF, created_at=datetime.now(UTC) - timedelta(seconds=age))

    async def refresh() -> tuple[Entry, ...]:
        return (host.video(),)

    with pytest.raises(ResultExpiredError):
        await host.files.save([host.video()], tmp_path, ref=made, refresh=refresh)
    assert len(host.asked) == requests
    host.asked.clear()
    host.answer = lambda asked: (whole(DATA, TAG) if asked.number >= requests - 1 else reply(403),)
    (path,) = await host.files.save([host.video()], tmp_path, ref=made, refresh=refresh)
    assert path.read_bytes() == DATA


async def test_progress(host: ByteHost, tmp_path: Path) -> None:
    """Observers hear how far a download is, and in the end what it was."""
    host.answer = lambda _: (whole(DATA, TAG),)
    (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
    first, *_, last = host.records
    assert isinstance(first, Progress)
    assert (first.name, first.total, first.ref) == ("8800", len(DATA), REF)
    assert 0 < first.received <= len(DATA)
    assert last == evolve(SAVED, path=path)


async def test_a_crash_between_a_file_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has its name and no record is hashed and recorded by the next save; one that is cut off is not."""

    async def crash(*_: object) -> None:
        raise JournalError("the machine stopped")

    async with (
        Emulator() as emulator,
        Journal(tmp_path / "journal") as journal,
        KlingSession("sk-emulator", base_url=emulator.url, journal=journal, observers=[lambda _: None]) as kling,
    ):
        handle = await kling.submit(Text2Video(prompt="a fox"))
        key = handle.ref.external_task_id or ""
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "keep", crash)
            (path,) = await handle.save(tmp_path)
        data = path.read_bytes()
        for there, recorded in ((data[:-1], []), (data, [data]), (b"the user's", [data])):
            path.write_bytes(there)
            assert await handle.save(tmp_path) == (path,)
            found = [(artifact.path, artifact.size, artifact.sha256) for artifact in await journal.artifacts(key)]
            assert found == [(str(path), len(data), hashlib.sha256(data).hexdigest()) for data in recorded]
            assert path.read_bytes() == there


async def test_a_session_saves_streams_and_records(tmp_path: Path) -> None:
    """A session tells and journals what it saved; entries can be streamed, with a fresh link where the old one has expired."""
    records: list[Record] = []
    async with (
        Emulator() as emulator,
        Journal(tmp_path / "journal") as journal,
        KlingSession("sk-emulator", base_url=emulator.url, journal=journal, observers=[records.append]) as kling,
    ):
        handle = await kling.submit(Text2Video(prompt="a fox"))
        (path,) = await handle.save(tmp_path / "out")
        (saved,) = [record for record in records if isinstance(record, Saved)]
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        assert saved == Saved(path=path, size=len(data), sha256=sha256, verified="length", ref=handle.ref)
        key = handle.ref.external_task_id or ""
        (artifact,) = await journal.artifacts(key)
        assert artifact == Artifact(key=key, idx=0, path=str(path), size=len(data), sha256=sha256, validator=artifact.validator)
        assert artifact.validator.startswith('"')
        emulator.advance(2 * 86400)
        (video,) = await handle
        assert b"".join([piece async for piece in kling.stream(video, ref=handle.ref)]) == data
        writer = Writer()
        assert (await kling.copy(video, writer, ref=str(handle.ref))).sha256 == sha256
        (again,) = await kling.save([video], tmp_path / "again", ref=handle.ref)
        assert (again.name, again.read_bytes(), bytes(writer.data)) == (path.name, data, data)
