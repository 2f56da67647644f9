"""The command line as a person sees it, on a terminal of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from kling_async.emulator import Emulator
from kling_async.emulator._studio import Studio, sample
from shells import FAST, creations, files_in

pytest.importorskip("cyclopts", reason="the command line is an extra")
pytest.importorskip("pty", reason="pseudo-terminals are not for this system")

from terminals import CTRL_C, KLING, Reactions, on_a_terminal

NARROW = (24, 40)


@pytest.fixture
def anyio_backend() -> str:
    """Real time: the program on the other side of the terminal has no other."""
    return "asyncio"


def write_jobs(path: Path, *prompts: str) -> None:
    """A batch of pictures."""
    path.write_text("".join(f"{json.dumps({'job': 'generate_image', 'prompt': prompt})}\n" for prompt in prompts), encoding="utf-8")


async def test_live_progress(tmp_path: Path) -> None:
    """A terminal shows state and age as they change, and leaves what was said with its cursor; the key is asked for without echo."""
    async with Emulator(speed=0, durations=100, api_keys=["typed-key"]) as emulator:
        reactions: Reactions = {
            "API key": lambda terminal: os.write(terminal, b"typed-key\n"),
            "submitted": lambda _: emulator.advance(50),
            "processing": lambda _: emulator.advance(50),
        }
        words = ("generate-image", "a fox in snow")
        seen = await on_a_terminal(*KLING, *words, cwd=tmp_path, url=emulator.url, reactions=reactions, KLING_API_KEY="")
    assert (seen.code, seen.cursor, "typed-key" in seen.drawn) == (0, True, False)
    for state in ("submitted ", "processing"):
        look = re.compile(rf". +generate_image  {state} +\d:\d\d  usually 0:16  a fox in snow *")
        assert any(look.fullmatch(line) for line in seen.plain), seen.plain
    assert "\x1b[32msaved" in seen.drawn
    assert seen.lines[0] == "API key (KLING_API_KEY is not set):"
    assert "".join(seen.lines[1:-2]).startswith("generate_image: accepted kling1,")
    assert re.fullmatch(r"generate_image: saved after \d:\d\d", seen.lines[-2])
    assert seen.lines[-1] == f"{emulator.log.tasks[0].id}.png"


async def test_a_pair_is_asked_for(tmp_path: Path) -> None:
    """The official endpoint's access key and secret key are asked for where none is set; neither is shown."""
    reactions: Reactions = {
        "access key": lambda terminal: os.write(terminal, b"an-access-key\n"),
        "Secret key": lambda terminal: os.write(terminal, b"a-secret-key\n"),
    }
    words = (*KLING, "generate-image", "a fox", "--no-wait", "--profile", "official")
    async with Emulator(speed=0, profile="official", access_keys={"an-access-key": "a-secret-key"}) as emulator:
        seen = await on_a_terminal(*words, cwd=tmp_path, url=emulator.url, reactions=reactions, KLING_API_KEY="")
    assert (seen.code, creations(emulator), seen.lines[0]) == (0, 1, "API key or access key (KLING_API_KEY is not set):"), seen.lines
    assert [secret for secret in ("an-access-key", "a-secret-key") if secret in seen.drawn] == []


async def test_fifty_with_three_failures(tmp_path: Path) -> None:
    """Nothing of what is said is wiped out by what is drawn: each path and each failure of fifty jobs is there at the end, once."""
    write_jobs(tmp_path / "jobs.jsonl", *(f"{'[fail: too dark] ' if number % 20 == 5 else ''}fox {number}" for number in range(50)))
    async with Emulator(speed=FAST, slots={"image": 50}, studio=Studio(sample)) as emulator:
        seen = await on_a_terminal(
            *KLING, "batch", "jobs.jsonl", "-o", "out", "--in-flight", "50", cwd=tmp_path, url=emulator.url, size=(9, 80)
        )
    assert (seen.code, creations(emulator), seen.cursor) == (1, 50, True)
    assert seen.lines[-2:] == [
        "50 jobs: 47 saved, 3 failed; each is in out/report.jsonl",
        "To buy those that failed again, add --retry-failed.",
    ]
    said = seen.lines[:-2]
    assert sorted(line for line in said if line.startswith("out/")) == [f"out/{name}" for name in files_in(tmp_path / "out")[:-1]]
    told = [f"kling: jobs.jsonl:{number}: the task failed: too dark" for number in (26, 46, 6)]
    assert sorted(line for line in said if line.startswith("kling: ")) == told
    ends = [re.sub(r"\d:\d\d", "TIME", line) for line in said if not line.startswith(("out/", "kling: "))]
    assert sorted(ends) == sorted(
        f"jobs.jsonl:{number}: {'failed' if number in {6, 26, 46} else 'saved'} after TIME" for number in range(1, 51)
    )


