"""`media`: what it takes for what, what it refuses, and what it never does."""

from __future__ import annotations

import base64
import io
import os
import pickle
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.media import (
    FREE_PICTURE,
    MASK,
    PICTURE,
    SOUND,
    Blob,
    File,
    Link,
    MediaLike,
    Need,
    accept,
    extension_of,
    sniff,
    to_base64,
    url_fault,
)


def _png(width: int = 640, height: int = 480) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0" + bytes(60)


def _jpeg(width: int = 640, height: int = 480, *, before: bytes = b"\xff\xe0\0\x10" + bytes(14), frame: int = 0xC0) -> bytes:
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8" + before + bytes([0xFF, frame]) + b"\0\x11\x08" + size + bytes(90)


def _wav(size: int = 100) -> bytes:
    return b"RIFF\0\0\0\0WAVEfmt " + bytes(size - 16)


SAMPLES = {
    ".png": _png(),
    ".jpg": _jpeg(),
    ".gif": b"GIF89a" + bytes(20),
    ".webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    ".bmp": b"BM\x36\0\0\0\0\0\0\0\x36\0",
    ".heif": b"\0\0\0\x18ftypheic\0\0\0\0",
    ".wav": _wav(),
    ".m4a": b"\0\0\0\x20ftypM4A \0\0\2\0",
    ".mov": b"\0\0\0\x14ftypqt  \0\0\2\0",
    ".mp4": b"\0\0\0\x20ftypisom\0\0\2\0",
    ".mp3": b"ID3\4\0\0\0\0\0\0",
    ".aac": b"\xff\xf1\x50\x80\0\0",
    ".bin": b"%PDF-1.7",
}


@pytest.mark.parametrize("extension", SAMPLES)
def test_type_is_told_from_the_first_bytes(extension: str) -> None:
    """Every type of the table is recognised; anything else is `None`, and ends in `.bin`."""
    assert extension_of(SAMPLES[extension]) == extension
    assert (sniff(SAMPLES[extension]) is None) == (extension == ".bin")


@pytest.mark.parametrize("head", [b"\xff\xfb\x90\x64", b"\xff\xf3\x40\xc4", b"\xff\xe3\x18\xc4"])
def test_mp3_without_a_tag_is_an_mp3(head: bytes) -> None:
    """MPEG 1, 2 and 2.5 layer III start with their frame header."""
    assert sniff(head) == "audio/mpeg"


@pytest.mark.parametrize("noise", [b"", b"\xff", b"\xff\xff\xff\xff", b"\xff\xfe\0a", b"BMW is a car", b"RIFF....AVI ", b"ID"])
def test_noise_has_no_type(noise: bytes) -> None:
    """A byte-order mark, a cut header and plain text are no media."""
    assert sniff(noise) is None


def test_urls_are_passed_on_untouched() -> None:
    """A URL stays exactly what was written, also with a query."""
    url = "https://cdn.example/a%20b.png?sig=1&x=%2F"
    assert accept(url, PICTURE) == Link(url)
    assert accept(Link(url), PICTURE) == Link(url)
    assert accept("HTTP://cdn.example/a.png", PICTURE) == Link("HTTP://cdn.example/a.png")


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https:///a.png",
        "https://user:secret@cdn.example/a.png",
        "https://cdn.example/a.png#part",
        "https://cdn.example/a b.png",
        "https://cdn.example/a.png\n",
        "https://cdn.example\\@evil.example/",
        "https://cdn.example:99999/a.png",
        "https://cdn.example:0/a.png",
        "https://[::1/a.png",
        "https://cdn.example/\ud800.png",
        "https://cdn.example/" + "a" * 10_000,
        "file:///etc/hostname",
        "s3://bucket/a.png",
    ],
)
@pytest.mark.row("V9")
def test_urls_that_the_service_cannot_or_should_not_fetch_are_refused(url: str) -> None:
    """No credentials, no fragments, no other schemes, no control characters, no endless text; the message keeps it to itself."""
    with pytest.raises(ValueError, match="URL") as caught:
        accept(url, PICTURE)
    assert "secret" not in str(caught.value)


def test_url_fault_names_no_fault_in_a_good_url() -> None:
    """Plain http, ports, IPv6 and international hosts are fine."""
    for url in ("http://127.0.0.1:8080/hook", "https://[::1]/x", "https://bücher.example/x", "https://a.example?q=1"):
        assert url_fault(url) is None
    assert url_fault(b"https://a.example") is not None


