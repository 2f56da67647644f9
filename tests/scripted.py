"""A gateway on a raw socket: says byte for byte what a test tells it to, and keeps the truth of what it read and accepted."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Self

from attrs import define, field

from kling_async import Creation, Exchange, Image2Video, Job, Journal, KlingError, KlingSession, Polling, TaskHandle, Text2Video
from kling_async.journal import State

KEY: Final = "mine"
"""The key that every creation of these tests is sent under, unless it says otherwise."""
FOX: Final = Text2Video(prompt="a red fox", external_task_id=KEY)
PROFILES: Final = ("gateway", "official")
LINK: Final = "http://127.0.0.1:1/fox.mp4"
Outcome = TaskHandle[Any] | KlingError
Behaviour = Callable[["Client"], Awaitable[None]]


def picture_job(size: int) -> Image2Video:
    """A job with a picture of about `size` bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 320, 320, 8, 0, 0, 0, 0))
    return Image2Video(
        image=b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", bytes(size)) + chunk(b"IEND", b""), prompt="run", external_task_id=KEY
    )


def head(*lines: str, status: int = 200) -> bytes:
    """The head of a reply."""
    return "\r\n".join((f"HTTP/1.1 {status} X", *lines, "", "")).encode()


def whole(body: Any, *lines: str, status: int = 200) -> bytes:
    """A reply with its length; anything but bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(f"Content-Length: {len(data)}", *lines, status=status) + data


def refusal(status: int, code: int, *lines: str) -> bytes:
    """The service's no."""
    return whole({"code": code, "message": "no", "request_id": "r"}, *lines, status=status)


@define(eq=False)
class Client:
    """The gateway's end of one connection."""

    gateway: Gateway
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    method: str = ""
    path: str = ""
    head: bytes = field(default=b"", repr=False)
    body: bytes = field(default=b"", repr=False)

    async def read(self) -> None:
        """Read one whole request."""
        self.head = await self.reader.readuntil(b"\r\n\r\n")
        lines = self.head.decode().split("\r\n")
        self.method, self.path, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        self.gateway.tokens.append(headers.get("authorization", "").removeprefix("Bearer "))
        self.gateway.requests.append((asyncio.get_running_loop().time(), self.method, self.path))

    def accept(self) -> dict[str, Any]:
        """Make a task of the creation that was read; gives the reply to it. A look makes none."""
        if self.method == "GET":
            return {}
        task_id = f"88{len(self.gateway.tasks):02}"
        self.gateway.tasks[task_id] = json.loads(self.body)["external_task_id"], asyncio.get_running_loop().time()
        return self.gateway.told(task_id)

    def say(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)

    def reset(self) -> None:
        """End the connection without a goodbye."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Say nothing for ever."""
        await asyncio.sleep(1e9)


