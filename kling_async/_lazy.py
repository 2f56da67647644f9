"""Names that come when they are first asked for: what a package offers is found in its modules, the light ones first."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

__all__ = ["offer"]


def offer(package: str, homes: tuple[str, ...]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: each name of its `__all__` is taken from the first of `homes` that has it."""
    module = sys.modules[package]

    def find(name: str) -> object:
        if name in module.__all__:
            for home in homes:
                found = import_module(f"{package}.{home}")
                if name in found.__all__:
                    value: object = getattr(found, name)
                    setattr(module, name, value)
                    return value
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg)

    return find, lambda: module.__all__