def test_bytes_are_taken_as_they_are() -> None:
    """Bytes, and whatever is like them, become one blob."""
    for value in (_png(), bytearray(_png()), memoryview(_png())):
        assert accept(value, PICTURE) == Blob(_png())  # type: ignore[arg-type]  # more than the type promises


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(_png()).decode(),
        base64.b64encode(_png()).decode().rstrip("="),
        base64.urlsafe_b64encode(_png()).decode(),
        "\n".join(base64.b64encode(_png()).decode()[start : start + 60] for start in range(0, 200, 60)) + "\r\n ",
        "data:image/png;base64," + base64.b64encode(_png()).decode(),
        "DATA:image/jpeg;charset=x;BASE64," + base64.urlsafe_b64encode(_png()).decode().rstrip("="),
    ],
    ids=["plain", "unpadded", "urlsafe", "wrapped", "data-uri", "odd-data-uri"],
)
@pytest.mark.row("V8")
def test_base64_in_any_clothes_is_undressed(text: str) -> None:
    """Prefix, line breaks, the URL alphabet and missing padding go away before anything is sent."""
    blob = accept(text, PICTURE)
    assert blob == Blob(_png())
    assert isinstance(blob, Blob)
    assert to_base64(blob) == base64.b64encode(_png()).decode()


@pytest.mark.parametrize("more", range(4))
@pytest.mark.row("V8")
def test_padding_may_be_missing_at_any_length(more: int) -> None:
    """However many `=` are missing, the bytes are the same."""
    data = _png() + bytes(more)
    assert accept(base64.b64encode(data).decode().rstrip("="), PICTURE) == Blob(data)


def test_path_that_could_be_base64_is_a_path() -> None:
    """A short text that happens to decode to the first bytes of a sound is looked up as a file."""
    assert sniff(base64.b64decode("//uQ/clips/hello")) == "audio/mpeg"
    with pytest.raises(ValueError, match="cannot be read as a file"):
        accept("//uQ/clips/hello", SOUND)


@pytest.mark.parametrize("text", ["data:image/png,abc", "data:image/png;base64,###", "data:image/png;base64", "data:;base64,A"])
@pytest.mark.row("V8")
def test_broken_data_uris_are_refused(text: str) -> None:
    """A `data:` URI is never taken for a path."""
    with pytest.raises(ValueError, match="data: URI"):
        accept(text, PICTURE)


def test_long_text_that_is_nothing_is_refused_without_quoting_it() -> None:
    """Base64 that holds no media is too long for a path, and the message stays short."""
    with pytest.raises(ValueError, match="neither") as caught:
        accept("QUJD" * 2000, PICTURE)
    assert len(str(caught.value)) < 200


def test_path_is_looked_at_now_and_read_later(tmp_path: Path) -> None:
    """A path, as text or as an object, becomes an absolute `File`; its bytes are read by `to_base64`."""
    (tmp_path / "a.png").write_bytes(_png())
    for value in (tmp_path / "a.png", str(tmp_path / "a.png")):
        file = accept(value, PICTURE)
        assert file == File(path=str(tmp_path / "a.png"), size=len(_png()))
        assert isinstance(file, File)
        assert accept(file, PICTURE) == file
        assert base64.b64decode(to_base64(file)) == _png()


def test_file_that_changed_is_not_sent(tmp_path: Path) -> None:
    """What is sent is what was checked: a longer, shorter or vanished file is refused."""
    path = tmp_path / "a.png"
    path.write_bytes(_png())
    file = accept(path, PICTURE)
    assert isinstance(file, File)
    for changed in (_png() + b"x", _png()[:-1]):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="changed"):
            to_base64(file)
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        to_base64(file)


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


@pytest.mark.parametrize("path", ["", "no/such/file.png", "a\0b", "a" * 300, "\ud800.png"])
def test_impossible_paths_are_refused(path: str) -> None:
    """Whatever the operating system says of a path, the answer is one kind of error."""
    with pytest.raises(ValueError, match=r"\S"):
        accept(path, PICTURE)


def test_open_file_is_read_from_where_it_stands(tmp_path: Path) -> None:
    """A binary file is read once, in pieces if it comes in pieces."""
    (tmp_path / "a.png").write_bytes(b"head" + _png())
    with (tmp_path / "a.png").open("rb", buffering=0) as reader:
        reader.seek(4)
        assert accept(reader, PICTURE) == Blob(_png())
    assert accept(_Drip(_png()), PICTURE) == Blob(_png())


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


def test_files_that_give_no_bytes_are_refused() -> None:
    """Text mode, closed, write-only and exhausted files each say so."""
    closed = io.BytesIO(_png())
    closed.close()
    for value in (io.StringIO("text"), closed, io.BytesIO()):
        with pytest.raises(ValueError, match=r"rb|closed|empty"):
            accept(value, PICTURE)  # type: ignore[arg-type]  # wrong on purpose
    with Path(os.devnull).open("wb") as writer, pytest.raises(ValueError, match="cannot be read"):
        accept(writer, PICTURE)


