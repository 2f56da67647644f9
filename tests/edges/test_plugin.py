"""The plugin for pytest, in projects of others: under each runner of asynchronous tests, with warnings as errors."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import cast

import pytest

from kling_async import KlingSession, Text2Video
from kling_async.testing import JumpingClock, ThreadedEmulator, plugin, run

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "how-to" / "test.md"
ASYNCIO = "asyncio_default_fixture_loop_scope = 'function'\nasyncio_mode = "

CONFTEST = """
import gc, threading
import pytest

@pytest.fixture(autouse=True)
def nothing_is_left(request):
    before = set(threading.enumerate())
    yield
    kling = request.node.funcargs.get("kling")
    assert kling is None or kling._binding.closed == kling._binding.used
    gc.collect()
    pools = ("asyncio", "AnyIO worker thread", "ThreadPoolExecutor")
    assert not [each for each in set(threading.enumerate()) - before if not each.name.startswith(pools)]

@fixture
async def handle(kling):
    yield await kling.text2video(prompt="a fox")
"""

TESTS = """
import asyncio
import pytest
from kling_async import KlingSession, TaskTimeoutError, Text2Video
from kling_async.testing import assert_bought_once, duplicates, no_leaks

FOX = Text2Video(prompt="a fox", duration=5, external_task_id="ka-1")

async def test_run(kling, kling_emulator):
    (video,) = await kling.run(FOX, timeout=900)
    assert video.duration == 5.0
    assert assert_bought_once(kling_emulator, "ka-1").status_at(kling_emulator.now) == "succeed"
    assert len(kling_emulator.posts_for("ka-1")) == 1 and duplicates(kling_emulator) == {}

async def test_fixture(handle, kling_emulator):
    await handle
    assert kling_emulator.now > 300

class TestClass:
    @pytest.mark.parametrize("number", [1])
    async def test_stuck(self, kling, number):
        with pytest.raises(TaskTimeoutError):
            await kling.run(Text2Video(prompt="a fox [stuck]"), timeout=600)

@pytest.mark.kling_emulator(profile="official", durations=7000)
async def test_marker(kling, kling_emulator, kling_clock):
    begun = kling_clock.now()
    handle = await kling.submit(FOX)
    await kling_clock.sleep(6000)
    assert (await handle.refresh()).status == "processing"
    kling_emulator.advance(1000)
    assert (await handle.refresh()).status == "succeed"
    assert 6000 < kling_clock.now() - begun < 7000

async def test_own_session(kling_emulator, kling_clock):
    async with no_leaks():
        async with KlingSession(kling_emulator.api_key, base_url=kling_emulator.url, clock=kling_clock) as kling:
            await kling.run(FOX)
"""

PLAIN = """
import asyncio
from kling_async import KlingSession, Polling, Text2Video

async def make(kling):
    async with kling:
        return await kling.run(Text2Video(prompt="a fox"))

def test_sync(kling, kling_emulator):
    (video,) = asyncio.run(make(kling))
    assert len(kling_emulator.log.tasks) == 1

def test_program(kling_emulator, monkeypatch):
    "A program that makes its session itself has its own time: the service is told to hurry."
    for name, value in kling_emulator.env.items():
        monkeypatch.setenv(name, value)
    kling_emulator.speed = 100_000
    asyncio.run(make(KlingSession(polling=Polling.fixed(0.01))))

def test_unused(kling):
    assert "127.0.0.1" in repr(kling)
"""

EMPTY = """
import sys

def pytest_collection_finish():
    assert "kling_async.testing.plugin" in sys.modules
    print("loaded:", *(set(sys.modules) & {"aiohttp", "asyncio", "attr", "cattrs", "kling_async.session", "kling_async.emulator"}))
"""


def pytest_in(folder: Path, settings: str, *options: str, **files: str) -> str:
    """What pytest says in a project of these files, once all is well there."""
    (folder / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\nfilterwarnings = ['error']\n{settings}\n", encoding="utf-8")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return pytest_there(folder, *options)


def pytest_there(folder: Path, *options: str) -> str:
    """What pytest says of a project, once all is well there."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode in {0, 5}, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def passed(said: str) -> int:
    """How many tests passed, when no other thing happened."""
    counted = re.fullmatch(r"(\d+) passed in [^,]*", said.strip().splitlines()[-1])
    assert counted, said
    return int(counted[1])


