"""Many jobs from a file: checked as a whole, bought once, reported one by one, taken up again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kling_async.emulator import Emulator
from kling_async.emulator._studio import Studio, sample
from shells import FAST, Quick, Shell, command_in, creations, files_in

pytest.importorskip("cyclopts", reason="the command line is an extra")

NOWHERE = "http://127.0.0.1:1"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\0\0\0\2\0\10\2\0\0\0"


@pytest.fixture
def anyio_backend() -> str:
    """Real time: the program on the other side of the sockets has no other."""
    return "asyncio"


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Quick:
    """The program as a function."""
    return Quick(tmp_path, monkeypatch, capsys)


def write(path: Path, *jobs: dict[str, Any]) -> None:
    """A file of JSON lines."""
    path.write_text("".join(f"{json.dumps(job)}\n" for job in jobs), encoding="utf-8")


def pictures(*prompts: str) -> list[dict[str, Any]]:
    """A job for each prompt."""
    return [{"job": "generate_image", "prompt": prompt} for prompt in prompts]


def reported(directory: Path) -> list[dict[str, Any]]:
    """What the report says."""
    return [json.loads(line) for line in (directory / "report.jsonl").read_text(encoding="utf-8").splitlines()]


async def test_fifty(quick: Quick, tmp_path: Path) -> None:
    """Of fifty jobs three fail: 47 files, 50 lines in the report and on stdout; again buys nothing, with --retry-failed those three."""
    write(tmp_path / "jobs.jsonl", *pictures(*(f"{'[fail: dark] ' if number % 20 == 5 else ''}fox {number}" for number in range(50))))
    words = ("batch", "jobs.jsonl", "-o", "out", "--in-flight", "50", "--json")
    async with Emulator(speed=FAST, studio=Studio(sample)) as emulator:
        first = await quick(emulator.url, *words)
        seen = len(emulator.log.requests)
        again = await quick(emulator.url, *words)
        untouched = len(emulator.log.requests) == seen
        retried = await quick(emulator.url, *words, "--retry-failed")
        last = await quick(emulator.url, *words)
    report = reported(tmp_path / "out")
    assert (first.code, again.code, retried.code, last.code) == (1, 1, 1, 1)
    assert [json.loads(line) for line in first.out.splitlines()] == report[:50]
    assert [job["outcome"] for job in report].count("failed") == 6
    assert sorted(path for job in report for path in job["files"]) == [f"out/{name}" for name in files_in(tmp_path / "out")[:-1]]
    assert len(files_in(tmp_path / "out")) == 48
    assert {job["place"] for job in report} == {f"jobs.jsonl:{number}" for number in range(1, 51)}
    assert "50 jobs: 47 saved, 3 failed; each is in out/report.jsonl" in first.err
    assert "(50 of them before)" in again.err
    assert (untouched, again.out, last.out) == (True, "", "")
    assert (creations(emulator), len(retried.out.splitlines())) == (53, 3)
    assert emulator.log.tasks[50].id in {job["task_id"] for job in report[50:]}


@pytest.mark.parametrize("how", ["interrupt", "kill"])
async def test_resume(how: str, tmp_path: Path) -> None:
    """Left by Ctrl-C or killed, the same command goes on: it buys what was not bought and saves what was. Ctrl-C prints it."""
    write(tmp_path / "my jobs.jsonl", *pictures("a fox", "a hen", "a fox"))
    words = ["batch", "my jobs.jsonl", "--output", "out", "--in-flight", "2"]
    async with Emulator(speed=0) as emulator:
        shell = Shell(tmp_path, emulator.url)
        async with shell.started(*words) as first:
            await first.says("jsonl:1: submitted")
            await first.says("jsonl:2: submitted")
            getattr(first, how)()
            left = await first.ended()
        assert creations(emulator) == 2
        (tmp_path / "out" / "report.jsonl").write_text('{"half a li', encoding="utf-8")
        if how == "interrupt":
            assert (left.code, "Traceback" in left.err) == (130, False)
            assert "3 of 3 jobs are not done" in left.err
            words = command_in(left.err)
        emulator.advance(1000)
        async with shell.started(*words) as second:
            await second.says("jsonl:3: submitted")
            emulator.advance(1000)
            done = await second.ended()
    assert (done.code, creations(emulator), len(emulator.log.tasks)) == (0, 3, 3)
    assert sorted(done.out.splitlines()) == sorted(f"out/{task.id}.png" for task in emulator.log.tasks)
    text = (tmp_path / "out" / "report.jsonl").read_text(encoding="utf-8").splitlines()
    assert (text[0], len(text), {json.loads(line)["outcome"] for line in text[1:]}) == ('{"half a li', 4, {"saved"})


async def test_what_a_kill_kept_from_the_report(quick: Quick, tmp_path: Path) -> None:
    """What ended and was saved, and not reported, is reported by the next run, from the journal."""
    write(tmp_path / "jobs.jsonl", *pictures("a fox"))
    async with Emulator(speed=FAST) as emulator:
        await quick(emulator.url, "batch", "jobs.jsonl")
        before = reported(tmp_path)
        (tmp_path / "report.jsonl").unlink()
        again = await quick(emulator.url, "batch", "jobs.jsonl")
    (line,) = reported(tmp_path)
    assert (again.code, again.out, creations(emulator)) == (0, "", 1)
    assert [line[name] for name in ("place", "job", "outcome", "task_id")] == [
        before[0][name] for name in ("place", "job", "outcome", "task_id")
    ]
    assert [Path(path).name for path in line["files"]] == [Path(path).name for path in before[0]["files"]]


async def test_unknown(quick: Quick, tmp_path: Path) -> None:
    """A line whose outcome nobody knows is not bought again until a person has said what became of it."""
    write(tmp_path / "jobs.jsonl", *pictures("a fox"))
    async with Emulator(speed=FAST) as emulator:
        emulator.fault("drop", method="POST", accepted=True)
        first = await quick(emulator.url, "batch", "jobs.jsonl")
        again = await quick(emulator.url, "batch", "jobs.jsonl")
        key = str(emulator.log.tasks[0].external_task_id)
        assert (first.code, again.code, creations(emulator)) == (6, 6, 1)
        assert f"kling adopt {key} TASK_ID" in again.err
        listed = await quick(emulator.url, "recover")
        assert (listed.code, f"kling abandon {key}" in listed.err) == (6, True)
        slip = await quick(emulator.url, "adopt", key, "812345678901234567")
        adopted = await quick(emulator.url, "adopt", key, emulator.log.tasks[0].id)
        done = await quick(emulator.url, "batch", "jobs.jsonl")
    assert (slip.code, adopted.code, adopted.out.startswith("kling1,")) == (2, 0, True)
    assert (done.code, done.out, creations(emulator)) == (0, f"{emulator.log.tasks[0].id}.png\n", 1)


async def test_another_gateway(quick: Quick, tmp_path: Path) -> None:
    """A batch bought with this key at one gateway is not bought again at another, which may be the same service under a new name."""
    write(tmp_path / "jobs.jsonl", *pictures("a fox", "a hen"))
    async with Emulator(speed=FAST) as first, Emulator(speed=FAST) as second:
        await quick(first.url, "batch", "jobs.jsonl")
        refused = await quick(second.url, "batch", "jobs.jsonl")
        dry = await quick(second.url, "batch", "jobs.jsonl", "--dry-run")
        assert second.log.requests == []
        done = await quick(second.url, "batch", "jobs.jsonl", "--journal", "other.db", "--quiet")
    assert (refused.code, dry.code, refused.err) == (2, 2, dry.err)
    assert refused.err.startswith(f"kling: 2 of the 2 jobs were begun at {first.url}, with this key")
    assert (done.code, creations(first), creations(second)) == (0, 2, 2)


async def test_abandoned(quick: Quick, tmp_path: Path) -> None:
    """A line that a person says was never accepted is bought by the next run."""
    write(tmp_path / "jobs.jsonl", *pictures("a fox"))
    async with Emulator(speed=FAST) as emulator:
        emulator.fault("drop", method="POST", accepted=False)
        await quick(emulator.url, "batch", "jobs.jsonl")
        (seen,) = emulator.log.requests
        given_up = await quick(emulator.url, "abandon", str(seen.external_task_id))
        done = await quick(emulator.url, "batch", "jobs.jsonl")
    assert (given_up.code, done.code, creations(emulator), len(emulator.log.tasks)) == (0, 0, 2, 1)


async def test_no_money(quick: Quick, tmp_path: Path) -> None:
    """An account that cannot pay ends the batch at the first line, not with a refusal for each; the command to go on is printed."""
    write(tmp_path / "jobs.jsonl", *pictures("a fox", "a hen", "a dog"))
    async with Emulator(speed=FAST) as emulator:
        emulator.fault("code", method="POST", code=1101, http=429, message="in arrears", times=None)
        done = await quick(emulator.url, "batch", "jobs.jsonl", "--in-flight", "1")
    assert (done.code, creations(emulator), command_in(done.err)) == (3, 1, ["batch", "jobs.jsonl", "--in-flight", "1"])
    assert "3 of 3 jobs are not done" in done.err
    assert (done.err.count("in arrears"), len(reported(tmp_path))) == (1, 1)


async def test_refused_and_failed(quick: Quick, tmp_path: Path) -> None:
    """What is left to do is counted; nothing is said to be under way that is not, and how to buy again what failed is told all the same."""
    write(tmp_path / "jobs.jsonl", *pictures("a fox", "a hen [block]", "a dog [fail]"))
    async with Emulator(speed=FAST) as emulator:
        done = await quick(emulator.url, "batch", "jobs.jsonl")
    assert "3 jobs: 1 saved, 1 failed, 1 not bought" in done.err
    assert "1 of 3 jobs is not done; to go on:" in done.err
    assert "add --retry-failed" in done.err


WRONG = {
    '{"job": "text2video", "prompt": "a fox", "duration": 2}': "duration: must be from 3 to 15 seconds",
    '{"job": "text2film", "prompt": "a fox"}': "job: 'text2film' is none",
    '{"prompt": "a fox"}': "job: is not said",
    '{"job": "generate-image"}': "prompt: is required",
    '{"job": "text2video", "prompt": "a fox", "seconds": 5}': "seconds: is no field of text2video",
    '{"job": "image2video", "image": "nowhere.png"}': "image: ",
    '{"job": "text2video", "prompt": "a fox"': "is not JSON",
    '["text2video", "a fox"]': "must be an object",
}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["real", "dry"])
async def test_mistakes(dry: tuple[str, ...], quick: Quick, tmp_path: Path) -> None:
    """Every mistake is told with file, line, field and rule, without --dry-run too; one of them, and nothing is bought."""
    (tmp_path / "jobs.jsonl").write_text("\n".join(['{"job": "text2video", "prompt": "fine"}', "", *WRONG]), encoding="utf-8")
    async with Emulator() as emulator:
        done = await quick(emulator.url, "batch", "jobs.jsonl", *dry)
        told = await quick(emulator.url, "batch", "jobs.jsonl", "--json", *dry)
    assert (done.code, done.out, emulator.log.requests) == (2, "", [])
    for number, (line, rule) in enumerate(WRONG.items(), 3):
        assert f"kling: jobs.jsonl:{number}: {rule}" in done.err, line
    assert done.err.endswith(f"kling: {len(WRONG)} lines are wrong; nothing was bought\n")
    assert [json.loads(line)["place"] for line in told.out.splitlines()] == [f"jobs.jsonl:{number}" for number in range(3, 3 + len(WRONG))]
    assert json.loads(told.out.splitlines()[0])["field"] == "duration"


SETUPS = {
    "no-file": (["nowhere.jsonl"], "nowhere.jsonl: No such file"),
    "empty": (["empty.jsonl"], "asks for nothing"),
    "no-text": (["picture.jsonl"], "is not UTF-8 text"),
    "no-record": (["jobs.jsonl", "--no-journal"], "leave --no-journal away"),
    "no-directory": (["jobs.jsonl", "-o", "empty.jsonl"], "nothing was bought"),
    "no-pair": (["jobs.jsonl", "--set", "duration"], "--set: write NAME=VALUE"),
    "prompt-for-a-file": (["jobs.jsonl", "--prompt", "a fox"], "--prompt: is for a folder"),
    "no-job-at-once": (["jobs.jsonl", "--in-flight", "0"], "--in-flight"),
}


@pytest.mark.parametrize(("words", "told"), SETUPS.values(), ids=SETUPS.keys())
async def test_setup(words: list[str], told: str, quick: Quick, tmp_path: Path) -> None:
    """What is wrong with the command as a whole is told in one line, and nothing is sent."""
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "picture.jsonl").write_bytes(PNG)
    write(tmp_path / "jobs.jsonl", *pictures("a fox"))
    done = await quick(NOWHERE, "batch", *words)
    assert (done.code, done.out, done.err.rpartition("kling: ")[0]) == (2, "", "")
    assert told in done.err


async def test_dry_run(quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run lists what would be bought, needs no key, makes no file; with a key it knows what was bought before."""
    (tmp_path / "jobs.csv").write_text("\ufeffprompt,aspect_ratio,n\na fox,1:1,\n\na hen,,2\n", encoding="utf-8")
    async with Emulator(speed=FAST) as emulator:
        words = ("batch", "jobs.csv", "--job", "generate-image", "--set", "model_name=kling-v2", "--dry-run")
        with monkeypatch.context() as nothing:
            nothing.delenv("KLING_API_KEY")
            done = await quick(emulator.url, *words)
        assert (files_in(tmp_path), emulator.log.requests, (tmp_path.parent / f"{tmp_path.name}-journal.db").exists()) == (
            ["jobs.csv"],
            [],
            False,
        )
        await quick(emulator.url, *words[:-1])
        after = await quick(emulator.url, *words)
    assert (done.code, done.out) == (
        0,
        "jobs.csv:2  generate_image  would be bought  a fox\njobs.csv:4  generate_image  would be bought  a hen\n",
    )
    assert "2 of 2 jobs would be bought: 2 generate_image; nothing was sent." in done.err
    assert "0 of 2 jobs would be bought; nothing was sent." in after.err
    sent = {seen.body["prompt"]: seen.body for seen in emulator.log.requests if seen.method == "POST"}
    assert (sent["a fox"]["aspect_ratio"], sent["a hen"]["n"]) == ("1:1", 2)
    assert "aspect_ratio" not in sent["a hen"]
    assert {body["model_name"] for body in sent.values()} == {"kling-v2"}


async def test_folder(quick: Quick, tmp_path: Path) -> None:
    """A folder is a clip from each picture in it, the prompt made from its name; another picture under that name is another job."""
    (tmp_path / "in").mkdir()
    for name in ("red fox.png", "hen.PNG", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(PNG)
    words = ("batch", "in", "--prompt", "a {name} jumps {high}", "--set", "duration=5", "--dry-run", "--json")
    first = await quick(NOWHERE, *words)
    (tmp_path / "in" / "hen.PNG").write_bytes(PNG + b"other")
    second = await quick(NOWHERE, *words)
    plain = await quick(NOWHERE, *words[:-1])
    assert plain.out.splitlines()[1] == "red fox.png  image2video  would be bought  a red fox jumps {high}"
    before, after = ([json.loads(line)["word"] for line in done.out.splitlines()] for done in (first, second))
    assert (before[0] == after[0], before[1] == after[1]) == (False, True)
