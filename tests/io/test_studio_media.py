"""What the studio makes is what it says: decoded again and looked at, frame by frame."""

from __future__ import annotations

import array
import importlib
import io
from importlib.resources import files
from typing import Any

import pytest
from attrs import evolve, frozen

from kling_async.emulator._studio import Scene, Studio, sample_names

av = pytest.importorskip("av", reason="needs the extra 'emulator'")
Image = pytest.importorskip("PIL.Image", reason="needs the extra 'emulator'")
ImageChops = importlib.import_module("PIL.ImageChops")
ImageStat = importlib.import_module("PIL.ImageStat")
card = importlib.import_module("kling_async.emulator._render_card")
words = importlib.import_module("kling_async.emulator._render_words")
render = importlib.import_module("kling_async.emulator._render").render

FOX = Scene(kind="video", width=320, height=180, seconds=2.4, prompt="a red fox in fresh snow", model="kling-v2-6")


@frozen(kw_only=True)
class Clip:
    """A decoded file."""

    codec: str
    size: tuple[int, int]
    pixels: str
    rate: float
    seconds: float
    frames: list[Any]
    sound: list[float] | None
    sound_codec: str | None
    sound_seconds: float | None


def decode(data: bytes) -> Clip:
    """Read every frame, giving up at the first damage."""
    with av.open(io.BytesIO(data)) as container:
        video = container.streams.video[0]
        video.codec_context.options = {"err_detect": "explode"}
        sound = container.streams.audio[0] if container.streams.audio else None
        frames = list(container.decode(video))
        container.seek(0)
        planes = [bytes(frame.planes[0])[: 4 * frame.samples] for frame in container.decode(sound)] if sound else []
        return Clip(
            codec=video.codec_context.name,
            size=(video.width, video.height),
            pixels=video.codec_context.pix_fmt,
            rate=float(video.average_rate),
            seconds=float(video.duration * video.time_base),
            frames=frames,
            sound=[sample for plane in planes for sample in array.array("f", plane)] if sound else None,
            sound_codec=sound.codec_context.name if sound else None,
            sound_seconds=float(sound.duration * sound.time_base) if sound else None,
        )


def difference(one: Any, other: Any, box: tuple[int, int, int, int]) -> float:
    """How far two pictures are apart inside `box`: root mean square of the brightness, 0 to 255."""
    return float(ImageStat.Stat(ImageChops.difference(one.crop(box), other.crop(box)).convert("L")).rms[0])


def mean(plane: Any) -> float:
    """The average of a plane's visible part; rows are padded."""
    data, step = bytes(plane), plane.line_size
    rows = [data[row * step : row * step + plane.width] for row in range(plane.height)]
    return float(sum(map(sum, rows)) / (plane.width * plane.height))


@pytest.mark.parametrize(
    ("width", "height", "seconds"),
    [(1280, 720, 5.0), (180, 320, 5.1), (240, 240, 10.0), (1920, 1080, 0.5), (64, 64, 0.04)],
)
def test_a_clip_is_h264_of_the_size_and_length_asked_for(width: int, height: int, seconds: float) -> None:
    """H.264 in 4:2:0, 24 frames per second, exact size, length within a tenth of a second, every frame decodable."""
    rendered = render(evolve(FOX, width=width, height=height, seconds=seconds))
    clip = decode(rendered.data)
    assert (rendered.content_type, rendered.extension) == ("video/mp4", ".mp4")
    assert (clip.codec, clip.pixels, clip.size, clip.rate) == ("h264", "yuv420p", (width, height), 24.0)
    assert clip.seconds == pytest.approx(seconds, abs=0.1)
    assert len(clip.frames) == round(seconds * 24)
    assert clip.sound is None


def test_an_odd_size_becomes_even() -> None:
    """4:2:0 knows no odd sizes: one pixel is left out, nothing is squeezed."""
    assert decode(render(evolve(FOX, width=321, height=181)).data).size == (320, 180)


@pytest.mark.parametrize("sound", [True, False])
def test_a_clip_starts_while_it_loads(*, sound: bool) -> None:
    """The index stands before the media data, so that a player need not have the end."""
    data = render(evolve(FOX, sound=sound)).data
    assert data.index(b"ftyp") < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("width", "height"), [(320, 180), (404, 720), (64, 64), (960, 540)])
