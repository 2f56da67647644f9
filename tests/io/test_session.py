from __future__ import annotations

import asyncio
import base64
import struct
import traceback
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from kling_async import (
    ALL_JOBS,
    AuthenticationError,
    ConfigurationError,
    Image2Video,
    InvalidJobError,
    InvalidRefError,
    KeyPair,
    KlingSession,
    Polling,
    Status,
    SubmitOutcomeUnknown,
    TaskRef,
    TaskTimeoutError,
    Text2Video,
    TransportTimeoutError,
)
from kling_async._clock import SystemClock
from kling_async.emulator import Emulator

pytestmark = pytest.mark.usefixtures("nothing_is_left")

CANARY = "sk-c4n4ry"
FOX = Text2Video(prompt="a red fox", model_name="kling-v2-6", duration=5)


def png(side: int) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes((side + 1) * side))) + chunk(b"IEND", b"")


def session(emulator: Emulator, key: str | KeyPair = CANARY, **options: Any) -> KlingSession:
    """A session with an emulator, which may be the official service."""
    official = emulator.health["profile"] == "official"
    return KlingSession(key, base_url=emulator.url, profile="official" if official else "gateway", **options)


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway that runs in the loop's own time."""
    async with Emulator(seed=7) as made:
        yield made


@pytest.fixture
async def kling(emulator: Emulator) -> AsyncIterator[KlingSession]:
    """A session with the gateway."""
    async with session(emulator) as made:
        yield made


def everything(error: BaseException) -> str:
    """All that the most talkative traceback shows."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


async def test_a_thousand_awaiters(emulator: Emulator, kling: KlingSession) -> None:
    """A thousand awaiters of one task cause the reads of one, and 999 of them may leave (P6, P7)."""
    alone = await kling.submit(FOX)
    await alone
    crowded = await kling.submit(FOX)
    waiters = [asyncio.ensure_future(crowded.wait()) for _ in range(1000)]
    await asyncio.sleep(60)
    for waiter in waiters[1:]:
        waiter.cancel()
    assert len(await waiters[0]) == 1
    assert all(waiter.cancelled() for waiter in waiters[1:])
    assert len(emulator.log.reads_for(crowded.task_id)) <= len(emulator.log.reads_for(alone.task_id)) + 5  # the first has taught


async def test_two_handles_one_stream(emulator: Emulator, kling: KlingSession) -> None:
    """Handles of one task share what is known and the reads, however they were made."""
    handle = await kling.submit(FOX)
    other = kling.attach(str(handle.ref))
    await asyncio.gather(handle, other)
    reads = len(emulator.log.reads_for(handle.task_id))
    await asyncio.gather(handle, other, kling.attach(handle.ref))
    assert len(emulator.log.reads_for(handle.task_id)) == reads


async def test_one_look(emulator: Emulator, kling: KlingSession) -> None:
    """`get` and `refresh` read exactly once, and keep all that was sent."""
    handle = await kling.submit(FOX)
    snapshot = await kling.get(handle.ref)
    assert (snapshot.task_id, snapshot.status, snapshot.raw["code"]) == (handle.task_id, Status.SUBMITTED, 0)
    assert await handle.refresh() == snapshot
    assert len(emulator.log.reads_for(handle.task_id)) == 2


async def test_every_verb_is_its_class(kling: KlingSession) -> None:
    """Each job's verb takes what its class takes, and refuses what that refuses, before anything is sent."""
    with pytest.raises(InvalidJobError) as invalid:
        await kling.text2video(prompt="", model_name="kling-v2-6")
    assert invalid.value.field == "prompt"
    with pytest.raises(TypeError, match="promt"):
        await kling.text2video(promt="a fox")  # type: ignore[call-arg]  # the mistake
    for job in ALL_JOBS:
        verb = job.verb
        assert getattr(KlingSession, verb).__name__ == verb
        assert getattr(KlingSession, verb).__doc__


async def test_invalid_jobs_open_no_socket(emulator: Emulator, kling: KlingSession, tmp_path: Path) -> None:
    """What can be refused here is not sent (P5)."""
    (tmp_path / "fox.png").write_bytes(png(320))
    job = Image2Video(image=tmp_path / "fox.png", prompt="run")
    (tmp_path / "fox.png").unlink()
    with pytest.raises(InvalidJobError, match="image"):
        await kling.submit(job)
    with pytest.raises(ConfigurationError, match="timeout"):
        await kling.submit(FOX, timeout=-1)
    with pytest.raises(TransportTimeoutError):
        await kling.submit(FOX, timeout=0)
    assert emulator.log.requests == []


async def test_files_are_sent_as_base64(emulator: Emulator, kling: KlingSession, tmp_path: Path) -> None:
    """A picture arrives as it is in its file."""
    (tmp_path / "fox.png").write_bytes(png(320))
    await kling.image2video(image=tmp_path / "fox.png", prompt="run")
    (post,) = emulator.log.requests
    assert post.body["image"].startswith(base64.b64encode(png(320)).decode()[:20])
    assert post.size > len(png(320)) * 4 / 3


