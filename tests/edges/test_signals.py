from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Final

import anyio
import pytest

from journals import Told
from kling_async.emulator import Emulator
from kling_async.journal import Journal, State
from kling_async.session import KlingSession

BUYING: Final = """
import asyncio, signal, sys
from kling_async import KlingSession, Text2Video
async def main():
    kling = KlingSession("sk-1", base_url=sys.argv[1], profile=sys.argv[2], journal=sys.argv[3])
    buying = asyncio.ensure_future(kling.submit(Text2Video(prompt="a fox", external_task_id="ka-1")))
    await asyncio.to_thread(input) if sys.argv[4] == "return" else await buying
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what is started in the background
asyncio.run(main())
"""


@pytest.mark.row("W11")
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "return"])
@pytest.mark.parametrize("profile", ["official", "gateway"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_ended_in_the_middle_of_a_purchase(tmp_path: Path, profile: str, end: str) -> None:
    """Ctrl-C, a service manager's stop, or a program whose main function returns: what was on its way is found again, or listed."""
    async with Emulator(profile=profile) as emulator:
        emulator.fault("hang", method="POST", accepted=True)
        tasks = emulator.log.tasks = Told()
        command = [sys.executable, "-c", BUYING, emulator.url, profile, str(tmp_path / "db"), end]
        async with await anyio.open_process(command, stderr=None) as program:
            await tasks.told.wait()
            async with Journal(tmp_path / "db") as journal:
                assert (await journal.get("ka-1")).state is State.SENDING
            if end == "return":
                assert program.stdin is not None
                await program.stdin.send(b"\n")
            else:
                program.send_signal(signal.Signals[end])
            assert (await program.wait() == 0) is (end == "return")
        async with KlingSession("sk-1", base_url=emulator.url, profile=profile, journal=tmp_path / "db") as kling:
            found = [handle.task_id for handle in await kling.recover()]
            unknown = [row.key for row in await kling.unknowns()]
        assert (found, unknown) == (([tasks[0].id], []) if profile == "official" else ([], ["ka-1"]))
        assert len(emulator.log.posts_for("ka-1")) == len(tasks) == 1
