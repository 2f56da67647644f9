from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import pickle
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from kling_async import (
    ApiError,
    ConfigurationError,
    KlingError,
    KlingSession,
    Polling,
    SubmitOutcomeUnknown,
    TaskFailedError,
    TaskHandle,
    Text2Video,
    TransportError,
)
from kling_async.emulator import Emulator

pytestmark = pytest.mark.usefixtures("nothing_is_left")

CANARY = "sk-c4n4ry"
FOX = Text2Video(prompt="a red fox", model_name="kling-v2-6", duration=5)


def session(emulator: Emulator, **options: Any) -> KlingSession:
    """A session with an emulator."""
    return KlingSession(CANARY, base_url=emulator.url, **options)


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


async def test_made_outside_a_loop(emulator: Emulator) -> None:
    """A session is made where no loop runs, and belongs to the loop it is first used in (P29)."""
    url = emulator.url
    kling = await anyio.to_thread.run_sync(lambda: KlingSession(CANARY, base_url=url))
    assert len(await kling.run(FOX)) == 1
    await kling.aclose()


async def test_in_a_second_loop(emulator: Emulator, kling: KlingSession, tmp_path: Path) -> None:
    """Another loop, also in another thread, is refused with a clear word, and disturbs nobody at home (X5)."""
    handle, known = await kling.submit(FOX), await kling.submit(FOX)
    videos = await known

    async def elsewhere() -> None:
        calls = (kling.submit(FOX), kling.run(FOX), kling.get(handle.ref), kling.save(videos, tmp_path), kling.aclose())
        for call in (*calls, handle.wait(), handle.refresh(), known.save(tmp_path), kling.__aenter__(), kling.text2video(prompt="x")):
            with pytest.raises(ConfigurationError, match="another event loop"):
                await call
        with pytest.raises(ConfigurationError, match="another event loop"):
            async for _ in handle.updates():
                pass
        assert await known == videos

    await anyio.to_thread.run_sync(asyncio.run, elsewhere())
    assert len(await handle) == 1
    assert len(emulator.log.tasks) == 2


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that forking with threads is risky is known
async def test_in_a_forked_child(kling: KlingSession) -> None:
    """A forked child is refused with a clear word (P29)."""
    handle = await kling.submit(FOX)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of the test's own must run on in here
        try:
            asyncio.run(handle.wait())
        except ConfigurationError:
            os.write(writing, b"refused")
        finally:
            os._exit(0)
    os.close(writing)
    assert await anyio.to_thread.run_sync(os.read, reading, 100) == b"refused"
    os.close(reading)
    await anyio.to_thread.run_sync(os.waitpid, child, 0)


async def test_after_closing(emulator: Emulator, tmp_path: Path) -> None:
    """A closed session refuses with a clear word; what is known stays known; closing again is fine (P28)."""
    kling = session(emulator)
    known = await kling.submit(FOX)
    videos = await known
    handle = await kling.submit(FOX)
    waiter = asyncio.ensure_future(handle.wait())
    await asyncio.sleep(1)
    await kling.aclose()
    await kling.aclose()
    with pytest.raises(ConfigurationError, match="closed") as closed:
        await waiter
    assert str(handle.ref) in str(closed.value)
    for call in (
        kling.submit(FOX),
        kling.get(handle.ref),
        kling.save(videos, tmp_path),
        handle.wait(),
        handle.refresh(),
        known.save(tmp_path),
    ):
        with pytest.raises(ConfigurationError, match="closed"):
            await call
    assert await known == videos
    async with session(emulator) as other:
        assert len(await other.attach(str(handle.ref))) == 1


async def test_closing_unused() -> None:
    """A session that was never used closes, anywhere, and complains about nothing (L6)."""
    for _ in range(100):
        await KlingSession("sk-1", base_url="https://gateway.example").aclose()
    del _
    KlingSession("sk-1", base_url="https://gateway.example")


async def test_closing_with_much_under_way(emulator: Emulator) -> None:
    """Closing with creations, waits and queues under way loses no task that was accepted, and leaves nothing running (X6)."""
    kling = session(emulator, in_flight=30)
    emulator.fault("slow", method="POST", seconds=10, pieces=2, times=10)
    running = [await kling.submit(FOX) for _ in range(3)]
    waits = [asyncio.ensure_future(handle.wait()) for handle in running * 50]
    creations = [asyncio.ensure_future(kling.submit(FOX)) for _ in range(40)]
    await asyncio.sleep(3)
    begun = asyncio.get_running_loop().time()
    posts = sum(seen.method == "POST" for seen in emulator.log.requests)
    await kling.aclose()
    assert asyncio.get_running_loop().time() - begun <= 30.1
    assert sum(seen.method == "POST" for seen in emulator.log.requests) == posts
    outcomes = await asyncio.gather(*creations, return_exceptions=True)
    known = {outcome.task_id for outcome in outcomes if isinstance(outcome, TaskHandle)} | {handle.task_id for handle in running}
    assert {task.id for task in emulator.log.tasks} == known | {ref.task_id for ref in kling.orphans()}
    assert {type(outcome) for outcome in outcomes} <= {TaskHandle, ConfigurationError}
    assert {type(outcome) for outcome in await asyncio.gather(*waits, return_exceptions=True)} == {ConfigurationError}


