"""A program that is not ours buys a clip from the emulator: somebody else's wrapper of Kling's API, told only where the API is.

Start the emulator as the service itself, in one terminal:

    python -m kling_async.emulator --profile official --speed 60 --port 8765

and this in another, in an environment that has the wrapper (and need not have kling_async):

    python scripts/third_party.py http://127.0.0.1:8765 -o out

Any wrapper will do whose distribution offers `kling.KlingClient(access_key=, secret_key=, base_url=)`. `base_url` is all that is
set; the key pair is made up, for the emulator takes any. 0 when the clip is on disk, 1 when not, 2 when something is missing.
"""

from __future__ import annotations

import argparse
import ipaddress
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

_SECRET: Final = "made up, and long enough to sign with"  # noqa: S105  it opens nothing
_POLL: Final = 1.0
"""Seconds between looks: at 60 times life a clip takes five."""
_PATIENCE: Final = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run one text2video to completion and save its clip."""
    parser = argparse.ArgumentParser(description="Run a third-party wrapper of Kling's API against the emulator.")
    parser.add_argument("base_url", help="the first line that the emulator prints")
    parser.add_argument("-o", "--out", type=Path, default=Path("out"), help="directory for the clip (default %(default)s)")
    given = parser.parse_args(arguments)
    if not _is_loopback(given.base_url):
        parser.error(f"{given.base_url} is not on loopback; a foreign program is pointed at nothing else")
    try:
        kling = import_module("kling")
    except ImportError:
        parser.error("no module `kling` here; install a wrapper that offers kling.KlingClient into this environment")
    with kling.KlingClient(access_key="ak-emulator", secret_key=_SECRET, base_url=given.base_url) as client:
        task = client.text_to_video.create(prompt="a red fox in fresh snow", model_name="kling-v2-1-master", duration="5")
        print(f"{task.task_id}: {task.task_status}")
        task = client.text_to_video.wait_for_completion(task.task_id, poll_interval=_POLL, timeout=_PATIENCE)
        print(f"{task.task_id}: {task.task_status}")
    return _saved(task, given.out)


def _is_loopback(url: str) -> bool:
    try:
        return ipaddress.ip_address(urlsplit(url).hostname or "").is_loopback
    except ValueError:
        return False


def _saved(task: Any, folder: Path) -> int:
    """Fetch what the wrapper read from the reply; it knows no downloads itself."""
    videos = task.task_result.videos if task.task_result else None
    if not videos or not _is_loopback(videos[0].url):
        print(f"{task.task_id}: no clip in the result, or one that is elsewhere: {videos}", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task.task_id}.mp4"
    with urlopen(videos[0].url) as reply:  # noqa: S310  http on loopback, as just checked
        path.write_bytes(reply.read())
    print(f"{path}: {videos[0].duration} s, {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
