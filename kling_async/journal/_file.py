"""The database file: made or copied whole or not at all, for its owner's eyes only, and refused when it is not ours."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Final

from attrs import define, field

from kling_async.errors import JournalError
from kling_async.journal._database import OWN, Item, do
from kling_async.journal._rows import SCHEMA, VERSION

__all__ = ["FileDatabase", "copy_database", "open_database"]

_APPLICATION: Final = 0x4B4C494E
"""Marks the file as ours ("KLIN"), in the place that SQLite keeps for that."""
_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_SIZE: Final = 100
_PATIENCE: Final = 5.0
_OWN: Final = (*OWN, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


@define(eq=False)
class FileDatabase:
    """SQLite, in a file. Opened with the first work."""

    path: str
    patience: float = _PATIENCE
    lasting: bool = field(default=True, init=False)
    beat: None = field(default=None, init=False)
    _connection: sqlite3.Connection | None = field(default=None, init=False)

    def commit(self, batch: list[Item]) -> None:
        """Do the works in one transaction."""
        trouble = ""
        try:
            # What keeps it from opening may pass, as a full disk does: each batch tries anew.
            if self._connection is None:
                self._connection = open_database(self.path, self.patience)
            _commit(self._connection, batch)
        except JournalError as error:
            trouble = str(error)
        except sqlite3.Error as error:
            trouble = f"journal {self.path}: {error}"
        if trouble:
            for item in batch:
                item.result, item.error = None, JournalError(trouble)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()


def open_database(path: str, patience: float) -> sqlite3.Connection:
    """A connection to the journal at `path`, made if there is none.

    Raises:
        JournalError: the file is damaged, of a later version, or no journal; it is left as it is.
    """
    try:
        if not os.path.lexists(path):
            _make(path)
        _check_header(path)
        _check(path, patience)
        return _durable(sqlite3.connect(path, timeout=patience, isolation_level=None))
    except OSError as error:
        raise JournalError(f"journal {path}: {error.strerror or type(error).__name__}") from None
    except sqlite3.Error as error:
        raise JournalError(f"journal {path}: {error}; the file was left as it is") from None
    except ValueError as error:  # a path with a NUL in it
        raise JournalError(f"journal {path!r}: {error}") from None


def _durable(connection: sqlite3.Connection) -> sqlite3.Connection:
    # Whatever SQLite was built with: less may lose the last commits with the power (`reliability.md` 3.3, 3.4).
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _commit(connection: sqlite3.Connection, batch: list[Item]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        try:
            for item in batch:
                item.result = item.work(connection)
        except _OWN:
            # Somebody's own fault: all again, each with a savepoint of its own, from which most groups are spared.
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            for item in batch:
                do(connection, item, _OWN)
        connection.execute("COMMIT")
    except Exception:  # whatever it was: a transaction that stays open would take the next group in, and end with it
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def copy_database(path: str, target: str) -> None:
    """What is committed at `path` in this moment, as a new file; neither waits for writers nor holds them up.

    Raises:
        JournalError: there is something at `target` already, or one of the two cannot be read or written.
    """
    try:
        with (
            _aside(Path(target)) as temporary,
            contextlib.closing(_read_only(path, _PATIENCE)) as source,
            contextlib.closing(sqlite3.connect(temporary)) as copy,
        ):
            source.backup(copy)  # in one step, which is one moment of the source
    except FileExistsError:
        raise JournalError(f"journal backup {target}: there is a file already, which was left as it is; name another") from None
    except OSError as error:
        raise JournalError(f"journal backup {target}: {error.strerror or type(error).__name__}") from None
    except (sqlite3.Error, ValueError) as error:
        raise JournalError(f"journal backup {target!r}: {error}") from None


def _make(path: str) -> None:
    # Made under another name and linked into place: nobody ever meets a journal without its tables.
    target = Path(path)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        contextlib.suppress(FileExistsError),  # another process was faster, and its file is as good
        _aside(target) as temporary,
        contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection,
    ):
        _fill(connection)
        connection.execute("PRAGMA journal_mode = WAL")  # which the file remembers


@contextlib.contextmanager
def _aside(target: Path) -> Generator[Path]:
    """A new file beside `target`, moved there once it is filled; raises `FileExistsError` when there is something already."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield temporary
        _put_in_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _put_in_place(temporary: Path, target: Path) -> None:
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links; renaming refuses to overwrite on Windows, which is where they are.
        if os.path.lexists(target):
            raise FileExistsError from None
        temporary.rename(target)


def _fill(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN; {SCHEMA} PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;")


def _check_header(path: str) -> None:
    # Read as bytes: merely opening a database of another program with SQLite may write to it.
    with Path(path).open("rb") as file:
        header = file.read(_HEADER_SIZE)
    if not header:
        raise JournalError(f"journal {path}: the file is empty; it may have been cut off, move it away to begin a new one")
    if header[: len(_MAGIC)] != _MAGIC or len(header) < _HEADER_SIZE:
        raise JournalError(f"journal {path}: this is no journal; the file was left as it is")
    version, application = (int.from_bytes(header[place : place + 4], "big") for place in (60, 68))
    if application != _APPLICATION:
        raise JournalError(f"journal {path}: this is the database of another program; it was left as it is")
    if version != VERSION:
        raise JournalError(f"journal {path}: its version is {version}, this kling_async reads version {VERSION}; it was left as it is")


def _check(path: str, patience: float) -> None:
    # Read-only: a connection that may write empties the log into the file as it closes, however damaged that is.
    with contextlib.closing(_read_only(path, patience)) as connection:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise JournalError(f"journal {path}: damaged ({verdict}); restore it from a backup")


def _read_only(path: str, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True, timeout=patience)
