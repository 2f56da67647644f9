"""How many looks an outage may add, and how long the gaps get while a gateway is asked too often. Pure."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from kling_async._watch import Seen
from kling_async._wire import Refusal
from kling_async.models import Snapshot

__all__ = ["Ration"]

_BUDGET: Final = 500
"""Tokens for looks that come sooner than the pace because one has failed (`reliability.md` P13)."""
_COST: Final = 14
"""Tokens for one such look; a good look gives one back."""
_LONGEST_STRETCH: Final = 8.0
"""How many times longer the gaps get, at the most, while the gateway says that it is asked too often."""


@define(eq=False)
class Ration:
    """Outages and throttling concern all tasks of the gateway: together they may add only so many looks."""

    stretch: float = 1.0
    """How many times longer gaps are to be."""
    spent: bool = field(default=False, init=False)
    """Whether the last look failed, and there are no tokens left for another before its time."""
    _tokens: float = field(default=_BUDGET, init=False)
    _down: bool = field(default=False, init=False)
    """Whether the tokens ran out in an outage that still lasts."""

    def note(self, seen: Seen) -> bool:
        """Take in what a look brought; true when it is the first good one after the tokens ran out."""
        if isinstance(seen, Snapshot):
            self._tokens = min(_BUDGET, self._tokens + 1)
            self.stretch = max(1.0, self.stretch * 0.9)
            over, self._down, self.spent = self._down, False, False
            return over
        if isinstance(seen, Refusal) and seen.http_status == 429:  # noqa: PLR2004
            self.stretch = min(_LONGEST_STRETCH, self.stretch * 2)
        self.spent = self._tokens < _COST
        if self.spent:
            self._down = True
        else:
            self._tokens -= _COST
        return False
