"""A table that cannot grow without end: what nobody has asked about for the longest time makes room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from attrs import define, field

from kling_async.models import TaskRef

__all__ = ["Recent", "key_of"]

K = TypeVar("K")
V = TypeVar("V")


def key_of(ref: TaskRef) -> tuple[str, str]:
    """A task as a look at it names it: ids of two routes may be the same."""
    return ref.route, ref.task_id


@define(eq=False)
class Recent(Generic[K, V]):
    """At most so many values; `on_loss` is told of each that makes room."""

    at_most: int
    on_loss: Callable[[V], object] = lambda _: None
    _values: OrderedDict[K, V] = field(factory=OrderedDict, init=False)

    def get(self, key: K) -> V | None:
        """The value, from now on the last that makes room."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V:
        """Keep it under a key that is new, or was asked about just now."""
        self._values[key] = value
        if len(self._values) > self.at_most:
            self.on_loss(self._values.popitem(last=False)[1])
        return value

    def pop(self, key: K) -> V | None:
        """The value, which is forgotten."""
        return self._values.pop(key, None)

    def clear(self) -> None:
        """Lose everything."""
        while self._values:
            self.on_loss(self._values.popitem(last=False)[1])

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._values)

    def __iter__(self) -> Iterator[K]:
        """What they are kept under."""
        return iter(self._values)
