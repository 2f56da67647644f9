"""A body on its way: one step at a time, at the pace of the connection; files are read in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Self

import anyio.to_thread
from attrs import define, field

from kling_async._body import STEP, Body

__all__ = ["Upload", "outgoing"]


@define(eq=False)
class Upload(AsyncIterator[bytes]):
    """The steps of a body, for one request. It holds nothing open, so it may be dropped anywhere."""

    body: Body
    _steps: Iterator[bytes] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._steps = self.body.steps()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self.body.on_disk:
            step = await anyio.to_thread.run_sync(next, self._steps, None)
        else:
            await asyncio.sleep(0)  # a connection that takes all at once would keep the loop until the end
            step = next(self._steps, None)
        if step is None:
            raise StopAsyncIteration
        return step


def outgoing(body: Body) -> bytes | Upload:
    """What to give to an HTTP client: the bytes themselves where they are few, and nothing has to be read for them."""
    return Upload(body) if body.on_disk or body.size > STEP else b"".join(body.steps())
