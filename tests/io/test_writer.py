"""Which works share a commit."""

from __future__ import annotations

import asyncio
import queue
import threading
from functools import partial

import pytest
from attrs import define, field

from kling_async.journal._database import Item
from kling_async.journal._writer import Writer

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@define(eq=False)
class HeldUp:
    """A database whose first commit takes until it is let go."""

    loop: asyncio.AbstractEventLoop
    begun: asyncio.Event = field(factory=asyncio.Event)
    go_on: threading.Event = field(factory=threading.Event)
    sizes: list[int] = field(factory=list)
    lasting: bool = True
    beat: float | None = None
    patience: float = 1.0

    def commit(self, batch: list[Item]) -> None:
        """Do the works."""
        self.sizes.append(len(batch))
        if len(self.sizes) == 1:
            self.loop.call_soon_threadsafe(self.begun.set)
            self.go_on.wait()
        for item in batch:
            item.result = item.work(None)

    def close(self) -> None:
        """Nothing is open."""


class Arriving(queue.SimpleQueue[Item | None]):
    """A queue to which another work comes just when it was found empty."""

    late = Item(lambda _: "late")

    def empty(self) -> bool:
        """It is, and is so no more."""
        self.put(self.late)
        return True


async def test_none_is_lost_where_a_commit_is_full() -> None:
    """However many works wait, each is done once and in its turn, at most a thousand in one commit."""
    database, done = HeldUp(asyncio.get_running_loop()), list[int]()
    writer = Writer(database)

    def do(number: int, _transaction: object) -> None:
        done.append(number)

    writer.put(partial(do, 0))
    await database.begun.wait()
    for number in range(1, 2501):
        writer.put(partial(do, number))
    database.go_on.set()
    await writer.aclose()
    assert done == list(range(2501))
    assert [size for size in database.sizes if size] == [1, 1000, 1000, 500]


@pytest.mark.parametrize("crowded", [True, False])
async def test_works_are_waited_for_while_several_come(*, crowded: bool) -> None:
    """A work that comes a moment later shares the commit where the one before had several, and a single one waits for nobody."""
    writer, first = Writer(HeldUp(asyncio.get_running_loop())), Item(lambda _: "first")
    writer._queue, writer._crowded = Arriving(), crowded
    writer._queue.put(first)
    assert writer._gather() == ([first, Arriving.late] if crowded else [first], True)
    assert writer._crowded is crowded
