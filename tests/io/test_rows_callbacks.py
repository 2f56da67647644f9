"""The rows H of the fault matrix, through aiohttp.web and through an ASGI server, over real sockets and in virtual time."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from attrs import frozen

from kling_async import ConfigurationError, KlingSession, Status, TaskHandle, Text2Video
from kling_async.callbacks import Receiver
from kling_async.callbacks._posts import LARGEST
from kling_async.emulator import Emulator
from receivers import FORGED, FOX, JSON, PROCESSING, SERVERS, answered, body, door_of, post, raw, served, session

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@frozen
class Scene:
    """A task that is awaited, its capability URL, and everything around."""

    emulator: Emulator
    receiver: Receiver
    kling: KlingSession
    handle: TaskHandle[Any]
    waiting: asyncio.Future[Any]
    door: str

    @property
    def reads(self) -> int:
        """Reads of anything."""
        return sum(request.method == "GET" for request in self.emulator.log.requests)


@pytest.fixture(params=SERVERS)
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """A task that begins to run 32 seconds from now and ends 319 seconds from now."""
    async with Emulator(seed=7) as emulator, served(request.param) as receiver, session(emulator, receiver) as kling:
        handle = await kling.submit(FOX)
        waiting = asyncio.ensure_future(handle.wait())
        await asyncio.sleep(0)
        yield Scene(emulator, receiver, kling, handle, waiting, door_of(emulator))
        waiting.cancel()


def time() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


@pytest.mark.row("H1")
async def test_tokens(scene: Scene) -> None:
    """Without the token, with a wrong, cut or longer one, or the token of a task that is over: the same 404, and no read."""
    await scene.kling.run(Text2Video(prompt="[seconds: 5]", duration=5))
    over, before = door_of(scene.emulator), scene.reads
    base, _, token = scene.door.rpartition("/")
    wrong = [
        f"{token[:-1]}{'B' if token[-1] == 'A' else 'A'}",
        token[:-1],
        f"{token}A",
        token.swapcase(),
        "",
        "%00" * 43,
        "%C3%A9",
        "x" * 43,
    ]
    assert await post(base) == 404
    answers = {await raw_answer(url) for url in (over, *(f"{base}/{name}" for name in wrong))}
    assert len(answers) == 1
    assert answers.pop().startswith(b"HTTP/1.1 404 ")
    assert scene.reads == before
    assert await post(scene.door) == 200


async def raw_answer(url: str) -> bytes:
    """All that is answered, but for the date."""
    host, _, path = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    head = f"POST /{path} HTTP/1.1\r\nHost: receiver\r\nContent-Type: {JSON}\r\nContent-Length: {len(FORGED)}\r\n\r\n"
    writer.write(head.encode() + FORGED)
    answer = b"".join(line for line in (await reader.read()).splitlines(keepends=True) if not line.lower().startswith(b"date:"))
    writer.close()
    return answer


@pytest.mark.row("H2")
async def test_forged(scene: Scene) -> None:
    """A forged success with the right token costs one read, and nothing in it is used, now or later."""
    assert await post(scene.door) == 200
    await asyncio.sleep(1)
    assert scene.reads == 1
    assert (scene.handle.status, scene.handle.done) == (Status.SUBMITTED, False)
    (video,) = await scene.waiting
    assert "evil" not in video.url
    assert not any("evil" in request.path for request in scene.emulator.log.requests)


@pytest.mark.row("H3")
@pytest.mark.parametrize("scene", ["aiohttp"], indirect=True)
async def test_anothers_task(scene: Scene) -> None:
    """A post is about the creation of its token, whichever task it names: no other is ever read."""
    other = await scene.kling.submit(FOX)
    for name in (other.task_id, "8800", "../../account", ""):
        assert await post(scene.door, body(task_id=name or "x")) == 200
        await asyncio.sleep(2)
    assert scene.reads == len(scene.emulator.log.reads_for(scene.handle.task_id)) == 4


@pytest.mark.row("H4")
async def test_too_much_and_too_slow(scene: Scene) -> None:
    """Large, packed, endless and slow bodies are turned away: at once, and the slow ones after five seconds."""
    begun = time()
    head = f"POST {scene.door.removeprefix('http://').partition('/')[2]} HTTP/1.1\r\nHost: r\r\nContent-Type: {JSON}\r\n"
    head = head.replace("POST ", "POST /")
    assert await raw(scene.door, f"{head}Content-Length: {2 << 20}\r\n\r\n".encode(), bytes(2 << 20)) == 413
    assert await post(scene.door, b" " * LARGEST + FORGED) == 413
    assert await post(scene.door, gzip.compress(bytes(50 << 20)), Content_Encoding="gzip") in {400, 413}
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    assert await raw(scene.door, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), chunk, endless=True) == 413
    assert time() == begun
    slow = f"{head}Content-Length: 300\r\n\r\n".encode()
    assert await raw(scene.door, slow, b'{"task_id": ') == 408
    assert time() == pytest.approx(begun + 5, abs=0.2)
    assert await raw(scene.door, slow, b" ", pause=0.5, endless=True) == 408
    assert time() == pytest.approx(begun + 10, abs=1)
    assert scene.reads == 0
    assert await post(scene.door, FORGED + b" " * (LARGEST - len(FORGED))) == 200


@pytest.mark.row("H5")
@pytest.mark.parametrize(
    ("kind", "data", "status"),
    [
        ("text/plain", FORGED, 415),
        ("application/x-www-form-urlencoded", b"task_id=1&task_status=succeed", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        (None, FORGED, 415),
        ("", FORGED, 415),
        ("application/jsonp", FORGED, 415),
        ("application/json; charset=utf-9", FORGED, 415),
        ("application/json; charset=\xff", FORGED, 415),
        (JSON, b'{"task_id": "\xff"}', 400),
        (JSON, b'{"task_id": ' * 5_000, 400),
        (JSON, b"[" * LARGEST, 400),
        (JSON, b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400),
        (JSON, b'{"task_id": ' + b"9" * 60_000 + b"}", 400),
        (JSON, b"", 400),
        (JSON, b"null", 400),
        (JSON, b'["task_id"]', 400),
        (JSON, b'{"code": 1303, "message": "no"}', 400),
        (JSON, b'{"error": {"message": "no"}}', 400),
        ("Application/JSON; Charset=UTF-8", FORGED, 200),
    ],
)
async def test_what_is_no_callback(kind: str | None, data: bytes, status: int, served_pair: tuple[str, str]) -> None:
    """What is no JSON is 415, what is no task is 400, and nothing is ever 500."""
    for door in served_pair:
        assert await post(door, data, kind=kind) == status


@pytest.fixture
async def served_pair() -> AsyncIterator[tuple[str, str]]:
    """The doors of a listener that knows every token, one for each kind of server."""
    async with served("aiohttp") as one, served("asgi") as two:
        listener = Credulous()
        one.bind(listener)
        two.bind(listener)
        yield one.url_for("t" * 43), two.url_for("t" * 43)


class Credulous:
    """Knows every token."""

    async def knows(self, digest: bytes) -> bool:
        return bool(digest)

    def hint(self, digest: bytes, *, final: bool) -> None:
        pass


@pytest.mark.row("H6")
@pytest.mark.parametrize("scene", ["aiohttp"], indirect=True)
async def test_replays(scene: Scene) -> None:
    """A post that comes again and again, in any order, costs one read a second at most; the end stays the end."""
    statuses = [await post(scene.door, (FORGED, PROCESSING)[number % 2]) for number in range(20)]
    for number in range(980):
        await asyncio.sleep(0.01)
        statuses.append(await answered(scene.receiver, scene.door, (FORGED, PROCESSING)[number % 2]))
    assert set(statuses) == {200}
    reads = [request.at for request in scene.emulator.log.reads_for(scene.handle.task_id)]
    assert len(reads) in {10, 11}
    assert all(later - earlier >= 0.999 for earlier, later in pairwise(reads))
    result = await scene.waiting
    assert await post(scene.door, PROCESSING) == 404
    assert (scene.handle.status, await scene.handle) == (Status.SUCCEED, result)


@pytest.mark.row("H8")
@pytest.mark.parametrize("scene", ["aiohttp"], indirect=True)
async def test_after_close(scene: Scene) -> None:
    """A post that comes after the session was closed is about nothing."""
    await scene.kling.aclose()
    assert await post(scene.door) == 404
    with pytest.raises(ConfigurationError):
        await scene.waiting


@pytest.mark.row("H8")
async def test_never() -> None:
    """Where no post ever comes the result comes all the same, later; the next task is then looked after as without callbacks."""
    async with Emulator(seed=7) as emulator, served() as receiver, session(emulator, receiver) as kling:
        receiver._base = "http://127.0.0.1:9"  # where nobody listens
        first = await kling.submit(FOX)
        await first
        reads, begun = emulator.log.reads_for(first.task_id), emulator.now
        assert len(reads) == 1
        assert reads[0].at == pytest.approx(480, rel=0.21)
        second = await kling.submit(FOX)
        await second
        assert emulator.log.reads_for(second.task_id)[0].at - begun < 15
        assert emulator.now - begun < 340


@pytest.mark.row("H8")
async def test_before_the_reply() -> None:
    """A post that overtakes the reply to its creation is kept until the id is known, and then has the task looked at, once."""
    async with Emulator(seed=7, durations=5) as emulator, served() as receiver, session(emulator, receiver) as kling:
        emulator.fault("slow", method="POST", seconds=20)
        handle = await kling.submit(FOX)
        assert [callback.status for callback in emulator.log.callbacks] == [200, 200]
        begun = emulator.now
        assert await handle
        assert emulator.now == pytest.approx(begun, abs=0.1)
        assert len(emulator.log.reads_for(handle.task_id)) == 1


@pytest.mark.row("H9")
@pytest.mark.parametrize("scene", ["aiohttp"], indirect=True)
async def test_flood_of_finished(scene: Scene) -> None:
    """Ten thousand posts with the token of a finished task cause no read, and nothing is kept of them."""
    await scene.waiting
    reads, hints = scene.reads, scene.kling._hints
    assert {await answered(scene.receiver, scene.door, FORGED) for _ in range(10_000)} == {404}
    await asyncio.sleep(100)
    assert scene.reads == reads
    assert not hints._expected
    assert not hints._by_key


@pytest.mark.row("H10")
async def test_other_methods_and_paths(scene: Scene) -> None:
    """Only POST, only that path, and no query: everything else is 405 or 404, and never a read."""
    base, _, token = scene.door.rpartition("/")
    for method in ("GET", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "PURGE"):
        assert await post(scene.door, b"", method=method) == 405
    for path in (
        f"x/../{token}",
        f"../hooks/{token}",
        f"%2e%2e/{token}",
        f"/{token}",
        f"{token}/",
        f"{token}%2f",
        f"{token}?a=1",
        f"{token}?{'a' * 4000}",
    ):
        assert await post(f"{base}/{path}") == 404, path
    assert await post(f"{base}/{token}?{'a' * 100_000}") in {400, 404, 414, 431}
    assert scene.reads == 0


@pytest.mark.row("H11")
async def test_sent_again(scene: Scene) -> None:
    """The answer comes at once, while the read that it causes hangs; the same post again is answered the same."""
    scene.emulator.fault("hang", method="GET", seconds=20)
    begun = time()
    assert [await post(scene.door) for _ in range(5)] == [200] * 5
    assert time() == begun
    assert await scene.waiting