async def test_every_task_can_be_found_again(emulator: Emulator, kling: KlingSession) -> None:
    """Every creation carries a key of its own, and its reference knows it, though the gateway does not repeat it."""
    mine = await kling.text2video(prompt="a fox", external_task_id="mine")
    made = await kling.text2video(prompt="a fox")
    keys = [task.external_task_id for task in emulator.log.tasks]
    assert [mine.ref.external_task_id, made.ref.external_task_id] == keys
    assert keys[0] == "mine"
    assert mine.ref.created_at is not None


async def test_bounds(emulator: Emulator, kling: KlingSession) -> None:
    """Waiting ends on time with the reference; the task goes on and can be waited for again (P11)."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(TaskTimeoutError) as late:
        await kling.run(FOX, timeout=30)
    assert loop.time() - begun == pytest.approx(30, abs=0.1)
    assert len(await kling.attach(late.value.ref)) == 1
    assert len(emulator.log.tasks) == 1


async def test_an_overdue_creation_becomes_an_orphan(emulator: Emulator, kling: KlingSession) -> None:
    """A creation that outlives its caller's bound is settled in the background, and its task is listed (P2)."""
    emulator.fault("slow", method="POST", seconds=20, pieces=4)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(SubmitOutcomeUnknown) as unknown:
        await kling.submit(FOX, timeout=5)
    assert loop.time() - begun == pytest.approx(5, abs=0.1)
    assert kling.orphans() == ()
    await asyncio.sleep(60)
    (orphan,) = kling.orphans()
    assert orphan.external_task_id == unknown.value.external_task_id
    assert len(await kling.attach(orphan)) == 1
    assert len(emulator.log.tasks) == 1


async def test_a_cancelled_creation_becomes_an_orphan(emulator: Emulator, kling: KlingSession) -> None:
    """Cancelling a creation under way leaves at once, and its task is listed (P3)."""
    emulator.fault("slow", method="POST", seconds=20, pieces=4)
    with anyio.move_on_after(5):
        await kling.submit(FOX)
    await asyncio.sleep(60)
    assert [orphan.task_id for orphan in kling.orphans()] == [task.id for task in emulator.log.tasks]
    assert len(kling.orphans()) == 1


async def test_a_cancelled_run_becomes_an_orphan(emulator: Emulator, kling: KlingSession) -> None:
    """Who calls `run` never sees a handle: when it is cancelled, its task is listed (P2)."""
    with anyio.move_on_after(60):
        await kling.run(FOX)
    assert [orphan.task_id for orphan in kling.orphans()] == [task.id for task in emulator.log.tasks]


async def test_expired_links_are_renewed(emulator: Emulator, kling: KlingSession, tmp_path: Path) -> None:
    """Saving long after the end asks once for fresh links."""
    handle = await kling.submit(FOX)
    await handle
    emulator.advance(2 * 86400)
    reads = len(emulator.log.reads_for(handle.task_id))
    (path,) = await handle.save(tmp_path)
    assert path.name == f"{handle.task_id}.mp4"
    assert len(emulator.log.reads_for(handle.task_id)) == reads + 1


async def test_saving_entries(kling: KlingSession, tmp_path: Path) -> None:
    """Entries are saved without their handle too; what is there already is left alone."""
    videos = await kling.run(FOX)
    (path,) = await kling.save(videos, tmp_path)
    assert path.name == f"{videos[0].id}.mp4"
    path.write_bytes(b"mine")
    assert await kling.save(videos, tmp_path) == (path,)
    assert path.read_bytes() == b"mine"


async def test_the_key_goes_to_the_gateway_alone(emulator: Emulator, kling: KlingSession, tmp_path: Path) -> None:
    """Creations and reads carry the key, downloads do not (P16)."""
    await (await kling.submit(FOX)).save(tmp_path)
    carried = {(seen.route == "files", "authorization" in {name.lower() for name in seen.headers}) for seen in emulator.log.requests}
    assert carried == {(False, True), (True, False)}


async def test_paid_requests_have_their_own_connections(emulator: Emulator, kling: KlingSession) -> None:
    """No creation shares a connection with anything (row 17)."""
    await asyncio.gather(*(kling.run(FOX) for _ in range(5)))
    posts = [seen.peer for seen in emulator.log.requests if seen.method == "POST"]
    reads = {seen.peer for seen in emulator.log.requests if seen.method == "GET"}
    assert len(set(posts)) == len(posts) == 5
    assert not set(posts) & reads


async def test_a_wrong_key() -> None:
    """A wrong key is told at once, without being repeated: when creating, asking and waiting (P15)."""
    async with Emulator(api_keys=["sk-right"]) as closed, session(closed) as wrong:
        ref = TaskRef(origin=closed.url, action="videos", action2="text2video", task_id="1")
        for call in (wrong.submit(FOX), wrong.get(ref), wrong.attach(ref).wait()):
            with pytest.raises(AuthenticationError) as refused:
                await call
            assert CANARY not in everything(refused.value)
            assert CANARY not in repr(refused.value) + repr(vars(refused.value))


