"""How many connections may be open at once: so many that whatever else the process opens finds a descriptor."""

from __future__ import annotations

from typing import Final

__all__ = ["connections"]

_MOST: Final = 90
_SHARE: Final = 4
"""Reads and purchases have a share each; another is for downloads and their files, and one for the rest of the program."""


def connections() -> int:
    """Connections of one kind, reads or purchases, that a session may have open at once."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows, where sockets are no descriptors
        return _MOST
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(1, min(_MOST, soft // _SHARE))
