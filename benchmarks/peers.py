"""What the clients of other services cost for the same work: `nox -s bench -- --peers`, or `python benchmarks/peers.py`.

Each one that is installed speaks its own protocol to the lean server, in the manner of its own documents, looking as often as the
hand-written loop beside it, in turns with it. One that is not installed is listed as such. They do other things than we do, and
some do more: what is compared is what a program pays for two hundred generations at once.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeAlias

from attrs import frozen

import floor
import page
import server
from kit import CLIENT, Numbers, fresh, middle, pin, started

TASKS: Final = 200
MEDIAN: Final = 3.0
INTERVAL: Final = 1.0
TIMES: Final = 3
ID: Final = re.compile(rb"8672\d{14}")
DATE: Final = "2026-11-22T12:00:00Z"
LINK: Final = "https://cdn.example/1.mp4"
KEY: Final = "sk-benchmark-0123456789abcdef0123456789"

Generate: TypeAlias = Callable[[], Awaitable[str]]
"""One generation, which gives its task's id."""


@frozen(kw_only=True)
class Peer:
    """One client, and what its service would say: `<id>` stands for the task's."""

    package: str
    client: Callable[[str], Generate]
    """From the server's URL."""
    created: dict[str, Any]
    running: dict[str, Any]
    ended: dict[str, Any]


def google(url: str) -> Generate:
    """`google-genai`, whose users write the loop."""
    client = importlib.import_module("google.genai").Client(vertexai=True, api_key=KEY, http_options={"base_url": url}).aio

    async def generate() -> str:
        operation = await client.models.generate_videos(model="veo-3.0-generate-001", source={"prompt": floor.PROMPT})
        while not operation.done:
            await asyncio.sleep(INTERVAL)
            operation = await client.operations.get(operation)
        assert operation.response.generated_videos[0].video.uri  # noqa: S101  it has a result
        return str(operation.name)

    return generate


def openai(url: str) -> Generate:
    """`openai`, with the wait that it brings."""
    client = importlib.import_module("openai").AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1")

    async def generate() -> str:
        video = await client.videos.create_and_poll(model="sora-2", prompt=floor.PROMPT, seconds="4", poll_interval_ms=int(INTERVAL * 1000))
        assert video.status == "completed"  # noqa: S101  it has a result
        return str(video.id)

    return generate


def fal(url: str) -> Generate:
    """`fal-client`, with the wait that it brings; it knows https only, which would cost it more."""
    module: Any = importlib.import_module("fal_client.client")
    module.QUEUE_URL_FORMAT = f"{url}/"
    client = module.AsyncClient(key=KEY)

    async def generate() -> str:
        accepted = await client.submit("fal-ai/kling-video", {"prompt": floor.PROMPT, "duration": "5"})
        handle = await client.get_handle("fal-ai/kling-video", accepted.request_id)
        assert (await handle.get(interval=INTERVAL))["video"]  # noqa: S101  it has a result
        return str(handle.request_id)

    return generate


def runway(url: str) -> Generate:
    """`runwayml`; its own wait looks every six seconds, so the loop is written out."""
    client = importlib.import_module("runwayml").AsyncRunwayML(api_key=KEY, base_url=url)

    async def generate() -> str:
        made = await client.text_to_video.create(model="veo3.1", prompt_text=floor.PROMPT, ratio="1280:720", duration=4)
        while True:
            await asyncio.sleep(INTERVAL)
            task = await client.tasks.retrieve(made.id)
            if task.status == "SUCCEEDED":
                assert task.output  # noqa: S101  it has a result
                return str(task.id)

    return generate


def replicate(url: str) -> Generate:
    """`replicate`, with the wait that it brings."""
    os.environ["REPLICATE_POLL_INTERVAL"] = str(INTERVAL)
    client = importlib.import_module("replicate").Client(api_token=KEY, base_url=url)

    async def generate() -> str:
        prediction = await client.predictions.async_create(version="0" * 64, input={"prompt": floor.PROMPT})
        await prediction.async_wait()
        assert prediction.output  # noqa: S101  it has a result
        return str(prediction.id)

    return generate


