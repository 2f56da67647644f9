"""A lean server on loopback: creations, reads, pages and callbacks of tasks that end when their time is up; it counts what it is asked.

`with started(server.PATH) as url:` runs it on the core that the client is not on. The client side of the bench steers it:
`begin` forgets everything, counts from zero and says how long tasks take (lognormal, seeded); `make` has tasks exist that nobody
bought; `told` gives the counts and when each task ended, by the clock that both processes read (`time.monotonic`, Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import sys
import time
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit
from urllib.request import Request, urlopen

from attrs import define, field

PATH: Final = __file__
ENVELOPE: Final = b'{"code":0,"message":"SUCCEED","request_id":"6fbe42ee-6d8c-4a2a-9a1c-%012d","data":%b}'
TASK: Final = (
    b'{"task_id":"%b","task_status":"%b","task_status_msg":"","task_info":{"external_task_id":"%b"},"task_result":{%b},'
    b'"created_at":%d,"updated_at":%d}'
)
RESULT: Final = b'"videos":[{"id":"%b","url":"https://cdn.example/%b.mp4?sign=0123456789abcdef0123456789abcdef","duration":"5.041"}]'
REPLY: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\nX-Request-Id: 0123456789\r\n\r\n%b"
)
POSTERS: Final = 8
"""Connections that callbacks go out on."""


@define
class Task:
    """What was bought."""

    id: bytes
    takes: float
    key: bytes = b""
    begun: float = field(factory=time.monotonic)
    made: int = field(factory=lambda: int(time.time() * 1000))
    """In Unix milliseconds, in which it tells when it was made and when it changed last, as the service does."""

    @property
    def end(self) -> float:
        """When it is done, by `time.monotonic`."""
        return self.begun + self.takes

    def running(self, word: bytes) -> bytes:
        """The task as JSON, before its end."""
        return TASK % (self.id, word, self.key, b"", self.made, self.made)

    def told(self) -> bytes:
        """The task as JSON, at this moment."""
        if time.monotonic() < self.end:
            return self.running(b"processing")
        return TASK % (self.id, b"succeed", self.key, RESULT % (self.id, self.id), self.made, self.made + int(self.takes * 1000))


@define
class Studio:
    """The tasks, and what was asked about them."""

    median: float = 3.0
    sigma: float = 0.3
    tasks: dict[bytes, Task] = field(factory=dict)
    order: list[Task] = field(factory=list)
    dice: random.Random = field(factory=lambda: random.Random(0))  # noqa: S311  the same figures every time
    made: int = 0
    """Since the server began: no id comes twice."""
    replies: int = 0
    creations: int = 0
    reads: int = 0
    lists: int = 0
    posts: int = 0
    open: int = 0
    sockets: int = 0
    outbox: asyncio.Queue[tuple[str, Task]] = field(factory=asyncio.Queue)

    def begin(self, *, median: float = 3.0, sigma: float = 0.3, seed: int = 0) -> None:
        """Forget everything."""
        self.median, self.sigma = median, sigma
        self.dice.seed(seed)
        self.tasks.clear()
        self.order.clear()
        self.creations = self.reads = self.lists = self.posts = 0
        self.sockets = self.open

    def make(self, key: bytes = b"") -> Task:
        """A task that runs from now on."""
        takes = math.exp(self.dice.gauss(math.log(self.median), self.sigma)) if self.median else 0.0
        self.made += 1
        task = Task(b"8672%014d" % self.made, takes, key)
        self.tasks[task.id] = task
        self.order.append(task)
        return task

    def create(self, body: bytes) -> bytes:
        """Accept a creation, and post to its callback when its task is over."""
        self.creations += 1
        job: dict[str, Any] = json.loads(body)
        task = self.make(job.get("external_task_id", "").encode())
        if (url := job.get("callback_url")) is not None:
            asyncio.get_running_loop().call_at(task.end, self.outbox.put_nowait, (url, task))
        return self.reply(task.running(b"submitted"))

    def read(self, name: bytes) -> bytes:
        """One task."""
        self.reads += 1
        return self.reply(self.tasks[name].told())

    def page(self, query: bytes) -> bytes:
        """Many, the newest first."""
        self.lists += 1
        asked = dict(parse_qsl(query.decode()))
        size, number = int(asked.get("pageSize", 30)), int(asked.get("pageNum", 1))
        last = max(len(self.order) - size * (number - 1), 0)
        return self.reply(b"[%b]" % b",".join(task.told() for task in reversed(self.order[max(last - size, 0) : last])))

    def reply(self, data: bytes) -> bytes:
        """In its envelope: each reply has a number of its own."""
        self.replies += 1
        return ENVELOPE % (self.replies, data)

    def told(self) -> dict[str, Any]:
        """The counts, and the ends of all tasks."""
        ends = {task.id.decode(): task.end for task in self.order}
        return {**{name: getattr(self, name) for name in ("creations", "reads", "lists", "posts", "sockets")}, "ends": ends}

    def answer(self, method: bytes, target: bytes, body: bytes) -> bytes:
        """The body of the reply to a request."""
        path, _, query = target.partition(b"?")
        if path.startswith(b"/bench/"):
            return self.steered(path, json.loads(body or b"{}"))
        if method == b"POST":
            return self.create(body)
        name = path.rpartition(b"/")[2]
        return self.read(name) if name in self.tasks else self.page(query)

    def steered(self, path: bytes, wish: dict[str, Any]) -> bytes:
        """What the bench itself asks."""
        if path == b"/bench/begin":
            self.begin(**wish)
        elif path == b"/bench/make":
            return json.dumps([self.make().id.decode() for _ in range(wish["count"])]).encode()
        return json.dumps(self.told()).encode()


class Connection(asyncio.Protocol):
    """One connection: requests come one after the other, whole or in pieces."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.rest, self.counted = studio, b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport: Any = transport

    def connection_lost(self, _error: Exception | None) -> None:
        """Count who is left."""
        self.studio.open -= self.counted

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self.rest += data
        while (end := self.rest.find(b"\r\n\r\n")) >= 0:
            head, size = self.rest[:end], 0
            if not head.startswith(b"GET"):
                at = head.lower().find(b"content-length:")
                size = int(head[at + 15 :].partition(b"\r")[0]) if at >= 0 else 0
            if len(self.rest) < end + 4 + size:
                return
            body, self.rest = self.rest[end + 4 : end + 4 + size], self.rest[end + 4 + size :]
            method, target, _ = head.split(b" ", 2)
            if not self.counted and not target.startswith(b"/bench/"):
                self.counted = True
                self.studio.open += 1
                self.studio.sockets = max(self.studio.sockets, self.studio.open)
            reply = self.studio.answer(method, target, body)
            self.transport.write(REPLY % (len(reply), reply))


