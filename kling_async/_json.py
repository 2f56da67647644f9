"""JSON in replies, which may be anything: plain values out, without lone surrogates, infinities or depth, or `BadJsonError`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, Final

__all__ = ["BadJsonError", "parsed"]

_MAX_DEPTH: Final = 64
"""Nesting of a reply; the deepest one known has eight levels (`reliability.md` P18)."""
_TOO_DEEP: Final = "the reply is nested too deeply"
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class BadJsonError(ValueError):
    """Bytes are no JSON that anybody here can use; says why."""


def parsed(body: bytes) -> object:
    """The value that stands in a reply.

    Raises:
        BadJsonError: there is none. Nothing else leaves, whatever the bytes.
    """
    fast, taken, value = _fast(), False, None
    if fast is not None:
        # It takes less than the other, and what it takes is the same: the other tells what is wrong, or makes do.
        with suppress(ValueError, RecursionError):
            value, taken = fast(body), True
    if not taken:
        value = _slowly(body)
    # Few brackets cannot be deep; and without an escape there can be no half of a character.
    if body.count(b"{") + body.count(b"[") > _MAX_DEPTH and _is_deep(value):
        raise BadJsonError(_TOO_DEEP)
    return _sanitised(value) if b"\\ud" in body or b"\\uD" in body else value


def _slowly(body: bytes) -> object:
    problem = ""
    try:
        return _decode(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        problem = "the reply is not UTF-8"
    except ValueError:
        problem = "the reply is not JSON"
    except RecursionError:
        problem = _TOO_DEEP
    # Out here, so that no earlier error is kept as the context: it holds the whole reply.
    raise BadJsonError(problem)


@cache
def _fast() -> Callable[[bytes], object] | None:
    """The decoder of the extra `speed`, where it is installed."""
    try:
        decoder: Callable[[bytes], object] = import_module("msgspec.json").Decoder().decode
    except ImportError:
        return None
    return decoder


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [
            inner for outer in level if isinstance(outer, dict | list) for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _sanitised(value: Any) -> Any:
    """The same with lone surrogates replaced: a text that holds one can be neither printed nor stored."""
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value)
        case list():
            return [_sanitised(item) for item in value]
        case dict():
            return {_sanitised(key): _sanitised(item) for key, item in value.items()}
        case _:
            return value


def _no_number(_word: str) -> None:
    """`NaN` and the infinities are not JSON, and no number to reckon with."""


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


_decode: Final = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite).decode
"""Made once: `json.loads` with options makes a decoder for each call."""
