"""Pictures on their way: through a session to servers that take, refuse, cut off, or see the file change."""

from __future__ import annotations

import os
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from kling_async import Image2Video, InvalidJobError, SubmitOutcomeUnknown
from kling_async._body import STEP
from kling_async.journal import State
from scripted import KEY, Client, Gateway, head, listening, refusal, whole

pytestmark = pytest.mark.usefixtures("nothing_is_left")

BIG = 10 * 2**20


def picture(size: int = 3 * STEP + 1) -> bytes:
    """So many bytes that begin like a picture."""
    start = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return start + os.urandom(size - len(start))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a picture of four steps."""
    (tmp_path / "fox.png").write_bytes(picture())
    return tmp_path / "fox.png"


def filled(path: Path, size: int) -> None:
    """Write another picture to the file."""
    path.write_bytes(picture(size))


def content(path: Path) -> bytes:
    """What is in the file."""
    return path.read_bytes()


def job(image: bytes | Path) -> Image2Video:
    """A job with that picture."""
    return Image2Video(image=image, prompt="run", external_task_id=KEY)


def expected(data: bytes) -> bytes:
    """The body of that job."""
    return b'{"prompt":"run","image":"' + b64encode(data) + b'","external_task_id":"mine"}'


gateway = pytest.fixture(listening)


async def test_a_picture_arrives_as_it_is(gateway: Gateway, path: Path) -> None:
    """From bytes as from a file: the body is the JSON with base64, its length is said, and nothing is chunked."""
    for image in (content(path), path):
        await gateway.buy(job(image))
        client = gateway.clients[-1]
        assert client.body == expected(content(path))
        lines = client.head.decode().lower().split("\r\n")
        assert f"content-length: {len(client.body)}" in lines
        assert not any(line.startswith("transfer-encoding") for line in lines)


@pytest.mark.row("V7")
async def test_a_file_can_be_sent_again(gateway: Gateway, path: Path) -> None:
    """After a refusal that bought nothing the same bytes go out once more, read anew."""
    bodies: list[bytes] = []

    async def full(client: Client) -> None:
        await client.read()
        bodies.append(client.body)
        client.say(refusal(429, 1303))

    gateway.script.append(full)
    _, row = await gateway.buy(job(path))
    assert [*bodies, gateway.clients[1].body] == [expected(content(path))] * 2
    assert (row.state, row.attempt) == (State.ACCEPTED, 2)


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(picture()), lambda path: path.unlink()], ids=["changed", "removed"])
async def test_a_file_that_changed_is_not_sent_again(gateway: Gateway, path: Path, change: Callable[[Path], object]) -> None:
    """Between a refusal and the next attempt the file is looked at: no other picture is bought under the same key, and nothing leaves."""

    async def full(client: Client) -> None:
        await client.read()
        change(path)
        client.say(refusal(429, 1303))

    gateway.script.append(full)
    outcome, row = await gateway.buy(job(path))
    assert isinstance(outcome, InvalidJobError)
    assert outcome.field == "image"
    assert (gateway.connections, row.state, row.attempt) == (1, State.WITHDRAWN, 1)


async def test_a_file_that_changes_under_way_is_never_sent_whole(gateway: Gateway, path: Path) -> None:
    """A picture of two halves does not arrive: the request breaks off, and is not sent again."""
    filled(path, BIG)
    held: list[int] = []

    async def change(client: Client) -> None:
        await client.reader.readuntil(b"\r\n\r\n")
        filled(path, BIG)
        held.append(len(await client.reader.read()))

    gateway.script.append(change)
    outcome, row = await gateway.buy(job(path))
    assert isinstance(outcome, SubmitOutcomeUnknown)
    assert (outcome.cause, row.state, row.attempt, gateway.connections) == ("changed-file", State.UNKNOWN, 1, 1)
    assert held[0] < BIG


@pytest.mark.row("C11")
async def test_an_early_refusal(gateway: Gateway, path: Path) -> None:
    """A server that refuses a large picture while it is being sent is understood, from a file too."""
    filled(path, BIG)

    async def refuse(client: Client) -> None:
        await client.reader.readuntil(b"\r\n\r\n")
        client.say(head("Content-Length: 0", "Connection: close", status=413))
        while await client.reader.read(1 << 20):
            pass

    for image in (path, content(path)):
        gateway.script.append(refuse)
        outcome, row = await gateway.buy(job(image))
        assert getattr(outcome, "http_status", None) == 413
        assert (row.state, row.attempt) == (State.REJECTED, 1)


async def test_a_large_picture_is_not_held_twice(gateway: Gateway, path: Path, say: Callable[[str], None]) -> None:
    """Sending 10 MB takes less than a megabyte of Python's memory beside them, from bytes as from a file."""
    filled(path, BIG)

    async def swallow(client: Client) -> None:
        lines = (await client.reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        left = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        while left and (data := await client.reader.read(1 << 16)):
            left -= len(data)
        client.say(whole({"code": 0, "data": {"task_id": "1", "task_status": "submitted"}}))

    gateway.behaviour = swallow
    await gateway.buy(job(picture()))  # what is made and kept the first time
    for image in (path, content(path)):
        made = job(image)
        tracemalloc.start()
        try:
            outcome, _ = await gateway.buy(made)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        say(f"10 MB picture from {'a file' if image is path else 'bytes'}: at most {peak / 2**20:.2f} MB of memory, the server's included")
        assert not isinstance(outcome, Exception)
        assert peak < 2**20
