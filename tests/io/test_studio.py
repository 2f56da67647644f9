"""The studio: one thread, equal scenes made once, samples where there is no codec. Needs no codec itself."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections import Counter
from importlib.resources import files
from itertools import pairwise

import pytest
from attrs import evolve

from kling_async.emulator._studio import Rendered, Scene, Studio, sample, sample_names

FOX = Scene(kind="video", width=1280, height=720, seconds=5.0, prompt="a red fox", model="kling-v2-6")
OWL = evolve(FOX, prompt="an owl")
ELK = evolve(FOX, prompt="an elk")
SAMPLES = files("kling_async.emulator") / "samples"


class Painter:
    """A renderer that counts, and that waits at a gate when it has one."""

    def __init__(self, *, gate: threading.Event | None = None, error: Exception | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.threads: set[int] = set()
        self.begun = threading.Event()
        self._gate = gate
        self._error = error

    def __call__(self, scene: Scene) -> Rendered:
        self.calls[scene.prompt] += 1
        self.threads.add(threading.get_ident())
        self.begun.set()
        if self._gate:
            self._gate.wait(10)
        if self._error:
            raise self._error
        return Rendered.of(scene.kind, scene.prompt.encode())


async def test_equal_scenes_asked_for_together_are_rendered_once() -> None:
    """Equal scenes give the very same file, and one rendering serves all who ask while it is under way."""
    gate = threading.Event()
    painter = Painter(gate=gate)
    studio = Studio(painter)
    asked = [asyncio.ensure_future(studio.make(scene)) for scene in (FOX, evolve(FOX), OWL, FOX)]
    await asyncio.to_thread(painter.begun.wait, 10)
    gate.set()
    made = await asyncio.gather(*asked)
    await studio.aclose()
    assert painter.calls == {"a red fox": 1, "an owl": 1}
    assert made[0] is made[1] is made[3]
    assert made[2].data == b"an owl"


async def test_rendering_is_in_one_thread_that_is_not_the_event_loops() -> None:
    """However many scenes are asked for at once, one thread renders them, and the event loop's is another."""
    painter = Painter()
    studio = Studio(painter)
    await asyncio.gather(*(studio.make(evolve(FOX, prompt=str(number))) for number in range(20)))
    await studio.aclose()
    assert len(painter.threads) == 1
    assert threading.get_ident() not in painter.threads


async def test_a_finished_scene_comes_from_the_cache() -> None:
    """Asking again costs no rendering."""
    painter = Painter()
    studio = Studio(painter)
    first = await studio.make(FOX)
    assert await studio.make(evolve(FOX)) is first
    await studio.aclose()
    assert painter.calls["a red fox"] == 1


async def test_the_cache_is_bounded_by_bytes_and_drops_the_longest_unused() -> None:
    """What was not asked for the longest goes first, as soon as the files together exceed the bound."""
    painter = Painter()
    studio = Studio(painter, cache_bytes=len(b"a red fox" + b"an owl"))
    for scene in (FOX, OWL, FOX, ELK, FOX, OWL):
        await studio.make(scene)
    await studio.aclose()
    assert painter.calls == {"a red fox": 1, "an owl": 2, "an elk": 1}


async def test_a_file_larger_than_the_cache_is_served_and_not_kept() -> None:
    """A bound that is too small costs renderings, never a result."""
    painter = Painter()
    studio = Studio(painter, cache_bytes=1)
    assert (await studio.make(FOX)).data == (await studio.make(FOX)).data == b"a red fox"
    await studio.aclose()
    assert painter.calls["a red fox"] == 2


async def test_one_caller_giving_up_leaves_the_file_to_the_others() -> None:
    """Cancelling a caller cancels neither the rendering nor those who wait for it."""
    gate = threading.Event()
    painter = Painter(gate=gate)
    studio = Studio(painter)
    impatient, patient = (asyncio.ensure_future(studio.make(FOX)) for _ in range(2))
    await asyncio.to_thread(painter.begun.wait, 10)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    gate.set()
    assert (await patient).data == b"a red fox"
    await studio.aclose()
    assert painter.calls["a red fox"] == 1


async def test_a_failed_rendering_reaches_all_who_wait_and_is_tried_anew() -> None:
    """An error is told to each caller and not remembered."""
    painter = Painter(error=ValueError("no paint"))
    studio = Studio(painter)
    outcomes = await asyncio.gather(studio.make(FOX), studio.make(FOX), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no paint", "no paint"]
    with pytest.raises(ValueError, match="no paint"):
        await studio.make(FOX)
    await studio.aclose()
    assert painter.calls["a red fox"] == 2


async def test_closing_finishes_the_scene_at_hand_refuses_the_queue_and_leaves_no_thread() -> None:
    """After `aclose` no thread of the studio lives, nobody waits for ever, and `make` says why it does not."""
    before = set(threading.enumerate())
    gate = threading.Event()
    painter = Painter(gate=gate)
    studio = Studio(painter)
    drawn, queued = (asyncio.ensure_future(studio.make(scene)) for scene in (FOX, OWL))
    await asyncio.to_thread(painter.begun.wait, 10)
    closing = asyncio.ensure_future(studio.aclose())
    await asyncio.sleep(0)
    gate.set()
    await closing
    assert (await drawn).data == b"a red fox"
    with pytest.raises(RuntimeError, match="studio is closed"):
        await queued
    with pytest.raises(RuntimeError, match="studio is closed"):
        await studio.make(FOX)
    await studio.aclose()
    assert painter.calls == {"a red fox": 1}
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("kling-studio")]