async def post(studio: Studio) -> None:
    """Deliver callbacks for ever, on a connection that is kept as long as they go to one receiver."""
    place: tuple[str | None, int | None] = None, None
    reader, writer = asyncio.StreamReader(), None
    while True:
        url, task = await studio.outbox.get()
        link, body = urlsplit(url), task.told()
        head = f"POST {link.path} HTTP/1.1\r\nHost: {link.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            if place != (link.hostname, link.port) or writer is None:
                place = link.hostname, link.port
                reader, writer = await asyncio.open_connection(*place)
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(answer.partition(b"content-length:")[2].partition(b"\r")[0] or b"0"))
            studio.posts += answer.startswith(b"http/1.1 200")
        except (OSError, EOFError):  # the receiver has gone, and with it whoever waited
            writer = None


async def serve(studio: Studio, *, seconds: float = 3600.0) -> None:
    """Listen on loopback, say where, and end with whoever started us, at the latest after so many seconds."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(studio), "127.0.0.1", 0, backlog=4096)
    posters = [loop.create_task(post(studio)) for _ in range(POSTERS)]
    print(server.sockets[0].getsockname()[1], flush=True)
    gone = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), gone.set)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await gone.wait()
    for poster in posters:
        poster.cancel()


def steer(url: str, what: str, **wish: object) -> Any:
    """Ask the server of the bench itself: `begin`, `make` or `told`."""
    request = Request(f"{url}/bench/{what}", json.dumps(wish).encode(), method="POST")  # noqa: S310  our own
    with urlopen(request, timeout=60) as reply:  # noqa: S310  our own
        return json.load(reply)


if __name__ == "__main__":
    asyncio.run(serve(Studio()))
