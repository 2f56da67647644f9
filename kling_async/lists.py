"""One read of a list in place of many looks, where a server lists its tasks. It can show a task, and never that there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from attrs import define, field

from kling_async._clock import Clock
from kling_async._dialects import identifier
from kling_async._fault import KlingError
from kling_async._watch import Watch, entries_of
from kling_async._wire import in_row, listing, rows_of
from kling_async.models import Snapshot, Status
from kling_async.observers import Audience, Exchange
from kling_async.transport import FailedExchange, Transport

__all__ = ["Lists", "shown"]

_BARRED: Final = 300.0
"""Seconds in which a list is not read again after it has failed, or has shown too few of those that were looked for."""
_DEEPER: Final = 1
"""Pages read beyond those that our own tasks would fill, were they the newest: others may make tasks, too."""


@define(eq=False)
class Lists:
    """Reads the lists of one server."""

    transport: Transport
    base: str
    clock: Clock
    audience: Audience
    check: Callable[[], None]
    """Raises where reading is not allowed, as in another event loop."""
    size: int
    """The most rows that a page of this server has."""
    _barred: dict[str, float] = field(factory=dict, init=False)

    def usable(self, route: str) -> bool:
        """Whether this list is worth a try now."""
        return self._barred.get(route, 0.0) <= self.clock.now()

    async def look(
        self, action: str, action2: str, wanted: Collection[str], awaited: Collection[str], charge: Callable[[int], object]
    ) -> dict[str, dict[str, Any]]:
        """The rows of wanted tasks by their ids, read from the newest on until all that are awaited have been found.

        `charge` is told of reads beyond the first. It may give fewer, or none at all: those are to be looked at by themselves.
        """
        found: dict[str, dict[str, Any]] = {}
        missing = set(awaited)
        try:
            for page in range(1, len(awaited) // self.size + 2 + _DEEPER):
                if page > 1:
                    charge(1)
                rows = await self._page(action, action2, page)
                # Where a page shows a task once more, as after new ones have shifted it, the later word counts.
                found.update((task_id, row) for row in rows if (task_id := identifier(row.get("task_id"))) in wanted)
                missing.difference_update(found)
                if not missing or len(rows) < self.size:
                    break
        except (FailedExchange, KlingError):
            self._bar(f"{action}/{action2}")
        # Those that it never shows come due together, by and by: what it shows of all the others counts, too.
        if 2 * len(missing) > len(awaited) and 2 * len(found) < len(wanted):
            self._bar(f"{action}/{action2}")
        return found

    async def _page(self, action: str, action2: str, page: int) -> list[dict[str, Any]]:
        self.check()
        started = self.clock.now()
        facts: dict[str, Any] = {"method": "GET", "route": f"{action}/{action2}", "subject": f"page {page}", "paid": False}
        try:
            reply = await self.transport.read(listing(self.base, action, action2, page=page, size=self.size))
        except FailedExchange as failed:
            self.audience.tell(Exchange(**facts, seconds=self.clock.now() - started, cause=failed.failure.cause))
            raise
        self.audience.tell(Exchange(**facts, seconds=self.clock.now() - started, http_status=reply.status))
        return rows_of(reply, wall=self.clock.wall())

    def _bar(self, route: str) -> None:
        self._barred[route] = self.clock.now() + _BARRED


def shown(row: dict[str, Any], watch: Watch) -> Snapshot | None:
    """What a row says of a task; `None` where that is not certain, and a look at the task itself must tell."""
    ref, known = watch.ref, watch.snapshot
    if known is not None and not known.status.final and known.read_from(row):
        return known
    seen = in_row(row)
    if seen is None or seen.task_id != ref.task_id:
        return None
    if None not in (seen.external_task_id, ref.external_task_id) and seen.external_task_id != ref.external_task_id:
        return None
    if seen.status is Status.SUCCEED and not entries_of(seen, ref.action):
        return None
    # A page may come from a copy that lags behind.
    if known is not None and known.updated_at is not None and (seen.updated_at is None or seen.updated_at < known.updated_at):
        return None
    return seen
