"""Secrets in all that this package is made of: every class shown, every value that can be refused refused, all read that is told."""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
import pickle
import re
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import aiohttp
import attrs
import pytest

pytest.importorskip("cyclopts", reason="the command line is an extra")
pytest.importorskip("av", reason="the emulator is an extra")

import kling_async
from kling_async import ApiKey, Image2Video, KeyPair, KlingSession, LipSync, TaskHandle, Text2Video, Video, VideoExtend
from kling_async.callbacks import Receiver
from kling_async.cli import main
from kling_async.emulator import Emulator
from kling_async.errors import KlingError
from kling_async.jobs import ALL_JOBS, CameraControl, DynamicMask, MultiShot
from kling_async.jobs._convert import Extra
from kling_async.journal import Journal
from kling_async.media import Link
from kling_async.observers import Record, log_records
from kling_async.testing import leaked
from receivers import PROCESSING, door_of, post, served

KEY, CANARY = "sk-c4n4ry-key", "c4n4ry-of-this-one"
TESTS = str(Path(__file__).parents[1])
MODULES = sorted(found.name for found in walk_packages(kling_async.__path__, "kling_async.") if not found.name.endswith("__main__"))
CLASSES = {
    f"{name}.{cls.__qualname__}": cls
    for name in MODULES
    for _, cls in inspect.getmembers(import_module(name), inspect.isclass)
    if cls.__module__ == name and not issubclass(cls, BaseException | enum.Enum) and not getattr(cls, "_is_protocol", False)
}
"""All classes of the package, private ones too; what errors show is looked at where they are raised (`test_secrets.py`)."""
HARMLESS = {
    "a place on this machine": "journal._journal.Journal.path journal._owners.Owner.path journal._rows.Artifact.path media.File.path "
    "journal._file.FileDatabase.path journal._postgres.Lease.path journal._postgres.PostgresJournal.path emulator.server._Running.url",
    "the name of a purchase": "hints._Expected.key journal._rows.Artifact.key journal._rows.Creation.key _order.Order.key",
    "what people are told": "_wire._Said.text emulator._render_words.Words.text jobs._video.LipSync.text "
    "cli._batch.Plan.command cli._batch._Batch._reported cli._batch._Known.files cli._doctor._Check.verdict cli._lines.Item.place "
    "cli._lines.Item.word cli._lines.Mistake.field cli._lines.Mistake.place cli._lines.Mistake.rule cli._lines._Line.place "
    "cli._progress.Board.footer cli._run.Desk.left cli._run.Desk.resume",
    "a route, whose query holds ids": "_wire.Request.url",
    "written without secrets": "journal._rows.Creation.request journal._rows.Creation.result journal._database.Item.result",
    "bytes of a file": "_containers.Inspector.head emulator._studio.Rendered.data",
    "what the emulator answers": "emulator._replies.Reply.headers",
}
"""Fields that can be seen, under names that could stand for secrets elsewhere."""
PLAIN = set(
    re.findall(
        r"\w+",
        """
        _digest _tail unknown_word account action action2 asked aspect_ratio at_work audio_type base callback_hash cause choices claim code
        content_type dedupe default_model detail digest ending error extension external_task_id fail fault fields flaw font help how id
        image_reference kind kinds label levels lines message method mode model model_name models name negative_prompt note noun origin
        owner peer prefix prompt raw_status reason request_id resolution route running service_id sha256 shot_type state subject
        task_id type types undocumented validator verified video_id voice_id voice_language voice_list
        what why
        """,
    )
)
"""Fields of text that everybody may see. A new one is either added here, or kept out of its class's repr."""
SPEAKING = {
    "callbacks._receiver.Receiver": "shown below",
    "session.KlingSession": "shown below",
    "cli._lines._Typed": "a text, as texts are shown: what somebody typed into a file of jobs",
    "files._hand._Thread": "a thread, as threads are shown",
    "journal._writer._Thread": "a thread, as threads are shown",
    "testing._leaks._Complaints": "a log handler, as those are shown",
    "testing._jumping.Home": "an event loop, as those are shown",
    "testing._time.VirtualLoop": "an event loop, as those are shown",
}
"""Classes without fields that have a repr of their own."""
TEXTUAL = re.compile(
    r"(?:Mapping\[str, (?:str|Any)\]|dict\[\w+, (?:str|Any)\]|(?:tuple|set|list)\[str\b.*|str|bytes|Any|Media|Credentials)"
)


