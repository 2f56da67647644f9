from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kling_async.journal import Owner
from kling_async.journal._owners import _HERE, is_alive

DYING = "import os, sys; from kling_async.journal import Owner; Owner(sys.argv[1]).claim(); os.kill(os.getpid(), 9)"

FORKING = """
import os, signal, sys
from kling_async.journal import Owner
owner = Owner(sys.argv[1])
owner.claim()
print(owner.id, flush=True)
if os.fork() == 0:  # a worker, which goes on when its parent is dead
    owner.release()
    print(flush=True)
    os.read(0, 1)
    os._exit(0)
signal.pause()
"""

CLEARING = "import sys; from kling_async.journal._owners import _clear; print(flush=True)\nwhile True: _clear(sys.argv[1])"


def files(path: Path) -> list[str]:
    """What lies beside the journal."""
    return sorted(each.name for each in path.parent.iterdir())


def test_the_dead_are_cleared_away(tmp_path: Path) -> None:
    """A session's first act clears away the locks of those that were killed, and touches neither the living nor anything else."""
    path = tmp_path / "db"
    bystander = tmp_path / "db-owner-list"
    bystander.touch()
    alive = Owner(str(path))
    alive.claim()
    subprocess.run([sys.executable, "-c", DYING, path], check=False)
    (dead,) = {*files(path)} - {bystander.name, f"db-owner-{alive.id}"}
    other = Owner(str(path))
    other.claim()
    assert dead.startswith("db-owner-")
    assert files(path) == sorted([bystander.name, f"db-owner-{alive.id}", f"db-owner-{other.id}"])
    for owner in (alive, other):
        owner.release()
    assert files(path) == [bystander.name]


def test_nobody_is_cleared_away_while_it_comes(tmp_path: Path) -> None:
    """A lock is never found without its holder, however many others come and clear at that very moment."""
    path = str(tmp_path / "db")
    with subprocess.Popen([sys.executable, "-c", CLEARING, path], stdout=subprocess.PIPE) as clearing:
        assert clearing.stdout is not None
        clearing.stdout.readline()
        try:
            for _ in range(1000):
                owner = Owner(path)
                owner.claim()
                _HERE.discard(owner.id)  # asked as by another process
                assert is_alive(path, owner.id)
                owner.release()
        finally:
            clearing.kill()


@pytest.mark.row("J7")
def test_a_worker_does_not_keep_its_parent_alive(tmp_path: Path) -> None:
    """A forked worker neither ends its parent's claim nor prolongs it beyond the parent's death: its purchases can be recovered."""
    path = str(tmp_path / "db")
    with subprocess.Popen([sys.executable, "-c", FORKING, path], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        owner = parent.stdout.readline().strip()
        parent.stdout.readline()
        assert is_alive(path, owner)
        parent.kill()
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(path, owner)
        parent.stdin.close()


def test_two_who_ask_at_once(tmp_path: Path) -> None:
    """Somebody else who looks at a dead session's lock this very moment does not make it look alive."""
    path = str(tmp_path / "db")
    subprocess.run([sys.executable, "-c", DYING, path], check=False)
    (name,) = files(tmp_path / "db")
    with (tmp_path / name).open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not is_alive(path, name.removeprefix("db-owner-"))
