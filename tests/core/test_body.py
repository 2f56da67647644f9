"""`_body`: media in the gaps of JSON, read and encoded in steps, the same each time or not at all."""

from __future__ import annotations

import os
import tempfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async import _body
from kling_async._body import STEP, Body, Part, seal
from kling_async.errors import InvalidJobError
from kling_async.media import Blob, File

HEAD, TAIL = b'{"image":"', b'"}'


def around(part: Part) -> Body:
    """A body with one picture."""
    return Body((HEAD, part, TAIL))


def written(path: Path, data: bytes) -> File:
    """A file with those bytes."""
    path.write_bytes(data)
    return File(path=str(path), size=len(data))


EDGES = st.builds(lambda steps, more: max(0, steps * STEP + more), st.integers(0, 3), st.integers(-4, 4))


@given(size=EDGES, seed=st.integers(0, 255))
def test_steps_join_to_base64(size: int, seed: int) -> None:
    """Whatever the size, the steps are the base64 of the whole, as long as was said, none longer than 64 KiB."""
    data = (bytes(range(256)) * (size // 256 + 2))[seed:][:size]
    body = around(seal(Blob(data), "image"))
    steps = list(body.steps())
    assert b"".join(steps) == HEAD + b64encode(data) + TAIL
    assert body.size == sum(map(len, steps))
    assert max(map(len, steps)) <= STEP // 3 * 4
    assert b"".join(body.steps()) == b"".join(steps)


@given(size=EDGES)
def test_file_is_sent_as_its_bytes_are(size: int) -> None:
    """A file and its bytes give the same body, step by step, and the same digest."""
    data = os.urandom(size)
    with tempfile.TemporaryDirectory() as folder:
        on_disk, in_memory = seal(written(Path(folder) / "a", data), "image"), seal(Blob(data), "image")
        assert on_disk.digest == in_memory.digest
        assert b"".join(around(on_disk).steps()) == b"".join(around(in_memory).steps())
    assert (around(on_disk).on_disk, around(in_memory).on_disk) == (True, False)


def test_sealing_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each step of hashing the core is given away: where there is one for all, the event loop does not wait for a slice to end."""
    pauses = list[int]()
    monkeypatch.setattr(_body, "_pause", lambda: pauses.append(1))
    seal(Blob(bytes(10 * STEP)), "image")
    assert len(pauses) == 10


def test_long_text_goes_in_steps_too() -> None:
    """JSON that is long without media, such as a large `extra`, is cut likewise."""
    data = os.urandom(2 * STEP + 1)
    assert [len(step) for step in Body((data,)).steps()] == [STEP, STEP, 1]
    assert b"".join(Body((data,)).steps()) == data


def test_bytes_are_not_copied() -> None:
    """A body holds the caller's bytes, not its own."""
    data = bytes(STEP)
    (_, part, _) = around(seal(Blob(data), "image")).pieces
    assert isinstance(part, Part)
    assert isinstance(part.media, Blob)
    assert part.media.data is data


def test_nothing_of_a_body_is_printed() -> None:
    """Neither a prompt nor a picture gets into a log by accident."""
    assert repr(around(seal(Blob(b"secret"), "image"))) == "Body()"


def change(path: Path, how: str) -> None:
    """Do something to a file."""
    match how:
        case "a directory" | "a FIFO" | "a device" | "nothing":
            path.unlink()
            makers: dict[str, Callable[[], None]] = {"a directory": path.mkdir, "a FIFO": lambda: os.mkfifo(path)}
            makers |= {"a device": lambda: path.symlink_to("/dev/zero"), "nothing": lambda: None}
            makers[how]()
        case "another":
            path.with_suffix(".new").write_bytes(bytes(2 * STEP + 8))
            path.with_suffix(".new").replace(path)
        case _:
            path.write_bytes({"longer": bytes(2 * STEP + 9), "shorter": bytes(2 * STEP + 7)}.get(how, b"x" * (2 * STEP + 8)))


@pytest.fixture
def sealed(tmp_path: Path) -> Part:
    """A file of three steps as it was read, an hour after it was written."""
    file = written(tmp_path / "a.png", bytes(2 * STEP + 8))
    os.utime(file.path, (1, 1))
    return seal(file, "image")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs")
@pytest.mark.parametrize("now", ["longer", "shorter", "other bytes", "another", "nothing", "a directory", "a FIFO", "a device"])
def test_file_that_changed_is_noticed_before_it_is_sent(sealed: Part, tmp_path: Path, now: str) -> None:
    """Whatever became of a file since it was read: nothing of it is given out, and the error names field and file."""
    around(sealed).verify()
    change(tmp_path / "a.png", now)
    for use in (around(sealed).verify, lambda: next(sealed.steps())):
        with pytest.raises(InvalidJobError, match=r"a\.png' (has changed|is not a regular|cannot be read)") as caught:
            use()
        assert caught.value.field == "image"


@pytest.mark.parametrize("after", [0, 1])
def test_change_under_way_is_noticed_too(sealed: Part, tmp_path: Path, after: int) -> None:
    """A file that changes while it is sent is never sent to its end, not even when its times are set back."""
    for back in (False, True):
        steps = sealed.steps()
        given = [next(steps) for _ in range(after)]
        (tmp_path / "a.png").write_bytes(b"x" * (2 * STEP + 8))
        if back:
            os.utime(tmp_path / "a.png", (1, 1))
        with pytest.raises(InvalidJobError, match="has changed"):
            given.extend(steps)
        assert len(b"".join(given)) < sealed.size
        (tmp_path / "a.png").write_bytes(bytes(2 * STEP + 8))
        os.utime(tmp_path / "a.png", (1, 1))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a system that lists what is open")
def test_file_is_not_held_open(sealed: Part, tmp_path: Path) -> None:
    """Between two steps nothing is open, so that an upload may end anywhere."""
    steps = sealed.steps()
    next(steps)
    assert str(tmp_path / "a.png") not in map(os.path.realpath, Path("/proc/self/fd").iterdir())
