"""How long tasks of a kind take, as far as is known: starting values, and what finished tasks have taught. Pure: no clock, no I/O."""

from __future__ import annotations

import functools
import json
import math
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, Final, Self

from attrs import define, field, frozen

from kling_async.jobs import Job

__all__ = ["Durations", "Forecast", "Kind", "Sketch", "kind_asked", "kind_of"]

_PER_OCTAVE: Final = 8
"""Bins of a sketch while durations double: each is 9 % wide."""
_EDGES: Final[tuple[float, ...]] = tuple(2.0 ** (index / _PER_OCTAVE) for index in range(17 * _PER_OCTAVE + 1))
"""Upper edges of the bins in seconds, 1 s to a day and a half; the first bin begins at 0."""
_BINS: Final = len(_EDGES)
_MEMORY: Final = 100.0
"""Lessons until what one has taught has faded to a third. Long enough for those of one crowd, whose slowest end last, to count alike."""
_LARGE: Final = 1e9
_LITTLE: Final = 1e-3
"""A part of a forecast that is not worth the work: what coarser kinds have taught, where so much is known of the kind itself."""
_FEW: Final = 64
_STAGES: Final = (*range(8), *(8 + int(8 * math.log(lessons / 8)) for lessons in range(8, _FEW + 1)))
"""One more with each lesson at first, then with every eighth more; beyond a few with every eight, for old ones fade."""
_KINDS: Final = 128
"""Sketches kept, 1 KB each; those that were taught least recently are forgotten."""
_LONGEST_WORD: Final = 64
_WIDE: Final = 0.02
"""Of every forecast so much is "any time at all": nothing that is still running is ever held to be impossible."""
_SPREAD: Final = 0.5
"""Deviation of the logarithm of durations before any task has finished: one in twenty takes less than 0.44 of the usual."""
_TENTH: Final = 0.1
_TENTH_AT: Final = 1.2816
"""Deviations from the middle at which a tenth lies, as far as the logarithm of durations is normal."""
_SURPRISE: Final = 0.06
"""A task that is found done when so few or fewer should be was done before it was looked for."""
_CALM: Final = 4
"""Lessons without failure or surprise after which a kind is taken to be as it was."""
_WELL_KNOWN: Final = 10
"""Lessons before which none is."""


@frozen(eq=False, kw_only=True)
class Kind:
    """What tasks are told apart by, as their durations go."""

    levels: tuple[str, ...]
    """Keys from the coarse, the route, to the fine; each begins with the one before."""
    usual: float
    """The median in seconds to start from."""


# api.md section 9: averages of an integration, and for pictures between the 8 and the 32 s that were measured.
_USUAL: Final = {
    "videos/text2video": 319.0,
    "videos/image2video": 164.0,
    "videos/lip-sync": 455.0,
    "videos/video-extend": 320.0,
    "images/kolors-virtual-try-on": 19.0,
}
_USUAL_BY_ACTION: Final = {"images": 16.0, "audio": 16.0}
_USUAL_ELSEWHERE: Final = 200.0
# Likewise: "pro 5 s clip 100 to 250 s", "v3 pro 2 to 5 min", in their middle.
_PRO: Final = 158.0
_V3_PRO: Final = 190.0
_MEASURED_LENGTH: Final = 5.0


@functools.lru_cache(maxsize=2 * _KINDS)
def _kind(route: str, model: str, mode: str, amount: str) -> Kind:
    usual = _USUAL.get(route, _USUAL_BY_ACTION.get(route.partition("/")[0], _USUAL_ELSEWHERE))
    if route in {"videos/text2video", "videos/image2video"}:
        if mode == "pro":
            usual = _V3_PRO if model == "kling-v3" else _PRO
        if amount.isdecimal() and amount.isascii():
            # A guess, and a careful one: a longer clip takes longer, though less than in proportion.
            usual *= min(4.0, max(0.5, math.sqrt(int(amount) / _MEASURED_LENGTH)))
    said = (route, f"{route} {model} {mode}", f"{route} {model} {mode} {amount}")
    known = 1 if not (model or mode or amount) else 2 if not amount else 3
    return Kind(levels=said[:known], usual=usual)


def kind_asked(route: str, request: Mapping[str, Any]) -> Kind:
    """The kind of the task that a request, as it is sent, comes to; with nothing said only its route is known."""
    model, mode = (_word(request.get(name)) for name in ("model_name", "mode"))
    return _kind(_word(route), model, mode, _word(request.get("duration", request.get("n"))))


def kind_of(job: Job[Any]) -> Kind:
    """The kind of the task that a job comes to."""
    asked = {name: job.extra.get(name, getattr(job, name, None)) for name in ("model_name", "mode", "duration", "n")}
    return kind_asked(str(job.route), {name: value for name, value in asked.items() if value is not None})


def _word(value: object) -> str:
    return "" if value is None else "".join(str(value).split())[:_LONGEST_WORD]


