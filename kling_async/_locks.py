"""A lock on an open file, which ends with the process at the latest."""

from __future__ import annotations

import sys

__all__ = ["try_lock"]

if sys.platform == "win32":
    import msvcrt
    import os

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Lock an open file for this descriptor alone, or for all that share it; false where it is locked already, or cannot be."""
        del shared  # there is no such lock here
        try:
            os.lseek(descriptor, 1 << 62, os.SEEK_SET)  # far behind what anybody reads
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True
else:
    import fcntl

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Lock an open file for this descriptor alone, or for all that share it; false where it is locked already, or cannot be."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
