"""The demonstration: what it makes, and the Python it shows for it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest

from kling_async.emulator import Emulator

pytest.importorskip("cyclopts", reason="the command line is an extra")

from kling_async.cli._box import PYTHON


async def test_demo(tmp_path: Path) -> None:
    """`kling demo` needs no key, makes two playable clips and a picture, writes their paths, and shows the Python for it."""
    done = await anyio.run_process([sys.executable, "-m", "kling_async", "demo"], cwd=tmp_path)
    paths = [tmp_path / line for line in done.stdout.decode().splitlines()]
    assert sorted(path.suffix for path in paths) == [".mp4", ".mp4", ".png"]
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    talk = done.stderr.decode()
    assert PYTHON in talk
    assert ("samples" in talk) == (find_spec("av") is None)
    for path in paths:
        check_playable(path)


def check_playable(path: Path) -> None:
    """Fail unless the file is what its name says; with PyAV, also of the length and ratio that was asked for."""
    head = path.read_bytes()[:64]
    assert (b"ftyp" if path.suffix == ".mp4" else b"\x89PNG") in head
    if path.suffix == ".mp4" and find_spec("av"):
        import av

        with av.open(path) as container:
            (video,) = container.streams.video
            assert video.codec_context.name == "h264"
            assert abs((container.duration or 0) / av.time_base - 5) <= 0.1
            assert abs(video.width / video.height - 16 / 9) < 0.02


async def test_python_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python that the demonstration shows fits a terminal and makes the same files."""
    assert max(map(len, PYTHON.splitlines())) <= 80
    names: dict[str, Any] = {}
    exec(PYTHON.removesuffix("asyncio.run(main())"), names)
    monkeypatch.chdir(tmp_path)
    async with Emulator(speed=1000) as emulator:
        monkeypatch.setenv("KLING_BASE_URL", emulator.url)
        monkeypatch.setenv("KLING_API_KEY", emulator.api_key)
        await names["main"]()
    routes = {f"out/{task.id}": task.route for task in emulator.log.tasks}
    assert sorted(routes.values()) == ["images/generations", "videos/image2video", "videos/text2video"]
    printed = [Path(path) for path in capsys.readouterr().out.split()]
    assert [routes[str(path.with_suffix(""))] for path in printed] == ["videos/text2video", "images/generations", "videos/image2video"]
    for path in printed:
        check_playable(path)
