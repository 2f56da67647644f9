"""The cells of the page on notebooks, run by IPython: one after the other, in one event loop, as a kernel does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from consoles import FENCE, TITLE
from kling_async import KlingSession
from kling_async.emulator import Emulator
from kling_async.emulator._studio import Studio, sample
from kling_async.testing import no_leaks

shells = pytest.importorskip("IPython.core.interactiveshell", reason="IPython is not for this Python")

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "jupyter.md").read_text(encoding="utf-8")
FIRST, SECOND = (
    [found["body"] for found in FENCE.finditer(part) if (title := TITLE.search(found["more"])) and title[1].startswith("In [")]
    for part in PAGE.split("## When the kernel is restarted")
)


@pytest.fixture
async def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Emulator]:
    """A gateway in the environment of an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / ".ipython"))
    async with no_leaks(), aclosing(Studio(sample)) as studio, Emulator(studio=studio) as made:
        monkeypatch.setenv("KLING_BASE_URL", made.url)
        monkeypatch.setenv("KLING_API_KEY", made.api_key)
        yield made


@pytest.fixture
def kernel(emulator: Emulator) -> Any:
    """What takes the cells."""
    del emulator
    settings = shells.InteractiveShell.class_traits()["config"].klass()
    settings.HistoryManager.enabled = False  # a database and a thread for what is typed
    return shells.InteractiveShell(config=settings)


async def run(kernel: Any, cell: str) -> Any:
    """What a cell shows; raises what it raises."""
    done = await kernel.run_cell_async(cell, transformed_cell=kernel.transform_cell(cell))
    done.raise_error()
    return done.result


async def test_the_page(emulator: Emulator, kernel: Any) -> None:
    """Cell by cell: a purchase, its file, its picture, and nothing is left open."""
    shown = [await run(kernel, cell) for cell in FIRST]
    assert len(FIRST) == 5
    assert repr(shown[1]).startswith("<TaskHandle videos/text2video")
    assert shown[2].read_bytes()
    assert "data:video/mp4;base64," in shown[3]._repr_html_()
    assert len(emulator.log.tasks) == 1


async def test_interrupted(emulator: Emulator, kernel: Any) -> None:
    """A cell that was interrupted while it waited is run again, and waits for the same task."""
    session, buy, save, _, close = FIRST
    await run(kernel, session)
    await run(kernel, buy)
    cell = asyncio.create_task(run(kernel, save))
    await asyncio.sleep(1)
    cell.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cell
    assert (await run(kernel, save)).exists()
    assert len(emulator.log.tasks) == 1
    await run(kernel, close)


async def test_restarted(emulator: Emulator, kernel: Any, tmp_path: Path) -> None:
    """A new kernel takes up what the last one bought."""
    async with KlingSession(journal=tmp_path / "notebook.db") as kling:
        bought = await kling.text2video(prompt="a red fox", duration=5)
    shown = [await run(kernel, cell) for cell in SECOND]
    assert [handle.task_id for handle in shown[0]] == [bought.task_id]
    assert (tmp_path / "out" / f"{bought.task_id}.mp4").exists()
    assert len(emulator.log.tasks) == 1
