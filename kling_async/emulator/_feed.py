"""What is new, in order and each thing once: whoever looks now and then catches up, and is never sent more than a page shows."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final

from attrs import define, field, frozen

KEPT: Final = {"request": 500, "task": 200, "callback": 200}
"""How many things of a kind are shown; the ground truth keeps them all."""


@frozen(kw_only=True)
class News:
    """Something that came or changed."""

    revision: int
    kind: str
    thing: Any = field(repr=False)


def _never(_thing: Any) -> bool:
    return False


@define
class Feed:
    """The newest of each kind, and whom to wake when there is more."""

    needed: Callable[[Any], bool] = _never
    """Whether a task must be kept although newer ones fill the page: it still runs."""
    _kinds: dict[str, OrderedDict[Hashable, tuple[int, Any]]] = field(factory=dict, init=False)
    """Revision and thing, by kind and key, the last told last."""
    _revision: int = field(default=0, init=False)
    _begun: int = field(default=0, init=False)
    _bells: set[asyncio.Future[None]] = field(factory=set, init=False)

    def tell(self, kind: str, key: Hashable = None, thing: Any = None) -> None:
        """A thing came, or is not what it was."""
        self._revision += 1
        kept = self._kinds.get(kind)
        if kept is None:
            kept = self._kinds[kind] = OrderedDict()
        kept[key] = (self._revision, thing)
        kept.move_to_end(key)
        if len(kept) > KEPT.get(kind, 1):
            self._drop(kind, kept)
        if self._bells:
            self._ring()

    def forget(self) -> None:
        """All that was shown is void; whoever has seen it starts again."""
        self._kinds.clear()
        self._revision += 1
        self._begun = self._revision
        self._ring()

    def since(self, revision: int) -> tuple[int, list[News] | None]:
        """The revision now, and what is new since the one given, oldest first; nothing at all when one must start again."""
        if not self._begun <= revision <= self._revision:
            return self._revision, None
        return self._revision, self._since(revision)

    def everything(self) -> list[News]:
        """All that is shown, oldest first."""
        return self._since(0)

    def find(self, kind: str, key: Hashable) -> Any:
        """A thing that is shown; `None` when it is not, or not any more."""
        kept = self._kinds.get(kind)
        return kept[key][1] if kept and key in kept else None

    def bell(self) -> asyncio.Future[None]:
        """Rings once, with the next thing told."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._bells.add(bell)
        return bell

    def silence(self, bell: asyncio.Future[None]) -> None:
        """Nobody waits for it any more."""
        self._bells.discard(bell)

    def _since(self, revision: int) -> list[News]:
        found: list[News] = []
        for kind, kept in self._kinds.items():
            for changed, thing in reversed(kept.values()):
                if changed <= revision:
                    break
                found.append(News(revision=changed, kind=kind, thing=thing))
        return sorted(found, key=lambda news: news.revision)

    def _drop(self, kind: str, kept: OrderedDict[Hashable, tuple[int, Any]]) -> None:
        if kind != "task":
            kept.popitem(last=False)
            return
        spent = next((key for key, (_, task) in kept.items() if not self.needed(task)), None)
        if spent is not None:
            del kept[spent]

    def _ring(self) -> None:
        for bell in self._bells:
            if not bell.done():
                bell.set_result(None)
        self._bells.clear()
