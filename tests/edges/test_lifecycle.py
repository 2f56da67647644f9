from __future__ import annotations

import asyncio
import base64
import os
import pickle
import sys
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from subprocess import PIPE
from typing import Any

import anyio
import anyio.to_thread
import pytest
from attrs import define, evolve

from kling_async import (
    ConfigurationError,
    InvalidRefError,
    KeyPair,
    KlingError,
    KlingSession,
    SubmitOutcomeUnknown,
    TaskHandle,
    TaskRef,
    Text2Video,
)
from kling_async._clock import SystemClock
from kling_async.emulator import Emulator
from kling_async.journal import Journal, State
from kling_async.testing import VirtualLoop

pytestmark = pytest.mark.usefixtures("nothing_is_left")

FOX = Text2Video(prompt="a fox", duration=5)
DAY = 86400.0
PAIR = KeyPair(access_key="ak-1", secret_key="sk-1")


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway that runs in the loop's own time."""
    async with Emulator(seed=7, slots={"video": 100}) as made:
        yield made


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("boom",)


@pytest.mark.row("X4")
async def test_tampered_references(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A reference that somebody has changed is refused before anything is asked; nothing in it is ever run."""
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Bomb())
    async with KlingSession("sk-1", base_url=emulator.url) as kling:
        ref = (await kling.submit(FOX)).ref
        text, asked = str(ref), len(emulator.log.requests)
        texts = (
            bomb.decode("latin-1"),
            base64.b64encode(bomb).decode(),
            text.replace("kling1", "kling2"),
            f"{text},more",
            text.rpartition(",")[0],
            f"{text}9999999999999999999",
            text.replace(emulator.url, "file:///etc/passwd"),
            text.replace(emulator.url, "http://me@127.0.0.1"),
            text.replace(ref.task_id, "%ff"),
            text.replace(ref.task_id, ""),
        )
        for tampered in texts:
            with pytest.raises(InvalidRefError):
                kling.attach(tampered)
        with pytest.raises(ConfigurationError, match="belongs to"):
            kling.attach(text.replace(emulator.url, "https://elsewhere.example"))
        for tampered in (text.replace(ref.task_id, "..%2F..%2Faccount"), text.replace("text2video", "..")):
            with pytest.raises(InvalidRefError):
                await kling.get(tampered)
        assert len(emulator.log.requests) == asked
    assert os.listdir(tmp_path) == []  # noqa: PTH208  an asynchronous function may not ask a path


@pytest.mark.row("X4")
async def test_a_pickled_handle_is_its_reference(emulator: Emulator) -> None:
    """Another process unpickles a handle as its `TaskRef`, without a session, a key or aiohttp."""
    async with KlingSession("sk-c4n4ry", base_url=emulator.url) as kling:
        handle = await kling.submit(FOX)
        data = pickle.dumps(handle)
        assert b"c4n4ry" not in data
        code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())); assert 'aiohttp' not in sys.modules"
        answer = await anyio.run_process([sys.executable, "-c", code], input=data)
        assert TaskRef.parse(answer.stdout.decode()) == handle.ref


@pytest.mark.row("X5")
async def test_another_thread_or_closed(emulator: Emulator) -> None:
    """Every door of a session is shut in another thread's loop and after closing, with a word on what to do instead."""
    kling = KlingSession("sk-1", base_url=emulator.url)
    handle = await kling.submit(FOX)

    async def every_door(word: str) -> None:
        for call in (kling.submit(FOX), kling.get(handle.ref), kling.recover(), kling.unknowns(), kling.reconcile("k"), handle.wait()):
            with pytest.raises(ConfigurationError, match=word):
                await call
        with pytest.raises(ConfigurationError, match=word):
            await kling.__aenter__()
        async with kling.map([FOX]) as outcomes:
            assert [type(outcome.error) async for outcome in outcomes] == [ConfigurationError]

    await anyio.to_thread.run_sync(asyncio.run, every_door("make one in each"))
    assert len(await handle) == 1
    handle = await kling.submit(FOX)
    await kling.aclose()
    await every_door("closed")
    await asyncio.gather(kling.aclose(), kling.aclose())
    assert len(emulator.log.tasks) == 2


@pytest.mark.row("X5")
async def test_cells_of_a_notebook() -> None:
    """In a loop that runs before and after, each cell may go on with the session that another opened; a second loop may not."""
    await anyio.to_thread.run_sync(run_cells)


def run_cells() -> None:
    """A notebook: one loop, driven a piece at a time."""
    loop = VirtualLoop()
    emulator = loop.run_until_complete(Emulator().__aenter__())
    kling = KlingSession("sk-1", base_url=emulator.url)
    handle = loop.run_until_complete(kling.submit(FOX))
    assert loop.run_until_complete(handle) == loop.run_until_complete(handle.wait())
    second = VirtualLoop()
    with pytest.raises(ConfigurationError, match="another event loop"):
        second.run_until_complete(kling.submit(FOX))
    assert len(loop.run_until_complete(kling.run(FOX))) == 1
    loop.run_until_complete(kling.aclose())
    loop.run_until_complete(emulator.aclose())
    assert len(emulator.log.tasks) == 2
    for each in (loop, second):
        each.close()


FORKING = """
import asyncio, os, sys
from kling_async import ConfigurationError, KlingSession, Polling, Text2Video

async def main():
    kling = KlingSession(journal=sys.argv[1], polling=Polling(first=0.05, interval=0.05))
    handle = await kling.submit(Text2Video(prompt="a fox"))
    if os.fork() == 0:
        code = 1
        try:
            asyncio.set_event_loop(None)
            asyncio._set_running_loop(None)
            for call in (lambda: kling.submit(Text2Video(prompt="a fox")), lambda: handle.wait(), lambda: kling.aclose()):
                try:
                    asyncio.new_event_loop().run_until_complete(call())
                except ConfigurationError as error:
                    print(error, flush=True)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    print(len(await handle))
    await kling.aclose()

asyncio.run(main())
"""
LEAVING = """
import asyncio, sys
from kling_async import KlingSession, Text2Video

async def main():
    kling = KlingSession(journal=sys.argv[1])
    await kling.submit(Text2Video(prompt="a fox"))
    waits = [asyncio.ensure_future((await kling.submit(Text2Video(prompt="[stuck]"))).wait()) for _ in range(3)]
    print("bought", flush=True)
    sys.stdin.readline()
    creation = asyncio.ensure_future(kling.submit(Text2Video(prompt="a fox", external_task_id="ka-under-way")))
    while not any(order.sent for order in kling._orders._owners):
        await asyncio.sleep(0)
    {end}

asyncio.run(main())
"""


async def elsewhere(emulator: Emulator, code: str, *arguments: str) -> asyncio.subprocess.Process:
    """Start a program that uses the emulator."""
    environment = {**os.environ, "KLING_API_KEY": "sk-1", "KLING_BASE_URL": emulator.url, "PYTHONWARNINGS": "default"}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )


