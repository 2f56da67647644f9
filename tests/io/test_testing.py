from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

import kling_async.testing
from kling_async import Journal, KlingError, KlingSession, SubmitOutcomeUnknown, Text2Video
from kling_async._auth import ApiKey
from kling_async.emulator import Emulator
from kling_async.testing import CancelAt, assert_bought_once, duplicates, leaked, no_leaks, run, shown_by

FOX = Text2Video(prompt="a fox", external_task_id="ka-1")


def test_names() -> None:
    """`__all__` is sorted, complete to `dir`, and nothing in it is bound to a test runner; a misspelt name is named."""
    assert kling_async.testing.__all__ == sorted(kling_async.testing.__all__) == dir(kling_async.testing)
    with pytest.raises(AttributeError, match="VirtaulLoop"):
        kling_async.testing.VirtaulLoop  # noqa: B018  the misspelling is the point
    sources = Path(kling_async.testing.__file__).parent.glob("_*.py")
    assert not [source for source in sources if {"import pytest", "import hypothesis"} & {*source.read_text(encoding="utf-8").splitlines()}]


def test_time_jumps() -> None:
    """A day passes at once and to the second, and nothing else does."""

    async def main() -> float:
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(86400)
        return asyncio.get_running_loop().time() - begun

    assert run(main()) == 86400.0


@pytest.mark.parametrize("start", [asyncio.to_thread, anyio.to_thread.run_sync])
async def test_time_waits_for_threads(start: Callable[..., Awaitable[object]]) -> None:
    """What a thread does takes no time, and is waited for, though a timer is due later."""
    loop = asyncio.get_running_loop()
    begun, late, gate = loop.time(), loop.call_later(5, print), threading.Event()
    threading.Timer(0.02, gate.set).start()
    await start(gate.wait)
    late.cancel()
    assert loop.time() == begun


async def test_time_waits_for_the_journal(tmp_path: Path) -> None:
    """No time passes while a journal writes to its disk, however slow that is."""
    loop = asyncio.get_running_loop()
    begun, late, gate = loop.time(), loop.call_later(5, print), threading.Event()
    threading.Timer(0.02, gate.set).start()
    async with Journal(tmp_path / "journal") as journal:
        await journal._writer.run(lambda _: gate.wait())
        late.cancel()
        assert loop.time() == begun


class Visitor:
    """Waits three times, and cleans up by waiting once more."""

    def __init__(self) -> None:
        self.did = list[str]()

    async def visit(self) -> None:
        try:
            for number in range(3):
                await asyncio.sleep(1)
                self.did.append(str(number))
        except asyncio.CancelledError:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
                self.did.append("cleaned")
            raise


@pytest.mark.parametrize(
    ("twice", "expected"),
    [
        (False, [["cleaned"], ["0", "cleaned"], ["0", "1", "cleaned"], ["0", "1", "2"]]),
        (True, [[], ["0"], ["0", "1"], ["0", "1", "2"]]),
    ],
)
async def test_leaving_everywhere(expected: list[list[str]], *, twice: bool) -> None:
    """Each point where the work waits has its turn, in order, and the last run is the one that nobody left."""
    seen: list[list[str]] = []
    for leave in CancelAt.every(twice=twice):
        visitor = Visitor()
        caller = asyncio.ensure_future(leave.drive(visitor.visit()))
        await asyncio.wait([caller])
        assert caller.cancelled() == (leave.at <= 3)
        seen.append(visitor.did)
    assert seen == expected


async def test_leaving_a_scope() -> None:
    """What is done at the point can be chosen: a scope's cancellation, too, takes effect there."""
    visitor = Visitor()
    with anyio.CancelScope() as scope:
        await CancelAt(2, cancel=scope.cancel).drive(visitor.visit())
    assert scope.cancelled_caught
    assert visitor.did == ["0"]


@pytest.mark.parametrize("driven", [True, False])
async def test_leaving_nothing(*, driven: bool) -> None:
    """A test that cancels nothing says so, instead of passing."""
    leaves = CancelAt.every()
    leave = next(leaves)
    if driven:
        await leave.drive(hasty())
    with pytest.raises(RuntimeError, match="nothing waited"):
        next(leaves)


async def hasty() -> None:
    """Does not wait for anything."""


Begin = Callable[[], Coroutine[Any, Any, Callable[[], object]]]


async def left_task() -> Callable[[], object]:
    """A task that waits."""
    return asyncio.ensure_future(asyncio.sleep(1)).cancel


async def left_thread() -> Callable[[], object]:
    """A thread that waits."""
    stop = threading.Event()
    threading.Thread(target=stop.wait, name="forgotten").start()
    return stop.set


