"""The command line as a person sees it, on a terminal of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import pytest

from kling_async.emulator import Emulator
from kling_async.emulator._studio import Studio, sample
from shells import journal_of

pytest.importorskip("cyclopts", reason="the command line is an extra")
pty = pytest.importorskip("pty", reason="pseudo-terminals are not for this system")


Reactions = Mapping[str, Callable[[int], object]]
"""What to do, given the terminal, when a text appears."""


@pytest.fixture
def anyio_backend() -> str:
    """Real time: the program on the other side of the terminal has no other."""
    return "asyncio"


async def on_a_terminal(*words: str, cwd: Path, environment: Mapping[str, str], reactions: Reactions | None = None) -> tuple[int, str, str]:
    """Exit code, stdout (a pipe) and all that was drawn on the terminal; reacts once to each text that appears on it."""
    ours, theirs = pty.openpty()
    waiting = dict(reactions or {})
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("KLING_", "NO_COLOR", "FORCE_COLOR", "TTY_"))}
    async with await anyio.open_process(
        [sys.executable, "-m", "kling_async", *words],
        stdin=theirs,
        stderr=theirs,
        cwd=cwd,
        env={
            **surroundings,
            "KLING_JOURNAL": str(journal_of(cwd)),
            "TERM": "xterm-256color",
            "COLUMNS": "80",
            "LINES": "24",
            **environment,
        },
        start_new_session=True,
    ) as process:
        os.close(theirs)
        screen = bytearray()
        ended = asyncio.get_running_loop().create_future()

        def read() -> None:
            chunk = b""
            with contextlib.suppress(OSError):  # the other side has hung up
                chunk = os.read(ours, 65536)
            screen.extend(chunk)
            for text in [text for text in waiting if text.encode() in screen]:
                waiting.pop(text)(ours)
            if not chunk:
                asyncio.get_running_loop().remove_reader(ours)
                ended.set_result(None)

        asyncio.get_running_loop().add_reader(ours, read)
        assert process.stdout is not None
        out = b"".join([chunk async for chunk in process.stdout])
        await ended
        os.close(ours)
        return await process.wait(), out.decode(), screen.decode()


def shown(screen: str) -> list[str]:
    """The lines that stay readable when cursor movements and colours are taken out."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)) if line.strip()]


async def test_live_progress(tmp_path: Path) -> None:
    """A terminal shows state and age as they change, in colour, and keeps its cursor; the key is asked for without echo."""
    async with Emulator(speed=0, durations=100, api_keys=["typed-key"]) as emulator:
        reactions: Reactions = {
            "API key": lambda terminal: os.write(terminal, b"typed-key\n"),
            "submitted": lambda _: emulator.advance(50),
            "processing": lambda _: emulator.advance(50),
        }
        gateway = {"KLING_BASE_URL": emulator.url}
        code, out, screen = await on_a_terminal("generate-image", "a fox", cwd=tmp_path, environment=gateway, reactions=reactions)
    assert (code, out) == (0, f"{emulator.log.tasks[0].id}.png\n")
    assert "typed-key" not in screen
    lines = shown(screen)
    assert lines[0].startswith("API key (KLING_API_KEY is not set)")
    assert any(re.search(r"generate_image  submitted  0:00", line) for line in lines)
    assert any(re.search(r"generate_image  processing +0:0\d  usually 0:16", line) for line in lines)
    assert lines[-1].startswith("generate_image: saved after 0:0")
    assert "\x1b[32msaved" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")


async def test_plain_terminals(tmp_path: Path) -> None:
    """NO_COLOR takes the colours, a dumb terminal the movement, and forty columns are enough."""
    async with Emulator(speed=2000) as emulator:
        gateway = {"KLING_BASE_URL": emulator.url, "KLING_API_KEY": "any"}
        bare, dumb = await asyncio.gather(
            on_a_terminal("generate-image", "a fox", cwd=tmp_path, environment={**gateway, "COLUMNS": "40", "NO_COLOR": "1"}),
            on_a_terminal("generate-image", "a fox", cwd=tmp_path, environment={**gateway, "TERM": "dumb"}),
        )
    assert (bare[0], dumb[0]) == (0, 0)
    assert re.findall(r"\x1b\[[0-9;]*3\dm", bare[2]) == []
    assert "\x1b[?25l" in bare[2]
    assert "\x1b" not in dumb[2]
    assert "generate_image: saving after 0:0" in dumb[2]
    assert all(len(line) <= 40 for line in shown(bare[2]) if "kling1," not in line)


async def test_more_than_the_terminal_is_high(tmp_path: Path) -> None:
    """Twelve tasks on eight lines of forty columns: some are shown, the others counted, and below stands how far all of it is."""
    jobs = "".join(f'{{"job": "generate_image", "prompt": "fox {number}"}}\n' for number in range(12))
    (tmp_path / "jobs.jsonl").write_text(jobs, encoding="utf-8")
    emulator = Emulator(speed=0, slots={"image": 12}, studio=Studio(sample))
    async with emulator, anyio.create_task_group() as group:

        async def end_all() -> None:
            while len(emulator.log.tasks) < 12:  # noqa: ASYNC110  the emulator tells nobody
                await anyio.sleep(0.02)
            emulator.advance(1000)

        group.start_soon(end_all)
        small = {"KLING_BASE_URL": emulator.url, "KLING_API_KEY": "any", "COLUMNS": "40", "LINES": "8", "NO_COLOR": "1"}
        words = ("batch", "jobs.jsonl", "--in-flight", "12")
        code, out, screen = await on_a_terminal(*words, cwd=tmp_path, environment=small)
    assert (code, len(out.splitlines())) == (0, 12)
    lines = shown(screen)
    assert any(re.fullmatch(r". +jobs.jsonl:1 +submitted +0:0\d *", line) for line in lines)
    assert "and 8 more: 8 submitted" in lines
    assert "12 under way" in lines
    assert max(map(len, lines)) <= 40
    assert "usually" not in screen
    assert [line.rstrip() for line in lines[-2:]] == ["12 jobs: 12 saved; each is in", "report.jsonl"]
    assert re.findall(r"\x1b\[[0-9;]*3\dm", screen) == []
