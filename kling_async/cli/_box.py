"""The gateway in the box: alone, or with a demonstration of what it is good for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rich.syntax import Syntax

from kling_async._fault import ConfigurationError
from kling_async._pacing import Polling
from kling_async.cli._exit import Exit
from kling_async.cli._progress import Board
from kling_async.cli._run import Desk
from kling_async.cli._tasks import save
from kling_async.emulator import Emulator
from kling_async.session import KlingSession

__all__ = ["PYTHON", "demonstrate", "serve"]

_SPEED: Final = 30.0
"""Five minutes in ten seconds: long enough to watch, short enough to stay."""

_FOX: Final = "a red fox in fresh snow"
_HOUSE: Final = "a lighthouse at dusk, oil on canvas"
_MOTION: Final = "waves roll in, the lamp turns"

PYTHON: Final = f"""import asyncio
from kling_async import KlingSession

async def main():
    async with KlingSession() as kling:
        fox = await kling.text2video(
            prompt="{_FOX}",
            model_name="kling-v2-6", duration=5)
        image = await kling.generate_image(
            prompt="{_HOUSE}",
            model_name="kling-v2-1", aspect_ratio="16:9")
        picture, = await image.save("out")
        clip = await kling.image2video(
            prompt="{_MOTION}",
            model_name="kling-v2-6", image=picture)
        print(*await fox.save("out"), picture, *await clip.save("out"))

asyncio.run(main())"""
"""What the demonstration does, less its display."""


async def serve(desk: Desk, emulator: Emulator) -> Exit:
    """Keep an emulator running, and write what to set to use it."""
    async with _opened(emulator):
        desk.board.say(f"The emulator listens at {emulator.url} until Ctrl-C. To watch it, open {emulator.dashboard}")
        desk.board.say("To use it, in another terminal:")
        for line in _exports(emulator):
            desk.board.result(line)
        await asyncio.get_running_loop().create_future()
    return Exit.OK


async def demonstrate(desk: Desk, directory: Path, *, keep: bool) -> Exit:
    """Make a clip, a picture, and a clip from that picture against an emulator; write the paths of the files."""
    board, emulator = desk.board, Emulator(speed=_SPEED)
    pace = Polling(first=0.5, interval=0.5, max_interval=0.5)
    async with _opened(emulator), KlingSession(emulator.api_key, base_url=emulator.url, polling=pace) as kling:
        board.say(f"The emulator of the gateway, {_SPEED:.0f} times as fast as life: no key, no money.")
        fox, lighthouse = await asyncio.gather(_fox(board, kling, directory), _lighthouse(board, kling, directory))
        for path in fox + lighthouse:
            board.result(str(path))
        if find_spec("av") is None or find_spec("PIL") is None:
            board.say('These are samples; with pip install "kling-async[emulator]" clips show the prompt they were made from.')
        board.say(f"\nThe same in Python; kling emulator --speed {_SPEED:.0f} in another terminal prints what to set for it:\n")
        code = Syntax(PYTHON, "python", theme="ansi_dark").highlight(PYTHON)
        code.rstrip()
        board.copyable(code)
        if keep:
            board.say("\nThe emulator stays until Ctrl-C. To use it, in another terminal:")
            board.copyable("\n".join(_exports(emulator)))
            await asyncio.get_running_loop().create_future()
    return Exit.OK


async def _fox(board: Board, kling: KlingSession, directory: Path) -> tuple[Path, ...]:
    row = board.row("text2video", "submitting")
    handle = await kling.text2video(prompt=_FOX, model_name="kling-v2-6", duration=5)
    return await save(board, row, handle, directory)


async def _lighthouse(board: Board, kling: KlingSession, directory: Path) -> tuple[Path, ...]:
    row = board.row("generate_image", "submitting")
    image = await kling.generate_image(prompt=_HOUSE, model_name="kling-v2-1", aspect_ratio="16:9")
    (picture,) = await save(board, row, image, directory)
    row = board.row("image2video", "submitting")
    clip = await kling.image2video(prompt=_MOTION, model_name="kling-v2-6", image=picture)
    return (picture, *await save(board, row, clip, directory))


@asynccontextmanager
async def _opened(emulator: Emulator) -> AsyncGenerator[None]:
    try:
        await emulator.__aenter__()
    except OSError as error:
        msg = f"the emulator cannot listen there: {error.strerror or error}; choose another --port or --host"
        raise ConfigurationError(msg) from error
    try:
        yield
    finally:
        await emulator.aclose()


def _exports(emulator: Emulator) -> tuple[str, str]:
    return f"export KLING_BASE_URL={emulator.url}", f"export KLING_API_KEY={emulator.api_key}"