@define(eq=False)
class Sketch:
    """How long finished tasks took: their number by logarithmic bins, the older ones fading."""

    bins: array[float] = field(factory=lambda: array("d", bytes(8 * _BINS)))
    """In units of what a lesson weighs today, which grows: so the older fade, and nothing has to be touched for it."""
    unit: float = 1.0
    lessons: int = 0
    """How many there were, faded or not."""
    alarmed: int = 0
    """How many there were when a task of the kind failed, or came sooner than expected."""

    @property
    def calm(self) -> bool:
        """As a forecast's."""
        return self.lessons >= _WELL_KNOWN and self.lessons - self.alarmed >= _CALM

    @property
    def stage(self) -> tuple[int, bool]:
        """Another one whenever enough has been learnt for a forecast to be made anew."""
        late = max(0, self.lessons - _FEW)
        return _STAGES[self.lessons - late] + late // 8, self.calm

    @property
    def counts(self) -> array[float]:
        """How many count today, by bin."""
        return array("d", [count / self.unit for count in self.bins])

    @property
    def weight(self) -> float:
        """How many count today."""
        return math.fsum(self.bins) / self.unit

    def add(self, parts: Iterable[tuple[int, float]]) -> None:
        """A task has finished: how much of one falls into which bins."""
        self.unit *= _MEMORY / (_MEMORY - 1.0)
        for index, part in parts:
            self.bins[index] += part * self.unit
        self.lessons += 1
        if self.unit > _LARGE:
            self.bins, self.unit = self.counts, 1.0

    def merge(self, other: Sketch) -> None:
        """Learn what another has learnt; the two together weigh no more than one can."""
        both = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        share = min(1.0, _MEMORY / (math.fsum(both) or 1.0))
        self.bins, self.unit = array("d", [count * share for count in both]), 1.0
        self.lessons += other.lessons

    def to_text(self) -> str:
        """As one line of JSON: the number of lessons, then bin and count in turn."""
        some = ((index, round(count, 4)) for index, count in enumerate(self.counts))
        return json.dumps([self.lessons, *(number for pair in some if pair[1] for number in pair)])

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `to_text` wrote.

        Raises:
            ValueError: it is something else.
        """
        numbers, msg = json.loads(text), "not a sketch of durations"
        if not isinstance(numbers, list) or len(numbers) % 2 != 1 or not all(type(number) in (int, float) for number in numbers):
            raise ValueError(msg)
        made = cls(lessons=int(numbers[0]))
        for index, count in zip(numbers[1::2], numbers[2::2], strict=True):
            if not (isinstance(index, int) and 0 <= index < _BINS and 0 <= count <= _MEMORY):
                raise ValueError(msg)
            made.bins[index] = count
        return made


@frozen(eq=False, kw_only=True)
class Forecast:
    """When a task of a kind will be done, counted from when it began."""

    below: tuple[float, ...]
    """The share that is done by each edge of the bins."""
    usual: float
    """Around where "any time at all" lies."""
    lessons: float
    """How many finished tasks it rests on."""
    calm: bool
    """Whether tasks have come as expected for a while."""

    def done_by(self, age: float) -> float:
        """The share of tasks that are done at that age; grows with it, always, and reaches 1 never."""
        if age <= 0.0:
            return 0.0
        index = bisect_right(_EDGES, age)
        if index == _BINS:
            known = 1.0
        else:
            right, high = _EDGES[index], self.below[index]
            left, low = (_EDGES[index - 1], self.below[index - 1]) if index else (0.0, 0.0)
            known = low + (high - low) * (age - left) / (right - left)
        return (1.0 - _WIDE) * known + _WIDE * age / (age + self.usual)

    def unseen(self, last: float, age: float) -> float:
        """For how many seconds a task is expected to have been done at that age, which still ran at the age `last`."""
        if age <= last:
            return 0.0
        before, middle, after = (self.done_by(at) for at in (last, (last + age) / 2, age))
        return (age - last) * (4 * middle + after - 5 * before) / (6 * (1.0 - before))  # the mean of the share by then, after Simpson

    def parts(self, low: float, high: float) -> list[tuple[int, float]]:
        """How much of a task that took more than `low` and at most `high` seconds falls into which bins; one in sum.

        What was expected there is spread as it was; what was not, evenly. So an interval that says nothing
        changes nothing, and a surprise counts from its beginning: looks that come late do not teach to come still later.
        """
        low, high = min(low, _EDGES[-1]), min(high, _EDGES[-1])
        before, by_high, width = self.done_by(low), self.done_by(high), high - low
        unexpected = 1.0 - (by_high - before)
        end = min(bisect_right(_EDGES, high), _BINS - 1)
        parts, left = [], low
        for index in range(min(bisect_right(_EDGES, low), end), end):
            right = _EDGES[index]
            after = (1.0 - _WIDE) * self.below[index] + _WIDE * right / (right + self.usual)  # which is done by this edge
            parts.append((index, after - before + unexpected * ((right - left) / width)))
            before, left = after, right
        return [*parts, (end, by_high - before + unexpected * ((high - left) / width if width else 1.0))]

    def early(self, deviations: float) -> float:
        """The age in seconds so many deviations below the middle, before which hardly a task is done.

        Drawn on from where the tasks between the first and the last tenth lie: of the outermost too few are ever known.
        """
        return self.late(-deviations)

    def late(self, deviations: float) -> float:
        """The age in seconds so many deviations above the middle, by which nearly all are done."""
        first, last = self.quantile(_TENTH), self.quantile(1.0 - _TENTH)
        return last * math.pow(last / first, (deviations - _TENTH_AT) / (2.0 * _TENTH_AT))

    def quantile(self, share: float) -> float:
        """The age in seconds at which that share of what is known to happen is done."""
        index = min(bisect_right(self.below, share * self.below[-1]), _BINS - 1)
        right, high = _EDGES[index], self.below[index]
        left, low = (_EDGES[index - 1], self.below[index - 1]) if index else (0.0, 0.0)
        part = (share * self.below[-1] - low) / (high - low) if high > low else 1.0
        return left + (right - left) * min(1.0, max(0.0, part))


@define(eq=False)
class Durations:
    """What is known of all kinds."""

    version: int = field(default=0, init=False)
    """Another one whenever so much more is known that forecasts are made anew."""
    _sketches: OrderedDict[str, Sketch] = field(factory=OrderedDict, init=False)
    _forecasts: dict[Kind, tuple[int, list[tuple[int, bool]], Forecast]] = field(factory=dict, init=False)
    _changed: dict[str, None] = field(factory=dict, init=False)

    def learn(self, kind: Kind, low: float, high: float) -> None:
        """A task of that kind has taken more than `low` and at most `high` seconds."""
        if not 0.0 <= low <= high < math.inf or high == 0.0:
            return
        forecast = self.forecast(kind)
        if forecast.done_by(high) < _SURPRISE:
            self.alarm(kind)
        parts = forecast.parts(low, high)
        for level in kind.levels:
            sketch = self._sketch(level)
            before = sketch.stage
            sketch.add(parts)
            self.version += sketch.stage != before
            self._changed[level] = None

    def alarm(self, kind: Kind) -> None:
        """A task of that kind has failed, or come sooner than expected."""
        self.version += 1
        for level in kind.levels:
            if sketch := self._sketches.get(level):
                sketch.alarmed = sketch.lessons

    def forecast(self, kind: Kind) -> Forecast:
        """What to expect of a task of that kind; anew only where an eighth more is known than before."""
        version, before, known = self._forecasts.get(kind, (-1, [], None))
        if known is not None and version == self.version:
            return known
        sketches = [sketch for level in kind.levels if (sketch := self._sketches.get(level))]
        stages = [sketch.stage for sketch in sketches]
        if known is None or before != stages:
            known = _forecast(kind, sketches)
        if len(self._forecasts) >= _KINDS:
            self._forecasts.clear()
        self._forecasts[kind] = self.version, stages, known
        return known

    def changes(self) -> dict[str, str]:
        """What has been learnt since this was last asked, as text by key."""
        changed, self._changed = self._changed, {}
        return {level: self._sketches[level].to_text() for level in changed if level in self._sketches}

    def recall(self, texts: Mapping[str, str]) -> None:
        """Add what was learnt before this process; what cannot be read is as if it had not been.

        Raises:
            ValueError: some of it is no such text; the rest is taken.
        """
        self.version += 1
        fault: ValueError | None = None
        for level, text in texts.items():
            try:
                earlier = Sketch.from_text(text)
            except ValueError as error:
                fault = error
            else:
                self._sketch(level).merge(earlier)
        if fault is not None:
            raise fault

    def _sketch(self, level: str) -> Sketch:
        sketch = self._sketches.get(level) or self._sketches.setdefault(level, Sketch())
        self._sketches.move_to_end(level)
        if len(self._sketches) > _KINDS:
            self._sketches.popitem(last=False)
        return sketch


def _forecast(kind: Kind, sketches: list[Sketch]) -> Forecast:
    lessons, rest, shares = 0.0, 1.0, [0.0] * _BINS
    for sketch in reversed(sketches):
        weight = sketch.weight
        if not weight:
            continue
        # Five tasks of one's own outweigh all that is known of others: those, with their own sum, may be of another kind.
        foreign = 2.0 / (2.0 + weight * weight)
        part = rest * (1.0 - foreign)
        scale = part / (weight * sketch.unit)
        shares = [share + count * scale for share, count in zip(shares, sketch.bins, strict=True)]
        lessons += part * weight
        rest *= foreign
        if rest < _LITTLE:
            break
    below = tuple([rest * other + mine for other, mine in zip(_start(kind.usual), accumulate(shares), strict=True)])
    return Forecast(below=below, usual=kind.usual, lessons=lessons, calm=bool(sketches) and sketches[-1].calm)


@functools.lru_cache(maxsize=_KINDS)
def _start(usual: float) -> tuple[float, ...]:
    return tuple(0.5 * math.erfc(-math.log(edge / usual) / _SPREAD / math.sqrt(2.0)) for edge in _EDGES)