async def test_a_revoked_key() -> None:
    """A key that is revoked during a wait ends it after the error budget, with the reference (K8)."""
    async with Emulator() as emulator, session(emulator, polling=Polling(error_budget=60.0)) as kling:
        handle = await kling.submit(FOX)
        emulator.fault("code", code=1002, method="GET", times=None)
        with pytest.raises(TaskTimeoutError, match="1002") as late:
            await handle
        assert late.value.ref == handle.ref


async def test_signed_tokens() -> None:
    """A key pair signs tokens that the service takes, and signs them anew while a session lasts."""
    async with Emulator(profile="official", access_keys={"ak": CANARY}) as emulator:
        pair = KeyPair(access_key="ak", secret_key=CANARY)
        async with session(emulator, pair) as kling:
            assert len(await kling.run(FOX)) == 1
            assert CANARY not in repr(kling)
        with pytest.raises(AuthenticationError):
            async with session(emulator, KeyPair(access_key="ak", secret_key="wrong")) as kling:
                await kling.run(FOX)


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_clock_that_is_wrong(hours: int) -> None:
    """A token refused for its time is signed by the server's clock: once refused, once sent, one task (D6)."""

    class Wrong(SystemClock):
        def wall(self) -> float:
            return super().wall() + hours * 3600

    async with Emulator(profile="official", access_keys={"ak": "sk"}) as emulator:
        async with session(emulator, KeyPair(access_key="ak", secret_key="sk"), clock=Wrong()) as kling:
            assert len(await kling.run(FOX)) == 1
        assert [seen.status for seen in emulator.log.requests if seen.method == "POST"] == [401, 200]
        assert len(emulator.log.tasks) == 1


async def test_from_the_environment(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and address come from the environment when they are not given; without them the message says which to set."""
    for name in ("KLING_API_KEY", "KLING_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="KLING_BASE_URL"):
        KlingSession("sk-1")
    with pytest.raises(ConfigurationError, match="KLING_API_KEY"):
        KlingSession(base_url=emulator.url)
    monkeypatch.setenv("KLING_API_KEY", emulator.api_key)
    monkeypatch.setenv("KLING_BASE_URL", emulator.url)
    async with KlingSession() as kling:
        assert len(await kling.run(FOX)) == 1


@pytest.mark.parametrize("bad", [f"{CANARY}\n", f" {CANARY}", "", f"{CANARY}\u00e9"])
async def test_what_cannot_be_a_key(emulator: Emulator, bad: str) -> None:
    """A key that no header can carry is refused without being repeated (V13)."""
    with pytest.raises(ConfigurationError) as refused:
        KlingSession(bad, base_url=emulator.url)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://gateway.example", "https://me:pw@gateway.example", "gateway.example", "https://gateway.example?key=1"]
)
async def test_what_cannot_be_an_address(url: str) -> None:
    """An address that would give the key away, or is none, is refused (V14)."""
    with pytest.raises(ConfigurationError) as refused:
        KlingSession("sk-1", base_url=url)
    assert "pw" not in str(refused.value)


async def test_refs_of_others(emulator: Emulator, kling: KlingSession) -> None:
    """What is no reference, or another gateway's, is refused without any request."""
    theirs = TaskRef(origin="https://other.example", action="videos", action2="text2video", task_id="1")
    nonsense: Any
    for nonsense in ("8800", "", None, 8800, b"kling1"):
        with pytest.raises(InvalidRefError):
            kling.attach(nonsense)
        with pytest.raises(InvalidRefError):
            await kling.get(nonsense)
    with pytest.raises(ConfigurationError, match=r"other\.example"):
        kling.attach(str(theirs))
    assert emulator.log.requests == []


@pytest.mark.parametrize("task_id", ["..", "../images", "a/../../b"])
async def test_hostile_refs(emulator: Emulator, kling: KlingSession, task_id: str) -> None:
    """No reference leads a request out of its route (V12)."""
    ref = TaskRef(origin=emulator.url, action="videos", action2="text2video", task_id=task_id)
    with pytest.raises(InvalidRefError):
        await kling.get(ref)
    with pytest.raises(InvalidRefError):
        await kling.attach(ref)
    assert emulator.log.requests == []


async def test_reading_with_a_session_of_ones_own(emulator: Emulator) -> None:
    """A given aiohttp session reads, and stays open; creations and downloads do not use it."""
    async with aiohttp.ClientSession(headers={"X-Mine": "1"}, raise_for_status=True) as http:
        async with session(emulator, http=http) as kling:
            assert len(await kling.run(FOX)) == 1
        assert not http.closed
    mine = {(seen.method, "x-mine" in {name.lower() for name in seen.headers}) for seen in emulator.log.requests}
    assert mine == {("POST", False), ("GET", True)}
