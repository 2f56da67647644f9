from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

import kling_async
from kling_async import ApiKey, Image2Video, KeyPair, KlingSession, Polling, Retry, TaskHandle, Text2Video, errors
from kling_async._wire import callback_snapshot
from kling_async.emulator import Emulator
from kling_async.errors import KlingError
from kling_async.observers import Record, log_records
from kling_async.testing import leaked

PACKAGE, TESTS = str(Path(kling_async.__file__).parent), str(Path(__file__).parents[1])
KEY, ACCESS, SECRET, TOKEN = "sk-c4n4ry-key", "c4n4ry-access", "c4n4ry-secret", "c4n4ry-callback"
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"  # how every signed token begins
HOOK = f"https://me.example/hook?token={TOKEN}"
RARE = Polling(first=100, interval=100, max_interval=100)
"""A look at a task costs more than all that is looked at here."""
FOX = Text2Video(prompt="a fox", duration=5, callback_url=HOOK, extra={"webhook": HOOK})
RUNNER = Image2Video(prompt="run", image=f"https://me.example/fox.png?sign={TOKEN}")


@frozen(kw_only=True)
class Scene:
    """A session, its server, and a finished task whose links are signed."""

    kling: KlingSession
    emulator: Emulator
    handle: TaskHandle[Any]
    directory: Path
    records: list[Record]
    secrets: tuple[str, ...]

    def leaks(self, *shown: object) -> list[str]:
        """The secrets that any of these shows."""
        return leaked(self.secrets, *shown, *(text for each in shown if isinstance(each, BaseException) for text in beneath(each)))


@pytest.fixture(params=[ApiKey(KEY), KeyPair(access_key=ACCESS, secret_key=SECRET)], ids=["key", "pair"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Scene]:
    """All is told that can be: every logger is on, and for key pairs the loop's debug mode; what was told is looked through at the end."""
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(isinstance(request.param, KeyPair))
    loop.slow_callback_duration = 0.0  # the loop then tells of every callback
    records: list[Record] = []
    journal = tmp_path / "journal"
    async with Emulator(seed=7, api_keys=[KEY], access_keys={ACCESS: SECRET}) as emulator:
        options: dict[str, Any] = {
            "journal": journal / "db",
            "observers": [records.append, log_records],
            "retry": Retry(attempts=2),
            "polling": RARE,
        }
        async with KlingSession(request.param, base_url=emulator.url, **options) as kling:
            handle = await kling.submit(FOX)
            (video,) = await handle
            signature = video.url.partition("?")[2]
            made = Scene(
                kling=kling,
                emulator=emulator,
                handle=handle,
                directory=tmp_path / "out",
                records=records,
                secrets=(KEY, ACCESS, SECRET, JWT, TOKEN, signature.partition("&")[0]),
            )
            yield made
            written = [file.read_bytes() for file in journal.iterdir()]
            assert any(b"me.example/hook" in each for each in written)
    assert made.leaks(*written, *records, kling, handle, handle.snapshot) == []
    assert made.leaks(caplog.text, *(record.args for record in caplog.records)) == []


def beneath(error: BaseException | None) -> list[str]:
    """The locals of all frames that are neither this package's nor the tests': aiohttp, asyncio, anyio."""
    if error is None:
        return []
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if not frame.f_code.co_filename.startswith((PACKAGE, TESTS))]
    chain = beneath(error.__cause__) + beneath(None if error.__context__ is error.__cause__ else error.__context__)
    return chain + [repr(frame.f_locals) for frame in frames]


def frames_of(error: BaseException) -> list[BaseException]:
    """The errors of the chain that passed a frame of this package: there was something to look into."""
    chain = [error, *(each for each in (error.__cause__, error.__context__) if each is not None)]
    return [each for each in chain if any(PACKAGE in frame.f_code.co_filename for frame, _ in traceback.walk_tb(each.__traceback__))]


def facts(error: KlingError) -> tuple[Any, ...]:
    """What must be the same after a journey; a job travels without its secrets."""
    attributes = {name: value for name, value in vars(error).items() if name not in {"job", "_ask"}}
    return type(error), str(error), error.args, attributes, error.retryable, error.billed


Situation = Callable[[Scene], Awaitable[object]]


def answered(code: int) -> Situation:
    """A look that is answered with a code."""

    async def get(scene: Scene) -> object:
        scene.emulator.fault("code", method="GET", code=code, times=2)
        return await scene.kling.get(scene.handle.ref)

    return get


def spoilt(fault: str, **options: Any) -> Situation:
    """A look whose answer is spoilt."""

    async def get(scene: Scene) -> object:
        scene.emulator.fault(fault, method="GET", **options)
        return await scene.kling.get(scene.handle.ref)

    return get


def unfetched(status: int) -> Situation:
    """A download that the file host refuses."""

    async def save(scene: Scene) -> object:
        scene.emulator.fault("status", route="files", status=status, times=None)
        return await scene.handle.save(scene.directory)

    return save


async def unknown(scene: Scene) -> object:
    """A creation whose answer is lost."""
    scene.emulator.fault("drop", method="POST")
    return await scene.kling.submit(RUNNER)


async def wrong_setup(_scene: Scene) -> object:
    """An address with a password in it."""
    return KlingSession(KEY, base_url=f"https://me:{SECRET}@gateway.example")


async def wrong_link(scene: Scene) -> object:
    """A signed link in place of a reference."""
    try:
        return scene.kling.attach(f"https://files.example/v.mp4?sign={TOKEN}")
    except KlingError as error:
        raise error.with_traceback(None) from None  # the frames of `attach` hold what was typed


async def wrong_job(scene: Scene) -> object:
    """A callback address of another kind."""
    return await scene.kling.text2video(prompt="a fox", callback_url=f"ftp://me.example/?token={TOKEN}")


