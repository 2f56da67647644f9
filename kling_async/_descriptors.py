"""How many connections may be open at once: so many that whatever else the process opens finds a descriptor."""

from __future__ import annotations

from typing import Final

__all__ = ["PAID", "READS", "connections"]

READS: Final = 68
"""Reads at once: those of all waits together, and a few more for who asks to look now."""
PAID: Final = 32
"""Purchases at once. With the reads that is a hundred sockets, however many tasks there are; no account runs as many at a time."""
_SHARE: Final = 4
"""Reads and purchases have a share each; another is for downloads and their files, and one for the rest of the program."""


def connections(most: int) -> int:
    """Connections of one kind, `READS` or `PAID`, that a session may have open at once."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows, where sockets are no descriptors
        return most
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft // _SHARE))
