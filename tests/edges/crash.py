"""Buys one job at a time and dies of it by SIGKILL; run by the tests of crashes, once for all of them.

Each line of its input is a death: `URL PROFILE JOURNAL KEY WHEN`. A child is forked, which needs no time to start; it submits under
that key, `-` for none, and waits for the result. WHEN is one of the points below, `turn-N` of its event loop, `after-SECONDS`, or
`told`: by another line. How the child ended is answered with a line.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

import kling_async.session
from kling_async._pacing import Polling
from kling_async._wire import Reply, Request
from kling_async.jobs import Text2Video
from kling_async.journal import Creation, Journal
from kling_async.session import KlingSession
from kling_async.transport import Transport

POLLING: Final = Polling(first=0.01, interval=0.01, max_interval=0.02)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class MortalJournal(Journal):
    """Dies before or after one of its writes."""

    point = ""

    def at(self, point: str) -> None:
        """Die here, if this is the place."""
        if point == self.point:
            _die()

    async def intend(self, creation: Creation) -> tuple[Creation, bool]:
        self.at("before-intent")
        kept = await super().intend(creation)
        self.at("intent")
        return kept

    async def send(self, key: str, owner: str) -> bool:
        sent = await super().send(key, owner)
        self.at("sending")
        return sent

    async def accept(self, key: str, task_id: str) -> str | None:
        self.at("before-accept")
        twin = await super().accept(key, task_id)
        self.at("accepted")
        return twin

    async def finish(self, *args: Any, **options: Any) -> None:
        self.at("before-finish")
        await super().finish(*args, **options)
        self.at("finished")


class MortalTransport(Transport):
    """Dies with a reply in its hands."""

    point = ""

    async def pay(self, request: Request, *, on_sent: Callable[[], None]) -> Reply:
        reply = await super().pay(request, on_sent=on_sent)
        if self.point == "reply":
            _die()
        return reply

    async def read(self, request: Request) -> Reply:
        reply = await super().read(request)
        if self.point == "read":
            _die()
        return reply


class MortalLoop(asyncio.SelectorEventLoop):
    """Dies in a certain one of its turns."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._left = last

    def _run_once(self) -> None:
        self._left -= 1
        if self._left == 0:
            _die()
        super()._run_once()  # type: ignore[misc]  # the loop's own, which no stub tells of


async def _buy(url: str, profile: str, path: str | None, key: str | None) -> None:
    journal = MortalJournal(path)
    async with journal, KlingSession("k", base_url=url, profile=profile, journal=journal, polling=POLLING) as kling:
        if key is not None:
            await kling.run(Text2Video(prompt="a fox", external_task_id=None if key == "-" else key))


def _live(url: str, profile: str, path: str, key: str, when: str) -> NoReturn:
    MortalJournal.point = MortalTransport.point = when
    last = int(when.removeprefix("turn-")) if when.startswith("turn-") else 0
    with asyncio.Runner(loop_factory=lambda: MortalLoop(last)) as runner:
        runner.run(_buy(url, profile, path, key))
    os._exit(0)


def main() -> None:
    """Fork, and see each child die."""
    kling_async.session.Transport = MortalTransport  # type: ignore[attr-defined]  # in this process only
    asyncio.run(_buy("http://127.0.0.1:9", "gateway", None, None))  # imports what is imported late, once for all
    gc.freeze()
    while line := sys.stdin.readline():
        url, profile, path, key, when = line.split()
        if (child := os.fork()) == 0:
            _live(url, profile, path, key, when)
        if when == "told":
            sys.stdin.readline()
        elif when.startswith("after-"):
            time.sleep(float(when.removeprefix("after-")))
        if when == "told" or when.startswith("after-"):
            os.kill(child, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("killed" if ended == -signal.SIGKILL else ended, flush=True)  # noqa: T201  what the test reads


if __name__ == "__main__":
    main()
