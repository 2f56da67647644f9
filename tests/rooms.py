"""What tests of waiting share: a gateway and files that are fakes, and a room with a poller and handles of its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from kling_async._clock import SystemClock
from kling_async._pacing import Pace, Polling
from kling_async._verdict import Failure
from kling_async._watch import Seen, Watch
from kling_async.errors import (
    ConfigurationError,
)
from kling_async.models import Snapshot, Status, TaskRef, Video
from kling_async.poller import Poller
from kling_async.tasks import TaskHandle

PACE = Pace(first=10.0, interval=5.0, max_interval=15.0)
VIDEO = Video(id="1", url="https://files.example/v.mp4")
DROPPED = Failure(cause="disconnected", sent=False)
Videos = tuple[Video, ...]


def snapshot(status: Status, task_id: str = "t1") -> Snapshot:
    """What a task in that state looks like."""
    videos = (VIDEO,) if status is Status.SUCCEED else ()
    return Snapshot(task_id=task_id, status=status, raw_status=status.value, videos=videos, message="too dark")


@define
class Raising:
    """A look that raises."""

    error: Exception


@define
class FakeGateway:
    """Tells of each task what its script says, the last word for ever."""

    scripts: dict[str, list[Seen | Raising]] = field(factory=dict)
    takes: float = 0.0
    """Seconds that a look takes."""
    gate: asyncio.Event | None = None
    """What looks wait for."""
    looks: list[tuple[str, float]] = field(factory=list)
    under_way: int = 0
    at_most: int = 0

    async def look(self, ref: TaskRef, _known: Snapshot | None = None) -> tuple[Seen, float | None]:
        self.looks.append((ref.task_id, asyncio.get_running_loop().time()))
        self.under_way += 1
        self.at_most = max(self.at_most, self.under_way)
        try:
            if self.takes:
                await asyncio.sleep(self.takes)
            if self.gate:
                await self.gate.wait()
        finally:
            self.under_way -= 1
        script = self.scripts[ref.task_id]
        seen = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(seen, Raising):
            raise seen.error
        return seen, None


@define
class FakeFiles:
    """Saves nothing, and remembers what it was asked for."""

    asked: list[Any] = field(factory=list)

    async def save(self, entries: Any, directory: Any, *, ref: TaskRef, overwrite: bool, refresh: Callable[[], Awaitable[Any]]) -> Any:
        self.asked.append((entries, ref, overwrite, await refresh()))
        return (Path(directory) / "v.mp4",)


@define
class Room:
    """A gateway, a poller, and handles of its tasks; the dice always show the middle."""

    gateway: FakeGateway = field(factory=FakeGateway)
    files: FakeFiles = field(factory=FakeFiles)
    poller: Poller = field(init=False)
    home: asyncio.AbstractEventLoop = field(factory=asyncio.get_running_loop)
    news: list[tuple[Snapshot | None, Snapshot | None]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.poller = Poller(self.gateway.look, SystemClock(), lambda: 0.5, self.bind, lambda: False, self.hear)

    async def hear(self, watch: Watch, before: Snapshot | None) -> None:
        self.news.append((watch.snapshot, before))

    def bind(self) -> None:
        if asyncio.get_running_loop() is not self.home:
            msg = "another event loop"
            raise ConfigurationError(msg)

    def handle(self, *script: Seen | Raising, task_id: str = "t1", **polling: Any) -> TaskHandle[Videos]:
        """A handle of a task created now, of which looks will show `script`."""
        self.gateway.scripts[task_id] = list(script)
        ref = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id=task_id)
        watch = Watch(ref=ref, pace=PACE, polling=Polling(**polling), snapshot=snapshot(Status.SUBMITTED, task_id))
        watch.begin(asyncio.get_running_loop().time(), 0.5)
        return TaskHandle(watch, self.poller, self.files.save)

    @property
    def idle(self) -> bool:
        """Whether nothing is looked after any more."""
        return not self.poller._entries and self.poller._crew.idle


PROCESSING, SUCCEEDED, FAILED = map(snapshot, (Status.PROCESSING, Status.SUCCEED, Status.FAILED))


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(10):
        await asyncio.sleep(0)