async def test_the_thread_leaves_even_when_closing_is_cancelled() -> None:
    """Whoever gives up on `aclose` leaves no thread behind that waits for work for ever."""
    gate = threading.Event()
    painter = Painter(gate=gate)
    studio = Studio(painter)
    drawn = asyncio.ensure_future(studio.make(FOX))
    await asyncio.to_thread(painter.begun.wait, 10)
    (renderer,) = (thread for thread in threading.enumerate() if thread.ident in painter.threads)
    closing = asyncio.ensure_future(studio.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    gate.set()
    assert (await drawn).data == b"a red fox"
    await asyncio.to_thread(renderer.join, 10)
    assert not renderer.is_alive()


async def test_without_the_extra_the_shipped_samples_are_served() -> None:
    """A renderer that cannot be imported is no error: the nearest sample stands in."""
    studio = Studio(Painter(error=ModuleNotFoundError("No module named 'av'")))
    clip, picture = await studio.make(FOX), await studio.make(evolve(FOX, kind="image"))
    await studio.aclose()
    assert clip == Rendered(content_type="video/mp4", extension=".mp4", data=(SAMPLES / "clip-16x9-5s.mp4").read_bytes())
    assert picture == Rendered(content_type="image/png", extension=".png", data=(SAMPLES / "picture-16x9.png").read_bytes())


@pytest.mark.parametrize(
    ("scene", "name"),
    [
        (FOX, "clip-16x9-5s.mp4"),
        (evolve(FOX, seconds=8.0), "clip-16x9-10s.mp4"),
        (evolve(FOX, seconds=7.5), "clip-16x9-5s.mp4"),
        (evolve(FOX, width=1080, height=1920, seconds=15.0), "clip-9x16-10s.mp4"),
        (evolve(FOX, width=960, height=960), "clip-1x1-5s.mp4"),
        (evolve(FOX, width=1350, height=1000), "clip-16x9-5s.mp4"),
        (evolve(FOX, width=1300, height=1000), "clip-1x1-5s.mp4"),
        (evolve(FOX, width=1680, height=720), "clip-16x9-5s.mp4"),
        (evolve(FOX, width=720, height=1280, seconds=10.0, sound=True), "clip-9x16-5s-sound.mp4"),
        (evolve(FOX, kind="image", width=1024, height=1024), "picture-1x1.png"),
        (evolve(FOX, kind="image", width=1152, height=864), "picture-4x3.png"),
        (evolve(FOX, kind="image", width=864, height=1152), "picture-3x4.png"),
        (evolve(FOX, kind="image", width=720, height=1280), "picture-9x16.png"),
        (evolve(FOX, kind="image", width=2560, height=1080), "picture-16x9.png"),
    ],
)
def test_the_nearest_sample_stands_in(scene: Scene, name: str) -> None:
    """Nearest in shape first, then in length; sound is never left out or made up."""
    assert sample(scene).data == (SAMPLES / name).read_bytes()


def test_the_package_carries_exactly_the_samples_it_names_and_they_are_small() -> None:
    """Nothing missing, nothing left over, all of it lighter than one photograph."""
    shipped = {entry.name: len(entry.read_bytes()) for entry in SAMPLES.iterdir()}
    assert set(shipped) == set(sample_names())
    assert sum(shipped.values()) < 400 * 1024


@pytest.mark.parametrize("name", [name for name in sample_names() if name.endswith(".png")])
def test_a_sample_picture_may_be_the_input_of_a_next_task(name: str) -> None:
    """PNG of the ratio it is named after, no side under the 300 pixels that the service asks of inputs."""
    data = (SAMPLES / name).read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    across, up = (int(part) for part in name.removeprefix("picture-").removesuffix(".png").split("x"))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert min(width, height) >= 300
    assert width * up == height * across


@pytest.mark.parametrize("name", [name for name in sample_names() if name.endswith(".mp4")])
def test_a_sample_clip_starts_while_it_loads(name: str) -> None:
    """The index stands before the media data."""
    data = (SAMPLES / name).read_bytes()
    marks = [data.index(mark) for mark in (b"ftyp", b"moov", b"mdat")]
    assert all(earlier < later for earlier, later in pairwise(marks))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "audio"}, "kind"),
        ({"width": 63}, "width"),
        ({"height": 8193}, "height"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": 601.0}, "seconds"),
    ],
)
def test_a_scene_nobody_could_draw_is_refused(fields: dict[str, object], said: str) -> None:
    """The error names the field, before anything is rendered."""
    with pytest.raises(ValueError, match=said):
        Scene(**{"kind": "video", "width": 640, "height": 360, "seconds": 5.0, **fields})  # type: ignore[arg-type]  # wrong on purpose
