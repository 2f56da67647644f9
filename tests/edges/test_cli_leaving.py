"""The real program, left before it is done: by its timeout, by Ctrl-C, and by whoever reads what it writes."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from attrs import define

from kling_async.emulator import Emulator
from kling_async.models import TaskRef
from shells import FAST, Shell, command_in, files_in

pytest.importorskip("cyclopts", reason="the command line is an extra")

ACCEPTED = {"task_id": "812345678901234567", "task_status": "submitted", "created_at": 1, "updated_at": 1}


@pytest.fixture
def anyio_backend() -> str:
    """Real time: the program on the other side of the sockets has no other."""
    return "asyncio"


@define
class SlowGateway:
    """A gateway that reads one request and keeps its answer until told to give it."""

    url: str
    asked: anyio.Event
    answering: anyio.Event

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[SlowGateway]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        gateway = cls(f"http://127.0.0.1:{port}", anyio.Event(), anyio.Event())
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, gateway.serve)
            yield gateway
            group.cancel_scope.cancel()

    async def serve(self, client: anyio.abc.SocketStream) -> None:
        async with client:
            await client.receive()
            self.asked.set()
            await self.answering.wait()
            body = json.dumps({"code": 0, "message": "SUCCEED", "request_id": "r", "data": ACCEPTED})
            await client.send(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


async def test_timeout_and_resume(tmp_path: Path) -> None:
    """When time runs out the task goes on, and the command that is printed takes it up again."""
    async with Emulator(speed=0) as emulator:
        shell = Shell(tmp_path, emulator.url)
        late = await shell.kling("text2video", "a fox", "--timeout", "0.1", "--output", "my clips")
        emulator.advance(1000)
        done = await shell.kling(*command_in(late.err))
    assert (late.code, late.out) == (4, "")
    assert "kling: text2video: the waiting ran out of time; the task goes on\n" in late.err
    assert (done.code, done.out) == (0, f"my clips/{emulator.log.tasks[0].id}.mp4\n")


async def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C ends the waiting with 130 and leaves the command that resumes on the screen; the tasks are untouched."""
    async with Emulator(speed=0) as emulator:
        shell = Shell(tmp_path, emulator.url)
        async with shell.started("text2video", "a fox", "-o", "out") as first:
            await first.says("accepted")
            first.interrupt()
            left = await first.ended()
        async with shell.started(*command_in(left.err)) as second:
            await second.says("submitted")
            second.interrupt()
            left_again = await second.ended()
        emulator.advance(1000)
        done = await shell.kling(*command_in(left_again.err))
    assert (left.code, left.out) == (left_again.code, left_again.out) == (130, "")
    assert "Traceback" not in left.err + left_again.err
    assert (done.code, done.out) == (0, f"out/{emulator.log.tasks[0].id}.mp4\n")


async def test_interrupt_while_buying(tmp_path: Path) -> None:
    """Ctrl-C with a paid request on its way waits for the answer, so that what was bought can be told."""
    async with SlowGateway.opened() as gateway, Shell(tmp_path, gateway.url).started("text2video", "a fox") as command:
        await gateway.asked.wait()
        command.interrupt()
        await command.says("Ctrl-C again ends at once")
        gateway.answering.set()
        left = await command.ended()
    assert left.code == 130
    assert TaskRef.parse(command_in(left.err)[1]).task_id == ACCEPTED["task_id"]
    assert "may be accepted" not in left.err


async def test_second_interrupt(tmp_path: Path) -> None:
    """A second Ctrl-C ends at once, and names the request whose answer is not known."""
    words = ("text2video", "a fox", "--external-task-id", "mine")
    async with SlowGateway.opened() as gateway, Shell(tmp_path, gateway.url).started(*words) as command:
        await gateway.asked.wait()
        command.interrupt()
        await command.says("Ctrl-C again ends at once")
        command.interrupt()
        with anyio.fail_after(20):  # else it would wait half a minute for an answer
            left = await command.ended()
    assert (left.code, left.out) == (130, "")
    assert "external_task_id mine" in left.err


async def test_nobody_reads(tmp_path: Path) -> None:
    """A closed stdout, as behind `| head`, loses no file and is no error."""
    reader, writer = os.pipe()
    os.close(reader)
    async with Emulator(speed=FAST) as emulator, Shell(tmp_path, emulator.url).started("generate-image", "a fox", stdout=writer) as command:
        os.close(writer)
        done = await command.ended()
    assert (done.code, "Error" in done.err) == (0, False)
    assert files_in(tmp_path) == [f"{emulator.log.tasks[0].id}.png"]