async def wrong_media(scene: Scene) -> object:
    """A picture's address of another kind."""
    return await scene.kling.image2video(prompt="a fox", image=f"ftp://me.example/?token={TOKEN}")


async def failed(scene: Scene) -> object:
    """A task that fails."""
    return await scene.kling.run(Text2Video(prompt="[fail: too dark]", callback_url=HOOK))


async def late(scene: Scene) -> object:
    """A wait that is too short."""
    return await (await scene.kling.submit(FOX)).wait(1)


async def nothing_there(scene: Scene) -> object:
    """A success that brings nothing."""
    scene.emulator.fault("missing_result", times=None)
    return await scene.kling.run(FOX)


async def nothing_known(scene: Scene) -> object:
    """A key that the journal does not know."""
    return await scene.kling.reconcile("ka-never")


async def no_callback(_scene: Scene) -> object:
    """A callback's body that is none, and holds a link."""
    return callback_snapshot(f'{{"see": "https://files.example/v.mp4?token={TOKEN}"'.encode())


SITUATIONS: list[tuple[str, Situation]] = [
    ("ConfigurationError", wrong_setup),
    ("InvalidRefError", wrong_link),
    ("InvalidJobError", wrong_job),
    ("InvalidJobError", wrong_media),
    ("AuthenticationError", answered(1002)),
    ("AuthenticationError", answered(1004)),
    ("AccountError", answered(1102)),
    ("PermissionDeniedError", answered(1103)),
    ("InvalidRequestError", answered(1201)),
    ("NotFoundError", answered(1203)),
    ("ContentPolicyError", answered(1301)),
    ("RateLimitError", answered(1302)),
    ("ConcurrencyLimitError", answered(1303)),
    ("ServiceError", answered(5000)),
    ("ApiError", spoilt("status", status=418, body="json")),
    ("TransportError", spoilt("drop", times=2)),
    ("TransportError", spoilt("truncated")),
    ("TransportTimeoutError", spoilt("hang")),
    ("ProtocolError", spoilt("garbage_json")),
    ("ProtocolError", spoilt("html")),
    ("SubmitOutcomeUnknown", unknown),
    ("TaskFailedError", failed),
    ("TaskTimeoutError", late),
    ("ResultMissingError", nothing_there),
    ("DownloadError", unfetched(500)),
    ("ResultExpiredError", unfetched(403)),
    ("JournalError", nothing_known),
    ("CallbackError", no_callback),
]
ABSTRACT = {"KlingError", "TaskError"}
"""What is only ever raised as one of its kinds."""


def test_every_error_has_its_situation() -> None:
    """No class of errors goes unexamined."""
    assert {name for name, _ in SITUATIONS} | ABSTRACT == {*errors.__all__} - {"api_error_class"}


@pytest.mark.row("X1", "X2")
@pytest.mark.parametrize(("name", "situation"), SITUATIONS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(SITUATIONS)])
async def test_no_error_tells_a_secret(scene: Scene, name: str, situation: Situation) -> None:
    """Neither text, chain, frames with their locals, pickle, records, journal nor logs of any error hold a secret; it travels whole."""
    with pytest.raises(KlingError) as raised:
        await situation(scene)
    error = raised.value
    assert type(error).__name__ == name
    assert frames_of(error) or name == "InvalidRefError"
    assert scene.leaks(error) == []
    data = pickle.dumps(error)
    assert scene.leaks(data) == []
    again = pickle.loads(data)
    assert facts(again) == facts(error)
    assert getattr(again, "job", None) == (error.job.unsigned() if isinstance(error, errors.SubmitOutcomeUnknown) else None)


async def hanging_submit(scene: Scene) -> object:
    """A creation that is never answered."""
    scene.emulator.fault("hang", method="POST", accepted=True)
    return await scene.kling.text2video(prompt="a fox", callback_url=HOOK)


async def hanging_get(scene: Scene) -> object:
    """A look that is never answered."""
    scene.emulator.fault("hang", method="GET")
    return await scene.kling.get(scene.handle.ref)


async def hanging_wait(scene: Scene) -> object:
    """A wait whose looks are never answered."""
    scene.emulator.fault("hang", method="GET", times=None)
    return await scene.kling.run(FOX)


async def hanging_save(scene: Scene) -> object:
    """A download that never begins."""
    scene.emulator.fault("hang", route="files")
    return await scene.handle.save(scene.directory)


@pytest.mark.row("X1")
@pytest.mark.parametrize("call", [hanging_submit, hanging_get, hanging_wait, hanging_save])
async def test_a_timeout_around_a_call_shows_none(scene: Scene, call: Situation) -> None:
    """The cancelled call that a timeout keeps as its cause holds no secret in its frames either."""
    with pytest.raises(TimeoutError) as raised:
        async with asyncio.timeout(15):
            await call(scene)
    assert raised.value.__cause__ in frames_of(raised.value)
    assert scene.leaks(raised.value) == []
    scene.emulator.clear_faults()


@pytest.mark.row("X1")
@pytest.mark.parametrize("options", [{"api_key": f"{KEY}\n"}, {"base_url": f"ftp://me:{KEY}@host"}, {"profile": "none"}, {"in_flight": 0}])
def test_a_session_that_cannot_be_made(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with the setup, no frame of the half-made session shows the key, and the frames can be shown."""
    monkeypatch.setenv("KLING_API_KEY", f"{KEY}\n" if "api_key" in options else KEY)
    with pytest.raises(KlingError) as raised:
        KlingSession(**{"api_key": KEY, "base_url": "https://gateway.example", **options})
    assert frames_of(raised.value)
    assert leaked([KEY], raised.value) == []
