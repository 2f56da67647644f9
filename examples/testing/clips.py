"""A tiny program: turn orders into clips."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from kling_async import KlingSession, Text2Video


async def make_clip(kling: KlingSession, *, order: str, prompt: str, folder: Path) -> Path:
    """Make the clip of an order and save it; the same order asked for twice is paid for once."""
    handle = await kling.submit(Text2Video(prompt=prompt, model_name="kling-v2-6", duration=5), dedupe=order)
    (path,) = await handle.save(folder, overwrite=True)
    return path


async def main(order: str, prompt: str) -> None:
    """Do it once, with the key and the gateway of the environment."""
    async with KlingSession(journal="orders.db") as kling:
        print(await make_clip(kling, order=order, prompt=prompt, folder=Path("clips")))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