@pytest.mark.row("X5")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_forked_child(tmp_path: Path) -> None:
    """A forked child is refused everything, also closing, and takes nothing from its parent, journal included."""
    async with Emulator(durations=0.1) as emulator:
        program = await elsewhere(emulator, FORKING, str(tmp_path / "db"))
        said, complained = await program.communicate()
        lines = said.decode().splitlines()
        assert (program.returncode, len(lines), lines[-1]) == (0, 4, "1"), complained.decode()
        assert all("another event loop or process" in line for line in lines[:3])
        assert len(emulator.log.tasks) == 1
    async with Journal(tmp_path / "db") as journal:
        assert [row.state for row in await journal.rows()] == [State.SUCCEEDED]


@pytest.mark.row("X7")
@pytest.mark.parametrize(
    ("end", "code"), [("return", 0), ("sys.exit(3)", 3), ("raise KeyboardInterrupt", 130), ("__import__('os')._exit(4)", 4)]
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_leaving_without_closing(tmp_path: Path, end: str, code: int) -> None:
    """A program that just ends says no more than that sockets were open; the next one finds all it had begun in the journal."""
    path = tmp_path / "db"
    async with Emulator() as emulator:
        program = await elsewhere(emulator, LEAVING.replace("{end}", end), str(path))
        assert program.stdout is not None
        assert await program.stdout.readline() == b"bought\n"
        emulator.fault("hang", method="POST", accepted=True, times=None)
        said = (await program.communicate(b"go on\n"))[1].decode()
        assert program.returncode in {code, -2 if code == 130 else code}, said
        assert "Traceback" not in said.partition("KeyboardInterrupt")[2] if code == 130 else "Traceback" not in said
        assert "never retrieved" not in said
        assert "was destroyed" not in said
        async with KlingSession("sk-1", base_url=emulator.url, journal=path) as kling:
            found = {handle.task_id for handle in await kling.recover()} | {row.key for row in await kling.unknowns()}
            assert {task.id for task in emulator.log.tasks[:4]} <= found
            assert all(task.id in found or task.external_task_id in found for task in emulator.log.tasks)


@pytest.mark.row("X6")
async def test_closing_in_the_middle_of_everything(emulator: Emulator, tmp_path: Path) -> None:
    """Closing gives 30 s to what has been sent, withdraws the rest, ends waits and downloads at once; every task is known after."""
    path, loop = tmp_path / "db", asyncio.get_running_loop()
    kling = KlingSession("sk-1", base_url=emulator.url, journal=path, in_flight=33)
    finished = await kling.submit(FOX)
    await finished
    known = [await kling.submit(FOX) for _ in range(5)]
    ended: list[tuple[str, float]] = []

    def begin(kind: str, call: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.ensure_future(call)
        future.add_done_callback(lambda _: ended.append((kind, loop.time())))
        return future

    emulator.fault("hang", method="POST", accepted=True, times=10)
    emulator.fault("slow", method="POST", seconds=10, pieces=2, times=None)
    emulator.fault("slow", route="files", seconds=3600, pieces=3600, times=None)
    saves = [begin("save", finished.save(tmp_path / str(number))) for number in range(5)]
    waits = [begin("wait", handle.wait()) for handle in known * 60]
    creations = [begin("creation", kling.submit(evolve(FOX, external_task_id=f"ka-{number}"))) for number in range(60)]
    await asyncio.sleep(3)
    begun = loop.time()
    await kling.aclose()
    outcomes = await asyncio.gather(*creations, return_exceptions=True)
    await asyncio.gather(*saves, *waits, return_exceptions=True)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds.count(SubmitOutcomeUnknown) == 10
    assert kinds.count(TaskHandle) >= 10
    assert kinds.count(TaskHandle) + kinds.count(ConfigurationError) == 50
    assert {type(wait.exception()) for wait in waits} == {ConfigurationError}
    assert all(isinstance(save.exception(), KlingError) for save in saves)
    assert max(at for kind, at in ended if kind == "wait") <= begun + 0.1
    # Not the return of `aclose`: while the journal's thread closes its file, the loop's time runs on.
    assert 29.9 <= max(at for kind, at in ended if kind == "creation") - begun <= 30.1
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if name.endswith(".part")]
    async with Journal(path) as journal:
        rows = {row.key: row for row in await journal.rows()}
    assert not {State.PREPARED, State.SENDING} & {row.state for row in rows.values()}
    for task in emulator.log.tasks:
        row = rows[str(task.external_task_id)]
        assert row.task_id == task.id or row.state is State.UNKNOWN
    assert sum(row.state is State.UNKNOWN for row in rows.values()) == 10
    assert len(emulator.log.posts_for("ka-0")) == 1


@define(eq=False)
class Jumping(SystemClock):
    """A clock on the wall that somebody sets."""

    off: float = 0.0

    def wall(self) -> float:
        return super().wall() + self.off


@pytest.mark.row("D6")
@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_wall_clock_that_jumps(jump: float) -> None:
    """A clock set by a day moves no wait; a token refused for it is signed anew, once, for creations and reads (P31)."""
    clock, loop = Jumping(), asyncio.get_running_loop()
    async with (
        Emulator(profile="official", access_keys={"ak-1": "sk-1"}, durations=100) as emulator,
        KlingSession(PAIR, base_url=emulator.url, profile="official", clock=clock) as kling,
    ):
        handle = await kling.submit(FOX)
        wait = asyncio.ensure_future(handle.wait())
        begun = loop.time()
        await asyncio.sleep(30)
        clock.off += jump
        assert len(await wait) == 1
        assert 100 <= loop.time() - begun <= 130
        assert sum(seen.status == 401 for seen in emulator.log.requests) == 1
        clock.off -= jump
        assert len(await (await kling.submit(FOX))) == 1
        assert sum(seen.status == 401 for seen in emulator.log.requests) == 2
        clock.off += jump
        assert (await kling.get(handle.ref)).status.final
        assert [seen.status for seen in emulator.log.requests][-2:] == [401, 200]
        assert len(emulator.log.tasks) == 2


@pytest.mark.row("D6")
@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_pauses_told_as_dates(jump: float) -> None:
    """A pause that a server asks for as a date is reckoned by the server's clock, whatever day it is here (P31)."""
    loop = asyncio.get_running_loop()
    async with Emulator(durations=1) as emulator, KlingSession("sk-1", base_url=emulator.url, clock=Jumping(jump)) as kling:
        begun = loop.time()
        emulator.fault("retry_after", method="POST", seconds=formatdate(SystemClock().wall() + 90, usegmt=True))
        await kling.submit(FOX)
        assert 85 <= loop.time() - begun <= 120
