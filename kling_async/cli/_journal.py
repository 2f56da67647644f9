"""Where the command line keeps its journal: on by default, in the user's own directory for state."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kling_async.cli._options import Connection

__all__ = ["default_path", "journal_path"]


def default_path() -> Path:
    """The file that every `kling` of this user shares."""
    if sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        said = Path(os.environ.get("XDG_STATE_HOME", ""))
        home = said if said.is_absolute() else Path.home() / ".local" / "state"  # a relative one is to be ignored, says its standard
    return home / "kling_async" / "journal.db"


def journal_path(options: Connection) -> Path | None:
    """The journal to use; `None` records in memory only."""
    if options.no_journal:
        return None
    return Path(options.journal) if options.journal else default_path()
