"""Make the samples that the emulator serves where PyAV and Pillow are not installed: run it, then commit what it wrote.

Needs the extra `emulator`. The same versions of PyAV and Pillow give the same bytes.
"""

# PyAV's annotations name numpy, which is not needed here and may be missing, and leave its own generics open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Final

import av
from av.video.frame import PictureType
from PIL import Image

from kling_async.emulator import _studio
from kling_async.emulator._render import render
from kling_async.emulator._studio import Scene, sample_names

_FOLDER: Final = Path(_studio.__file__).parent / "samples"
_PROMPT: Final = "A sample. Install kling-async[emulator] to see your own prompt."
_SIDE: Final = 360
"""Pixels of the shorter side. A picture may come back as the input of a next task, where 300 is the least."""
_SHADES: Final = 256
_SLOW: Final = {"preset": "veryslow", "crf": "27", "x264-params": "keyint=infinite"}


def main() -> None:
    """Write every sample afresh and say what they weigh."""
    _FOLDER.mkdir(exist_ok=True)
    for old in _FOLDER.iterdir():
        old.unlink()
    for name in sample_names():
        (_FOLDER / name).write_bytes(_shrink(render(_scene(name)).data, name))
    total = sum(path.stat().st_size for path in _FOLDER.iterdir())
    print(f"{len(sample_names())} samples, {total / 1024:.0f} KiB, in {_FOLDER}")


def _scene(name: str) -> Scene:
    across, up = (int(part) for part in re.findall(r"(\d+)x(\d+)", name)[0])
    short = min(across, up)
    length = re.search(r"-(\d+)s", name)
    return Scene(
        kind="video" if length else "image",
        width=_SIDE * across // short,
        height=_SIDE * up // short,
        seconds=float(length[1]) if length else 0.0,
        prompt=_PROMPT,
        model="sample",
        sound="-sound" in name,
    )


def _shrink(data: bytes, name: str) -> bytes:
    """Spend time on being small, which the emulator cannot: best palette for a picture, slowest presets for a clip."""
    out = io.BytesIO()
    if name.endswith(".png"):
        Image.open(io.BytesIO(data)).quantize(_SHADES, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        return out.getvalue()
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with (
        av.open(io.BytesIO(data), "r") as source,
        av.open(out, "w", format="mp4", options=options, io_open=lambda *_: io.BytesIO(out.getvalue())) as target,
    ):
        pictures = source.streams.video[0]
        video = target.add_stream("libx264", rate=pictures.average_rate, options=_SLOW)
        video.width, video.height, video.pix_fmt = pictures.width, pictures.height, pictures.pix_fmt
        for fact in ("colorspace", "color_primaries", "color_trc", "color_range"):
            setattr(video.codec_context, fact, getattr(pictures.codec_context, fact))
        video.codec_context.thread_count = 1
        copies = [(sound, target.add_stream_from_template(sound)) for sound in source.streams.audio]
        for frame in source.decode(pictures):
            frame.pict_type = PictureType.NONE  # else x264 repeats the choice made for the source
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
        for sound, copy in copies:
            source.seek(0)
            for packet in source.demux(sound):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    return out.getvalue()


if __name__ == "__main__":
    main()
