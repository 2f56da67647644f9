"""How long tasks of a kind take, as far as is known: starting values, and what finished tasks have taught. Pure: no clock, no I/O."""

from __future__ import annotations

import functools
import json
import math
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping
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

    counts: array[float] = field(factory=lambda: array("d", bytes(8 * _BINS)))
    lessons: int = 0
    """How many there were, faded or not."""
    alarmed: int = 0
    """How many there were when a task of the kind failed, or came sooner than expected."""

    @property
    def calm(self) -> bool:
        """Whether tasks have come as expected for a while."""
        return self.lessons >= _WELL_KNOWN and self.lessons - self.alarmed >= _CALM

    @property
    def weight(self) -> float:
        """How many count today."""
        return math.fsum(self.counts)

    def add(self, low: float, high: float, forecast: Forecast) -> None:
        """A task took more than `low` and at most `high` seconds.

        What the forecast has expected there is spread as it has; what it has not, evenly. So an interval that says nothing
        changes nothing, and a surprise counts from its beginning: looks that come late do not teach to come still later.
        """
        high = min(high, _EDGES[-1])
        low = min(low, high)
        expected = forecast.done_by(high) - forecast.done_by(low)
        faded = 1.0 - 1.0 / _MEMORY
        self.counts = array("d", [count * faded for count in self.counts])
        end = min(bisect_right(_EDGES, high), _BINS - 1)
        for index in range(min(bisect_right(_EDGES, low), end), end + 1):
            left = max(low, _EDGES[index - 1] if index else 0.0)
            right = high if index == end else _EDGES[index]
            even = (right - left) / (high - low) if high > low else 1.0
            self.counts[index] += forecast.done_by(right) - forecast.done_by(left) + (1.0 - expected) * even
        self.lessons += 1

    def merge(self, other: Sketch) -> None:
        """Learn what another has learnt; the two together weigh no more than one can."""
        both = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        share = min(1.0, _MEMORY / (math.fsum(both) or 1.0))
        self.counts = array("d", (count * share for count in both))
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
        numbers = json.loads(text)
        if not isinstance(numbers, list) or len(numbers) % 2 != 1 or not all(type(number) in (int, float) for number in numbers):
            msg = "not a sketch of durations"
            raise ValueError(msg)
        made = cls(lessons=int(numbers[0]))
        for index, count in zip(numbers[1::2], numbers[2::2], strict=True):
            if not (isinstance(index, int) and 0 <= index < _BINS and 0 <= count <= _MEMORY):
                msg = "not a sketch of durations"
                raise ValueError(msg)
            made.counts[index] = count
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

    def early(self, deviations: float) -> float:
        """The age in seconds so many deviations below the middle, before which hardly a task is done.

        Drawn on from where the tasks between the first and the last tenth lie: of the outermost too few are ever known.
        """
        first, last = self.quantile(_TENTH), self.quantile(1.0 - _TENTH)
        return first * math.pow(first / last, (deviations - _TENTH_AT) / (2.0 * _TENTH_AT))

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
    """Another one whenever more is known."""
    _sketches: OrderedDict[str, Sketch] = field(factory=OrderedDict, init=False)
    _forecasts: dict[Kind, tuple[tuple[tuple[int, bool], ...], Forecast]] = field(factory=dict, init=False)
    _changed: dict[str, None] = field(factory=dict, init=False)

    def learn(self, kind: Kind, low: float, high: float) -> None:
        """A task of that kind has taken more than `low` and at most `high` seconds."""
        if not 0.0 <= low <= high < math.inf or high == 0.0:
            return
        self.version += 1
        forecast = self.forecast(kind)
        if forecast.done_by(high) < _SURPRISE:
            self.alarm(kind)
        for level in kind.levels:
            self._sketch(level).add(low, high, forecast)
            self._changed[level] = None

    def alarm(self, kind: Kind) -> None:
        """A task of that kind has failed, or come sooner than expected."""
        self.version += 1
        for level in kind.levels:
            if sketch := self._sketches.get(level):
                sketch.alarmed = sketch.lessons

    def forecast(self, kind: Kind) -> Forecast:
        """What to expect of a task of that kind; anew only where an eighth more is known than before."""
        sketches = [self._sketches.get(level) for level in kind.levels]
        age = tuple((_age(sketch.lessons), sketch.calm) if sketch else (0, False) for sketch in sketches)
        known = self._forecasts.get(kind)
        if known is not None and known[0] == age:
            return known[1]
        if len(self._forecasts) >= _KINDS:
            self._forecasts.clear()
        made = _forecast(kind, [sketch for sketch in sketches if sketch])
        self._forecasts[kind] = age, made
        return made

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
        sketch = self._sketches.pop(level, None) or Sketch()
        self._sketches[level] = sketch
        if len(self._sketches) > _KINDS:
            self._sketches.popitem(last=False)
        return sketch


def _age(lessons: int) -> int:
    # Grows with every lesson at first, then with every eighth more, and steadily once old lessons fade.
    return lessons if lessons < 8 else 8 + int(8 * math.log(min(lessons, 64) / 8)) + max(0, lessons - 64) // 8  # noqa: PLR2004


def _forecast(kind: Kind, sketches: list[Sketch]) -> Forecast:
    below = list(_start(kind.usual))
    lessons, calm = 0.0, False
    for sketch in sketches:
        weight = sketch.weight
        if not weight:
            continue
        # Five tasks of one's own outweigh all that is known of others: those, with their own sum, may be of another kind.
        foreign = 2.0 / (2.0 + weight * weight)
        own = accumulate(count / weight for count in sketch.counts)
        below = [foreign * other + (1.0 - foreign) * mine for other, mine in zip(below, own, strict=True)]
        lessons, calm = foreign * lessons + (1.0 - foreign) * weight, sketch.calm
    return Forecast(below=tuple(below), usual=kind.usual, lessons=lessons, calm=calm)


@functools.lru_cache(maxsize=_KINDS)
def _start(usual: float) -> tuple[float, ...]:
    return tuple(_normal(math.log(edge / usual) / _SPREAD) for edge in _EDGES)


def _normal(deviations: float) -> float:
    return 0.5 * math.erfc(-deviations / math.sqrt(2.0))
