"""The root of every error, and the one that values themselves raise. A leaf: everything may import it."""

from __future__ import annotations

from typing import Any


def _rebuild(cls: type[KlingError], message: str, facts: dict[str, Any]) -> KlingError:
    error = cls.__new__(cls, message)
    Exception.__init__(error, message)
    error.__dict__.update(facts)
    return error


class KlingError(Exception):
    """Anything that `kling_async` raises on purpose.

    The message is for people and holds no secret; facts for programs are attributes. Every error
    pickles: the attributes travel with it.
    """

    retryable: bool = False
    """Whether doing the same again, unchanged, may help."""
    billed: bool | None = False
    """Whether money was spent: `True`, `False`, or `None` when nobody on this side can know."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.__dict__)


class ConfigurationError(KlingError):
    """The setup is wrong; nothing was sent."""


class InvalidRefError(ConfigurationError, ValueError):
    """A text is no `TaskRef`; says which part is wrong."""