def test_anyio(tmp_path: Path) -> None:
    """Under anyio's plugin everything works, the tests on the documentation's page included."""
    fixture = "from pytest import fixture\n"
    page = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    shown = [code for code in page if "def test_" in code]
    files = {f"test_page_{number}": code for number, code in enumerate(shown)}
    said = pytest_in(tmp_path, "anyio_mode = 'auto'", "-p", "no:asyncio", conftest=fixture + CONFTEST, test_all=TESTS, **files)
    assert passed(said) == 5 + sum(code.count("def test_") for code in shown)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_pytest_asyncio(tmp_path: Path, mode: str) -> None:
    """Under pytest-asyncio everything works in both modes, with anyio's plugin beside it."""
    fixture = "from pytest_asyncio import fixture\n" if mode == "strict" else "from pytest import fixture\n"
    tests = TESTS + "\npytestmark = pytest.mark.asyncio" * (mode == "strict")
    assert passed(pytest_in(tmp_path, f"{ASYNCIO}{mode!r}", conftest=fixture + CONFTEST, test_all=tests)) == 5


def test_plain(tmp_path: Path) -> None:
    """Tests that are not asynchronous run programs that are: with the session, or with one of their own."""
    fixture = "from pytest import fixture\n"
    said = pytest_in(tmp_path, "", "-p", "no:asyncio", "-p", "no:anyio", conftest=fixture + CONFTEST, test_all=PLAIN)
    assert passed(said) == 3


def test_it_brings_nothing(tmp_path: Path) -> None:
    """In a project that does not use it, nothing is loaded for it."""
    said = pytest_in(tmp_path, "", "-s", "-p", "no:asyncio", "-p", "no:anyio", "-p", "no:xdist", conftest=EMPTY)
    assert "loaded:\n" in said


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are in the checkout, not in the wheel")
@pytest.mark.parametrize("tests", ["testing/test_clips.py", "web/test_web_studio.py"])
def test_example(tests: str) -> None:
    """The example's own tests pass."""
    path = EXAMPLES / tests
    assert passed(pytest_there(path.parent, "-p", "no:asyncio")) == path.read_text(encoding="utf-8").count("def test_")


def test_it_is_found(request: pytest.FixtureRequest) -> None:
    """It is found by pytest through its entry point; pytest-asyncio is kept out of this suite."""
    (point,) = metadata.entry_points(group="pytest11", name="kling_async")
    assert point.value == "kling_async.testing.plugin"
    assert find_spec("pytest_asyncio") is not None
    assert request.config.pluginmanager.is_blocked("asyncio")


def test_nobody_is_hurried() -> None:
    """Time jumps over waits, never over a request under way: no bound of a purchase is met while its answer is coming."""

    async def buy() -> None:
        async with KlingSession(emulator.api_key, base_url=emulator.url, clock=clock) as kling:
            for number in range(20):
                await kling.submit(Text2Video(prompt=f"fox {number}"), timeout=300)

    clock = JumpingClock()
    with ThreadedEmulator(clock=clock, slots={"video": 20}) as emulator:
        asyncio.run(buy())
        assert len(emulator.log.tasks) == 20


async def empty() -> None:
    """A test."""


def test_virtual_time_is_refused() -> None:
    """In a `VirtualLoop`, which would not wait for the emulator's thread, a test is told so instead of seeing time-outs."""
    item = SimpleNamespace(obj=empty, stash=pytest.Stash())
    item.stash[plugin._SESSION] = KlingSession("sk-1", base_url="http://127.0.0.1:9")
    call = plugin.pytest_runtest_call(cast("pytest.Item", item))
    next(call)
    with pytest.raises(pytest.fail.Exception, match="a VirtualLoop does not wait for threads"):
        run(item.obj())
    call.close()
    assert item.obj is empty


def test_an_emulator_in_a_thread() -> None:
    """What it is told takes effect at once; what is wrong is raised where it was said; it leaves no thread."""
    before, done_by = set(threading.enumerate()), SimpleQueue[str]()
    with ThreadedEmulator(speed=0) as emulator:
        with pytest.raises(OSError, match="address already in use"):
            ThreadedEmulator(port=int(emulator.url.rpartition(":")[2])).__enter__()
        with pytest.raises(ValueError, match="fault: no 'nonsense'"):
            emulator.fault("nonsense")
        with pytest.raises(ValueError, match="speed"):
            emulator.speed = -1
        emulator.slots = {"video": 1}
        emulator.fault("drop")
        emulator.clear_faults()
        assert (emulator.orders, emulator.slots["video"]) == ((), 1)
        emulator.reset()
        for moment in (1000.0, 5000.0):
            emulator._live().time.call_at(moment, lambda: done_by.put(threading.current_thread().name))
        emulator.advance(1000)
        emulator.speed = 1
        assert [done_by.get(timeout=60) for _ in range(2)] == ["kling_async emulator"] * 2
    assert not set(threading.enumerate()) - before