@define(eq=False)
class Gateway:
    """Serves creations and looks as the service does, but for what is scripted."""

    script: deque[Behaviour] = field(factory=deque)
    """For the next connections, before anything is read; each paid request has a connection of its own."""
    behaviour: Behaviour | None = None
    """For all connections that have no script."""
    looks: deque[bytes | Behaviour] = field(factory=deque)
    """For the next reads, once they have been read."""
    rule: Callable[[str], bytes | Behaviour | None] = lambda _: None
    """For every read by its path, as long as it says something."""
    lasts: float = 60.0
    """Seconds a task takes."""
    requests: list[tuple[float, str, str]] = field(factory=list)
    """When each request was read whole, its method and its path."""
    tokens: list[str] = field(factory=list, repr=False)
    """The bearer text of each request that was read whole."""
    clients: list[Client] = field(factory=list)
    """Every connection there was."""
    tasks: dict[str, tuple[str, float]] = field(factory=dict)
    """Each task that exists: its key, and when it was accepted."""
    port: int = 0
    _server: asyncio.Server | None = None
    _running: set[asyncio.Task[None]] = field(factory=set)

    async def open(self, listening: socket.socket | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        """Begin to listen, on a socket of the caller's where it gives one."""
        where: dict[str, Any] = {"host": "127.0.0.1", "port": 0} if listening is None else {"sock": listening}
        self._server = await asyncio.start_server(self._connected, limit=1 << 16, ssl=tls, **where)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop, and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._running:
            task.cancel()
        for end in await asyncio.gather(*self._running, return_exceptions=True):
            if isinstance(end, Exception):
                raise end  # a behaviour is wrong, not what it tests

    def hang_up(self) -> None:
        """Close every connection, as a server does with those that were idle for too long."""
        for client in self.clients:
            client.writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        return len(self.clients)

    @property
    def posts(self) -> int:
        """Creations that were read whole."""
        return sum(method == "POST" for _, method, _ in self.requests)

    @property
    def looked(self) -> list[float]:
        """When each read came."""
        return [at for at, method, _ in self.requests if method == "GET"]

    def told(self, task_id: str, status: str | None = None) -> dict[str, Any]:
        """What the service says of a task."""
        key, since = self.tasks[task_id]
        done = asyncio.get_running_loop().time() - since >= self.lasts
        data: dict[str, Any] = {"task_id": task_id, "task_status": status or ("succeed" if done else "processing"), "task_status_msg": ""}
        data |= {"task_info": {"external_task_id": key}, "created_at": 1774805076166, "updated_at": 1774805076166}
        if data["task_status"] == "succeed":
            data["task_result"] = {"videos": [{"id": "v", "url": LINK, "duration": "5"}]}
        return {"code": 0, "message": "SUCCEED", "request_id": "r", "data": data}

    def answer(self, path: str) -> bytes:
        """What the service answers to a look at a task or at a page of tasks."""
        route, _, wanted = path.rpartition("/")
        if "?" in wanted:
            return whole({"code": 0, "message": "SUCCEED", "data": [self.told(task)["data"] for task in self.tasks]})
        by_key = {key: task for task, (key, _) in self.tasks.items()} if route.startswith("/v1") else {}
        task = wanted if wanted in self.tasks else by_key.get(wanted)
        return refusal(404, 1203) if task is None else whole(self.told(task))

    def _look(self, path: str) -> bytes | Behaviour:
        return self.looks.popleft() if self.looks else self.rule(path) or self.answer(path)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append(Client(self, reader, writer))
        behaviour = self.script.popleft() if self.script else self.behaviour or self._serve
        task = asyncio.get_running_loop().create_task(self._behave(behaviour, self.clients[-1]))
        self._running.add(task)

    async def _behave(self, behaviour: Behaviour, client: Client) -> None:
        try:
            await behaviour(client)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other end has gone, as some tests want it
        finally:
            client.writer.close()

    async def _serve(self, client: Client) -> None:
        while not client.writer.is_closing():
            await client.read()
            answer = whole(client.accept()) if client.method == "POST" else self._look(client.path)
            if isinstance(answer, bytes):
                client.say(answer)
            else:
                await answer(client)

    async def buy(
        self, job: Job[Any] = FOX, *, profile: str = "gateway", timeout: float | None = None, **options: Any
    ) -> tuple[Outcome, Creation]:
        """What submitting the job gives, and the row it leaves in the journal."""
        options = {"api_key": "sk-x", "base_url": self.url, **options}
        async with Journal() as journal, KlingSession(profile=profile, journal=journal, **options) as kling:
            try:
                outcome: Outcome = await kling.submit(job, timeout=timeout)
            except KlingError as error:
                outcome = error
            return outcome, await journal.get(KEY)


async def listening() -> AsyncIterator[Gateway]:
    """A gateway that listens; to be made a fixture."""
    made = Gateway()
    await made.open()
    yield made
    await made.aclose()


def saying(*pieces: bytes, accept: bool = True) -> Behaviour:
    """Read a creation, make a task of it or not, say this and close."""

    async def behave(client: Client) -> None:
        await client.read()
        if accept:
            client.accept()
        for piece in pieces:
            client.say(piece)
            await client.writer.drain()

    return behave


async def close_unread(client: Client) -> None:
    """Close before reading."""
    client.writer.close()


async def reset_unread(client: Client) -> None:
    """Reset before reading."""
    client.reset()


async def close_half_read(client: Client) -> None:
    """Close in the middle of the body."""
    await client.reader.read(100_000)
    client.writer.close()


async def reset_half_read(client: Client) -> None:
    """Reset in the middle of the body."""
    await client.reader.read(100_000)
    client.reset()


async def reset_read(client: Client) -> None:
    """Accept, then reset."""
    await client.read()
    client.accept()
    client.reset()


async def refuse_early(client: Client) -> None:
    """Refuse the request for its size while it is still being sent."""
    await client.reader.readuntil(b"\r\n\r\n")
    client.say(head("Content-Length: 0", "Connection: close", status=413))
    while await client.reader.read(1 << 20):
        pass


async def hang_read(client: Client) -> None:
    """Accept, and never answer."""
    await client.read()
    client.accept()
    await client.hang()


def bomb(megabytes: int) -> bytes:
    """A small reply that unpacks to a large one; its checksum is that of two megabytes, as nobody is meant to get there."""
    packer = zlib.compressobj(9, wbits=31)
    # After a full flush every megabyte is packed to the same bytes.
    first, again = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return whole(first + again * (megabytes - 1) + packer.flush(), "Content-Encoding: gzip")


class Wait:
    """One task and its session, journal and records, in the profile that a test is run for."""

    def __init__(self, gateway: Gateway, profile: str = "gateway", **polling: float) -> None:
        self.records: list[Any] = []
        self.journal = Journal()
        self.kling = KlingSession(
            "sk-x",
            base_url=gateway.url,
            profile=profile,
            journal=self.journal,
            observers=[self.records.append],
            polling=Polling(**polling),
        )

    async def __aenter__(self) -> Self:
        self.handle = await self.kling.text2video(prompt="a fox", external_task_id="mine")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kling.aclose()
        await self.journal.aclose()

    async def outcome(self) -> tuple[Any, State]:
        """What awaiting the task gives, and where that leaves its row."""
        try:
            result: Any = await self.handle
        except KlingError as error:
            result = error
        return result, (await self.journal.get("mine")).state

    def exchanges(self) -> list[int | str | None]:
        """What every read came to: its status, or why there was no reply."""
        return [each.cause or each.http_status for each in self.records if isinstance(each, Exchange) and not each.paid]
