"""Looks at a task: one read, whatever it brings, as a value."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from kling_async._clock import Clock
from kling_async._verdict import MISTIMED, Failure
from kling_async._watch import Seen
from kling_async._wire import Refusal, Reply, Request, decipher, reading, retry_after
from kling_async.errors import ProtocolError
from kling_async.models import TaskRef
from kling_async.observers import Exchange, Record
from kling_async.transport import FailedExchange, Transport

__all__ = ["Reader"]


@define(eq=False)
class Reader:
    """Reads tasks of one gateway."""

    transport: Transport
    base: str
    clock: Clock
    tell: Callable[[Record], None]
    check: Callable[[], None]
    """Raises where reading is not allowed, as in another event loop."""

    async def look(self, ref: TaskRef) -> tuple[Seen, float | None]:
        """What one read shows, and the server's own wish in seconds to the next.

        Raises:
            InvalidRefError: the reference cannot stand in a path.
            ConfigurationError: the session is closed, or belongs to another event loop.
        """
        self.check()
        request = reading(self.base, ref.action, ref.action2, ref.task_id)
        seen, hint, reply = await self._read(ref, request)
        # A token that was refused for its time, as when somebody has set this machine's clock, is signed by the server's, once.
        if isinstance(seen, Refusal) and seen.code in MISTIMED and reply is not None and self.transport.correct_clock(reply):
            seen, hint, _ = await self._read(ref, request)
        return seen, hint

    async def _read(self, ref: TaskRef, request: Request) -> tuple[Seen, float | None, Reply | None]:
        started = self.clock.now()
        seen: Seen
        reply, hint = None, None
        try:
            reply = await self.transport.read(request)
            hint = retry_after(reply.headers, self.clock.wall())
            seen = decipher(reply, wall=self.clock.wall())
        except FailedExchange as failed:
            seen = failed.failure
        except ProtocolError as error:
            seen = error.with_traceback(None)  # the frames of the decoder hold the whole reply
        cause = seen.cause if isinstance(seen, Failure) else None
        seconds, status = self.clock.now() - started, reply.status if reply else None
        record = Exchange(method="GET", route=ref.route, subject=ref.task_id, paid=False, seconds=seconds, http_status=status, cause=cause)
        self.tell(record)
        return seen, hint, reply
