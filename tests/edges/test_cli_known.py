"""What the command line remembers: the journal it keeps by default, and the commands that look back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest

from kling_async.emulator import Emulator
from kling_async.models import TaskRef
from shells import FAST, KEY, Quick, Shell, command_in, creations, files_in, journal_of

pytest.importorskip("cyclopts", reason="the command line is an extra")

from kling_async.cli._journal import default_path
from kling_async.cli._known import ago


@pytest.fixture
def anyio_backend() -> str:
    """Real time: the program on the other side of the sockets has no other."""
    return "asyncio"


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Quick:
    """The program as a function."""
    return Quick(tmp_path, monkeypatch, capsys)


PLACES = [
    ("linux", {"XDG_STATE_HOME": "/state"}, "/state/kling_async/journal.db"),
    ("linux", {"XDG_STATE_HOME": "state"}, "/home/me/.local/state/kling_async/journal.db"),
    ("linux", {}, "/home/me/.local/state/kling_async/journal.db"),
    ("darwin", {}, "/home/me/Library/Application Support/kling_async/journal.db"),
    ("win32", {"LOCALAPPDATA": "/local"}, "/local/kling_async/journal.db"),
    ("win32", {}, "/home/me/AppData/Local/kling_async/journal.db"),
]


@pytest.mark.parametrize(("system", "environment", "place"), PLACES)
def test_default_place(system: str, environment: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is where the platform keeps the state of programs; a relative XDG directory is ignored, as its standard says."""
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", "USERPROFILE": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    assert default_path().as_posix() == place


@pytest.mark.parametrize(("seconds", "told"), [(-3, "0 s"), (59.9, "59 s"), (61, "1 min"), (7300, "2 h"), (9e4, "1 d")])
def test_ages(seconds: float, told: str) -> None:
    """Ages are told in their largest unit; a clock that was set back does not show."""
    assert ago(seconds) == told


async def test_recorded_by_default(quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purchase is in the journal of the platform's place without a word, private; with --no-journal there is none."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("KLING_JOURNAL", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    async with Emulator(speed=FAST) as emulator:
        await quick(emulator.url, "generate-image", "a fox", "--no-wait", "--no-journal")
        assert files_in(tmp_path) == []
        await quick(emulator.url, "generate-image", "a hen", "--no-wait")
        listed = await quick(emulator.url, "ls")
    assert files_in(tmp_path / "state" / "kling_async")[0] == "journal.db"
    assert (tmp_path / "state" / "kling_async" / "journal.db").stat().st_mode & 0o077 == 0
    assert ("a hen" in listed.out, "a fox" in listed.out) == (True, False)


async def test_no_journal_no_purchase(quick: Quick, tmp_path: Path) -> None:
    """A journal that cannot be opened ends the command with 2 and what to do, before anything is sent; `wait` goes on without."""
    (tmp_path / "notes").write_text("no journal", encoding="utf-8")
    async with Emulator(speed=FAST) as emulator:
        refused = await quick(emulator.url, "generate-image", "a fox", "--journal", "notes")
        assert (refused.code, refused.out, emulator.log.requests) == (2, "", [])
        bought = await quick(emulator.url, "generate-image", "a fox", "--no-wait")
        waited = await quick(emulator.url, "wait", bought.out.strip(), "--journal", "notes")
    assert "this is no journal; the file was left as it is; choose another file with --journal" in refused.err
    assert (waited.code, waited.out) == (0, f"{emulator.log.tasks[0].id}.png\n")


async def test_looking_back(quick: Quick, tmp_path: Path) -> None:
    """`ls` shows what was bought, newest first, with ref and files; `recover` ends what is unfinished; `save` fetches what is missing."""
    async with Emulator(speed=0) as emulator:
        for prompt in ("a fox", "[fail: too dark]", "a hen"):
            await quick(emulator.url, "generate-image", prompt, "--no-wait")
        fox, dark, hen = emulator.log.tasks
        early = await quick(
            emulator.url, "save", *(json.loads(line)["ref"] for line in (await quick(emulator.url, "ls", "--json")).out.splitlines())
        )
        emulator.advance(1000)
        recovered = await quick(emulator.url, "recover", "-o", "out")
        nothing = await quick(emulator.url, "recover", "-o", "out")
        listed = await quick(emulator.url, "ls")
        (tmp_path / "out" / f"{fox.id}.png").unlink()
        seen = len([seen for seen in emulator.log.requests if seen.route == "files"])
        refs = {TaskRef.parse(ref).task_id: ref for ref in (line.strip() for line in listed.out.splitlines()) if ref.startswith("kling1,")}
        saved = await quick(emulator.url, "save", refs[fox.id], refs[hen.id], "-o", "out")
        fetched = len([seen for seen in emulator.log.requests if seen.route == "files"]) - seen
    assert (early.code, early.out, command_in(early.err)[0]) == (4, "", "wait")
    assert "not finished yet, it is submitted" in early.err
    assert (recovered.code, sorted(recovered.out.splitlines())) == (1, sorted(f"out/{task.id}.png" for task in (fox, hen)))
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "Nothing is unfinished.\n")
    assert [line.split()[0] for line in listed.out.splitlines() if not line.startswith(" ")] == ["succeeded", "failed", "succeeded"]
    assert "  the task failed: too dark\n" in listed.out
    assert str(tmp_path / "out" / f"{hen.id}.png") in listed.out
    assert list(refs) == [hen.id, dark.id, fox.id]
    assert (saved.code, sorted(saved.out.splitlines()), fetched) == (0, sorted(f"out/{task.id}.png" for task in (fox, hen)), 1)
    assert creations(emulator) == 3


