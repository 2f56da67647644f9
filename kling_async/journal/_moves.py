"""What a word of the journal does inside a transaction."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import Final

from kling_async.errors import JournalError
from kling_async.journal._database import Transaction
from kling_async.journal._rows import ARTIFACT_COLUMNS, COLUMNS, MOVES, UNFINISHED, Creation, State, creation_of

__all__ = ["ARTIFACT", "LEARNT", "SELECT", "asked", "found", "get", "insert", "move", "prune", "put", "record", "standing"]

SELECT = f"SELECT {', '.join(COLUMNS)} FROM creation"  # noqa: S608  constants of this package
_INSERT = f"INSERT INTO creation ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"  # noqa: S608
_VALUES: Final = attrgetter(*COLUMNS)
_ANEW = ", ".join(f"{name} = excluded.{name}" for name in ARTIFACT_COLUMNS[2:])
ARTIFACT: Final = (
    f"INSERT INTO artifact ({', '.join(ARTIFACT_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
    f" ON CONFLICT (key, idx) DO UPDATE SET {_ANEW}"
)
LEARNT: Final = (
    "INSERT INTO pace (origin, kind, learnt, updated_at) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (origin, kind) DO UPDATE SET learnt = excluded.learnt, updated_at = excluded.updated_at"
)
# No creation changes before it is made: the index by the one time finds what is old by the other.
_OLD = f"SELECT key FROM creation WHERE created_at < ? AND updated_at < ? AND NOT {UNFINISHED} ORDER BY created_at LIMIT ?"  # noqa: S608

_PRUNED_AT_ONCE: Final = 500
"""Creations; a purchase waits for no more than these to be deleted."""


def asked(creation: Creation) -> tuple[str, ...]:
    """By what two requests are told apart: the same words to another endpoint, or account, are another request."""
    return creation.account, creation.origin, creation.action, creation.action2, creation.digest


def found(db: Transaction, condition: str, *values: str | None) -> Creation | None:
    """The creation of which that is true, if there is one."""
    row = db.execute(f"{SELECT} WHERE {condition}", values).fetchone()
    return None if row is None else creation_of(row)


def get(db: Transaction, key: str) -> Creation:
    """The creation under that key; raises `JournalError` when there is none."""
    row = found(db, "key = ?", key)
    if row is None:
        raise _missing(key)
    return row


def standing(db: Transaction, key: str) -> tuple[State, str | None, str]:
    """Its state, its task's id and its account, of which most moves need no more; raises as `get` does."""
    row = db.execute("SELECT state, task_id, account FROM creation WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise _missing(key)
    return State(row[0]), row[1], row[2]


def insert(db: Transaction, creation: Creation) -> bool:
    """A new one; false when there is one under its key or its word already."""
    if not db.execute(_INSERT, _VALUES(creation)).rowcount:
        return False
    record(db, creation.key, None, creation.state, "")
    return True


def move(db: Transaction, key: str, state: State, *, note: str = "", **facts: object) -> bool:
    """Move a creation on, with what else is new; false when there is no such move from where it stands."""
    before, _, _ = standing(db, key)
    if state not in MOVES[before]:
        return False
    put(db, key, before, state, note, **facts)
    return True


def put(db: Transaction, key: str, before: State, after: State, note: str, **facts: object) -> None:
    """Set the state of a creation, whatever it was, and what else is new."""
    facts = {"state": after.value, "note": _text(note), "updated_at": time.time(), **facts}
    db.execute(f"UPDATE creation SET {', '.join(f'{name} = ?' for name in facts)} WHERE key = ?", (*facts.values(), key))  # noqa: S608  names of ours
    record(db, key, before, after, note)


def record(db: Transaction, key: str, before: State | None, after: State, note: str) -> None:
    """Add a line to the history of a creation."""
    values = (key, time.time(), before and before.value, after.value, _text(note))
    db.execute("INSERT INTO event (key, at, from_state, to_state, note) VALUES (?, ?, ?, ?, ?)", values)


def prune(db: Transaction, limit: float) -> int:
    """Delete some of what ended before that Unix time; gives how many."""
    keys = db.execute(_OLD, (limit, limit, _PRUNED_AT_ONCE)).fetchall()
    db.executemany("DELETE FROM event WHERE key = ?", keys)
    db.executemany("DELETE FROM artifact WHERE key = ?", keys)
    db.executemany("DELETE FROM creation WHERE key = ?", keys)
    return len(keys)


def _missing(key: str) -> JournalError:
    return JournalError(f"the journal knows no creation {key}")


def _text(note: str) -> str:
    # As every database can keep it: without halves of characters, and without the NUL at which PostgreSQL stops.
    return note.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
