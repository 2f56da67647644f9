"""What a result looks like: a coloured card with the prompt, the model, the word emulator and, on clips, a clock and a bar."""

# Pillow's annotations name numpy, which is not needed here and may be missing.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import colorsys
import hashlib
import math
from collections.abc import Iterator
from typing import Final

from attrs import frozen
from PIL import Image, ImageDraw

from kling_async.emulator._render_words import STAND_IN, cut, fit, showable, sized
from kling_async.emulator._studio import Scene

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; all even, so that a box is whole in the halved colour planes too."""

FRAMES_PER_SECOND: Final = 24

_MACROBLOCK: Final = 16
_INK: Final = (255, 255, 255)
_MUTED: Final = (214, 218, 230)
_FAINT: Final = 52
_OVERSAMPLING: Final = 4
_LONGEST_PROMPT: Final = 1000
_LABEL_SHARE: Final = 0.042
_CLOCK_SHARE: Final = 0.085
_PROMPT_SHARES: Final = (0.125, 0.1, 0.085, 0.07, 0.058, 0.048, 0.04)
_SMALLEST_LETTERS: Final = 7


@frozen(kw_only=True)
class Layout:
    """Where things go on a card, in pixels.

    What changes with every frame (`beat`) and what changes once a second (`clock`, `bar`) share no macroblock, the
    16 by 16 pixels that H.264 predicts as one: only so can all seconds of a clip use the same frames for the beat.
    """

    width: int
    height: int
    margin: int
    baseline: int
    clock: Box
    beat: Box
    bar: Box

    def letters(self, share: float) -> int:
        """Return the letter height for a `share` of the shorter side, readable on small pictures too."""
        return _letters(self.width, self.height, share)


@frozen(kw_only=True)
class Card:
    """A picture and what moves in it: `advance` draws another moment."""

    picture: Image.Image
    bare: Image.Image
    layout: Layout
    seconds: float

    def advance(self, index: int) -> Iterator[Box]:
        """Turn the picture into frame `index`, from the one before or from any first frame of a second; yields the changed boxes."""
        second, step = divmod(index, FRAMES_PER_SECOND)
        if step == 0:
            yield self._draw_clock(second)
            yield self._draw_bar(second)
        yield self._draw_beat(step)

    def _draw_clock(self, second: int) -> Box:
        self._restore(self.layout.clock)
        font = sized("", self.layout.letters(_CLOCK_SHARE))
        place = (self.layout.margin, self.layout.baseline)
        ImageDraw.Draw(self.picture).text(place, f"{second // 60:02}:{second % 60:02}.", font=font, fill=_INK, anchor="ls")
        return self.layout.clock

    def _draw_bar(self, second: int) -> Box:
        """Light the seconds gone by, and the one that is running, as parts of one bar."""
        left, top, right, bottom = self.layout.bar
        self._restore(self.layout.bar)
        end = left + round((right - left) * min(1.0, (second + 1) / self.seconds))
        ImageDraw.Draw(self.picture).rectangle((left, top, end - 1, bottom - 1), fill=_INK)
        return self.layout.bar

    def _draw_beat(self, step: int) -> Box:
        """Show the tenth of the second, and a ring that closes within it."""
        layout = self.layout
        self._restore(layout.beat)
        draw = ImageDraw.Draw(self.picture)
        font = sized("", layout.letters(_CLOCK_SHARE))
        draw.text((layout.beat[0], layout.baseline), str(step * 10 // FRAMES_PER_SECOND), font=font, fill=_INK, anchor="ls")
        _draw_ring(self.picture, layout, (step + 1) / FRAMES_PER_SECOND, 255)
        return layout.beat

    def _restore(self, box: Box) -> None:
        self.picture.paste(self.bare.crop(box), box)


def paint(scene: Scene) -> Card:
    """Draw all that stands still, at the scene's size; for a clip made even by leaving a pixel out."""
    clip = scene.kind == "video"
    layout = _lay_out(*((_snap(scene.width), _snap(scene.height)) if clip else (scene.width, scene.height)))
    picture = _background(scene.prompt, layout)
    draw = ImageDraw.Draw(picture, "RGBA")
    size = layout.letters(_LABEL_SHARE)
    label = sized("", size)
    right = layout.width - layout.margin
    bottom = layout.baseline if clip else layout.height - layout.margin

    _draw_heading(draw, layout, scene.model)
    facts = f"{layout.width} x {layout.height}"
    draw.text((right, bottom), f"{scene.seconds:g} s · {facts}" if clip else facts, font=label, fill=_MUTED, anchor="rs")

    words = showable(scene.prompt[:_LONGEST_PROMPT].strip() or "(no prompt)")
    top = layout.margin + 3 * size
    floor = (layout.clock[1] if clip else bottom - size) - size
    if words.lost:
        draw.text((layout.margin, floor), f"{STAND_IN} a letter that no font here has", font=label, fill=_MUTED, anchor="ld")
        floor -= 2 * size
    paragraph = fit(words, right - layout.margin, floor - top, [layout.letters(share) for share in _PROMPT_SHARES])
    start = top + max(0, floor - top - len(paragraph.lines) * paragraph.leading) // 2
    for number, line in enumerate(paragraph.lines):
        draw.text((layout.margin, start + number * paragraph.leading), line, font=paragraph.font, fill=_INK)

    if clip:
        left, upper, end, lower = layout.bar
        draw.rectangle((left, upper, end - 1, lower - 1), fill=(*_INK, _FAINT))
        _draw_ring(picture, layout, 1.0, _FAINT)
    return Card(picture=picture, bare=picture.copy(), layout=layout, seconds=scene.seconds)


