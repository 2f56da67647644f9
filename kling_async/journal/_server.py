"""The database in a PostgreSQL server: a batch is done again until it is certain to be there once, or patience ends.

Safe to repeat, for the answer to a COMMIT may be lost: each batch leaves its token in the same transaction, and what
is there after reconnecting tells. The transaction's number would not do: a standby that was promoted without having
seen it gives it to another. One writer at a time, under a lock that the server frees with the transaction, so that
asking waits for what is still being committed.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import psycopg
from attrs import define, field
from psycopg.conninfo import conninfo_to_dict

from kling_async._fault import ConfigurationError
from kling_async.errors import JournalError
from kling_async.journal._database import OWN, Item, do
from kling_async.journal._rows import SCHEMA, VERSION

__all__ = ["ServerDatabase"]

_LEASE: Final = 60
"""Seconds by the database's clock for which a session counts as alive after its last sign of life."""
_BEAT: Final = 20.0
_LONGEST_PAUSE: Final = 1.0
_DEFAULTS: Final = {
    # A server that has vanished without a word is given up after about ten seconds.
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "target_session_attrs": "read-write",
    "fallback_application_name": "kling_async",
}
_BEGIN: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL search_path = kling_async;
SET LOCAL synchronous_commit = on;
SET LOCAL lock_timeout = '5s';
SET LOCAL idle_in_transaction_session_timeout = '10s';
SELECT pg_advisory_xact_lock(1263290702)  -- "KLIN"
"""
"""Sets nothing for longer than the transaction, so that a pooler may stand in between. A machine that is suspended in
its midst holds the others up for ten seconds at most."""
_SIGNS: Final = """
INSERT INTO lease (id, until, token) VALUES {rows}
ON CONFLICT (id) DO UPDATE SET until = excluded.until, token = excluded.token;
"""
_TYPES: Final = {
    "INTEGER PRIMARY KEY": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "INTEGER": "BIGINT",
    "REAL": "DOUBLE PRECISION",
    "BLOB": "BYTEA",
    " WITHOUT ROWID": "",
}
"""How PostgreSQL calls what the schema says in SQLite's words."""
_OWN_SCHEMA: Final = f"""
CREATE TABLE lease (id TEXT PRIMARY KEY, until TIMESTAMPTZ NOT NULL, token TEXT NOT NULL);
CREATE TABLE journal (version BIGINT NOT NULL);
INSERT INTO journal VALUES ({VERSION});
"""  # noqa: S608  a number of ours
_OWN: Final = (
    *OWN,
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
    psycopg.ProgrammingError,
    psycopg.errors.ProgramLimitExceeded,
)
_PASSING: Final = (psycopg.OperationalError, psycopg.InternalError)
"""What another try may cure: the latter is, among others, a standby that is not yet promoted."""


@define(eq=False)
class _Statements:
    """Speaks to a connection of psycopg as one speaks to SQLite's."""

    connection: psycopg.Connection[Any]
    wrote: bool = False

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> psycopg.Cursor[Any]:
        self.wrote = self.wrote or sql.startswith(("INSERT", "UPDATE", "DELETE"))
        return self.connection.execute(_in_its_words(sql), values)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> None:
        self.wrote = True
        self.connection.cursor().executemany(_in_its_words(sql), rows)


def _options_from(dsn: str) -> dict[str, Any]:
    options: dict[str, Any] = {"port": "?"}
    with contextlib.suppress(psycopg.Error, ValueError):  # whose text quotes what it did not understand
        options = conninfo_to_dict(dsn)
    # A password whose special characters are not encoded is taken for other parts, which messages quote, too.
    if "@" in f"{options.get('host')}{options.get('dbname')}" or re.search("[^0-9,]", str(options.get("port", ""))):
        raise ConfigurationError("no connection string of PostgreSQL; in an address, encode the password's special characters (@ is %40)")
    return {**_DEFAULTS, **options}