async def left_journal() -> Callable[[], object]:
    """A journal that is not closed; it could not be opened, so that there is no file of it."""
    journal = Journal(__file__)
    with contextlib.suppress(KlingError):
        await journal.open()
    return lambda: asyncio.ensure_future(journal.aclose())


async def left_file() -> Callable[[], object]:
    """A file that is not closed."""
    descriptor = os.open(__file__, os.O_RDONLY)
    return lambda: os.close(descriptor)


LEFT: dict[str, Begin] = {
    "task <Task pending": left_task,
    "thread forgotten": left_thread,
    "thread kling_async journal": left_journal,
    f"open {__file__}": left_file,
}


@pytest.mark.parametrize("named", LEFT)
async def test_leaks(named: str) -> None:
    """Whatever is left is named; what was there before is not."""
    before = asyncio.ensure_future(asyncio.sleep(60))
    guard = no_leaks()
    await guard.__aenter__()
    stop = await LEFT[named]()
    with pytest.raises(AssertionError) as raised:
        await guard.__aexit__(None, None, None)
    stop()
    assert named in str(raised.value)
    assert ";" not in str(raised.value)
    before.cancel()
    await asyncio.sleep(1)


async def forgetful() -> None:
    """Leaves an error that nobody has heard of."""
    async with no_leaks():
        asyncio.get_running_loop().create_future().set_exception(ValueError("unheard"))


def test_unheard_errors() -> None:
    """An error that nobody has looked at is left, too; not in a loop of anyio's plugin, which takes such errors for itself."""
    with pytest.raises(AssertionError, match="left behind: Future exception was never retrieved"):
        run(forgetful())


async def test_a_session_leaves_nothing(tmp_path: Path) -> None:
    """Closing a session and its emulator closes all that they had opened; a block that fails is not blamed for more."""
    async with no_leaks(), Emulator() as emulator, KlingSession("sk-1", base_url=emulator.url, journal=tmp_path / "db") as kling:
        await kling.run(FOX)


async def failing() -> None:
    """Fails, and leaves a task."""
    async with no_leaks():
        await left_task()
        raise KeyError


async def test_failures_come_first() -> None:
    """A block that fails says what it failed of, and is not blamed for what it left."""
    with pytest.raises(KeyError):
        await failing()
    await asyncio.sleep(2)


def test_secrets() -> None:
    """Text, arguments, attributes, causes, contexts, groups and bytes are looked through; what hides is not found."""
    noted, caused, deep = ValueError("fine"), ValueError("fine"), ValueError("fine")
    noted.secret = "at-c4n4ry"  # type: ignore[attr-defined]  # that is the point
    caused.__cause__ = noted
    deep.__context__ = ValueError("gr-c4n4ry")
    shown = [
        ValueError("te-c4n4ry"),
        ValueError(("ar-c4n4ry", 1)),
        caused,
        ExceptionGroup("fine", [deep]),
        b"\xffby-c4n4ry",
        ApiKey("hi-c4n4ry"),
    ]
    secrets = [f"{word}-c4n4ry" for word in ("te", "ar", "at", "gr", "by", "hi")]
    assert leaked(secrets, *shown) == secrets[:-1]
    assert [leaked(secrets, each) for each in shown] == [*([secret] for secret in secrets[:-1]), []]


def test_secrets_in_frames() -> None:
    """The locals of a package's own frames count, and those of its users do not, unless they ask for theirs."""
    with pytest.raises(KlingError) as raised:
        KlingSession("sk-c4n4ry", base_url="https://gateway.example", in_flight=0)
    assert any("in_flight" in text for text in shown_by(raised.value))
    assert leaked(["sk-c4n4ry"], raised.value) == []
    assert "'raised'" not in str(shown_by(raised.value))
    assert any("'raised'" in text for text in shown_by(raised.value, package=__name__))


async def test_money() -> None:
    """A purchase under a key is found; none, and two of them, are named with what was asked and answered."""
    async with Emulator() as emulator, KlingSession("sk-1", base_url=emulator.url) as kling:
        with pytest.raises(AssertionError, match="ka-1 was bought 0 times, not once; requests: none"):
            assert_bought_once(emulator, "ka-1")
        emulator.fault("drop", method="POST", accepted=True)
        with pytest.raises(SubmitOutcomeUnknown):
            await kling.submit(FOX)
        task = assert_bought_once(emulator, "ka-1")
        assert duplicates(emulator) == {}
        emulator.log.tasks.append(task)
        assert duplicates(emulator) == {"ka-1": (task, task)}
        with pytest.raises(AssertionError, match=r"bought 2 times, not once; requests: at 0\.0 s not answered \(drop\)"):
            assert_bought_once(emulator, "ka-1")
