"""`media`: what it takes for what, what it refuses, and what it never does."""

from __future__ import annotations

import base64
import pickle
from contextlib import suppress

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
    url_fault,
)
from specimens import SAMPLES, jpeg, png, wav


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
    for value in (png(), bytearray(png()), memoryview(png())):
        assert accept(value, PICTURE) == Blob(png())  # type: ignore[arg-type]  # more than the type promises


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(png()).decode(),
        base64.b64encode(png()).decode().rstrip("="),
        base64.urlsafe_b64encode(png()).decode(),
        "\n".join(base64.b64encode(png()).decode()[start : start + 60] for start in range(0, 200, 60)) + "\r\n ",
        "data:image/png;base64," + base64.b64encode(png()).decode(),
        "DATA:image/jpeg;charset=x;BASE64," + base64.urlsafe_b64encode(png()).decode().rstrip("="),
    ],
    ids=["plain", "unpadded", "urlsafe", "wrapped", "data-uri", "odd-data-uri"],
)
@pytest.mark.row("V8")
def test_base64_in_any_clothes_is_undressed(text: str) -> None:
    """Prefix, line breaks, the URL alphabet and missing padding go away before anything is sent."""
    blob = accept(text, PICTURE)
    assert blob == Blob(png())


@pytest.mark.parametrize("more", range(4))
@pytest.mark.row("V8")
def test_padding_may_be_missing_at_any_length(more: int) -> None:
    """However many `=` are missing, the bytes are the same."""
    data = png() + bytes(more)
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


@pytest.mark.parametrize("value", [None, 5, 1.5, True, object(), ["a.png"], {"url": "x"}])
def test_other_types_are_refused(value: MediaLike) -> None:
    """A type that is no media is named in the error."""
    with pytest.raises(ValueError, match=type(value).__name__):
        accept(value, PICTURE)


@pytest.mark.parametrize(
    ("need", "data", "rule"),
    [
        (PICTURE, b"", "empty"),
        (PICTURE, png() + bytes(10 * 2**20), "more than"),
        (SOUND, wav(5 * 2**20 + 1), "more than"),
        (PICTURE, SAMPLES[".webp"], "image/webp"),
        (PICTURE, SAMPLES[".mp4"], "video/mp4"),
        (PICTURE, b"plain text", "no known media type"),
        (SOUND, png(), "image/png"),
        (SOUND, SAMPLES[".mov"], "video/quicktime"),
        (PICTURE, png(299, 400), "299 x 400"),
        (PICTURE, jpeg(299, 299), "299 x 299"),
        (PICTURE, png(900, 300), "2.5 times"),
        (PICTURE, png(300, 751), "2.5 times"),
        (FREE_PICTURE, png(299, 4000), "299 x 4000"),
        (PICTURE, png(60_000, 60_000), "claims"),
        (PICTURE, png(2**31, 2**31), "claims"),
        (PICTURE, png()[:20], "damaged"),
        (PICTURE, jpeg()[:22], "damaged"),
        (PICTURE, b"\xff\xd8\xff" * 50, "damaged"),
        (PICTURE, b"\xff\xd8" + b"\xff" * 100_000, "damaged"),
        (PICTURE, b"\xff\xd8\xff\xda" + jpeg(), "damaged"),
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
        (PICTURE, png(300, 300)),
        (PICTURE, png(750, 300)),
        (PICTURE, jpeg(300, 750)),
        (PICTURE, jpeg(frame=0xC2)),
        (PICTURE, jpeg(before=b"\xff\xe1\xff\xff" + bytes(65533) + b"\xff\xff\xff\xc4\0\4\xff\xc0")),
        (PICTURE, (png() + bytes(10 * 2**20))[: 10 * 2**20]),
        (FREE_PICTURE, png(300, 9000)),
        (MASK, png(10, 10)),
        (MASK, jpeg()[:22]),
        (SOUND, wav(5 * 2**20)),
        *((SOUND, SAMPLES[extension]) for extension in (".mp3", ".m4a", ".mp4", ".aac")),
    ],
)
def test_media_at_the_limits_is_taken(need: Need, data: bytes) -> None:
    """What is just allowed is allowed; masks and wide pictures only where the service says so."""
    assert accept(data, need) == Blob(data)


def test_values_show_no_content() -> None:
    """The repr of a blob is type and size; of a link, the part before the query."""
    assert repr(Blob(png())) == f"Blob(data=<image/png, {len(png())} bytes>)"
    assert repr(Link("https://a.example/b.png?sig=secret")) == "Link(url='https://a.example/b.png')"


def test_values_are_values() -> None:
    """Equal media are equal, hash alike and pickle."""
    for media in (Blob(png()), Link("https://a.example/b"), File(path="/a", size=1)):
        assert pickle.loads(pickle.dumps(media)) == media
        assert hash(pickle.loads(pickle.dumps(media))) == hash(media)


BYTES = st.builds(bytes.__add__, st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]), st.binary(max_size=200))


@given(st.text() | st.text(alphabet="AQid0/+-_= \n.") | BYTES, st.sampled_from([PICTURE, FREE_PICTURE, MASK, SOUND]))
def test_no_text_and_no_bytes_break_it(value: str | bytes, need: Need) -> None:
    """For any text and any bytes, also behind the start of a picture, the answer is media or a `ValueError`."""
    with suppress(ValueError):
        assert isinstance(accept(value, need), Link | Blob | File)