def test_every_frame_shows_its_own_time(width: int, height: int) -> None:
    """All seconds share the frames after their first, and still each frame is the card of its moment, clock, ring and bar."""
    scene = evolve(FOX, width=width, height=height)
    frames = [frame.to_image() for frame in decode(render(scene).data).frames]
    drawn = card.paint(scene)
    layout = drawn.layout
    for index, frame in enumerate(frames):
        list(drawn.advance(index))
        for box in (layout.clock, layout.beat, layout.bar, (0, 0, width, height)):
            assert difference(frame, drawn.picture, box) < 9, f"frame {index}, {box}"
    assert difference(frames[0], frames[24], layout.clock) > 12
    assert difference(frames[24], frames[48], layout.bar) > 12
    assert difference(frames[0], frames[12], layout.beat) > 12


@pytest.mark.parametrize("prompt", ["a red fox", "x", "y", "hello"])
def test_colours_survive_the_way_into_video_and_back(prompt: str) -> None:
    """What is drawn in red, green and blue is, on average, what a player shows: matrix and range agree with their labels."""
    scene = evolve(FOX, prompt=prompt, seconds=0.1)
    frame, drawn = decode(render(scene).data).frames[0], card.paint(scene)
    list(drawn.advance(0))
    assert (frame.colorspace, frame.color_range) == (1, 1)
    luma, blue, red = (mean(plane) - dark for plane, dark in zip(frame.planes, (16, 128, 128), strict=True))
    luma *= 255 / 219
    # BT.709's own numbers, not PyAV's conversion: older versions of that overlook the label.
    shown = (luma + 1.793 * red, luma - 0.213 * blue - 0.533 * red, luma + 2.112 * blue)
    assert shown == pytest.approx(ImageStat.Stat(drawn.picture).mean, abs=1.5)