def filled(cls: type[Any]) -> tuple[Any, dict[str, str]]:
    """One with a canary in each field that can hold text, as the end of a signed link where it may be one; and those canaries."""
    made, canaries = object.__new__(cls), dict[str, str]()
    # As written: what attrs knows of a type changes once the codec has resolved it.
    written = {name: kind for base in reversed(cls.__mro__) for name, kind in inspect.get_annotations(base).items()}
    for number, attribute in enumerate(attrs.fields(cls)):
        kind = written.get(attribute.name, attribute.type)
        kind = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
        value: Any = None
        if any(map(TEXTUAL.fullmatch, kind.split(" | "))):
            canary = canaries[attribute.name] = f"c4n4ry-{number:03}"
            value = f"https://host.example/path?sign={canary}"
            if "Media" in kind:
                value = Link(value)
            elif kind == "Credentials":
                value = ApiKey(canary)
            elif kind == "bytes":
                value = value.encode()
            elif attribute.name == "extra":
                value = attribute.converter({"nested": [value]})
        object.__setattr__(made, attribute.name, value)
    return made, canaries


def test_no_class_shows_a_secret() -> None:
    """Whatever a class of this package holds, its text shows none but the fields that are listed here as plain."""
    shown = {
        f"{name.removeprefix('kling_async.')}.{field}"
        for name, cls in CLASSES.items()
        if attrs.has(cls) and cls not in {TaskHandle, Extra}  # which are shown through what they hold
        for made, canaries in [filled(cls)]
        for field, canary in canaries.items()
        if canary in f"{made!r}{made}{made:}"
    }
    harmless = {place for places in HARMLESS.values() for place in places.split()}
    surprises = sorted(place for place in shown - harmless if place.rpartition(".")[2] not in PLAIN)
    assert surprises == [], "a secret is kept out by repr=False; a field that everybody may see is listed in PLAIN"
    assert harmless <= shown
    assert {place.rpartition(".")[2] for place in shown} >= PLAIN


def test_every_class_without_fields_is_known() -> None:
    """A class that makes its own text of what it is has a test of it."""
    own = {
        name.removeprefix("kling_async.")
        for name, cls in CLASSES.items()
        if not attrs.has(cls) and any(getattr(cls, each) is not getattr(object, each) for each in ("__repr__", "__str__", "__format__"))
    }
    assert own == set(SPEAKING)


def frames_of(error: BaseException) -> list[str]:
    """The locals of every frame of an error, whoever's it is, but those of the tests."""
    frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    return [str(frame.locals) for frame in frames if not frame.filename.startswith(TESTS)]


SIGNED = f"https://host.example/fox.png?sign={CANARY}"
HOOK = f"https://me.example/hook?token={CANARY}"
NEEDED: dict[str, dict[str, Any]] = {
    "generate_image": {"prompt": "a fox", "image": SIGNED},
    "video_extend": {"video_id": "1"},
    "virtual_try_on": {"human_image": SIGNED, "cloth_image": SIGNED},
}
WRONG: list[tuple[Callable[..., object], dict[str, Any]]] = [
    *((job, NEEDED.get(job.verb, {}) | {"callback_url": f"ftp://me.example/?{CANARY}"}) for job in ALL_JOBS),
    *((job, NEEDED.get(job.verb, {}) | {"callback_url": HOOK, "extra": {"token": CANARY}, "external_task_id": "?"}) for job in ALL_JOBS),
    (Image2Video, {"prompt": "run", "image": f"{SIGNED} x"}),
    (Image2Video, {"prompt": "run", "image": SIGNED, "image_tail": SIGNED, "duration": 5.5}),
    (Image2Video, {"prompt": "run", "image": SIGNED, "dynamic_masks": [{"mask": f"ftp://x/?{CANARY}", "trajectories": [(1, 1), (2, 2)]}]}),
    (Text2Video, {"prompt": "run", "multi_prompt": [{"prompt": CANARY, "seconds": 5}], "callback_url": HOOK}),
    (VideoExtend.of, {"video": None, "callback_url": HOOK}),
    (VideoExtend.of, {"video": Video(id="1", url=SIGNED), "task": "kling1,", "extra": {"token": CANARY}}),
    (LipSync.of, {"video": Video(id="1", url=SIGNED), "audio_url": f"ftp://x/?{CANARY}"}),
    (DynamicMask, {"mask": SIGNED, "trajectories": [(1, 1)]}),
    (CameraControl, {"zoom": CANARY}),
    (MultiShot, {"prompt": CANARY * 50, "duration": 5}),
    (ApiKey, {"text": f"{CANARY} x"}),
    (KeyPair, {"access_key": CANARY, "secret_key": f"{CANARY}\n"}),
    (Receiver, {"public_url": f"https://me.example/?{CANARY}"}),
    (Receiver, {"public_url": "https://me.example", "secret": f"whsec_{CANARY}!"}),
    (Receiver, {"public_url": "https://me.example", "secret": [CANARY, "whsec_!"]}),
    (KlingSession, {"api_key": f"{CANARY}\n", "base_url": "https://gateway.example"}),
    (KlingSession, {"api_key": CANARY, "base_url": f"https://me:{CANARY}@gateway.example"}),
    (KlingSession, {"api_key": CANARY, "base_url": f"https://gateway.example/?{CANARY}"}),
]


