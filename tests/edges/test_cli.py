"""The command line as far as nothing is sent: help, mistakes, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from attrs import fields

from kling_async import _fault, errors
from kling_async.emulator._profiles import PROFILES
from kling_async.errors import KlingError
from kling_async.jobs import ALL_JOBS, Job

pytest.importorskip("cyclopts", reason="the command line is an extra")

from kling_async.cli import MEANINGS, Exit, emulator, main
from kling_async.cli._exit import exit_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No gateway, no key, a journal of its own, and a terminal wide enough for every line."""
    monkeypatch.setenv("KLING_JOURNAL", str(tmp_path / "journal.db"))
    for name in ("KLING_API_KEY", "KLING_BASE_URL", "KLING_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "400")


def spoken(capture: Capture, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    code = main(words)
    out, err = capture.readouterr()
    return code, out, err


@pytest.mark.parametrize("job", ALL_JOBS, ids=lambda job: job.verb)
def test_help_of_a_job(job: type[Job[Any]], capsys: Capture) -> None:
    """Each job has a command of its name, spelt with either dash; its help says what the class says, field by field."""
    code, out, err = spoken(capsys, job.verb.replace("_", "-"), "--help")
    assert (code, err) == (0, "")
    assert (job.__doc__ or "").partition("\n")[0] in out
    for attribute in fields(job):
        assert f"--{attribute.name.replace('_', '-')}" in out
        assert attribute.metadata["help"] in out
        for word in attribute.metadata["choices"]:
            assert word in out
    assert spoken(capsys, job.verb, "--help")[1] == out.replace(f"kling {job.verb.replace('_', '-')}", f"kling {job.verb}")


def test_help(capsys: Capture) -> None:
    """`kling --help` names every command once and explains every exit code; it is no error."""
    code, out, err = spoken(capsys, "--help")
    assert (code, err) == (0, "")
    commands = [line.split()[1] for line in out.splitlines() if line.startswith("│ ")]
    named = [job.verb.replace("_", "-") for job in ALL_JOBS]
    others = ["abandon", "adopt", "batch", "demo", "doctor", "emulator", "get", "ls", "recover", "save", "wait"]
    assert sorted(commands) == sorted([*named, "--help", "--install-completion", "--version", *others])
    for number, meaning in MEANINGS.items():
        assert f"{number:>3}  {meaning}" in out
    assert set(MEANINGS) == set(Exit)


def test_no_command(capsys: Capture) -> None:
    """`kling` alone shows the help."""
    assert spoken(capsys)[:2] == (0, spoken(capsys, "--help")[1])


WRONG = {
    "no-such-command": (["text2film", "a fox"], 'Unknown command "text2film"'),
    "no-such-option": (["text2video", "a fox", "--seconds", "5"], "--seconds"),
    "no-such-field": (["text2video", "a fox", "--image", "fox.png"], "--image"),
    "key-as-option": (["text2video", "a fox", "--api-key", "secret"], "--api-key"),
    "prompt-missing": (["generate-image"], "--prompt"),
    "first-missing": (["virtual-try-on", "--cloth-image", "coat.png"], "--human-image"),
    "option-missing": (["video-extend", "it runs away"], "--video-id"),
    "required-either-way": (["text2video"], "--prompt: is required"),
    "out-of-range": (["text2video", "a fox", "--duration", "2"], "--duration: must be from 3 to 15 seconds"),
    "not-whole": (["text2video", "a fox", "--duration", "5.5"], "--duration: must be a whole number, not 5.5"),
    "not-a-number": (["text2video", "a fox", "--cfg-scale", "high"], "--cfg-scale"),
    "no-such-file": (["image2video", "a fox", "--image", "nowhere/fox.png"], "--image"),
    "cross-field": (["generate-image", "a fox", "--image", "https://host.example/a.png", "--negative-prompt", "b"], "--negative-prompt"),
    "not-json": (["text2video", "a fox", "--camera-control", "{pan: 1}"], "--camera-control: is not JSON"),
    "nested": (["text2video", "a fox", "--camera-control", '{"pan": 11}'], "--camera-control.pan: must be from -10 to 10"),
    "extra-no-object": (["text2video", "a fox", "--extra", "[1]"], "--extra: must be a mapping"),
    "two-prompts": (["text2video", "a red", "fox"], "fox"),
    "timeout": (["text2video", "a fox", "--timeout", "0"], "--timeout"),
    "no-base-url": (["text2video", "a fox"], "KLING_BASE_URL"),
    "no-key": (["text2video", "a fox", "--base-url", "https://gateway.example"], "KLING_API_KEY"),
    "in-the-clear": (["text2video", "a fox", "--base-url", "http://gateway.example"], "https"),
    "no-ref": (["wait"], "REFS"),
    "not-a-ref": (["wait", "123", "--base-url", "http://127.0.0.1:1"], "not a task reference"),
    "ref-elsewhere": (["get", "kling1,https://other.example,videos,text2video,1,,", "--base-url", "http://127.0.0.1:1"], "other.example"),
    "speed": (["emulator", "--speed", "-1"], "--speed"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG.keys())
def test_mistakes(words: list[str], told: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong before anything is sent ends with 2, one line that names what is wrong, and an empty stdout."""
    if words[0] in {"wait", "get"}:
        monkeypatch.setenv("KLING_API_KEY", "any")
    code, out, err = spoken(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("kling: ")
    assert err.count("\n") == 1
    assert told in err


def test_debug(capsys: Capture) -> None:
    """`--debug` shows where an error came from; the last line stays the same."""
    plain, told = (spoken(capsys, "text2video", "a fox", "--duration", "2", *more)[2] for more in ((), ("--debug",)))
    assert "Traceback" not in plain
    assert told.startswith("Traceback (most recent call last):")
    assert told.endswith(plain)


@pytest.mark.parametrize(("field", "typed"), [("duration", "5"), ("sound", ""), ("mode", "8k"), ("watermark_info", "")])
def test_open_words(field: str, typed: str, capsys: Capture) -> None:
    """Values get past the options into the job, words of tomorrow included: what is missing then is the gateway."""
    code, _, err = spoken(capsys, "text2video", "a fox", f"--{field.replace('_', '-')}", *filter(None, [typed]))
    assert (code, "KLING_BASE_URL" in err) == (2, True), err


def test_every_error_has_a_code() -> None:
    """No error of the library counts as a defect of the program but the bare `KlingError`, which is one."""
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KlingError)}
    kinds -= {KlingError, errors.CallbackError}
    codes = {kind: exit_of(kind.__new__(kind)) for kind in kinds}
    assert [kind for kind, code in codes.items() if code in {Exit.DEFECT, Exit.OK}] == []
    assert exit_of(KlingError("?")) is Exit.DEFECT
    expected = {
        errors.TaskFailedError: 1,
        errors.ResultMissingError: 1,
        errors.InvalidJobError: 2,
        errors.ContentPolicyError: 2,
        _fault.InvalidRefError: 2,
        errors.AuthenticationError: 3,
        errors.AccountError: 3,
        errors.TaskTimeoutError: 4,
        errors.TransportTimeoutError: 5,
        errors.ConcurrencyLimitError: 5,
        errors.ResultExpiredError: 5,
        errors.SubmitOutcomeUnknown: 6,
    }
    assert {kind: codes[kind] for kind in expected} == expected


def test_profiles_of_the_emulator() -> None:
    """The command offers the kinds of server that the emulator can be, though it does not load it to know."""
    hint = get_args(get_type_hints(emulator, include_extras=True)["profile"])[0]
    assert set(get_args(hint)) == set(PROFILES)


def test_help_is_light() -> None:
    """Showing help loads no network, no event loop, no codec, no session and no emulator."""
    code = "import sys; from kling_async.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"aiohttp", "anyio", "asyncio", "cattrs", "ssl", "kling_async.emulator", "kling_async.session"}
    assert set(done.stderr.split()) & heavy == set()