def test_the_clock_runs_through_the_whole_clip() -> None:
    """No second looks like another, each starts with a key frame, and within it the clock's part stands still to the bit."""
    decoded = decode(render(evolve(FOX, seconds=12.0)).data).frames
    assert [index for index, frame in enumerate(decoded) if frame.key_frame] == list(range(0, 288, 24))
    layout = card.paint(FOX).layout
    clocks = [frame.to_image().crop(layout.clock).tobytes() for frame in decoded]
    assert len(set(clocks)) == 12
    assert all(clock == clocks[index // 24 * 24] for index, clock in enumerate(clocks))


def test_each_frame_moves_and_each_tenth_of_a_second_has_a_figure() -> None:
    """The ring is another in each of 24 frames, the figure beside it another in each of ten parts."""
    drawn = card.paint(FOX)
    left, top, right, bottom = drawn.layout.beat
    figure = (left, top, left + drawn.layout.letters(0.085) // 2, bottom)
    seen: list[tuple[bytes, bytes]] = []
    for index in range(24):
        list(drawn.advance(index))
        seen.append((drawn.picture.crop(figure).tobytes(), drawn.picture.crop((left, top, right, bottom)).tobytes()))
    assert len({part for part, _ in seen}) == 10
    assert len({whole for _, whole in seen}) == 24


def test_sound_is_there_when_asked_for_and_as_long_as_the_picture() -> None:
    """AAC beside the picture, audible, in time with it."""
    clip = decode(render(evolve(FOX, sound=True, seconds=5.1)).data)
    assert clip.sound_codec == "aac"
    assert clip.sound_seconds == pytest.approx(clip.seconds, abs=0.03)
    assert clip.sound is not None
    assert 0.1 < max(clip.sound) < 0.9
    for start in range(0, len(clip.sound) - 48_000, 48_000):
        struck, fading = clip.sound[start : start + 4_800], clip.sound[start + 18_000 : start + 22_800]
        assert max(struck) > 5 * max(fading), f"the bell of second {start // 48_000}"


def test_a_picture_is_a_png_of_the_size_asked_for() -> None:
    """Odd sizes are fine for a picture."""
    rendered = render(evolve(FOX, kind="image", width=401, height=301))
    picture = Image.open(io.BytesIO(rendered.data))
    picture.load()
    assert (rendered.content_type, rendered.extension) == ("image/png", ".png")
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (401, 301))


@pytest.mark.parametrize("changed", [{"prompt": "an owl"}, {"model": "kling-v1"}, {"height": 182}, {"seconds": 2.0}, {"sound": True}])
def test_other_scenes_are_other_files_and_equal_scenes_equal_ones(changed: dict[str, Any]) -> None:
    """Every field shows, and nothing but the fields does: no date, no chance."""
    assert render(FOX) == render(evolve(FOX))
    assert render(FOX) != render(evolve(FOX, **changed))


@pytest.mark.parametrize(
    "text",
    [
        "一只红色的狐狸在雪中奔跑，柔和的晨光",
        "a fox 🦊 – naïve café",
        "жук",
        "ثعلب أحمر",
        "\ud800\x00\u202e\u200b",
        "",
        "  \n ",
        "w" * 2500,
        "so many words " * 200,
    ],
)
def test_any_text_can_be_drawn(text: str) -> None:
    """A text in any script, broken text included, gives a picture on a machine with whatever fonts."""
    for side in (64, 320):
        scene = evolve(FOX, kind="image", width=side, height=side, prompt=text, model=text)
        assert Image.open(io.BytesIO(render(scene).data)).size == (side, side)


def test_letters_without_a_font_become_dots_and_the_rest_stays() -> None:
    """Whatever fonts there are: what can be shown is, what cannot is counted by dots (a noncharacter is left out)."""
    shown = words.showable("fox \U000e0fff 𒀀\n\tden")
    assert shown.text in {"fox 𒀀 den", "fox · den"}
    assert shown.lost == ("·" in shown.text)
    assert not words._missing(shown.font, shown.text.replace(" ", ""))
    assert words.showable("plain words").font == ""


@pytest.mark.parametrize(
    ("text", "unbroken"),
    [("a few words here", True), ("w" * 300, False), ("one " + "w" * 90 + " two", False), ("many words " * 90, True), ("中文" * 100, True)],
)
def test_lines_keep_inside_their_place(text: str, unbroken: bool) -> None:  # noqa: FBT001  # a column of the table
    """No line is wider, and all together are no taller, than the room; words are torn only when they fit no line."""
    paragraph = words.fit(words.showable(text), 300, 120, (40, 30, 20, 10))
    assert all(paragraph.font.getlength(line) <= 300 for line in paragraph.lines)
    assert len(paragraph.lines) * paragraph.leading <= 120
    assert paragraph.unbroken == unbroken


def test_a_smaller_size_is_taken_before_a_word_is_torn() -> None:
    """Large letters matter less than whole words."""
    text = words.showable("install kling-async[emulator] now")
    assert max(words.sized("", 40).getlength(word) for word in text.text.split()) > 300
    paragraph = words.fit(text, 300, 500, (40, 30, 20))
    assert any("kling-async[emulator]" in line for line in paragraph.lines)
    assert paragraph.font.size < 40


def test_a_text_too_long_for_its_place_ends_in_an_ellipsis() -> None:
    """Cut at the smallest size, visibly, inside the room."""
    paragraph = words.fit(words.showable("word " * 500), 200, 40, (20, 10))
    assert paragraph.lines[-1].endswith("…")
    assert len(paragraph.lines) == 40 // paragraph.leading
    assert paragraph.font.getlength(paragraph.lines[-1]) <= 200


@pytest.mark.parametrize("name", [name for name in sample_names() if name.endswith(".mp4")])
def test_a_sample_clip_is_what_its_name_says(name: str) -> None:
    """Ratio, length and sound of each shipped clip, and a clock that runs."""
    shape, length, *sound = name.removeprefix("clip-").removesuffix(".mp4").split("-")
    across, up = (int(part) for part in shape.split("x"))
    clip = decode((files("kling_async.emulator") / "samples" / name).read_bytes())
    assert (clip.codec, clip.pixels, clip.rate) == ("h264", "yuv420p", 24.0)
    assert clip.size[0] * up == clip.size[1] * across
    assert clip.seconds == pytest.approx(float(length.removesuffix("s")), abs=0.1)
    assert len(clip.frames) == 24 * int(length.removesuffix("s"))
    assert bytes(clip.frames[0].planes[0]) != bytes(clip.frames[-1].planes[0])
    assert (clip.sound_codec == "aac") == (sound == ["sound"])


async def test_the_studio_draws_with_the_extra_by_itself() -> None:
    """With PyAV and Pillow installed nobody has to ask for the real renderer."""
    studio = Studio()
    made = await studio.make(FOX)
    await studio.aclose()
    assert made == render(FOX)
