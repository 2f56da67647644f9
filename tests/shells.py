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
import pytest
from attrs import define, frozen

from kling_async.emulator import Emulator

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
        told = {"KLING_BASE_URL": self.url, "KLING_API_KEY": self.key, "KLING_JOURNAL": str(journal_of(self.directory)), "NO_COLOR": "1"}
        return {**os.environ, **told}

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


@frozen
class Quick:
    """The program as a function, for where processes of their own would only cost time; nothing is set but what is set here."""

    directory: Path
    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def __attrs_post_init__(self) -> None:
        self.patch.chdir(self.directory)
        self.patch.setenv("KLING_API_KEY", KEY)
        self.patch.setenv("KLING_JOURNAL", str(journal_of(self.directory)))
        self.patch.setenv("COLUMNS", "400")

    async def __call__(self, url: str, *words: str) -> Done:
        """Run a command against the gateway at `url` to its end."""
        from kling_async.cli import main

        self.patch.setenv("KLING_BASE_URL", url)
        code = await anyio.to_thread.run_sync(main, words)
        out, err = self.capture.readouterr()
        assert KEY not in out + err
        return Done(code, out, err)


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

    def kill(self) -> None:
        """End it without a warning, as `kill -9` does."""
        self.process.kill()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    async def ended(self) -> Done:
        """What it has left at its end."""
        assert self.process.stderr is not None
        out = b"".join([chunk async for chunk in self.process.stdout]) if self.process.stdout else b""
        self.said += b"".join([chunk async for chunk in self.process.stderr]).decode()
        return Done(await self.process.wait(), out.decode(), self.said)


def journal_of(directory: Path) -> Path:
    """Where commands typed there keep their journal: beside it, so that it shows what they leave and no more."""
    return directory.with_name(f"{directory.name}-journal.db")


def files_in(directory: Path) -> list[str]:
    """The names of what is there."""
    return sorted(path.name for path in directory.iterdir())


def command_in(text: str) -> list[str]:
    """The words after `kling` of the command to resume with, which stands on the last line."""
    program, *words = shlex.split(text.rstrip().rpartition("\n")[2])
    assert program == "kling"
    return words


def creations(emulator: Emulator) -> int:
    """How many paid requests have come."""
    return sum(seen.method == "POST" for seen in emulator.log.requests)