def _lay_out(width: int, height: int) -> Layout:
    unit = min(width, height)
    figures = _letters(width, height, _CLOCK_SHARE)
    clock_width = math.ceil(sized("", figures).getlength("00:00."))  # all ten figures are equally wide
    beat_left = _snap(unit / 14 + clock_width + _MACROBLOCK, _MACROBLOCK)
    beat_bottom = _snap(height - unit / 8, _MACROBLOCK)
    margin, baseline, bar_bottom = beat_left - clock_width, beat_bottom - 2, _snap(height - unit / 14)
    return Layout(
        width=width,
        height=height,
        margin=margin,
        baseline=baseline,
        clock=(_snap(margin), _snap(baseline - figures), beat_left, beat_bottom),
        beat=(beat_left, _snap(baseline - figures), min(_snap(beat_left + 2.5 * figures), _snap(width)), beat_bottom),
        bar=(_snap(margin), bar_bottom - max(2, _snap(unit / 70)), _snap(width - margin), bar_bottom),
    )


def _draw_heading(draw: ImageDraw.ImageDraw, layout: Layout, model: str) -> None:
    size = layout.letters(_LABEL_SHARE)
    label = sized("", size)
    left, right = layout.margin, layout.width - layout.margin
    middle, end = left + size, left + label.getlength("emulator") + 2 * size
    draw.rounded_rectangle((left, left, end, left + 2 * size), size, fill=(*_INK, _FAINT))
    draw.text((left + size, middle), "emulator", font=label, fill=_INK, anchor="lm")
    words = showable(model)
    font = sized(words.font, size)
    draw.text((right, middle), cut(words.text, font, right - end - size), font=font, fill=_MUTED, anchor="rm")


def _background(prompt: str, layout: Layout) -> Image.Image:
    """Blend six neighbouring colours chosen by the prompt's hash: other prompts, other pictures; white letters read on all."""
    dice = [part / 256 for part in hashlib.sha256(prompt.encode("utf-8", "replace")).digest()]
    shades = [
        # From teal by way of blue and violet to red: darkened yellows and greens look like mud.
        colorsys.hls_to_rgb((0.47 + 0.4 * dice[0] + 0.15 * hue) % 1, 0.16 + 0.22 * light, 0.58)
        for hue, light in zip(dice[1:7], dice[7:13], strict=True)
    ]
    # Floats until the end: eight bits between the two passes of the enlargement would leave stripes.
    meshes = (Image.new("F", (3, 2)) for _ in range(3))
    bands: list[Image.Image] = []
    for mesh, values in zip(meshes, zip(*shades, strict=True), strict=True):
        mesh.putdata([255 * value for value in values])
        bands.append(mesh.resize((layout.width, layout.height), Image.Resampling.BICUBIC).convert("L"))
    return Image.merge("RGB", bands)


def _draw_ring(picture: Image.Image, layout: Layout, part: float, opacity: int) -> None:
    figures = layout.letters(_CLOCK_SHARE)
    size = round(figures * 0.7)
    fine = size * _OVERSAMPLING
    mask = Image.new("L", (fine, fine))
    ImageDraw.Draw(mask).arc((0, 0, fine - 1, fine - 1), -90, -90 + 360 * part, fill=opacity, width=fine // 7)
    left = layout.beat[0] + round(figures * 1.1)
    picture.paste(_INK, (left, layout.baseline - size), mask.resize((size, size), Image.Resampling.LANCZOS))


def _letters(width: int, height: int, share: float) -> int:
    return max(_SMALLEST_LETTERS, round(min(width, height) * share))


def _snap(pixels: float, grid: int = 2) -> int:
    return int(pixels) // grid * grid