@define(eq=False)
class ServerDatabase:
    """A schema called `kling_async` in a database of a PostgreSQL server."""

    _options: dict[str, Any] = field(converter=_options_from, repr=False)
    patience: float = 30.0
    lasting: bool = field(default=True, init=False)
    sessions: set[str] = field(factory=set, init=False, repr=False)
    """The claims of this process that are kept alive here."""
    _id: str = field(factory=lambda: secrets.token_hex(8), init=False, repr=False)
    _connection: psycopg.Connection[Any] | None = field(default=None, init=False, repr=False)
    _signed: set[str] = field(factory=set, init=False, repr=False)
    _sign_at: float = field(default=0.0, init=False)

    @property
    def beat(self) -> float | None:
        """Seconds between two signs of life, while there is a session."""
        return _BEAT if self.sessions else None

    def commit(self, batch: list[Item]) -> None:
        """Do the works in one transaction, once, whatever becomes of the connection."""
        token, pause, trouble, in_doubt = secrets.token_hex(8), 0.02, "", False
        until = time.monotonic() + (self.patience if batch else 0)
        while True:
            try:
                statements = self._begin()
                if not (in_doubt and self._is_there(statements, token)):
                    for item in batch:
                        do(statements, item, _OWN)
                    in_doubt = statements.wrote
                self._end(statements, token, sign=in_doubt)
            except psycopg.Error as error:
                trouble, passing = self._told(error), isinstance(error, _PASSING)
            except JournalError as error:
                trouble, passing = str(error), False
            else:
                return
            self.close()
            if not passing or time.monotonic() + pause > until:
                break
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        for item in batch:
            item.result, item.error = None, JournalError(trouble)

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection, self._signed = self._connection, None, set()
        if connection is not None:
            connection.close()

    def _begin(self) -> _Statements:
        if self._connection is not None and self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self.close()  # what broke in its midst did not end it
        new = self._connection is None
        if self._connection is None:
            self._connection = psycopg.connect(**self._options, autocommit=True, prepare_threshold=None)
        statements = _Statements(self._connection)
        self._connection.execute(_BEGIN)
        if new:
            _check(self._connection)
        return statements

    def _is_there(self, statements: _Statements, token: str) -> bool:
        return statements.execute("SELECT 1 FROM lease WHERE id = ? AND token = ?", (self._id, token)).fetchone() is not None

    def _end(self, statements: _Statements, token: str, *, sign: bool) -> None:
        sessions, signs = self.sessions.copy(), ""
        if sign or sessions - self._signed or (sessions and time.monotonic() > self._sign_at):
            rows = ", ".join(f"('{each}', clock_timestamp() + interval '{_LEASE} s', '{token}')" for each in (self._id, *sorted(sessions)))
            signs = _SIGNS.format(rows=rows)
        statements.connection.execute(f"{signs} COMMIT".encode())
        if signs:
            self._signed, self._sign_at = sessions, time.monotonic() + _BEAT / 2

    def _told(self, error: psycopg.Error) -> str:
        text = " ".join((error.diag.message_primary or str(error)).split())[:256]
        password = self._options.get("password")
        return f"journal in PostgreSQL: {text.replace(password, '...') if password else text}"


def _check(connection: psycopg.Connection[Any]) -> None:
    """Make the tables if there are none; refuse those of others. Inside a transaction, under the lock."""
    there = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'kling_async'")}
    if not there:
        own = re.compile("|".join(_TYPES)).sub(lambda found: _TYPES[found[0]], SCHEMA)
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS kling_async; {own} {_OWN_SCHEMA}".encode())
        return
    if "journal" not in there:
        raise JournalError("journal in PostgreSQL: the schema kling_async belongs to another program; it was left as it is")
    (version,) = connection.execute("SELECT version FROM kling_async.journal").fetchone() or (0,)
    if version != VERSION:
        raise JournalError(
            f"journal in PostgreSQL: its version is {version}, this kling_async reads version {VERSION}; it was left as it is"
        )
    connection.execute("DELETE FROM lease WHERE until < clock_timestamp() - interval '1 day'")


def _in_its_words(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()
