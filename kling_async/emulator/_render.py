"""Cards made into files with PyAV and Pillow: H.264 in MP4 that starts while loading, AAC beside it on request, PNG."""

# PyAV's annotations name numpy, which is not needed here and may be missing, and leave its own generics open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import array
import io
import math
from fractions import Fraction
from functools import lru_cache
from typing import Final

import av
from av.video.frame import PictureType
from PIL import Image

from kling_async.emulator._render_card import FRAMES_PER_SECOND, Box, Card, paint
from kling_async.emulator._studio import Rendered, Scene

_SAMPLES_PER_SECOND: Final = 48_000  # 2,000 for each frame, so that sound and picture end together
_BITS_OF_SOUND: Final = 32_000  # a second
_X264: Final = {
    "preset": "ultrafast",
    "tune": "zerolatency",
    "qp": "20",
    # The deblocking filter alone is a third of the time, and a gradient at this quality shows no blocks. The short
    # reach of vectors keeps the beat from borrowing from the clock beside it, which is another in another second.
    "x264-params": "no-deblock=1:scenecut=0:merange=4:keyint=infinite",
}
_BT709_CODE: Final = 1  # in H.264's tables of matrices, of primaries and of transfer curves alike
_STUDIO_RANGE_CODE: Final = 1  # FFmpeg's number for luma from 16 to 235
_BT709: Final = (
    *(0.1826, 0.6142, 0.0620, 16.0),
    *(-0.1006, -0.3386, 0.4392, 128.0),
    *(0.4392, -0.3989, -0.0403, 128.0),
)
"""From red, green, blue to luma and the two chromas of high-definition video, in studio range."""


def render(scene: Scene) -> Rendered:
    """Make the file for `scene`: a clip of 24 frames per second, as long as asked to within half a frame, or a picture."""
    card = paint(scene)
    if scene.kind == "video":
        return Rendered.of("video", _encode_clip(card, scene))
    out = io.BytesIO()
    card.picture.save(out, "PNG")
    return Rendered.of("image", out.getvalue())


def _encode_clip(card: Card, scene: Scene) -> bytes:
    count = max(1, round(scene.seconds * FRAMES_PER_SECOND))
    out = io.BytesIO()
    # To put the index first the muxer reads its own output again, once, when all is written.
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(out, "w", format="mp4", options=options, io_open=lambda *_: io.BytesIO(out.getvalue())) as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=_X264)
        video.width, video.height = card.picture.size
        video.pix_fmt = "yuv420p"
        video.codec_context.colorspace = video.codec_context.color_primaries = video.codec_context.color_trc = _BT709_CODE
        video.codec_context.color_range = _STUDIO_RANGE_CODE
        video.codec_context.sample_aspect_ratio = Fraction(1, 1)
        video.codec_context.thread_count = 1  # one thread renders, also inside x264; and its output never varies
        audio = container.add_stream("aac", rate=_SAMPLES_PER_SECOND, layout="mono", bit_rate=_BITS_OF_SOUND) if scene.sound else None

        encoded = _encode_frames(card, video, count)
        for index in range(count):
            second, step = divmod(index, FRAMES_PER_SECOND)
            packet = av.Packet(encoded[second * FRAMES_PER_SECOND if step == 0 else step])
            packet.stream, packet.time_base = video, Fraction(1, FRAMES_PER_SECOND)
            packet.pts = packet.dts = index
            packet.duration = 1
            packet.is_keyframe = step == 0
            container.mux(packet)
            if audio is not None:
                container.mux(audio.encode(_to_sound(index)))
        if audio is not None:
            container.mux(audio.encode(None))
    return out.getvalue()


def _encode_frames(card: Card, video: av.VideoStream, count: int) -> dict[int, bytes]:
    """Encode the frames of the first second, then only the first frame of each other second; by frame number.

    A second starts with a picture of its own, complete (IDR); its other frames say only what changes within any
    second. So the first second's fit all the others, byte for byte, and a long clip costs hardly more than a short one.
    """
    numbers = [*range(min(count, FRAMES_PER_SECOND)), *range(FRAMES_PER_SECOND, count, FRAMES_PER_SECOND)]
    frame = av.VideoFrame(*card.picture.size, "yuv420p")
    _patch(frame, card.picture, (0, 0, *card.picture.size))
    packets: list[bytes] = []
    for pts, number in enumerate(numbers):
        for box in card.advance(number):
            _patch(frame, card.picture, box)
        frame.pts = pts
        frame.pict_type = PictureType.NONE if number % FRAMES_PER_SECOND else PictureType.I
        packets += map(bytes, video.encode(frame))
    packets += map(bytes, video.encode(None))
    return dict(zip(numbers, packets, strict=True))


def _patch(frame: av.VideoFrame, picture: Image.Image, box: Box) -> None:
    """Copy `box` of `picture` into `frame`, in place: x264 has taken its own copy of the frame when `encode` returns."""
    luma, *chroma = picture.crop(box).convert("RGB", _BT709).split()
    for plane, band, step in zip(frame.planes, (luma, *(band.reduce(2) for band in chroma)), (1, 2, 2), strict=True):
        target, source, width = memoryview(plane), band.tobytes(), band.width
        for row in range(band.height):
            start = (box[1] // step + row) * plane.line_size + box[0] // step
            target[start : start + width] = source[row * width : (row + 1) * width]


def _to_sound(index: int) -> av.AudioFrame:
    samples = _SAMPLES_PER_SECOND // FRAMES_PER_SECOND
    frame = av.AudioFrame(format="fltp", layout="mono", samples=samples)
    start = index % FRAMES_PER_SECOND * samples
    frame.planes[0].update(_one_second()[start : start + samples].tobytes())
    frame.sample_rate = _SAMPLES_PER_SECOND
    frame.pts = index * samples
    return frame


@lru_cache(maxsize=1)
def _one_second() -> array.array[float]:
    """Strike two soft bells, one with each second and a lower one half-way: sound that tells whether it keeps up with the clock."""

    def bell(pitch: float, age: float) -> float:
        return math.sin(math.tau * pitch * age) * math.exp(-9 * age) * min(1.0, age * 400) if age >= 0 else 0.0

    moments = (number / _SAMPLES_PER_SECOND for number in range(_SAMPLES_PER_SECOND))
    return array.array("f", (0.3 * bell(660, moment) + 0.2 * bell(440, moment - 0.5) for moment in moments))
