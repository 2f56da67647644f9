"""What tests of the real program share: a place to type commands in, and what commands leave."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio
import anyio.abc
import anyio.to_thread
from attrs import define, frozen

# A program started in the background of a shell ignores SIGINT, and so do its children; at a terminal none does.
AT_A_TERMINAL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from kling_async.__main__ import main; main()"
FAST = 2000.0
KEY = "a-key-that-must-not-be-seen"


@frozen
class Done:
    """What a command leaves."""

    code: int
    out: str
    err: str


@frozen
class Shell:
    """A place to type commands in: a directory, and a gateway in the environment."""

    directory: Path
    url: str
    key: str = KEY

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KLING_BASE_URL": self.url, "KLING_API_KEY": self.key, "NO_COLOR": "1"}

    async def kling(self, *words: str) -> Done:
        """Run a command to its end."""
        done = await anyio.run_process([sys.executable, "-m", "kling_async", *words], cwd=self.directory, env=self.environment, check=False)
        assert KEY.encode() not in done.stdout + done.stderr
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    @asynccontextmanager
    async def started(self, *words: str, stdout: int = PIPE) -> AsyncIterator[Running]:
        """A command that runs meanwhile."""
        command = [sys.executable, "-c", AT_A_TERMINAL, *words]
        async with await anyio.open_process(command, stdin=None, stdout=stdout, cwd=self.directory, env=self.environment) as process:
            yield Running(process)


@define
class Running:
    """A command under way."""

    process: anyio.abc.Process
    said: str = ""

    async def says(self, text: str) -> None:
        """Return once it has written this to stderr."""
        assert self.process.stderr is not None
        while text not in self.said:
            self.said += (await self.process.stderr.receive()).decode()

    async def writes(self, lines: int) -> str:
        """The first lines that it writes to stdout."""
        assert self.process.stdout is not None
        text = ""
        while text.count("\n") < lines:
            text += (await self.process.stdout.receive()).decode()
        return text

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    async def ended(self) -> Done:
        """What it has left at its end."""
        assert self.process.stderr is not None
        out = b"".join([chunk async for chunk in self.process.stdout]) if self.process.stdout else b""
        self.said += b"".join([chunk async for chunk in self.process.stderr]).decode()
        return Done(await self.process.wait(), out.decode(), self.said)


def files_in(directory: Path) -> list[str]:
    """The names of what is there."""
    return sorted(path.name for path in directory.iterdir())


def command_in(text: str) -> list[str]:
    """The words after `kling` of the command to resume with, which stands on the last line."""
    program, *words = shlex.split(text.rstrip().rpartition("\n")[2])
    assert program == "kling"
    return words
