"""The emulator in a thread of its own, for tests that have no event loop, or one that comes and goes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from kling_async.emulator import Emulator, Fault, SeenRequest
from kling_async.testing._jumping import Home, JumpingClock

__all__ = ["ThreadedEmulator"]

T = TypeVar("T")

_NAME: Final = "kling_async emulator"


class ThreadedEmulator(Emulator):
    """An `Emulator` for `with` instead of `async with`: it runs in a thread and a loop of its own, and may be asked from any other.

    ```python
    clock = JumpingClock()
    with ThreadedEmulator(clock=clock) as emulator:
        kling = KlingSession(emulator.api_key, base_url=emulator.url, clock=clock)
    ```

    Args:
        clock: to be given to the sessions, too: then a task of five minutes takes milliseconds, for both.
        options: those of an `Emulator`.
    """

    def __init__(self, *, clock: JumpingClock | None = None, **options: Any) -> None:
        self._jumping = clock or JumpingClock()
        super().__init__(clock=self._jumping, **options)
        self._thread: threading.Thread | None = None
        self._home: Home | None = None
        self._end = asyncio.Event()

    @property
    def env(self) -> Mapping[str, str]:
        """The environment in which a program finds it: `KLING_API_KEY` and `KLING_BASE_URL`."""
        return {"KLING_API_KEY": self.api_key, "KLING_BASE_URL": self.url}

    def posts_for(self, external_task_id: str) -> tuple[SeenRequest, ...]:
        """The creations that carried this key, accepted or not."""
        return self.log.posts_for(external_task_id)

    def advance(self, seconds: float) -> None:
        """Jump ahead by emulated seconds; the sessions' time stays where it is."""
        self._there(lambda: Emulator.advance(self, seconds))

    def fault(
        self,
        name: str,
        *,
        route: str | None = None,
        method: str | None = None,
        times: int | None = 1,
        accepted: bool | None = None,
        **options: Any,
    ) -> Fault:
        """Order a fault, as of an `Emulator`."""
        order = super().fault
        return self._there(lambda: order(name, route=route, method=method, times=times, accepted=accepted, **options))

    def clear_faults(self, name: str | None = None) -> None:
        """Take back all orders, or those of one name."""
        self._there(lambda: Emulator.clear_faults(self, name))

    def reset(self) -> None:
        """Forget all tasks, the log and the faults; time goes on."""
        self._there(lambda: Emulator.reset(self))

    def __setattr__(self, name: str, value: Any) -> None:
        # What can be set moves timers and rings bells, which belong to the loop.
        if name in {"speed", "slots"}:
            self._there(lambda: object.__setattr__(self, name, value))
        else:
            object.__setattr__(self, name, value)

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=_NAME, daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._there(self._end.set)
        if self._thread is not None:
            self._thread.join()

    def _run(self, started: Future[None]) -> None:
        home = Home()
        with asyncio.Runner(loop_factory=lambda: home) as runner:
            runner.run(self._live_there(home, started))

    async def _live_there(self, home: Home, started: Future[None]) -> None:
        try:
            await self.__aenter__()
        except Exception as error:  # noqa: BLE001  raised where it was started
            started.set_exception(error)
            return
        self._home = home
        jumping = asyncio.ensure_future(self._jumping.keep_jumping(home))
        started.set_result(None)
        await self._end.wait()
        self._home = None
        jumping.cancel()
        await asyncio.wait([jumping])
        await self.aclose()

    def _there(self, act: Callable[[], T]) -> T:
        home = self._home
        if home is None or threading.current_thread() is self._thread:
            return act()
        done: Future[T] = Future()
        home.call_soon_threadsafe(_do, act, done)
        return done.result()


def _do(act: Callable[[], T], done: Future[T]) -> None:
    try:
        done.set_result(act())
    except Exception as error:  # noqa: BLE001  raised where it was asked for
        done.set_exception(error)