async def test_interrupt_and_resume(tmp_path: Path) -> None:
    """Ctrl-C clears what moves and leaves the command that goes on: typed as it stands there it ends the batch, and buys nothing twice."""
    write_jobs(tmp_path / "jobs.jsonl", "a fox", "a hen")
    async with Emulator(speed=0, slots={"image": 2}, studio=Studio(sample)) as emulator:
        press: Reactions = {r"jsonl:1  submitted .*\n.*jsonl:2  submitted ": lambda terminal: os.write(terminal, CTRL_C)}
        words = ("batch", "jobs.jsonl", "--output", "my clips")
        left = await on_a_terminal(*KLING, *words, cwd=tmp_path, url=emulator.url, reactions=press)
        emulator.advance(1000)
        program, *again = shlex.split(left.lines[-1])
        done = await on_a_terminal(*KLING, *again, cwd=tmp_path, url=emulator.url)
    assert (left.code, left.cursor, program, done.code, creations(emulator)) == (130, True, "kling", 0, 2)
    assert left.lines[-2] == "kling: 2 of 2 jobs are not done, tasks under way go on; to go on:"
    assert "Traceback" not in left.drawn
    assert [line for line in left.lines[:-2] if line != "^C"] == []
    assert done.lines[-1] == "2 jobs: 2 saved; each is in my clips/report.jsonl"


async def test_piped_to_jq(tmp_path: Path) -> None:
    """Behind a pipe progress is plain lines, even on a terminal, so that what the next program writes there stays."""
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed: apt-get install jq")
    write_jobs(tmp_path / "jobs.jsonl", "a fox", "[fail: too dark]", "a hen")
    pipe = f"""{shlex.join(KLING)} batch jobs.jsonl --json | jq -r '[.place, .outcome, (.files | length)] | join(" ")'"""
    async with Emulator(speed=FAST, studio=Studio(sample)) as emulator:
        seen = await on_a_terminal("sh", "-c", pipe, cwd=tmp_path, url=emulator.url, NO_COLOR="1")
    assert (seen.code, seen.colours, "\x1b[?25l" in seen.drawn, "\x1b[2K" in seen.drawn) == (0, False, False, False)  # the code is jq's
    assert sorted(line for line in seen.lines if line[-1].isdigit() and ": " not in line) == [
        "jobs.jsonl:1 saved 1",
        "jobs.jsonl:2 failed 0",
        "jobs.jsonl:3 saved 1",
    ]
    assert "3 jobs: 2 saved, 1 failed; each is in report.jsonl" in seen.lines
    assert sum(": saved after " in line for line in seen.lines) == 2


async def test_plain_terminals(tmp_path: Path) -> None:
    """NO_COLOR takes the colours, a dumb terminal the movement, and forty columns are enough."""
    async with Emulator(speed=FAST, studio=Studio(sample)) as emulator:
        words = (*KLING, "generate-image", "a fox in fresh snow, and a long story about it")
        bare, dumb = await asyncio.gather(
            on_a_terminal(*words, cwd=tmp_path, url=emulator.url, size=NARROW, NO_COLOR="1"),
            on_a_terminal(*words, cwd=tmp_path, url=emulator.url, TERM="dumb"),
        )
        listed = await on_a_terminal(*KLING, "ls", cwd=tmp_path, url=emulator.url, size=NARROW)
    assert (bare.code, dumb.code, listed.code) == (0, 0, 0)
    assert (bare.colours, "\x1b[?25l" in bare.drawn, "\x1b" in dumb.drawn) == (False, True, False)
    assert "generate_image: saving after " in dumb.drawn
    assert [line for line in bare.lines if line.startswith("generate_image: saved after ")]
    heads = [line for line in listed.lines if line.startswith("succeeded")]
    assert len(heads) == 2
    assert all(len(head) == 40 and head.endswith("…") for head in heads), heads
    assert listed.colours


async def test_more_than_the_terminal_is_high(tmp_path: Path) -> None:
    """Twelve tasks on eight lines of forty columns: some are shown, the others counted, and below stands how far all of it is."""
    write_jobs(tmp_path / "jobs.jsonl", *(f"fox {number}" for number in range(12)))
    async with Emulator(speed=0, slots={"image": 12}, studio=Studio(sample)) as emulator:
        ending: Reactions = {"and 8 more: 8 submitted": lambda _: emulator.advance(1000)}
        words = (*KLING, "batch", "jobs.jsonl", "--in-flight", "12")
        seen = await on_a_terminal(*words, cwd=tmp_path, url=emulator.url, size=(8, 40), reactions=ending, NO_COLOR="1")
    assert (seen.code, seen.colours, "usually" in seen.drawn) == (0, False, False)
    assert any(re.fullmatch(r". +jobs.jsonl:1 +submitted +\d:\d\d *", line) for line in seen.plain)
    assert "12 under way" in seen.plain
    assert max(map(len, seen.plain)) <= 40
    assert seen.lines[-2:] == ["12 jobs: 12 saved; each is in", "report.jsonl"]
    assert sum(line.endswith(".png") for line in seen.lines) == 12


async def test_waiting_for_a_slot(tmp_path: Path) -> None:
    """A job that the account has no room for is not said to be submitted: it waits, and says for what, in a word where it is narrow."""
    write_jobs(tmp_path / "jobs.jsonl", "a fox", "a hen")
    async with Emulator(speed=0, slots={"image": 1}, studio=Studio(sample)) as emulator:
        ending: Reactions = {r"jsonl:\d  waiting ": lambda terminal: os.write(terminal, CTRL_C)}
        words = (*KLING, "batch", "jobs.jsonl")
        seen = await on_a_terminal(*words, cwd=tmp_path, url=emulator.url, size=NARROW, reactions=ending)
    assert (seen.code, len(emulator.log.tasks)) == (130, 1)
    assert any(re.fullmatch(r". +jobs.jsonl:\d +waiting +\d:\d\d *", line) for line in seen.plain)