@pytest.mark.parametrize("value", [None, 5, 1.5, True, object(), ["a.png"], {"url": "x"}])
def test_other_types_are_refused(value: MediaLike) -> None:
    """A type that is no media is named in the error."""
    with pytest.raises(ValueError, match=type(value).__name__):
        accept(value, PICTURE)


@pytest.mark.parametrize(
    ("need", "data", "rule"),
    [
        (PICTURE, b"", "empty"),
        (PICTURE, _png() + bytes(10 * 2**20), "more than"),
        (SOUND, _wav(5 * 2**20 + 1), "more than"),
        (PICTURE, SAMPLES[".webp"], "image/webp"),
        (PICTURE, SAMPLES[".mp4"], "video/mp4"),
        (PICTURE, b"plain text", "no known media type"),
        (SOUND, _png(), "image/png"),
        (SOUND, SAMPLES[".mov"], "video/quicktime"),
        (PICTURE, _png(299, 400), "299 x 400"),
        (PICTURE, _jpeg(299, 299), "299 x 299"),
        (PICTURE, _png(900, 300), "2.5 times"),
        (PICTURE, _png(300, 751), "2.5 times"),
        (FREE_PICTURE, _png(299, 4000), "299 x 4000"),
        (PICTURE, _png(60_000, 60_000), "claims"),
        (PICTURE, _png(2**31, 2**31), "claims"),
        (PICTURE, _png()[:20], "damaged"),
        (PICTURE, _jpeg()[:22], "damaged"),
        (PICTURE, b"\xff\xd8\xff" * 50, "damaged"),
        (PICTURE, b"\xff\xd8" + b"\xff" * 100_000, "damaged"),
        (PICTURE, b"\xff\xd8\xff\xda" + _jpeg(), "damaged"),
    ],
)
@pytest.mark.row("V7")
def test_media_that_the_service_would_refuse_is_refused_here(need: Need, data: bytes, rule: str) -> None:
    """Size, type, dimensions and ratio are checked by the first bytes, and the message names the rule."""
    with pytest.raises(ValueError, match=rule):
        accept(data, need)


@pytest.mark.parametrize(
    ("need", "data"),
    [
        (PICTURE, _png(300, 300)),
        (PICTURE, _png(750, 300)),
        (PICTURE, _jpeg(300, 750)),
        (PICTURE, _jpeg(frame=0xC2)),
        (PICTURE, _jpeg(before=b"\xff\xe1\xff\xff" + bytes(65533) + b"\xff\xff\xff\xc4\0\4\xff\xc0")),
        (PICTURE, (_png() + bytes(10 * 2**20))[: 10 * 2**20]),
        (FREE_PICTURE, _png(300, 9000)),
        (MASK, _png(10, 10)),
        (MASK, _jpeg()[:22]),
        (SOUND, _wav(5 * 2**20)),
        *((SOUND, SAMPLES[extension]) for extension in (".mp3", ".m4a", ".mp4", ".aac")),
    ],
)
def test_media_at_the_limits_is_taken(need: Need, data: bytes) -> None:
    """What is just allowed is allowed; masks and wide pictures only where the service says so."""
    assert accept(data, need) == Blob(data)


def test_values_show_no_content() -> None:
    """The repr of a blob is type and size; of a link, the part before the query."""
    assert repr(Blob(_png())) == f"Blob(data=<image/png, {len(_png())} bytes>)"
    assert repr(Link("https://a.example/b.png?sig=secret")) == "Link(url='https://a.example/b.png')"


def test_values_are_values() -> None:
    """Equal media are equal, hash alike and pickle."""
    for media in (Blob(_png()), Link("https://a.example/b"), File(path="/a", size=1)):
        assert pickle.loads(pickle.dumps(media)) == media
        assert hash(pickle.loads(pickle.dumps(media))) == hash(media)


BYTES = st.builds(bytes.__add__, st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]), st.binary(max_size=200))


@given(st.text() | st.text(alphabet="AQid0/+-_= \n.") | BYTES, st.sampled_from([PICTURE, FREE_PICTURE, MASK, SOUND]))
def test_no_text_and_no_bytes_break_it(value: str | bytes, need: Need) -> None:
    """For any text and any bytes, also behind the start of a picture, the answer is media or a `ValueError`."""
    with suppress(ValueError):
        assert isinstance(accept(value, need), Link | Blob | File)
