"""Downloads that break off: at every place, and go on or begin again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from file_hosts import REF, WAYS, Answer, Asked, ByteHost, byte_host, clip, names, reply, rest, whole
from kling_async.observers import Saved

pytestmark = pytest.mark.usefixtures("nothing_is_left")

host = pytest.fixture(byte_host, params=WAYS)

STEP = 64 * 1024
CLIP, OTHER = clip(5 * 1024 * 1024), clip(5 * 1024 * 1024, seed=1)
TAG, NEW_TAG = 'ETag: "one"', 'ETag: "two"'


def _cut(first: bytes, then: Callable[[Asked], bytes]) -> Answer:
    return lambda asked: (first,) if asked.number == 0 else (then(asked),)


def _going_on(asked: Asked) -> bytes:
    return rest(CLIP, asked.start, TAG) if asked.start else whole(CLIP, TAG)


def _chunked(data: bytes, *, end: bool) -> bytes:
    return b"".join((b"%x\r\n" % len(data) + data + b"\r\n" if data else b"", b"0\r\n\r\n" if end else b""))


def _lie(asked: Asked) -> bytes:
    if not asked.start:
        return whole(CLIP, TAG)
    lies = (
        rest(CLIP, asked.start - 1, TAG),
        rest(CLIP, asked.start, TAG).replace(b"/5242880", b"/5242881"),
        rest(CLIP, asked.start, TAG).replace(b"Content-Range", b"Content-Rage"),
        rest(CLIP, asked.start, TAG).replace(b"bytes ", b"chars "),
    )
    return lies[asked.start // STEP % len(lies)]


CUTS: dict[str, tuple[Callable[[int], Answer], bytes]] = {
    # What is served, cut at a place at first; and what the file must be in the end.
    "length": (lambda cut: _cut(reply(200, f"Content-Length: {len(CLIP)}", TAG, body=CLIP[:cut]), _going_on), CLIP),
    "chunked": (
        lambda cut: _cut(reply(200, "Transfer-Encoding: chunked", TAG, body=_chunked(CLIP[:cut], end=False)), _going_on),
        CLIP,
    ),
    "close-delimited": (lambda cut: _cut(reply(200, TAG, body=CLIP[:cut]), _going_on), CLIP),
    "changed ETag": (
        lambda cut: _cut(reply(200, f"Content-Length: {len(CLIP)}", TAG, body=CLIP[:cut]), lambda _: whole(OTHER, NEW_TAG)),
        OTHER,
    ),
    "200 instead of 206": (
        lambda cut: _cut(reply(200, f"Content-Length: {len(CLIP)}", TAG, body=CLIP[:cut]), lambda _: whole(CLIP, TAG)),
        CLIP,
    ),
    "lying Content-Range": (lambda cut: _cut(reply(200, f"Content-Length: {len(CLIP)}", TAG, body=CLIP[:cut]), _lie), CLIP),
}


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.row("N1")
@pytest.mark.parametrize("kind", CUTS)
async def test_cut_at_every_64_kib(host: ByteHost, tmp_path: Path, kind: str, say: Callable[[str], None]) -> None:
    """Wherever a download is cut, and whatever the host says then, the file is exactly right in the end, and nothing else is left."""
    make, right = CUTS[kind]
    sha256 = hashlib.sha256(right).hexdigest()
    cuts = range(0, len(CLIP), STEP)
    asked = 0
    for cut in cuts:
        host.asked.clear()
        host.records.clear()
        host.answer = make(cut)
        (path,) = await host.files.save([host.video()], tmp_path, ref=REF)
        assert path.read_bytes() == right
        saved = host.records[-1]
        assert isinstance(saved, Saved)
        assert (saved.path, saved.size, saved.sha256) == (path, len(right), sha256)
        assert names(tmp_path) == [path.name]
        asked += len(host.asked)
        path.unlink()
    say(f"downloads cut ({kind}): {len(cuts)} cuts of {len(CLIP)} bytes, {asked} requests, every file right, SHA-256 equal")
