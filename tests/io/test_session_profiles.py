from __future__ import annotations

import asyncio
import struct
import traceback
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kling_async import (
    ApiError,
    ContentPolicyError,
    GenerateImage,
    Image,
    Image2Video,
    Job,
    KeyPair,
    KlingSession,
    LipSync,
    NotFoundError,
    Status,
    SubmitOutcomeUnknown,
    TaskFailedError,
    TaskRef,
    Text2Video,
    Video,
    VideoExtend,
    VirtualTryOn,
)
from kling_async.emulator import Emulator

pytestmark = pytest.mark.usefixtures("nothing_is_left")

CANARY = "sk-c4n4ry"
FOX = Text2Video(prompt="a red fox", model_name="kling-v2-6", duration=5)
PROFILES = ("gateway", "official", "newapi", "onehub")
PICTURE = "https://files.example/fox.png"


def png(side: int) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes((side + 1) * side))) + chunk(b"IEND", b"")


JOBS: dict[str, tuple[Job[Any], type[Video | Image], str]] = {
    "generate_image": (GenerateImage(prompt="a red fox", n=2), Image, ".png"),
    "text2video": (FOX, Video, ".mp4"),
    "image2video": (Image2Video(image=png(320), prompt="run"), Video, ".mp4"),
    "video_extend": (VideoExtend(video_id="900"), Video, ".mp4"),
    "lip_sync": (LipSync(video_id="900", text="hello", voice_id="v1", voice_language="en"), Video, ".mp4"),
    "virtual_try_on": (VirtualTryOn(human_image=PICTURE, cloth_image=PICTURE), Image, ".png"),
}


def session(emulator: Emulator, key: str | KeyPair = CANARY, **options: Any) -> KlingSession:
    """A session with an emulator, whichever profile that has."""
    official = emulator.health["profile"] == "official"
    return KlingSession(key, base_url=emulator.url, profile="official" if official else "gateway", **options)


@pytest.fixture(params=PROFILES)
async def any_emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    """Each kind of server in turn."""
    async with Emulator(profile=request.param, seed=7) as made:
        yield made


@pytest.fixture
async def anyone(any_emulator: Emulator) -> AsyncIterator[KlingSession]:
    """A session with each kind of server in turn."""
    async with session(any_emulator) as made:
        yield made


def everything(error: BaseException) -> str:
    """All that the most talkative traceback shows."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


async def test_all_endpoints_at_once(any_emulator: Emulator, anyone: KlingSession, tmp_path: Path) -> None:
    """All endpoints work side by side: each is accepted once, gives its kind of entries, and saves them."""
    handles = await asyncio.gather(*(getattr(anyone, verb)(**fields(job)) for verb, (job, _, _) in JOBS.items()))
    results = await asyncio.gather(*handles)
    for handle, result, (job, kind, extension) in zip(handles, results, JOBS.values(), strict=True):
        assert handle.ref.route == str(job.route)
        assert {type(entry) for entry in result} == {kind}
        assert len(result) == job.slots
        paths = await handle.save(tmp_path)
        assert [path.suffix for path in paths] == [extension] * len(result)
        assert len(set(paths)) == len(paths)
        assert all(path.stat().st_size > 100 for path in paths)
    assert sorted(task.route for task in any_emulator.log.tasks) == sorted(str(job.route) for job, _, _ in JOBS.values())


def fields(job: Job[Any]) -> dict[str, Any]:
    """What was said of a job."""
    names = (
        "prompt",
        "n",
        "model_name",
        "duration",
        "image",
        "video_id",
        "text",
        "voice_id",
        "voice_language",
        "human_image",
        "cloth_image",
    )
    return {name: value for name in names if (value := getattr(job, name, None)) is not None}


async def test_following(any_emulator: Emulator, anyone: KlingSession) -> None:
    """A task is seen from its submission to its end, with few reads, and knows its clip's length."""
    handle = await anyone.submit(FOX)
    seen = [snapshot.status async for snapshot in handle.updates() if snapshot.status is not Status.UNKNOWN]
    assert seen[-1] is Status.SUCCEED
    assert sorted(seen, key=list(Status).index) == seen
    (video,) = await handle
    assert video.duration == 5.0
    assert handle.status is Status.SUCCEED
    assert len(any_emulator.log.reads_for(handle.task_id)) < 40


async def test_failing(anyone: KlingSession) -> None:
    """A task that fails says why, and how it is found again."""
    handle = await anyone.text2video(prompt="a fox [fail: too dark]")
    with pytest.raises(TaskFailedError) as failed:
        await handle
    assert failed.value.reason == "too dark"
    assert failed.value.ref == handle.ref
    assert (await anyone.get(handle.ref)).status is handle.status is Status.FAILED


async def test_refused(any_emulator: Emulator, anyone: KlingSession) -> None:
    """A refused prompt is an error of its own, as far as the server lets the code through, and one request."""
    with pytest.raises(ApiError) as refused:
        await anyone.text2video(prompt="a fox [block]", external_task_id="mine")
    assert isinstance(refused.value, ContentPolicyError) or any_emulator.health["profile"] in {"newapi", "onehub"}
    assert not refused.value.retryable
    assert len(any_emulator.log.posts_for("mine")) == 1
    assert any_emulator.log.tasks == []


