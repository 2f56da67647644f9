"""What the journal holds, as values, and the moves between its states."""

from __future__ import annotations

from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, TypeAlias

from attrs import field, fields, frozen

__all__ = [
    "ARTIFACT_COLUMNS",
    "COLUMNS",
    "MOVES",
    "SCHEMA",
    "STANDING_COLUMNS",
    "UNFINISHED",
    "VERSION",
    "Artifact",
    "Creation",
    "Row",
    "Standing",
    "State",
    "creation_of",
    "said",
    "values_of",
]


class State(StrEnum):
    """Where a creation stands (`reliability.md` 3.1)."""

    PREPARED = "prepared"
    """Asked for; nothing has left. The only state from which a request may be sent."""
    SENDING = "sending"
    """A request may be under way. Whoever finds this of a dead owner may look it up, never send it."""
    UNKNOWN = "unknown"
    """A request went out, and nobody can tell whether it was accepted."""
    ACCEPTED = "accepted"
    """The task exists."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    """Provably not accepted, for good."""
    WITHDRAWN = "withdrawn"
    """Its caller went away before anything left."""
    ABANDONED = "abandoned"
    """Unknown, and given up by hand."""

    @property
    def final(self) -> bool:
        """Whether nothing is left to be done about it."""
        return self not in {State.PREPARED, State.SENDING, State.UNKNOWN, State.ACCEPTED}


MOVES: Final[dict[State, frozenset[State]]] = {
    # From each state to where it may go. `accepted` is reachable from everywhere: an id is a fact.
    State.PREPARED: frozenset({State.SENDING, State.REJECTED, State.WITHDRAWN}),
    State.SENDING: frozenset({State.PREPARED, State.UNKNOWN, State.REJECTED, State.WITHDRAWN}),
    State.UNKNOWN: frozenset({State.ABANDONED}),
    State.ACCEPTED: frozenset({State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.REJECTED: frozenset({State.PREPARED}),
    State.WITHDRAWN: frozenset({State.PREPARED}),
    State.ABANDONED: frozenset({State.PREPARED}),
}


@frozen(kw_only=True)
class Creation:
    """One logical creation: at most one task."""

    key: str
    """The `external_task_id` it was, or would have been, sent under."""
    account: str
    """A fingerprint of the account; never the key itself."""
    origin: str
    action: str
    action2: str
    request: str
    """The request as JSON, media replaced by their digest."""
    digest: str
    """SHA-256 of `request`."""
    dedupe: str | None = None
    """The caller's own word for it: the same word is the same creation."""
    state: State = State.PREPARED
    attempt: int = 0
    owner: str = ""
    """Who is at it: a session and, after a dot, one of its orders."""
    task_id: str | None = None
    note: str = ""
    """The last thing worth saying about it, such as why it failed."""
    result: str | None = None
    """The result as JSON, links without their signatures."""
    callback_hash: bytes | None = None
    """SHA-256 of the token in its capability URL, if it has one."""
    created_at: float = 0.0
    """Unix seconds."""
    updated_at: float = 0.0


@frozen(repr=False)
class Standing:
    """What most moves need of a creation; the rest of its row may be long."""

    key: str
    account: str
    state: State = field(converter=State)
    attempt: int
    owner: str
    task_id: str | None


Row: TypeAlias = Creation | Standing


@frozen(kw_only=True)
class Artifact:
    """A file that holds an entry of a result, whole."""

    key: str
    """The creation's."""
    idx: int
    """Which entry, from 0."""
    path: str
    size: int
    sha256: str
    """Hex."""
    validator: str
    """What the file host knew this version by: an `ETag` or a date; empty when it told none."""
    state: str = "saved"


COLUMNS: Final = tuple(column.name for column in fields(Creation))
STANDING_COLUMNS: Final = tuple(column.name for column in fields(Standing))
_STATE: Final = COLUMNS.index("state")
_FACTS: Final = attrgetter(*COLUMNS)
ARTIFACT_COLUMNS: Final = tuple(column.name for column in fields(Artifact))
VERSION: Final = 1
UNFINISHED: Final = f"state IN ({', '.join(repr(state.value) for state in State if not state.final)})"
"""Said in the same words by the index and by what reads through it: SQLite takes the one for the other by its text."""
SCHEMA: Final = f"""
CREATE TABLE creation (
    key TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    origin TEXT NOT NULL,
    action TEXT NOT NULL,
    action2 TEXT NOT NULL,
    request TEXT NOT NULL,
    digest TEXT NOT NULL,
    dedupe TEXT,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    owner TEXT NOT NULL,
    task_id TEXT,
    note TEXT NOT NULL,
    result TEXT,
    callback_hash BLOB,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX creation_word ON creation (account, dedupe) WHERE dedupe IS NOT NULL;
CREATE INDEX creation_open ON creation (account, origin, created_at) WHERE {UNFINISHED};
CREATE INDEX creation_task ON creation (account, task_id) WHERE task_id IS NOT NULL;
CREATE INDEX creation_made ON creation (created_at);
CREATE TABLE event (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL, at REAL NOT NULL,
    from_state TEXT, to_state TEXT NOT NULL, note TEXT NOT NULL
);
CREATE INDEX event_key ON event (key);
CREATE TABLE artifact (
    key TEXT NOT NULL, idx INTEGER NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL,
    sha256 TEXT NOT NULL, validator TEXT NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (key, idx)
) WITHOUT ROWID;
CREATE TABLE pace (
    origin TEXT NOT NULL, kind TEXT NOT NULL, learnt TEXT NOT NULL, updated_at REAL NOT NULL,
    PRIMARY KEY (origin, kind)
) WITHOUT ROWID;
"""


def creation_of(row: tuple[Any, ...]) -> Creation:
    """The value of a row selected by `COLUMNS`."""
    facts: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    facts["state"] = State(facts["state"])
    return Creation(**facts)


def values_of(creation: Creation) -> list[Any]:
    """A row by `COLUMNS`."""
    # Databases take a state for a text, and take long to find out that it is one.
    facts = list(_FACTS(creation))
    facts[_STATE] = creation.state.value
    return facts


def said(note: str) -> str:
    """As every database can keep it: without halves of characters, and without the NUL at which PostgreSQL stops."""
    return note.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