@pytest.mark.row("X1")
@pytest.mark.parametrize(("make", "fields"), WRONG, ids=[f"{make.__qualname__}-{number}" for number, (make, _) in enumerate(WRONG)])
def test_what_is_refused_is_forgotten(make: Callable[..., object], fields: dict[str, Any]) -> None:
    """Neither the frames of the error, made by attrs or not, nor its text or pickle show what was given; none is behind it."""
    with pytest.raises(KlingError) as raised:
        make(**fields)
    assert leaked([CANARY], raised.value, *frames_of(raised.value)) == []
    assert raised.value.__cause__ is raised.value.__context__ is None


@pytest.mark.parametrize("make", ALL_JOBS)
def test_a_field_that_there_is_not(make: Callable[..., object]) -> None:
    """A mistyped name is Python's error, and shows no value either."""
    with pytest.raises(TypeError, match="callback_uri") as raised:
        make(callback_uri=HOOK)
    assert leaked([CANARY], raised.value, *frames_of(raised.value)) == []


@pytest.mark.row("X2")
async def test_what_is_told_of_a_life(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From the key to the saved file, with every logger on: no record, log, journal, backup, text or pickle has a secret."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    records: list[Record] = []
    folder = tmp_path / "journal"
    async with Emulator(seed=7, api_keys=[KEY]) as emulator, served() as receiver, Journal(folder / "db") as journal:
        options: dict[str, Any] = {"journal": journal, "callbacks": receiver, "observers": [records.append, log_records]}
        async with KlingSession(KEY, base_url=emulator.url, **options) as kling:
            handle = await kling.submit(Image2Video(prompt="run", image=SIGNED, extra={"picture": SIGNED}))
            door = door_of(emulator)
            assert await post(door, PROCESSING) == 200
            (video,) = await handle
            await kling.save([video], tmp_path / "out")
            told: list[object] = [kling, handle, handle.ref, handle.snapshot, video, receiver, journal, pickle.dumps(handle)]
            with pytest.raises((TypeError, AttributeError)):  # it holds sockets, and never travels
                pickle.dumps(kling)
            await journal.backup(folder / "backup")
            told += [file.read_bytes() for file in folder.iterdir()]
        async with aiohttp.ClientSession() as client, client.get(f"{emulator.url}/_emulator/log") as response:
            logged = await response.text()
        told += [*await journal.rows(), emulator, emulator.log, *emulator.log.tasks]
    assert {file.name for file in folder.iterdir()} >= {"db", "backup"}
    token, signature = door.rpartition("/")[2], video.url.partition("?")[2].partition("&")[0]
    assert leaked([KEY, CANARY, token, signature], *told, *records, caplog.text, *(record.args for record in caplog.records)) == []
    assert leaked([KEY], logged) == []
    assert all(secret in logged for secret in (CANARY, token, signature)), "there was something to be told"


@pytest.mark.parametrize("words", [["get", "kling1,x"], ["text2video", "a fox", "--callback-url", f"ftp://me.example/?{CANARY}"]])
def test_what_the_command_line_says(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither its errors, nor these as JSON, nor the tracebacks of `--debug` have a secret."""
    monkeypatch.setenv("KLING_API_KEY", f"{KEY}\n" if words[0] == "get" else KEY)
    monkeypatch.setenv("KLING_BASE_URL", "http://127.0.0.1:1")
    assert main([*words, "--debug", "--json"]) != 0
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert leaked([KEY, CANARY], out, err) == []
