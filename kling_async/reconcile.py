"""Finds out what became of a creation whose outcome is unknown, where the server can be asked by our key.

A task is matched by its key only, never by prompt and time: "the newest that looks alike" hands one
caller another's result. Not being found proves nothing, for no look-up is known to see a new task at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from attrs import define, field

from kling_async._clock import Clock
from kling_async._fault import KlingError
from kling_async._pacing import Retry
from kling_async._profile import Profile
from kling_async._wire import Reply, Request, decipher, decipher_page, listing, reading
from kling_async.jobs import Route
from kling_async.models import Snapshot
from kling_async.transport import FailedExchange

__all__ = ["Reconciler"]

_PAUSES: Final = (0.0, 2.0, 5.0, 15.0, 30.0, 60.0)
"""Seconds before each look-up; cut where the window ends."""
_AT_ONCE: Final = 8
"""Look-ups under way: an outage leaves many to be made, and running tasks are to be read meanwhile."""
_PAGE: Final = 100
_PAGES: Final = 5


@define(eq=False)
class Reconciler:
    """Looks creations up by their key."""

    read: Callable[[Request], Awaitable[Reply]]
    profile: Profile
    base: str
    retry: Retry
    clock: Clock
    _room: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(_AT_ONCE), init=False)

    @property
    def able(self) -> bool:
        """Whether this server can be asked at all."""
        return self.profile.finds_by_key or self.profile.lists

    async def search(self, key: str, route: Route, *, age: float = 0.0) -> Snapshot | None:
        """Look the creation up, at least once, until it is found or the window has passed, `age` seconds of which are over."""
        left = self.retry.reconcile_window - max(0.0, age)
        for pause in _PAUSES if self.able else ():
            if pause > max(0.0, left):
                return None
            left -= pause
            await self.clock.sleep(pause)
            if found := await self.look_up(key, route):
                return found
        return None

    async def look_up(self, key: str, route: Route) -> Snapshot | None:
        """Look the creation up once."""
        async with self._room:
            return await self._look_up(key, route)

    async def _look_up(self, key: str, route: Route) -> Snapshot | None:
        if self.profile.finds_by_key:
            for snapshot in await self._ask(reading(self.base, route.action, route.action2, key), _single):
                if snapshot.external_task_id == key:
                    return snapshot
        for page in range(1, _PAGES + 1) if self.profile.lists else ():
            request = listing(self.base, route.action, route.action2, page=page, size=_PAGE)
            seen = await self._ask(request, decipher_page)
            for snapshot in seen:
                if snapshot.external_task_id == key:
                    return snapshot
            if len(seen) < _PAGE:
                break
        return None

    async def _ask(self, request: Request, shape: Callable[..., tuple[Snapshot, ...]]) -> tuple[Snapshot, ...]:
        # Whatever goes wrong, nothing was found: the next look-up is the answer to that, or the window's end.
        try:
            return shape(await self.read(request), wall=self.clock.wall())
        except (FailedExchange, KlingError):
            return ()


def _single(reply: Reply, *, wall: float) -> tuple[Snapshot, ...]:
    seen = decipher(reply, wall=wall)
    return (seen,) if isinstance(seen, Snapshot) else ()
