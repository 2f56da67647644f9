"""`media` from the disk and from open files: looked at now, read later, and never without a bound."""

from __future__ import annotations

import io
import os
import socket
import zipfile
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from kling_async.media import (
    PICTURE,
    Blob,
    File,
    accept,
    opened,
)
from specimens import png


def test_path_is_looked_at_now_and_read_later(tmp_path: Path) -> None:
    """A path, as text or as an object, becomes an absolute `File`; nothing of it is kept."""
    (tmp_path / "a.png").write_bytes(png())
    for value in (tmp_path / "a.png", str(tmp_path / "a.png")):
        file = accept(value, PICTURE)
        assert file == File(path=str(tmp_path / "a.png"), size=len(png()))
        assert isinstance(file, File)
        assert accept(file, PICTURE) == file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs and local sockets")
@pytest.mark.row("V7")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """FIFOs (which would block), sockets, directories and devices are refused without being opened."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path in (tmp_path / "fifo", tmp_path / "s", tmp_path, Path(os.devnull)):
            with pytest.raises(ValueError, match="not a regular file"):
                accept(path, PICTURE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs")
def test_path_that_leads_elsewhere_meanwhile_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that becomes a FIFO between the look at it and its opening is refused all the same, at once."""
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png())
    regular = os.stat(tmp_path / "b.png")  # noqa: PTH116  the function that is replaced
    monkeypatch.setattr(os, "stat", lambda _path: regular)
    with pytest.raises(ValueError, match="not a regular file"), opened(str(tmp_path / "a.png")):
        pass


@pytest.mark.parametrize("device", ["/dev/zero", os.devnull])
def test_open_devices_are_refused(device: str) -> None:
    """What might block or never end is not read, though somebody has opened it."""
    if not Path(device).exists():
        pytest.skip("this system has no such device")
    with Path(device).open("rb") as reader, pytest.raises(ValueError, match="open pipe, socket or device"):
        accept(reader, PICTURE)


def test_open_pipes_are_refused() -> None:
    """A pipe that nobody writes to would hold the event loop for ever."""
    receiving, sending = os.pipe()
    with open(receiving, "rb") as reader, open(sending, "wb"), pytest.raises(ValueError, match="read its bytes yourself"):  # noqa: PTH123  numbers, not paths
        accept(reader, PICTURE)


@pytest.mark.parametrize("path", ["", "no/such/file.png", "a\0b", "a" * 300, "\ud800.png"])
def test_impossible_paths_are_refused(path: str) -> None:
    """Whatever the operating system says of a path, the answer is one kind of error."""
    with pytest.raises(ValueError, match=r"\S"):
        accept(path, PICTURE)


def test_open_file_is_read_from_where_it_stands(tmp_path: Path) -> None:
    """A binary file is read once, in pieces if it comes in pieces."""
    (tmp_path / "a.png").write_bytes(b"head" + png())
    with (tmp_path / "a.png").open("rb", buffering=0) as reader:
        reader.seek(4)
        assert accept(reader, PICTURE) == Blob(png())
    assert accept(_Drip(png()), PICTURE) == Blob(png())


def test_open_file_in_a_pipe_s_place(tmp_path: Path) -> None:
    """What has no place in the file system, such as an entry of an archive, is read like a file."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png())
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("a.png") as entry:
        assert accept(cast("BinaryIO", entry), PICTURE) == Blob(png())  # `IO[bytes]`, says its stub


class _Drip(io.BytesIO):
    """A reader that gives a byte at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(1, size or 0))


class _Endless(io.BytesIO):
    """A reader without an end; counts what was taken from it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        self.taken += min(size, 65536)
        return bytes(min(size, 65536))


def test_reading_an_open_file_is_bounded() -> None:
    """At most one byte more than the limit is ever read."""
    reader = _Endless()
    with pytest.raises(ValueError, match="more than 10485760 bytes"):
        accept(reader, PICTURE)
    assert reader.taken == PICTURE.limit + 1


def test_files_that_give_no_bytes_are_refused(tmp_path: Path) -> None:
    """Text mode, closed, write-only and exhausted files each say so."""
    closed = io.BytesIO(png())
    closed.close()
    for value in (io.StringIO("text"), closed, io.BytesIO()):
        with pytest.raises(ValueError, match=r"rb|closed|empty"):
            accept(value, PICTURE)  # type: ignore[arg-type]  # wrong on purpose
    with (tmp_path / "a.png").open("wb") as writer, pytest.raises(ValueError, match="cannot be read"):
        accept(writer, PICTURE)
