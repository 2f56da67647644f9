"""The root of every error, and the one that values themselves raise. A leaf: everything may import it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])


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


def forgetful(cls: C) -> C:
    """Class decorator: a value that is refused shows nobody what was given; see `quiet`."""
    made: Any = cls
    made.__init__ = quiet(made.__init__)
    return cls


def quiet(call: F) -> F:
    """Decorator: what refuses leaves no frame, nor an earlier error's, that shows in a traceback with locals what was given."""

    @functools.wraps(call)
    def quietly(*args: Any, **fields: Any) -> Any:
        try:
            return call(*args, **fields)
        except KlingError as error:
            error.__context__ = None
            raise error.with_traceback(None) from None
        finally:
            del args, fields

    return cast("F", quietly)  # of the same signature
