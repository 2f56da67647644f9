"""One row of an endpoint's table: what a field means and what its value must obey. Knows no endpoint."""

from __future__ import annotations

import math
import re
from typing import Any

from attrs import Attribute, field, frozen

from kling_async.errors import InvalidJobError
from kling_async.jobs._models import Modes
from kling_async.media import url_fault


@frozen
class Rule:
    """What a field means, for help and documentation, and what its value must obey once it is converted.

    Given to attrs as `validator`; `columns` copies its facts to the field's metadata.
    """

    help: str
    """One line, with units and range."""
    choices: tuple[str, ...] = field(default=(), kw_only=True)
    """The words that are known; any other passes, because the service learns words faster than we do."""
    models: Modes = field(factory=dict[str, tuple[str, ...]], kw_only=True)
    """The known models that take the field; empty means all."""

    def __call__(self, instance: Any, attribute: Attribute[Any], value: Any) -> None:
        """Refuse `value` by raising `InvalidJobError`."""
        optional = attribute.default is None
        if fault := self.fault(value) if value is not None else None if optional else "is required":
            del value  # it may hold a token, and some tracebacks show locals
            raise InvalidJobError(f"{instance.home}{attribute.name}", fault)

    def fault(self, value: Any) -> str | None:  # noqa: ARG002  this rule asks for nothing
        """What is wrong with a value that is not `None`."""
        return None


@frozen
class Text(Rule):
    """Text for a model to read or speak."""

    longest: int = field(kw_only=True)
    """Characters."""
    blank: bool = field(default=False, kw_only=True)
    """Whether it may be blank."""

    def fault(self, value: Any) -> str | None:
        """Wrong type, too long, blank, or not encodable."""
        if fault := _text_fault(value):
            return fault
        if len(value) > self.longest:
            return f"has {len(value)} characters, {self.longest} are allowed"
        return None if self.blank or value.strip() else "must not be blank"


@frozen
class Word(Rule):
    """A word of the service's own, such as the name of a model or an id."""

    def fault(self, value: Any) -> str | None:
        """Wrong type, blank, or not encodable."""
        return _text_fault(value) or (None if value.strip() else "must not be blank")


@frozen
class Number(Rule):
    """A number between two bounds, both included."""

    low: float = field(kw_only=True)
    high: float = field(kw_only=True)
    whole: bool = field(default=False, kw_only=True)

    def fault(self, value: Any) -> str | None:
        """Wrong type, or out of range, which NaN always is."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return f"must be a {'whole ' if self.whole else ''}number, not {type(value).__name__}"
        # A negative zero is in range, but would be sent as -0.0, which nobody means.
        if not self.low <= value <= self.high or (not value and math.copysign(1, value) < 0):
            return f"must be from {self.low:g} to {self.high:g}"
        return None


@frozen
class Flag(Rule):
    """Yes or no."""

    def fault(self, value: Any) -> str | None:
        """Anything but `True` and `False`."""
        return None if isinstance(value, bool) else f"must be True or False, not {type(value).__name__}"


@frozen
class Items(Rule):
    """Several values of one kind."""

    low: int = field(default=0, kw_only=True)
    high: int = field(kw_only=True)

    def fault(self, value: Any) -> str | None:
        """Too few or too many."""
        return None if self.low <= len(value) <= self.high else f"has {len(value)} entries, {self.low} to {self.high} are allowed"


@frozen
class Url(Rule):
    """A web address that the service opens."""

    def fault(self, value: Any) -> str | None:
        """Anything but an absolute http or https URL."""
        return url_fault(value)


@frozen
class Key(Rule):
    """The caller's own name for a task: it must survive a URL's path, a log and a shell unchanged."""

    def fault(self, value: Any) -> str | None:
        """Wrong type, empty, too long or unsafe. The service documents no limits (`api.md` 14): these are ours."""
        fine = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", value) and value.strip(".")
        return None if fine else "must be text of 1 to 128 letters, digits and . _ : -, and not only dots"


def _text_fault(value: object) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {type(value).__name__}"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate), which cannot be sent"
    return None
