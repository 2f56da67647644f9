"""`python -m kling_async.emulator`: an emulator to talk to, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys

from kling_async.emulator._profiles import PROFILES
from kling_async.emulator.server import Emulator


def main(arguments: list[str] | None = None) -> int:
    """Run until interrupted; 0 then, 1 when the address cannot be had, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m kling_async.emulator", description="Kling's API in a box: no key, no money, real media files."
    )
    parser.add_argument("--port", type=int, default=8765, help="port to listen on; 0 picks a free one (default %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="gateway", help="which kind of server to be (default %(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, help="emulated seconds to a real one (default %(default)s)")
    given = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(Emulator(profile=given.profile, host=given.host, port=given.port, speed=given.speed)))
    except KeyboardInterrupt:
        return 0  # the way to end it
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    return 0


async def _serve(emulator: Emulator) -> None:
    ended = asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # no such signals on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with emulator:
        sys.stderr.write(f"To watch it, open {emulator.dashboard}\n")
        sys.stdout.write(f"{emulator.url}\nexport KLING_BASE_URL={emulator.url} KLING_API_KEY={emulator.api_key}\n")
        sys.stdout.flush()
        await ended.wait()


if __name__ == "__main__":
    sys.exit(main())
