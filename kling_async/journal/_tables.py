"""The book of creations in a database, inside a transaction: what the journal's words read and write."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import Any, Final

from attrs import frozen

from kling_async.journal._database import Transaction
from kling_async.journal._rows import (
    ARTIFACT_COLUMNS,
    COLUMNS,
    STANDING_COLUMNS,
    UNFINISHED,
    Artifact,
    Creation,
    Row,
    Standing,
    State,
    creation_of,
    said,
    values_of,
)

__all__ = ["Tables"]

_SELECT = f"SELECT {', '.join(COLUMNS)} FROM creation"  # noqa: S608  constants of this package
_STANDING = f"SELECT {', '.join(STANDING_COLUMNS)} FROM creation"  # noqa: S608
_INSERT = f"INSERT INTO creation ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"  # noqa: S608
_ANEW = ", ".join(f"{name} = excluded.{name}" for name in ARTIFACT_COLUMNS[2:])
_KEEP: Final = (
    f"INSERT INTO artifact ({', '.join(ARTIFACT_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
    f" ON CONFLICT (key, idx) DO UPDATE SET {_ANEW}"
)
_KEPT = f"SELECT {', '.join(ARTIFACT_COLUMNS)} FROM artifact WHERE key = ? ORDER BY idx"  # noqa: S608
_FILE: Final = attrgetter(*ARTIFACT_COLUMNS)
_LEARN: Final = (
    "INSERT INTO pace (origin, kind, learnt, updated_at) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (origin, kind) DO UPDATE SET learnt = excluded.learnt, updated_at = excluded.updated_at"
)
# No creation changes before it is made: the index by the one time finds what is old by the other.
_OLD = f"SELECT key FROM creation WHERE created_at < ? AND updated_at < ? AND NOT {UNFINISHED} ORDER BY created_at LIMIT ?"  # noqa: S608


@frozen
class Tables:
    """All of it, as one transaction sees it."""

    db: Transaction

    def find(self, key: str) -> Creation | None:
        """The creation under that key."""
        return self._one("key = ?", key)

    def named(self, account: str, word: str) -> Creation | None:
        """The creation of an account that its caller's word is for."""
        return self._one("account = ? AND dedupe = ?", account, word)

    def standing(self, key: str) -> Standing | None:
        """How it stands with that creation."""
        row = self.db.execute(f"{_STANDING} WHERE key = ?", (key,)).fetchone()
        return None if row is None else Standing(*row)

    def of_task(self, account: str, task_id: str) -> list[Standing]:
        """The creations of an account that came to that task."""
        return [Standing(*row) for row in self.db.execute(f"{_STANDING} WHERE account = ? AND task_id = ?", (account, task_id))]

    def unfinished(self, account: str, origin: str) -> list[Creation]:
        """All of an account at a gateway that is not final, oldest first."""
        return self._all(f"WHERE account = ? AND origin = ? AND {UNFINISHED} ORDER BY created_at", account, origin)

    def latest(self, most: int) -> list[Creation]:
        """The latest creations, newest first."""
        return self._all("ORDER BY created_at DESC LIMIT ?", most)

    def add(self, creation: Creation) -> bool:
        """A new one; false when there is one under its key or its word already."""
        if not self.db.execute(_INSERT, values_of(creation)).rowcount:
            return False
        self._record(creation.key, creation.created_at, None, creation.state, "")
        return True

    def change(self, key: str, **facts: object) -> None:
        """Set some facts of a creation, but for its state."""
        self.db.execute(f"UPDATE creation SET {', '.join(f'{name} = ?' for name in facts)} WHERE key = ?", (*facts.values(), key))  # noqa: S608  names of ours

    def put(self, row: Row, state: State, note: str, **facts: object) -> None:
        """Set the state of a creation, whatever it was, and what else is new."""
        now, note = time.time(), said(note)
        self.change(row.key, state=state.value, note=note, updated_at=now, **facts)
        self._record(row.key, now, row.state.value, state, note)

    def remark(self, row: Row, note: str) -> None:
        """Add a line to the history of a creation that changes nothing."""
        self._record(row.key, time.time(), row.state.value, row.state, said(note))

    def keep(self, artifact: Artifact) -> None:
        """A file, of which the last word counts."""
        self.db.execute(_KEEP, _FILE(artifact))

    def kept(self, key: str) -> list[Artifact]:
        """The files of a creation, in the order of its entries."""
        return [Artifact(**dict(zip(ARTIFACT_COLUMNS, row, strict=True))) for row in self.db.execute(_KEPT, (key,))]

    def learn(self, origin: str, kind: str, learnt: str) -> None:
        """What is known of a kind of task now."""
        self.db.execute(_LEARN, (origin, kind, learnt, time.time()))

    def learnt(self, origin: str, most: int) -> dict[str, str]:
        """What is known of each kind: what was learnt last, and no more than `most`."""
        sql = "SELECT kind, learnt FROM pace WHERE origin = ? ORDER BY updated_at DESC LIMIT ?"
        return dict(self.db.execute(sql, (origin, most)).fetchall())

    def prune(self, limit: float, most: int) -> int:
        """Delete some of what ended before that Unix time, and no more than `most`; gives how many."""
        keys = self.db.execute(_OLD, (limit, limit, most)).fetchall()
        for table in ("event", "artifact", "creation"):
            self.db.executemany(f"DELETE FROM {table} WHERE key = ?", keys)  # noqa: S608  names of ours
        return len(keys)

    def _one(self, condition: str, *values: Any) -> Creation | None:
        row = self.db.execute(f"{_SELECT} WHERE {condition}", values).fetchone()
        return None if row is None else creation_of(row)

    def _all(self, which: str, *values: Any) -> list[Creation]:
        return [creation_of(row) for row in self.db.execute(f"{_SELECT} {which}", values)]

    def _record(self, key: str, at: float, before: str | None, after: State, note: str) -> None:
        self.db.execute(
            "INSERT INTO event (key, at, from_state, to_state, note) VALUES (?, ?, ?, ?, ?)", (key, at, before, after.value, note)
        )