async def test_whose(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ls` lists what belongs to this key and gateway; `--all` everything; what cannot be settled is said so."""
    async with Emulator(speed=0) as emulator, Emulator(speed=0) as other:
        await quick(emulator.url, "generate-image", "a fox", "--no-wait")
        await quick(other.url, "generate-image", "a hen", "--no-wait")
        monkeypatch.setenv("KLING_API_KEY", "another-key")
        await quick(emulator.url, "generate-image", "a dog", "--no-wait")
        monkeypatch.setenv("KLING_API_KEY", KEY)
        own, everything = await quick(emulator.url, "ls", "--json"), await quick(emulator.url, "ls", "--all", "--json")
        wrong = await quick(emulator.url, "abandon", json.loads(own.out)["external_task_id"])
        missing = await quick(emulator.url, "abandon", "nothing")
        empty = await quick("http://127.0.0.1:1", "ls")
    assert [json.loads(line)["prompt"] for line in own.out.splitlines()] == ["a fox"]
    assert [json.loads(line)["prompt"] for line in everything.out.splitlines()] == ["a dog", "a hen", "a fox"]
    assert (wrong.code, "only what is unknown can be abandoned" in wrong.err) == (2, True)
    assert (missing.code, "knows no creation nothing" in missing.err) == (2, True)
    assert (empty.code, empty.out, "kling ls --all" in empty.err) == (0, "", True)


async def test_two_at_once(tmp_path: Path) -> None:
    """Two programs that share the journal do not disturb each other, though it is new to both."""
    async with Emulator(speed=FAST) as emulator, anyio.create_task_group() as group:
        shell = Shell(tmp_path, emulator.url)
        for prompt in ("a fox", "a hen"):
            group.start_soon(shell.kling, "generate-image", prompt, "--no-wait")
    async with Emulator() as nowhere:
        rows = [json.loads(line) for line in (await Shell(tmp_path, nowhere.url).kling("ls", "--all", "--json")).out.splitlines()]
    assert sorted(row["prompt"] for row in rows) == ["a fox", "a hen"]
    assert journal_of(tmp_path).exists()


async def test_doctor(quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` tells what is fit and what is not, each in a line, ends as its first failure would, shows no key and buys nothing."""
    async with Emulator(api_keys=[KEY]) as emulator:
        well = await quick(emulator.url, "doctor")
        emulator.fault("html", method="GET", status=200)
        page = await quick(emulator.url, "doctor", "--json")
        (tmp_path / "notes").write_text("no journal", encoding="utf-8")
        broken = await quick(emulator.url, "doctor", "--journal", "notes")
        monkeypatch.setenv("KLING_API_KEY", "a-wrong-key")
        refused = await quick(emulator.url, "doctor")
    down = await quick(emulator.url, "doctor", "--no-journal")
    monkeypatch.delenv("KLING_API_KEY")
    bare = await quick("", "doctor")
    monkeypatch.setenv("KLING_ACCESS_KEY", "an-access-key")
    half = await quick("", "doctor")
    monkeypatch.setenv("KLING_SECRET_KEY", "a-secret-key")
    async with Emulator(profile="official", access_keys={"an-access-key": "a-secret-key"}) as official:
        paired = await quick(official.url, "doctor", "--profile", "official")
    checks = ["version", "key", "address", "clock", "gateway", "journal"]
    assert [line.split()[:2] for line in well.out.splitlines()] == [["ok", what] for what in checks]
    assert (well.code, well.err, f"{len(KEY)} characters" in well.out) == (0, "", True)
    verdicts = {facts["check"]: facts for facts in map(json.loads, page.out.splitlines())}
    assert (page.code, verdicts["gateway"]["verdict"], "not this API" in verdicts["gateway"]["detail"]) == (5, "fail", True)
    assert (broken.code, "fail  journal   journal " in broken.out) == (2, True)
    assert (refused.code, "fail  gateway   refuses the key" in refused.out) == (3, True)
    assert (down.code, "no reply from the gateway" in down.out, "warn  journal" in down.out) == (5, True, True)
    assert (bare.code, bare.out.count("fail  "), "export KLING_API_KEY=" in bare.out) == (2, 2, True)
    assert "fail  key       half a key: KLING_ACCESS_KEY is set, and KLING_SECRET_KEY is not" in half.out
    assert (paired.code, "from KLING_ACCESS_KEY and KLING_SECRET_KEY, account" in paired.out) == (0, True)
    assert [secret for secret in ("an-access-key", "a-secret-key") if secret in half.out + paired.out] == []
    assert creations(emulator) == 0
