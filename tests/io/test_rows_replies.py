from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from scripted import KEY, Gateway, bomb, listening, refusal, saying

gateway = pytest.fixture(listening)

BUYER = """
import asyncio, json, re, sys, time
from pathlib import Path
from kling_async import Journal, KlingError, KlingSession, Text2Video

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

async def watch(turns):
    while True:
        begun = time.thread_time()
        await asyncio.sleep(0)
        turns.append(time.thread_time() - begun)

async def main(url, key):
    turns = []
    async with Journal() as journal, KlingSession("sk-x", base_url=url, journal=journal) as kling:
        try:  # a creation that is refused: all that is imported and opened once is there by then
            await kling.submit(Text2Video(prompt="a fox"))
        except KlingError as error:
            refused = type(error).__name__
        Path("/proc/self/clear_refs").write_text("5")  # the most that was ever used is, from now on, what is used now
        before = kilobytes("VmRSS")
        watching = asyncio.ensure_future(watch(turns))
        try:
            await kling.submit(Text2Video(prompt="a fox", external_task_id=key))
        except KlingError as error:
            outcome = type(error).__name__
        watching.cancel()
        grown = kilobytes("VmHWM") - before
        row = await journal.get(key)
    print(json.dumps([refused, outcome, row.state, grown, max(turns)]))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.row("S5")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs to know a process's memory")
async def test_half_a_gigabyte(gateway: Gateway, say: Any) -> None:
    """A reply of half a megabyte that unpacks to 512: given up at the cap with less than 16 MiB of memory; the outcome is unknown."""
    reply = bomb(512)
    assert len(reply) < 1 << 20
    gateway.script.extend([saying(refusal(400, 1201), accept=False), saying(reply)])
    told = await anyio.run_process([sys.executable, "-c", BUYER, gateway.url, KEY], check=False)
    assert told.stdout, told.stderr.decode()
    refused, outcome, state, kilobytes, longest = json.loads(told.stdout)
    assert (refused, outcome, state) == ("InvalidRequestError", "SubmitOutcomeUnknown", "unknown")
    assert (gateway.posts, len(gateway.tasks)) == (2, 1)
    assert kilobytes < 16 * 1024
    assert longest < 0.05
    say(f"a reply that unpacks to 512 MiB: {kilobytes / 1024:.1f} MiB of memory, {longest * 1000:.0f} ms of work in its longest turn")
