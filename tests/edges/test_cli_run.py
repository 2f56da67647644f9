"""The real program in processes of its own, over real sockets, against an emulator in this one."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from kling_async.emulator import Emulator
from kling_async.models import TaskRef
from shells import FAST, KEY, Done, Quick, Shell, command_in

pytest.importorskip("cyclopts", reason="the command line is an extra")


@pytest.fixture
def anyio_backend() -> str:
    """Real time: the program on the other side of the sockets has no other."""
    return "asyncio"


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Quick:
    """The program as a function."""
    return Quick(tmp_path, monkeypatch, capsys)


def refs_in(text: str) -> list[str]:
    """Every task reference in a text."""
    return re.findall(r"kling1,[^\s']+", text)


async def test_a_job(tmp_path: Path) -> None:
    """A job's command buys one task, names it on stderr, saves its file and writes nothing but the path to stdout."""
    async with Emulator(speed=FAST) as emulator:
        done = await Shell(tmp_path, emulator.url).kling("generate-image", "a fox", "--aspect-ratio", "1:1", "-o", "out")
    (task,) = emulator.log.tasks
    assert (done.code, done.out) == (0, f"out/{task.id}.png\n")
    assert (tmp_path / done.out.strip()).read_bytes().startswith(b"\x89PNG")
    (ref,) = refs_in(done.err)
    assert TaskRef.parse(ref).task_id == task.id
    assert done.err.splitlines()[-1].startswith("generate_image: saved after 0:0")
    assert task.body["aspect_ratio"] == "1:1"


async def test_every_job(tmp_path: Path, quick: Quick) -> None:
    """All fields arrive as typed: files as base64, JSON as nested values, lists as lists, switches as the service's words."""
    (tmp_path / "fox.png").write_bytes((resources.files("kling_async.emulator") / "samples" / "picture-1x1.png").read_bytes())
    commands: dict[str, tuple[list[str], dict[str, Any]]] = {
        "images/generations": (
            ["generate_image", "--prompt", "a fox", "--n", "2", "--extra", '{"seed": 1}'],
            {"prompt": "a fox", "n": 2, "seed": 1},
        ),
        "videos/text2video": (
            ["text2video", "a fox", "--duration", "5", "--mode", "std", "--model-name", "kling-v1", "--camera-control", '{"pan": 5}'],
            {"duration": "5", "camera_control": {"type": "simple", "config": {"pan": 5}}},
        ),
        "videos/image2video": (
            ["image2video", "a fox", "--image=fox.png", "--model-name=kling-v3", "--element-list=1", "--element-list=2", "--no-sound"],
            {"element_list": [{"element_id": 1}, {"element_id": 2}], "sound": "off"},
        ),
        "videos/video-extend": (
            ["video-extend", "it runs", "--video-id", "1", "--external-task-id", "mine"],
            {"video_id": "1", "external_task_id": "mine"},
        ),
        "videos/lip-sync": (
            ["lip-sync", "--video-id", "1", "--audio-url", "https://host.example/a.mp3"],
            {"input": {"video_id": "1", "mode": "audio2video", "audio_type": "url", "audio_url": "https://host.example/a.mp3"}},
        ),
        "images/kolors-virtual-try-on": (["virtual-try-on", "fox.png", "--cloth-image", "https://host.example/coat.png"], {}),
    }
    async with Emulator(speed=FAST) as emulator:
        dones = {route: await quick(emulator.url, *words, "--no-wait") for route, (words, _) in commands.items()}
    assert {route: (done.code, done.err) for route, done in dones.items()} == dict.fromkeys(commands, (0, ""))
    assert {TaskRef.parse(done.out).route for done in dones.values()} == set(commands)
    for task in emulator.log.tasks:
        assert commands[task.route][1].items() <= task.body.items()


async def test_from_process_to_process(tmp_path: Path) -> None:
    """What one command submits, another looks at and a third waits for; each reference is followed once however often it is given."""
    async with Emulator(speed=0) as emulator:
        shell = Shell(tmp_path, emulator.url)
        submitted = [await shell.kling("text2video", prompt, "--no-wait") for prompt in ("a fox", "a hen")]
        refs = [done.out.strip() for done in submitted]
        assert [(done.code, done.err) for done in submitted] == [(0, "")] * 2
        assert "status   submitted\n" in (await shell.kling("get", refs[0])).out
        emulator.advance(1000)
        seen = await shell.kling("get", refs[0])
        waited = await shell.kling("wait", *refs, refs[0], "--output", "out", "--quiet")
    assert (seen.code, seen.err) == (0, "")
    assert "status   succeed\n" in seen.out
    assert f"url      {emulator.url}/_files/" in seen.out
    assert (waited.code, waited.err) == (0, "")
    assert sorted(waited.out.splitlines()) == sorted(f"out/{TaskRef.parse(ref).task_id}.mp4" for ref in refs)
    assert all((tmp_path / path).stat().st_size for path in waited.out.splitlines())