VIDEO: Final = {"id": "<id>", "object": "video", "created_at": 1, "model": "sora-2", "progress": 0, "seconds": "4", "size": "720x1280"}
TASK: Final = {"id": "<id>", "createdAt": DATE, "estimatedCost": {"credits": 1}}
PREDICTION: Final[dict[str, Any]] = {
    "id": "<id>",
    "model": "a/b",
    "version": "0" * 64,
    "input": {},
    "output": None,
    "logs": "",
    "error": None,
}
FAL: Final = {"request_id": "<id>", "response_url": "", "status_url": "", "cancel_url": ""}
VEO: Final = {"name": "projects/p/locations/l/publishers/google/models/veo/operations/<id>"}
PEERS: Final = {
    "google": Peer(
        package="google-genai",
        client=google,
        created=VEO,
        running=VEO,
        ended={**VEO, "done": True, "response": {"videos": [{"gcsUri": LINK, "mimeType": "video/mp4"}]}},
    ),
    "openai": Peer(
        package="openai",
        client=openai,
        created={**VIDEO, "status": "queued"},
        running={**VIDEO, "status": "in_progress"},
        ended={**VIDEO, "status": "completed"},
    ),
    "fal": Peer(
        package="fal-client",
        client=fal,
        created=FAL,
        running={"status": "IN_PROGRESS", "logs": None},
        ended={"status": "COMPLETED", "logs": None, "metrics": {}, "video": {"url": LINK}},
    ),
    "runway": Peer(
        package="runwayml",
        client=runway,
        created=TASK,
        running={**TASK, "status": "RUNNING", "progress": 0.5},
        ended={"id": "<id>", "createdAt": DATE, "cost": {"credits": 1}, "status": "SUCCEEDED", "output": [LINK]},
    ),
    "replicate": Peer(
        package="replicate",
        client=replicate,
        created={**PREDICTION, "status": "starting"},
        running={**PREDICTION, "status": "processing"},
        ended={**PREDICTION, "status": "succeeded", "output": LINK},
    ),
}


class Others(server.Studio):
    """The lean server, in the words of one of them."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.said = [json.dumps(words).encode() for words in (peer.created, peer.running, peer.ended)]

    def answer(self, method: bytes, target: bytes, body: bytes) -> bytes:
        """The body of the reply to a request."""
        if target.startswith(b"/bench/"):
            return self.steered(target, json.loads(body or b"{}"))
        created, running, ended = self.said
        if method == b"POST" and b":fetch" not in target:
            self.creations += 1
            return created.replace(b"<id>", self.make().id)
        self.reads += 1
        found = ID.search(target + body)
        assert found  # noqa: S101  one of them puts it into a body
        words = running if time.monotonic() < self.tasks[found[0]].end else ended
        return words.replace(b"<id>", found[0])


def by_peer(name: str, url: str) -> Numbers:
    """Its generations."""

    async def run() -> Numbers:
        generate = PEERS[name].client(url)

        async def timed() -> tuple[str, float]:
            found = ID.search((await generate()).encode())
            assert found  # noqa: S101  it is an id of ours
            return found[0].decode(), time.monotonic()

        return await floor.measured(url, TASKS, MEDIAN, timed)

    return asyncio.run(run())


def lines() -> Iterator[str]:
    """The table, a line at a time."""
    yield f"{TASKS} tasks at once, median {MEDIAN:g} s, a look every {INTERVAL:g} s; client / loop.\n"
    yield "| client | CPU ms per task | ratio | reads per task | mean lag s | sockets | memory MB |\n|" + " --- |" * 7
    for name, peer in PEERS.items():
        try:
            known = f"{peer.package} {version(peer.package)}"
        except PackageNotFoundError:
            yield f"| {peer.package} | not installed |" + " |" * 5
            continue
        theirs, loops = [], []
        with started(__file__, "serve", name) as url, started(server.PATH) as gateway:
            for _ in range(TIMES):
                loops.append(fresh(floor.__file__, "floor", gateway, TASKS, MEDIAN, INTERVAL))
                theirs.append(fresh(__file__, name, url))
        shown = (("reads", 1), ("lag", 2), ("sockets", 0), ("memory", 0))
        cells = " | ".join(f"{middle(theirs, key):.{digits}f} / {middle(loops, key):.{digits}f}" for key, digits in shown)
        cost, least = middle(theirs, "cpu"), middle(loops, "cpu")
        yield f"| {known} | {cost:.2f} / {least:.2f} | {cost / least:.1f} | {cells} |"


def main(options: Sequence[str]) -> None:
    """Print the table, and write it into the page if that is wished for."""
    found = []
    for line in lines():
        print(line, flush=True)
        found.append(line)
    if "--write" in options:
        page.put("peers", f"{page.today()}. " + "\n".join(found))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", name]:
            asyncio.run(server.serve(Others(PEERS[name])))
        case ["run", name, url]:
            pin(CLIENT)
            print(json.dumps(by_peer(name, url)))
        case options:
            main(options)