@pytest.mark.parametrize("under_way", [False, True])
async def test_closing_in_a_cancelled_scope(emulator: Emulator, *, under_way: bool) -> None:
    """Leaving by a cancelled scope closes what was opened, and settles what was under way (W4)."""
    if under_way:
        emulator.fault("slow", method="POST", seconds=20, pieces=4)
    kling = session(emulator)
    with anyio.move_on_after(10):
        async with kling:
            await kling.run(FOX)
    assert len(kling.orphans()) == len(emulator.log.tasks) == 1


async def test_pickling(kling: KlingSession) -> None:
    """Handles, results, snapshots and errors pickle, without a session, a key or a loop (P20)."""
    handle = await kling.text2video(prompt="[fail]")
    with pytest.raises(TaskFailedError) as failed:
        await handle
    things = (handle, handle.snapshot, failed.value, await kling.run(FOX), FOX)
    data = pickle.dumps(things)
    ref, snapshot, error, videos, job = pickle.loads(data)
    assert (ref, snapshot, job) == (handle.ref, handle.snapshot, FOX)
    assert (type(error), str(error), error.ref) == (TaskFailedError, str(failed.value), handle.ref)
    assert videos == things[3]
    assert CANARY.encode() not in data
    again: object = copy.copy(handle)
    assert again == handle.ref


ELSEWHERE = """
import asyncio, json, os, pickle, sys
from kling_async import KlingSession, Polling

async def main():
    text, data = json.loads(sys.stdin.read())
    async with KlingSession(polling=Polling(first=0.05, interval=0.05)) as kling:
        by_text, by_pickle = kling.attach(text), kling.attach(pickle.loads(bytes.fromhex(data)))
        (video,) = await by_text
        assert await by_pickle == (video,)
        (path,) = await by_text.save(sys.argv[1])
        print(json.dumps([by_text.task_id, video.id, str(path)]))

asyncio.run(main())
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_in_another_process(tmp_path: Path) -> None:
    """A reference, as text or pickled, is all that another process needs to await and save the task."""
    async with Emulator(speed=1000) as emulator, session(emulator, polling=Polling.fixed(0.1)) as kling:
        handle = await kling.submit(FOX)
        given = json.dumps([str(handle.ref), pickle.dumps(handle).hex()])
        command = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
        environment = {**os.environ, "KLING_API_KEY": CANARY, "KLING_BASE_URL": emulator.url}
        answer = await anyio.run_process(command, input=given.encode(), env=environment, check=False)
        assert answer.returncode == 0, answer.stderr.decode()
        task_id, video_id, path = json.loads(answer.stdout)
        (video,) = await handle
        assert (task_id, video_id) == (handle.task_id, video.id)
        assert (tmp_path / path).stat().st_size > 1000
        assert len(emulator.log.tasks) == 1


async def test_leaving_without_closing() -> None:
    """A program that ends without closing ends without a traceback (X7)."""
    code = """
import asyncio
from kling_async import KlingSession, Polling, Text2Video
from kling_async.emulator import Emulator
async def main():
    async with Emulator(speed=1000) as emulator:
        kling = KlingSession("sk-1", base_url=emulator.url, polling=Polling.fixed(0.1))
        await kling.submit(Text2Video(prompt="a fox"))
        await kling.aclose()
        never = KlingSession("sk-1", base_url=emulator.url, polling=Polling.fixed(0.1))
        handle = await never.submit(Text2Video(prompt="a fox"))
        print(len(await handle))
asyncio.run(main())
"""
    answer = await anyio.run_process([sys.executable, "-c", code])
    assert answer.stdout == b"1\n"
    assert b"Traceback" not in answer.stderr


FAULTS = ("drop", "reset", "truncated", "html", "empty", "garbage_json", "status", "not_found")


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_error_shows_the_key(emulator: Emulator, kling: KlingSession, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """No error, traceback, pickle or log record of a session shows the key, a token or a signature (P15, X1, X2)."""
    caplog.set_level(logging.DEBUG)
    job = Text2Video(prompt="a fox", callback_url=f"https://me.example/hook?token={CANARY}")
    handle = await kling.submit(FOX)
    await handle
    emulator.fault(fault, times=None)
    found: list[str] = []
    for call in (kling.submit(job), kling.get(handle.ref), handle.refresh(), kling.attach(handle.ref).refresh()):
        with pytest.raises((ApiError, TransportError, SubmitOutcomeUnknown, KlingError)) as failed:
            await call
        found.append(everything(failed.value) + repr(failed.value) + str(failed.value.args))
    signature = handle.snapshot.videos[0].url.partition("?")[2] if handle.snapshot else ""
    assert signature
    for secret in (CANARY, signature):
        assert not [shown for shown in found if secret in shown]
        assert secret not in caplog.text
    assert CANARY not in repr(kling) + repr(handle)
    assert signature not in repr(handle.snapshot)
