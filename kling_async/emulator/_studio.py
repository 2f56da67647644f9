"""Scenes in, real media files out: one render thread, equal scenes made once, shipped samples where no codec is installed."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Final, Literal

from attrs import field, frozen, validators

_log = logging.getLogger(__name__)

_SMALLEST_SIDE: Final = 64
_LARGEST_SIDE: Final = 8192
_LONGEST_CLIP: Final = 600.0

_LENGTHS: Final = (5, 10)
_CLIP_RATIOS: Final = ((16, 9), (9, 16), (1, 1))
_SOUND_LENGTHS: Final = (5,)
_PICTURE_RATIOS: Final = ((1, 1), (16, 9), (9, 16), (4, 3), (3, 4))


@frozen(kw_only=True)
class Scene:
    """What a result file should show. Equal scenes give equal bytes.

    `width` and `height` are pixels, 64 to 8192; a clip's odd side loses one pixel, since H.264 halves the
    colour planes. `seconds` is the length of a clip, above 0 and at most 600, and means nothing for an image.
    `sound` gives a clip an audio track.
    """

    kind: Literal["video", "image"] = field(validator=validators.in_(("video", "image")))
    width: int = field(validator=[validators.ge(_SMALLEST_SIDE), validators.le(_LARGEST_SIDE)])
    height: int = field(validator=[validators.ge(_SMALLEST_SIDE), validators.le(_LARGEST_SIDE)])
    seconds: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(_LONGEST_CLIP)])
    prompt: str = ""
    model: str = ""
    sound: bool = False

    def __attrs_post_init__(self) -> None:
        if self.kind == "video" and not self.seconds > 0:
            msg = f"seconds must be above 0 for a clip, not {self.seconds}"
            raise ValueError(msg)


@frozen(kw_only=True)
class Rendered:
    """A finished file: its media type (`video/mp4`, `image/png`), its name's ending (`.mp4`, `.png`) and its bytes."""

    content_type: str
    extension: str
    data: bytes

    @classmethod
    def of(cls, kind: Literal["video", "image"], data: bytes) -> Rendered:
        """The file that a scene of `kind` becomes."""
        if kind == "video":
            return cls(content_type="video/mp4", extension=".mp4", data=data)
        return cls(content_type="image/png", extension=".png", data=data)


def sample_names() -> tuple[str, ...]:
    """Every sample the package carries, as `clip-16x9-5s.mp4`, `clip-16x9-5s-sound.mp4`, `picture-1x1.png`."""
    silent = (_clip_name(ratio, length, sound=False) for ratio in _CLIP_RATIOS for length in _LENGTHS)
    loud = (_clip_name(ratio, length, sound=True) for ratio in _CLIP_RATIOS for length in _SOUND_LENGTHS)
    return (*silent, *loud, *(_picture_name(ratio) for ratio in _PICTURE_RATIOS))


def sample(scene: Scene) -> Rendered:
    """Serve the shipped sample nearest to `scene`; needs no codec, reads one small file.

    Nearest means: the closest ratio of width to height first (clips have 16:9, 9:16 and 1:1, pictures also 4:3 and
    3:4), then the closest length (5 or 10 seconds; with sound always 5). Size, prompt and model are the sample's own.
    """
    wanted = scene.width / scene.height

    def distance(ratio: tuple[int, int]) -> float:
        return abs(math.log(wanted * ratio[1] / ratio[0]))

    if scene.kind == "image":
        name = _picture_name(min(_PICTURE_RATIOS, key=distance))
    else:
        lengths = _SOUND_LENGTHS if scene.sound else _LENGTHS
        length = min(lengths, key=lambda length: abs(length - scene.seconds))
        name = _clip_name(min(_CLIP_RATIOS, key=distance), length, sound=scene.sound)
    return Rendered.of(scene.kind, (files("kling_async.emulator") / "samples" / name).read_bytes())


def _clip_name(ratio: tuple[int, int], length: int, *, sound: bool) -> str:
    return f"clip-{ratio[0]}x{ratio[1]}-{length}s{'-sound' if sound else ''}.mp4"


def _picture_name(ratio: tuple[int, int]) -> str:
    return f"picture-{ratio[0]}x{ratio[1]}.png"


def _render(scene: Scene) -> Rendered:
    # Here and not above: PyAV and Pillow are an extra, and loading them takes longer than rendering a picture.
    from kling_async.emulator._render import render

    return render(scene)


class Studio:
    """Makes the files of an emulator, off the event loop.

    Rendering happens in one thread that starts with the first scene (several would only fight over the interpreter
    and starve the event loop). Finished files are kept, least recently used first out, up to `cache_bytes`.
    Belongs to the event loop that first calls `make`.

    `renderer` is called in that thread; the default draws with PyAV and Pillow. One that raises `ImportError`
    (the extra `emulator` is not installed) gets the scene served by `sample` instead.
    """

    def __init__(self, renderer: Callable[[Scene], Rendered] | None = None, *, cache_bytes: int = 64 << 20) -> None:
        self._renderer = renderer or _render
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        self._cache: OrderedDict[Scene, Rendered] = OrderedDict()
        self._pending: dict[Scene, asyncio.Future[Rendered]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kling-studio")
        self._closed = False
        self._told = False

    async def make(self, scene: Scene) -> Rendered:
        """Return the file for `scene`: from the cache, from the rendering already under way, or newly rendered.

        Cancelling one caller leaves the rendering to the others. Raises what the renderer raises, and
        `RuntimeError` once the studio is closed.
        """
        if self._closed:
            raise RuntimeError(_CLOSED)
        if scene in self._cache:
            self._cache.move_to_end(scene)
            return self._cache[scene]
        pending = self._pending.get(scene)
        if pending is None:
            pending = asyncio.get_running_loop().run_in_executor(self._thread, self._draw, scene)
            self._pending[scene] = pending
            pending.add_done_callback(lambda done: self._keep(scene, done))
        return await asyncio.shield(pending)

    async def aclose(self) -> None:
        """End the render thread: the scene being drawn is finished, those still queued are refused. Idempotent."""
        self._closed = True
        self._thread.shutdown(wait=False)
        if self._pending:
            await asyncio.wait(list(self._pending.values()))
        self._thread.shutdown(wait=True)  # idle by now, so this only waits for the thread to leave
        self._cache.clear()
        self._cached_bytes = 0

    def _draw(self, scene: Scene) -> Rendered:
        if self._closed:
            raise RuntimeError(_CLOSED)
        try:
            return self._renderer(scene)
        except ImportError as error:
            if not self._told:
                self._told = True
                _log.info("serving sample media, not the prompt's own (%s): pip install 'kling-async[emulator]'", error)
            return sample(scene)

    def _keep(self, scene: Scene, done: asyncio.Future[Rendered]) -> None:
        del self._pending[scene]
        # Asking for the exception also marks it as seen, for when every caller has gone.
        if done.cancelled() or done.exception() is not None or self._closed:
            return
        rendered = done.result()
        self._cache[scene] = rendered
        self._cached_bytes += len(rendered.data)
        while self._cached_bytes > self._cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped.data)


_CLOSED: Final = "this studio is closed; files are made only while its emulator runs"
