"""Types the commands of a page as its reader would: in order, in one place, beside an emulator. Time jumps; nobody waits.

A block with a `title` is a file that the reader writes. In a `console` block a line after `$ ` is typed and the others are what it
says; in a `bash` block each line is typed, and has to end well.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Coroutine, Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from attrs import define, field, frozen

from kling_async.emulator import Emulator
from kling_async.emulator._studio import Studio, sample
from kling_async.testing import VirtualLoop

__all__ = ["Reader", "Typed", "agrees", "files_of", "typed_on"]

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)(?P<more>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
SHELLS = ("bash", "sh")
TITLE = re.compile(r'title="([^"]+)"')
NOT_TYPED: Mapping[str, str] = {
    "export KLING_": "the reader of a page has set both, to the emulator",
    "kling demo": "test_cli_demo.py watches it",
    "PUBLIC_URL=": "the examples have tests of their own",
    "nox -s": "a gate of its own",
    "pip install": "the tests run where all is installed",
    "python3 -m venv": "as pip",
    "python3 noxfile.py": "as nox",
    "source .venv/bin/activate": "as pip",
}
"""What is left out, by how it begins, and why."""


@frozen(kw_only=True)
class Typed:
    """One command on a page."""

    page: str
    line: int
    command: str
    says: str | None
    """What the page shows of its output; `None` when it shows none."""


def files_of(text: str) -> dict[str, str]:
    """The files that a page has its reader write."""
    blocks = ((TITLE.search(found["more"]), found["body"]) for found in FENCE.finditer(text))
    return {title[1]: body for title, body in blocks if title}


def typed_on(page: str, text: str) -> Iterator[Typed]:
    """All commands of a page, in order."""
    for found in FENCE.finditer(text):
        first = text.count("\n", 0, found.start("body")) + 1
        lines = [line.removeprefix(found["indent"]) for line in found["body"].splitlines()]
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        match found["language"]:
            case language if language in SHELLS:
                for number, line in enumerate(lines):
                    if shlex.split(line, comments=True):
                        yield Typed(page=page, line=first + number, command=line, says=None)
            case "console":
                for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
                    yield Typed(page=page, line=first + start, command=lines[start][2:], says="\n".join(lines[start + 1 : end]))
            case _:
                pass


def agrees(shown: str, said: str) -> bool:
    """Whether a page shows what was said. Ids, times and ports differ each time; `…` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in _steady(shown).split("…"))
    return re.fullmatch(pattern, _steady(said), re.DOTALL) is not None


def _steady(text: str) -> str:
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8765", text)
    text = re.sub(r"\bka-[0-9a-f]+|\b\d{6,}\b", "1", text)
    text = re.sub(r" ago +", " ago ", re.sub(r"\b\d+ (?:ms|s|min)\b", "1 s", text))
    return "\n".join(line.rstrip() for line in re.sub(r"\b\d+:\d\d\b", "0:00", text).strip().splitlines())


@define(eq=False)
class Runner:
    """What `asyncio.Runner` is meanwhile: one loop for all commands, in which the emulator lives on."""

    loop: VirtualLoop
    ctrl_c: float | None = None
    """After so many seconds, where a command does not end by itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run it to its end, or until Ctrl-C."""
        task = self.loop.create_task(main)
        pressed = None if self.ctrl_c is None else self.loop.call_later(self.ctrl_c, task.cancel)
        try:
            return self.loop.run_until_complete(task)
        finally:
            if pressed:
                pressed.cancel()


@define(eq=False)
class Reader:
    """Somebody at a terminal in an empty directory, with the two variables set."""

    patch: pytest.MonkeyPatch
    directory: Path
    emulator: Emulator = field(init=False)
    _studio: Studio = field(factory=lambda: Studio(sample), init=False)
    _runner: Runner = field(factory=lambda: Runner(VirtualLoop()), init=False)
    _code: int = field(default=0, init=False)
    _ref: str = field(default="", init=False)

    def __enter__(self) -> Self:
        self.emulator = Emulator(studio=self._studio)
        self._runner.run(self.emulator.__aenter__())
        self.patch.chdir(self.directory)
        self.patch.setattr(asyncio, "run", self._runner.run)
        self.patch.setattr(asyncio, "Runner", lambda: self._runner)
        settings = {"BASE_URL": self.emulator.url, "API_KEY": self.emulator.api_key, "JOURNAL": str(self.directory / ".journal.db")}
        for name, value in settings.items():
            self.patch.setenv(f"KLING_{name}", value)
        self.patch.setenv("COLUMNS", "200")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._runner.run(self.emulator.aclose())
        self._runner.run(self._studio.aclose())
        self._runner.run(self._runner.loop.shutdown_asyncgens())
        self._runner.run(self._runner.loop.shutdown_default_executor())
        self._runner.loop.close()

    def writes(self, name: str, text: str | bytes) -> None:
        """A file of the page's."""
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    def has_a_picture(self, name: str) -> None:
        """A picture that is large enough for the service."""
        self.writes(name, resources.files("kling_async.emulator").joinpath("samples", "picture-1x1.png").read_bytes())

    def types(self, command: str) -> tuple[int, str]:
        """Exit code of a command, and what it says; `echo $?` repeats the code of the last one."""
        if command == "echo $?":
            return 0, str(self._code)
        command, _, after = command.partition(" | ")
        words = self._meant(shlex.split(command, comments=True))
        said = io.StringIO()
        apart = io.StringIO() if after else said
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(apart):
            self._code = self._runs(words)
        if after and shutil.which(shlex.split(after)[0]):
            done = subprocess.run(shlex.split(after), input=said.getvalue(), capture_output=True, encoding="utf-8", check=False)
            return self._code or done.returncode, done.stdout + done.stderr
        return self._code, said.getvalue()

    def _meant(self, words: list[str]) -> list[str]:
        """What the reader types where a page says REF, KEY or TASK_ID."""
        meant = dict[str, str]()
        if "REF" in words:
            self._ref = self._ref or self.types("kling generate-image 'a red fox' --no-wait")[1].strip()
            meant["REF"] = self._ref
        if "KEY" in words:
            self.emulator.fault("drop", method="POST", accepted=True)  # a purchase that nobody knows the outcome of
            assert self.types("kling generate-image 'a heron'")[0] == 6
            task = self.emulator.log.tasks[-1]
            meant |= {"KEY": str(task.external_task_id), "TASK_ID": task.id}
        return [meant.get(word, word) for word in words]

    def _runs(self, words: list[str]) -> int:
        from kling_async.cli import main

        match words:
            case ["python", program]:
                runpy.run_path(program, run_name="__main__")
                return 0
            case ["kling", "emulator", *options]:
                return self._runs_emulator(options)
            case ["kling", *rest]:
                return main(rest)
            case _:
                raise AssertionError(f"nobody here knows how to type {words}; NOT_TYPED in consoles.py says what is left out")

    def _runs_emulator(self, options: list[str]) -> int:
        # The one that readers go on with is there already: it takes the pace of this one, which ends after a second, at another port.
        from kling_async.cli import main

        given = dict(zip(options[::2], options[1::2], strict=True)) | {"--port": "0"}
        self._runner.run(self._goes_at(float(given.get("--speed", 1))))
        self._runner.ctrl_c = 1.0
        try:
            return main(["emulator", *(word for pair in given.items() for word in pair)])
        finally:
            self._runner.ctrl_c = None

    async def _goes_at(self, speed: float) -> None:
        self.emulator.speed = speed
