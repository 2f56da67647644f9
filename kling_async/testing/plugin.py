"""The plugin for pytest: an emulator, a session with it, and a clock that sleeps for nobody. Loads nothing until a test asks for it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # pytest loads this module in every project that has it installed, and aiohttp would come with these
    from kling_async.session import KlingSession
    from kling_async.testing._jumping import JumpingClock
    from kling_async.testing._threaded import ThreadedEmulator

_SESSION = pytest.StashKey["KlingSession"]()
_MARKER = "kling_emulator"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{_MARKER}(**options): options of the Emulator that `kling_emulator` is")


@pytest.fixture
def kling_clock() -> JumpingClock:
    """The clock of `kling_emulator` and `kling`: it jumps over waits, and is to be given to other sessions, too."""
    from kling_async.testing._jumping import JumpingClock

    return JumpingClock()


@pytest.fixture
def kling_emulator(request: pytest.FixtureRequest, kling_clock: JumpingClock) -> Iterator[ThreadedEmulator]:
    """A gateway of the test's own, on loopback; `@pytest.mark.kling_emulator(…)` gives it options."""
    from kling_async.testing._threaded import ThreadedEmulator

    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers(_MARKER))):  # the closest has the last word
        options |= marker.kwargs
    with ThreadedEmulator(clock=kling_clock, **options) as emulator:
        yield emulator


@pytest.fixture
def kling(request: pytest.FixtureRequest, kling_emulator: ThreadedEmulator, kling_clock: JumpingClock) -> KlingSession:
    """A session with `kling_emulator`. It is closed when an asynchronous test ends; any other has to enter it."""
    from kling_async.session import KlingSession

    profile = "official" if kling_emulator.health["profile"] == "official" else "gateway"
    session = KlingSession(kling_emulator.api_key, base_url=kling_emulator.url, profile=profile, clock=kling_clock)
    request.node.stash[_SESSION] = session
    return session


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Have the session entered and closed within the test's own loop, whichever plugin runs that: no fixture could."""
    session = item.stash.get(_SESSION, None)
    test = getattr(item, "obj", None)
    if session is None or not inspect.iscoroutinefunction(test):
        return (yield)

    @functools.wraps(test)
    async def entered(*args: Any, **kwargs: Any) -> None:
        import asyncio

        from kling_async.testing._time import VirtualLoop

        if isinstance(asyncio.get_running_loop(), VirtualLoop):
            pytest.fail("a VirtualLoop does not wait for threads: run this test in another loop, or use `async with Emulator()` in it")
        async with session:
            await test(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item, "obj", entered)
        return (yield)
