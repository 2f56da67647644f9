"""What became of creations whose outcome nobody saw: found again, asked for, or settled by hand."""

from __future__ import annotations

from typing import Any

from kling_async._binding import Binding
from kling_async.journal import Creation
from kling_async.models import TaskRef
from kling_async.orders import Orders
from kling_async.recovery import Memory
from kling_async.tasks import TaskHandle

__all__ = ["Settling"]


class Settling:
    """For whoever buys, remembers, and can follow a task."""

    _binding: Binding
    _memory: Memory
    _orders: Orders
    _orphans: list[TaskRef]

    def _resume(self, row: Creation) -> TaskHandle[tuple[Any, ...]]:
        """A handle for the task of a creation that the journal remembers; it holds its slots until its end."""
        raise NotImplementedError

    async def recover(self) -> tuple[TaskHandle[tuple[Any, ...]], ...]:
        """Handles for all that the journal says is unfinished, after asking for what is unknown where that is possible.

        What was never sent is withdrawn. What stays unknown is listed by `unknowns`. The tasks hold their slots: until they
        have ended, creations of this session wait as if they had been bought by it, whether anyone awaits the handles or not.

        Raises:
            JournalError: the journal cannot be read.
        """
        self._binding.check()
        return tuple(map(self._resume, await self._memory.unfinished()))

    async def reconcile(self, external_task_id: str) -> TaskHandle[tuple[Any, ...]] | None:
        """The task that was created under that key; `None` while nobody can tell.

        Waits for a request under way in this session, then asks the service where the profile can.

        Raises:
            JournalError: the journal knows no such key.
        """
        self._binding.check()
        await self._orders.settling(external_task_id)
        row = await self._memory.find(external_task_id)
        return None if row is None else self._resume(row)

    async def unknowns(self) -> tuple[Creation, ...]:
        """Creations of which nobody knows whether they were accepted, with all that is known of them."""
        self._binding.check()
        return tuple(await self._memory.unknowns())

    async def adopt(self, external_task_id: str, task_id: str) -> TaskHandle[tuple[Any, ...]]:
        """Settle an unknown by hand: the task you found in the service's console is that creation's.

        Raises:
            JournalError: the journal knows no such key.
        """
        self._binding.check()
        return self._resume(await self._memory.adopt(external_task_id, task_id))

    async def abandon(self, external_task_id: str) -> None:
        """Settle an unknown by hand: you are sure that the service has no such task. The same `dedupe` may be bought again then.

        Raises:
            JournalError: the journal knows no such key, or its outcome is not unknown.
        """
        self._binding.check()
        await self._memory.abandon(external_task_id)

    def orphans(self) -> tuple[TaskRef, ...]:
        """Tasks that were accepted after their caller had gone; they run, and they cost money."""
        return tuple(self._orphans)