async def test_json(quick: Quick) -> None:
    """With `--json` each task is one object on one line, of the same names whether it was submitted, seen, saved or failed."""
    async with Emulator(speed=0) as emulator:
        url = emulator.url
        prompts = ("a fox", "[fail: dark]")
        submitted = [json.loads((await quick(url, "generate-image", prompt, "--no-wait", "--json")).out) for prompt in prompts]
        emulator.advance(1000)
        seen = json.loads((await quick(url, "get", submitted[0]["ref"], "--json")).out)
        waited = await quick(url, "wait", *(facts["ref"] for facts in submitted), "--json")
        refused = await quick(url, "generate-image", "[block]", "--json")
    saved, failed = sorted(map(json.loads, waited.out.splitlines()), key=lambda facts: facts["status"], reverse=True)
    refusal = json.loads(refused.out)
    told = (*submitted, seen, saved, failed, refusal)
    assert len({tuple(facts) for facts in told}) == 1
    assert [facts["status"] for facts in told] == ["submitted", "submitted", "succeed", "succeed", "failed", "unknown"]
    assert submitted[0]["files"] == seen["files"] == failed["files"] == []
    assert saved["files"] == [f"{submitted[0]['task_id']}.png"]
    assert saved["images"][0]["url"].startswith(emulator.url)
    assert saved["error"] is None
    assert (failed["error"]["type"], failed["error"]["exit_code"], waited.code) == ("TaskFailedError", 1, 1)
    assert (refusal["error"]["type"], refusal["error"]["billed"], refusal["ref"], refused.code) == ("ContentPolicyError", False, None, 2)


async def test_failures(tmp_path: Path) -> None:
    """Each kind of failure has its exit code, one line that says what happened, and nothing on stdout."""
    gone = "kling1,http://127.0.0.1:1,videos,text2video,1,,"
    async with Emulator(speed=FAST, api_keys=[KEY]) as emulator, anyio.create_task_group() as group:
        shell = Shell(tmp_path, emulator.url)
        emulator.fault("drop", route="videos/text2video", method="POST", accepted=True)
        (tmp_path / "taken").write_text("no directory", encoding="utf-8")
        cases: dict[str, tuple[Shell, list[str], int]] = {
            "generate_image: the task failed: too dark": (shell, ["generate-image", "[fail: too dark]"], 1),
            "content safety policy": (shell, ["generate-image", "[block]"], 2),
            "code": (Shell(tmp_path, emulator.url, "wrong"), ["generate-image", "a fox"], 3),
            "no reply from the gateway": (Shell(tmp_path, "http://127.0.0.1:1"), ["get", gone], 5),
            "generate_image: cannot make the directory taken": (shell, ["generate-image", "a fox", "-o", "taken"], 5),
            "external_task_id mine": (shell, ["text2video", "a fox", "--external-task-id", "mine"], 6),
        }
        dones = dict[str, Done]()

        async def run(told: str, shell: Shell, words: list[str]) -> None:
            dones[told] = await shell.kling(*words)

        for told, (where, words, _) in cases.items():
            group.start_soon(run, told, where, words)
    assert {told: (done.code, done.out) for told, done in dones.items()} == {told: (code, "") for told, (_, _, code) in cases.items()}
    for told, done in dones.items():
        assert [line for line in done.err.splitlines() if line.startswith("kling: ") and told in line], done.err
        assert "Traceback" not in done.err
    assert len(emulator.log.posts_for("mine")) == 1
    # The task whose files could not be written has succeeded: how to fetch them is printed.
    assert command_in(dones["generate_image: cannot make the directory taken"].err)[0] == "wait"


async def test_emulator(tmp_path: Path) -> None:
    """`kling emulator` writes what to set, serves whoever sets it, and ends with 0 on Ctrl-C; an address that is taken is a mistake."""
    nowhere = Shell(tmp_path, "http://127.0.0.1:1")
    async with nowhere.started("emulator", "--port", "0", "--speed", str(FAST), "--profile", "onehub") as server:
        exports = (await server.writes(2)).splitlines()
        assert all(line.startswith("export KLING_") for line in exports)
        url, key = (line.partition("=")[2] for line in exports)
        port = url.rpartition(":")[2]
        done = await Shell(tmp_path, url, key).kling("generate-image", "a fox", "--quiet")
        taken = await nowhere.kling("emulator", "--port", port)
        server.interrupt()
        ended = await server.ended()
    assert (done.code, done.err) == (0, "")
    assert (ended.code, "Traceback" in ended.err) == (0, False)
    assert (taken.code, taken.out, taken.err.count("\n")) == (2, "", 1)
    assert "cannot listen" in taken.err