async def test_attaching(anyone: KlingSession) -> None:
    """A reference as text finds the task again, in any session with that server."""
    handle = await anyone.submit(FOX)
    text = str(handle.ref)
    again = anyone.attach(text)
    assert (again.snapshot is None) is False or again.status is Status.UNKNOWN
    assert await again == await handle
    assert (await anyone.get(text)).videos == await handle


async def test_attaching_in_another_session(any_emulator: Emulator, anyone: KlingSession) -> None:
    """A second session follows the task by its reference alone, at once, and gets the same clip."""
    handle = await anyone.submit(FOX)
    (video,) = await handle
    async with session(any_emulator) as other:
        attached = other.attach(str(handle.ref))
        assert (attached.snapshot, attached.done) == (None, False)
        before = asyncio.get_running_loop().time()
        (again,) = await attached
        assert asyncio.get_running_loop().time() == before
        assert (again.id, again.duration) == (video.id, video.duration)
    assert len(any_emulator.log.tasks) == 1


async def test_unknown_tasks(any_emulator: Emulator, anyone: KlingSession) -> None:
    """A reference to nothing is not found: at once when asked, and after a few looks when waited for."""
    ref = TaskRef(origin=any_emulator.url, action="videos", action2="text2video", task_id="404")
    with pytest.raises(NotFoundError):
        await anyone.get(ref)
    with pytest.raises(NotFoundError) as gone:
        await anyone.attach(ref)
    assert gone.value.ref == ref


async def test_full(any_emulator: Emulator) -> None:
    """When all slots are taken, a creation waits for one; none is lost, and none is bought twice."""
    profile = any_emulator.health["profile"]
    async with Emulator(profile=profile, slots={"video": 2}) as small, session(small) as kling:
        assert len(await asyncio.gather(*(kling.run(FOX) for _ in range(5)))) == 5
        assert len(small.log.tasks) == 5
        assert len({task.external_task_id for task in small.log.tasks}) == 5


@pytest.mark.parametrize("fault", ["drop", "reset", "truncated", "html", "empty", "garbage_json", "status", "hang"])
@pytest.mark.parametrize("accepted", [True, False])
async def test_lost_answers(any_emulator: Emulator, anyone: KlingSession, fault: str, *, accepted: bool) -> None:
    """When the answer to a creation is lost or useless, it is found where that is possible, and never asked for again (P1, P2)."""
    any_emulator.fault(fault, method="POST", accepted=accepted)
    finds = any_emulator.health["profile"] == "official" and accepted
    try:
        handle = await anyone.text2video(prompt="a fox", external_task_id="mine")
    except SubmitOutcomeUnknown as error:
        unknown: SubmitOutcomeUnknown | None = error
    else:
        unknown = None
        assert handle.task_id == any_emulator.log.tasks[0].id
    assert (unknown is None) is finds
    if unknown:
        assert (unknown.external_task_id, unknown.billed) == ("mine", None)
        assert CANARY not in everything(unknown)
    assert len(any_emulator.log.posts_for("mine")) == 1
    assert len(any_emulator.log.tasks) == accepted


@pytest.mark.parametrize("code", [1302, 1303])
async def test_busy(any_emulator: Emulator, anyone: KlingSession, code: int) -> None:
    """A service that is busy is asked again, under the same key."""
    any_emulator.fault("code", code=code, method="POST", times=3)
    handle = await anyone.text2video(prompt="a fox", external_task_id="mine")
    assert len(any_emulator.log.posts_for("mine")) == 4
    assert [task.id for task in any_emulator.log.tasks] == [handle.task_id]


NOISE = (
    "drop",
    "reset",
    "truncated",
    "html",
    "empty",
    "garbage_json",
    "hang",
    "not_found",
    "string_code",
    "stale",
    "unknown_status",
    "chunked",
)


@pytest.mark.parametrize("fault", NOISE)
async def test_noisy_reads(any_emulator: Emulator, anyone: KlingSession, fault: str) -> None:
    """Whatever befalls a few reads, the wait goes on to its result (P9)."""
    handle = await anyone.submit(FOX)
    any_emulator.fault(fault, method="GET", times=3)
    assert len(await handle) == 1
    assert any_emulator.orders[0].hits >= 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 524])
async def test_failing_reads(any_emulator: Emulator, anyone: KlingSession, status: int) -> None:
    """An outage during a wait is sat out."""
    handle = await anyone.submit(FOX)
    any_emulator.fault("status", status=status, method="GET", times=5)
    assert len(await handle) == 1


@pytest.mark.parametrize("fault", ["odd_duration", "no_index"])
async def test_odd_results(any_emulator: Emulator, anyone: KlingSession, fault: str) -> None:
    """Results with oddities that were seen in the wild are results."""
    any_emulator.fault(fault, times=None)
    videos, images = await asyncio.gather(anyone.run(FOX), anyone.run(GenerateImage(prompt="a fox", n=3)))
    assert videos[0].duration == (5.041 if fault == "odd_duration" else 5.0)
    assert [image.index for image in images] == [0, 1, 2]
