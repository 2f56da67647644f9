from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from pathlib import Path

import anyio
import pytest
from attrs import evolve

from kling_async.errors import (
    KlingError,
    ProtocolError,
    TaskFailedError,
    TaskTimeoutError,
    TransportError,
)
from kling_async.models import Snapshot, Status
from kling_async.tasks import TaskHandle
from rooms import DROPPED, FAILED, PROCESSING, SUCCEEDED, VIDEO, Room, Videos, settle, snapshot

pytestmark = pytest.mark.usefixtures("nothing_is_left")


async def together(*handles: TaskHandle[Videos]) -> None:
    """Wait for all, as far as none fails."""
    async with asyncio.TaskGroup() as group:
        for handle in handles:
            group.create_task(handle.wait())


async def test_updates() -> None:
    """Iterating gives every change, from the present state on, the final one last."""
    room = Room()
    handle = room.handle(snapshot(Status.SUBMITTED), PROCESSING, DROPPED, PROCESSING, SUCCEEDED)
    assert [seen.status async for seen in handle.updates()] == [Status.SUBMITTED, Status.PROCESSING, Status.SUCCEED]
    assert [seen.status async for seen in handle.updates()] == [Status.SUCCEED]
    assert len(room.gateway.looks) == 5


async def test_updates_come_when_they_happen() -> None:
    """A change is told at the look that saw it, and not when the next one is."""
    room = Room()
    handle = room.handle(PROCESSING, PROCESSING, SUCCEEDED)
    times = [asyncio.get_running_loop().time() async for _ in handle.updates()]
    assert times[1:] == [room.gateway.looks[0][1], room.gateway.looks[2][1]]


async def test_updates_of_a_failed_task() -> None:
    """Failure is the last update, and no exception."""
    handle = Room().handle(PROCESSING, FAILED)
    assert [seen.status async for seen in handle.updates()] == [Status.SUBMITTED, Status.PROCESSING, Status.FAILED]


async def test_slow_readers_miss_nothing() -> None:
    """A reader who takes its time sees what happened meanwhile, in order, beside one who does not."""
    room = Room()
    words = [snapshot(Status.SUBMITTED), PROCESSING, evolve(PROCESSING, message="half"), SUCCEEDED]
    handle = room.handle(*words)

    async def read(pause: float) -> list[Snapshot]:
        seen = []
        async for each in handle.updates():
            seen.append(each)
            await asyncio.sleep(pause)
        return seen

    assert list(await asyncio.gather(read(0), read(100))) == [words, words]


async def test_updates_end_on_time() -> None:
    """An iteration has one bound as a whole, that of the polling."""
    room = Room()
    handle = room.handle(PROCESSING, evolve(PROCESSING, message="half"), timeout=60.0)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(TaskTimeoutError):
        async for _ in handle.updates():
            pass
    assert asyncio.get_running_loop().time() - begun == pytest.approx(60.0, abs=0.01)


@pytest.mark.row("W12")
async def test_updates_left_early() -> None:
    """Leaving an iteration leaves nothing behind (W12)."""
    room = Room()
    handle = room.handle(PROCESSING)
    updates = handle.updates()
    async for _ in updates:
        break
    await asyncio.sleep(100)
    assert room.gateway.looks == []
    assert room.idle


async def test_refreshing() -> None:
    """A refresh is one look now, whose news reaches the waiters too; its trouble is its own."""
    room = Room()
    handle = room.handle(PROCESSING, DROPPED, SUCCEEDED)
    waiter = asyncio.ensure_future(handle.wait())
    await settle()
    assert await handle.refresh() == PROCESSING
    with pytest.raises(TransportError):
        await handle.refresh()
    assert not waiter.done()
    assert await handle.refresh() == SUCCEEDED
    assert await waiter == (VIDEO,)
    assert len(room.gateway.looks) == 3


@pytest.mark.row("Q9")
async def test_another_tasks_reply_is_not_given_out() -> None:
    """A mixed-up reply is an error for who asked for it, and nothing of it is kept."""
    room = Room()
    handle = room.handle(snapshot(Status.SUCCEED, "t2"), PROCESSING)
    with pytest.raises(ProtocolError, match="another task"):
        await handle.refresh()
    assert not handle.done


async def test_saving_waits() -> None:
    """Saving waits for the result, and hands over what is needed to save it and to renew its links."""
    room = Room()
    handle = room.handle(PROCESSING, SUCCEEDED)
    assert await handle.save("out", overwrite=True) == (Path("out/v.mp4"),)
    assert room.files.asked == [((VIDEO,), handle.ref, True, (VIDEO,))]
    assert len(room.gateway.looks) == 3


@pytest.mark.row("W4", "W13")
async def test_scopes() -> None:
    """Every way to stop waiting stops the waiting alone: a scope, a timeout, a group's failure (W4)."""
    room = Room()
    handle = room.handle(*[PROCESSING] * 8, SUCCEEDED)
    with anyio.move_on_after(20):
        await handle
    with pytest.raises(TimeoutError) as late:
        async with asyncio.timeout(20):
            await handle
    assert not isinstance(late.value, KlingError)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    failing = room.handle(snapshot(Status.FAILED, "t2"), task_id="t2")
    with pytest.raises(ExceptionGroup) as group:
        await together(handle, failing)
    assert group.group_contains(TaskFailedError)
    assert await handle == (VIDEO,)


@pytest.mark.row("X4")
async def test_handles_are_data() -> None:
    """Pickling or copying a handle gives its reference; printing it gives no link (P20)."""
    room = Room()
    handle = room.handle(SUCCEEDED)
    await handle
    twins: list[object] = [pickle.loads(pickle.dumps(handle)), copy.copy(handle)]
    assert twins == [handle.ref] * 2
    assert "files.example" not in repr(handle)
    assert "t1" in repr(handle)


@pytest.mark.row("W7")
async def test_a_handle_never_awaited() -> None:
    """A handle that nobody awaits costs nothing and complains about nothing (W7)."""
    room = Room()
    handle = room.handle(SUCCEEDED)
    del handle
    gc.collect()
    await asyncio.sleep(100)
    assert room.gateway.looks == []
