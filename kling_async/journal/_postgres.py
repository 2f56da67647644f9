"""The journal that sessions of many machines share."""

from __future__ import annotations

import contextlib
import os
from typing import NoReturn

from attrs import define, field

from kling_async._fault import ConfigurationError, forgetful
from kling_async.errors import JournalError
from kling_async.journal._database import Transaction
from kling_async.journal._journal import Journal
from kling_async.journal._owners import Owner
from kling_async.journal._writer import Writer

__all__ = ["Lease", "PostgresJournal"]


@define(eq=False, kw_only=True)
class Lease(Owner):
    """The claim of one session: it counts as alive until some time after its last sign of life, and then others may take over.

    No counter tells the sessions before and after apart: each order of each session has a name of its own, which stands
    in the row that it is at, and every write but that of an id asks for it.
    """

    writer: Writer = field(repr=False)
    kept_alive: set[str] = field(repr=False)

    def claim(self) -> None:
        """Be alive from the next commit on."""
        self.kept_alive.add(self.id)

    def release(self) -> None:
        """Be so no more, once what is queued has been written."""
        if self.id in self.kept_alive:
            self.kept_alive.discard(self.id)
            with contextlib.suppress(JournalError):  # closed before: it ends by itself
                self.writer.put(lambda db: db.execute("DELETE FROM lease WHERE id = ?", (self.id,)))


@forgetful
@define(eq=False, init=False, repr=False)
class PostgresJournal(Journal):
    """A `Journal` in PostgreSQL, for sessions on many machines; made in a schema called `kling_async`. Never closed by a session.

    A lost connection, a restart, a failover, a server that is full: what was to be written is tried again for half a
    minute, and is there once or not at all. Sessions hold a lease of a minute by the server's clock, renewed every 20 s.

    Args:
        dsn: where, as libpq understands it: `postgresql://user:password@host/database`, or `host=… dbname=…`; what it does
            not say is taken from the environment (`PGHOST`, `PGPASSWORD` and so on).

    Raises:
        ConfigurationError: `kling-async[postgres]` is not installed, or the text is no connection string.
        JournalError: from every use, when the server stays away, or the schema belongs to another program or a later version.
    """

    _sessions: set[str] = field(init=False)

    def __init__(self, dsn: str) -> None:
        try:
            from kling_async.journal._server import ServerDatabase
        except ImportError:
            raise ConfigurationError("a journal in PostgreSQL needs a driver: pip install 'kling-async[postgres]'") from None
        database = ServerDatabase(dsn)
        self.path, self._writer, self._sessions = None, Writer(database), database.sessions

    def owner(self) -> Lease:
        """A new claim, for one session."""
        return Lease(path=None, writer=self._writer, kept_alive=self._sessions)

    async def is_alive(self, owner: str) -> bool:
        """Whether the session of that claim still runs, as far as its last sign of life tells."""

        def work(db: Transaction) -> bool:
            return db.execute("SELECT 1 FROM lease WHERE id = ? AND until > clock_timestamp()", (owner,)).fetchone() is not None

        return await self._writer.run(work)

    async def backup(self, path: str | os.PathLike[str]) -> NoReturn:
        """Not here: PostgreSQL has its own means, such as `pg_dump --schema kling_async`."""
        del path
        raise JournalError("a journal in PostgreSQL is backed up by PostgreSQL: pg_dump --schema kling_async")
