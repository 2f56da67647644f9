"""Looks at a task: one read, whatever it brings, as a value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from attrs import define, field

from kling_async._clock import Clock
from kling_async._descriptors import READS, connections
from kling_async._verdict import MISTIMED, Failure
from kling_async._watch import Seen
from kling_async._wire import Refusal, Reply, Request, decipher, reading, retry_after
from kling_async.errors import ProtocolError
from kling_async.models import Snapshot, TaskRef
from kling_async.observers import Audience, Exchange
from kling_async.transport import FailedExchange, Transport

__all__ = ["Reader"]


@define(eq=False)
class Reader:
    """Reads tasks of one gateway."""

    transport: Transport
    base: str
    clock: Clock
    audience: Audience
    check: Callable[[], None]
    """Raises where reading is not allowed, as in another event loop."""
    _room: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(connections(READS)), init=False)

    async def look(self, ref: TaskRef, known: Snapshot | None = None) -> tuple[Seen, float | None]:
        """What one read shows, and the server's own wish in seconds to the next; `known` is what an earlier one has shown.

        Raises:
            InvalidRefError: the reference cannot stand in a path.
            ConfigurationError: the session is closed, or belongs to another event loop.
        """
        self.check()
        request = reading(self.base, ref.action, ref.action2, ref.task_id)
        seen, hint, reply = await self._read(ref, request, known)
        # A token that was refused for its time, as when somebody has set this machine's clock, is signed by the server's, once.
        if isinstance(seen, Refusal) and seen.code in MISTIMED and reply is not None and self.transport.correct_clock(reply):
            seen, hint, _ = await self._read(ref, request, known)
        return seen, hint

    async def _read(self, ref: TaskRef, request: Request, known: Snapshot | None) -> tuple[Seen, float | None, Reply | None]:
        listens = self.audience.listens
        started = self.clock.now() if listens else 0.0
        seen: Seen
        reply, hint = None, None
        try:
            async with self._room:
                reply = await self.transport.read(request)
            wall = self.clock.wall()
            hint = retry_after(reply.headers, wall)
            seen = decipher(reply, wall=wall, known=known)
        except FailedExchange as failed:
            seen = failed.failure
        except ProtocolError as error:
            seen = error.with_traceback(None)  # the frames of the decoder hold the whole reply
        if listens:
            self._tell(ref, seen, reply, self.clock.now() - started)
        return seen, hint, reply

    def _tell(self, ref: TaskRef, seen: Seen, reply: Reply | None, seconds: float) -> None:
        status, cause = reply.status if reply else None, seen.cause if isinstance(seen, Failure) else None
        exchange = Exchange(
            method="GET", route=ref.route, subject=ref.task_id, paid=False, seconds=seconds, http_status=status, cause=cause
        )
        self.audience.tell(exchange)
