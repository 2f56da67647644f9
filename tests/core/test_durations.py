from __future__ import annotations

import math
import random
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async import GenerateImage, Text2Video, VideoExtend
from kling_async._durations import Durations, Forecast, Kind, Sketch, kind_asked, kind_of
from kling_async._pacing import Pace, Paces, Polling, next_gap

KIND = Kind(levels=("k",), usual=160.0)
seconds = st.floats(0.0, 1e7)
intervals = st.tuples(seconds, seconds).map(sorted)


def taught(*lessons: tuple[float, float], kind: Kind = KIND) -> Durations:
    """What is known after tasks that took between so many seconds and so many."""
    durations = Durations()
    for low, high in lessons:
        durations.learn(kind, low, high)
    return durations


def lognormal(dice: random.Random, median: float = 160.0, sigma: float = 0.3) -> float:
    """How long a task takes."""
    return median * math.exp(dice.gauss(0.0, sigma))


def live(durations: Durations, takes: float, dice: random.Random) -> tuple[int, float]:
    """Follow a task by its pace and learn from no more than what the looks show; gives the looks, and how late the last one is."""
    pace, age, last, reads = Paces(Polling(), durations).of(KIND), 0.0, 0.0, 0
    while age < takes:
        last, age = age, age + next_gap(pace, age, jitter=0.2, roll=dice.random())
        reads += 1
    durations.learn(KIND, last, age)
    return reads, age - takes


def test_kinds() -> None:
    """Tasks are told apart by route, then by model and mode, then by length or number; what a job says otherwise makes no kind."""
    clip = kind_of(Text2Video(prompt="a fox", model_name="kling-v2-6", mode="pro", duration=10))
    assert clip.levels == ("videos/text2video", "videos/text2video kling-v2-6 pro", "videos/text2video kling-v2-6 pro 10")
    assert kind_of(Text2Video(prompt="a hen", model_name="kling-v2-6", mode="pro", duration=10)) is clip
    assert kind_asked("videos/text2video", {"model_name": "kling-v2-6", "mode": "pro", "duration": "10", "prompt": "x"}) is clip
    assert kind_asked("videos/text2video", {}).levels == ("videos/text2video",)
    assert kind_of(VideoExtend(video_id="1")).levels == ("videos/video-extend",)
    assert kind_of(GenerateImage(prompt="a fox", n=3)).levels[-1].endswith(" 3")
    strange = kind_asked("videos/text2video", {"model_name": "x y" * 999, "mode": 7, "duration": [1]})
    assert max(map(len, strange.levels)) < 200
    assert kind_of(Text2Video(prompt="a fox", extra={"model_name": "kling-v9"})).levels[-1].split()[1] == "kling-v9"


@pytest.mark.parametrize(
    ("route", "asked", "usual"),
    [
        ("videos/text2video", {}, 319),
        ("videos/image2video", {}, 164),
        ("videos/lip-sync", {}, 455),
        ("images/kolors-virtual-try-on", {}, 19),
        ("images/generations", {}, 16),
        ("videos/text2video", {"mode": "pro", "duration": 5}, 158),
        ("videos/text2video", {"mode": "pro", "model_name": "kling-v3", "duration": 5}, 190),
        ("videos/image2video", {"duration": 10}, 232),
        ("new/thing", {}, 200),
    ],
)
def test_starting_values(route: str, asked: dict[str, object], usual: float) -> None:
    """Before anything is learnt a kind is taken to need what `api.md` section 9 knows of it."""
    kind = kind_asked(route, asked)
    assert kind.usual == pytest.approx(usual, abs=1)
    forecast = Durations().forecast(kind)
    assert forecast.quantile(0.5) == pytest.approx(usual, rel=0.05)
    assert (forecast.lessons, forecast.calm) == (0, False)


@settings(max_examples=50)
@given(st.lists(intervals, max_size=6), st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6).map(sorted), st.lists(seconds).map(sorted))
def test_forecasts_are_orderly(lessons: list[tuple[float, float]], shares: list[float], ages: list[float]) -> None:
    """Whatever was learnt: shares grow with age and stay below 1, quantiles with the share, and all are finite."""
    forecast = taught(*lessons).forecast(KIND)
    done = [forecast.done_by(age) for age in ages]
    assert done == sorted(done)
    assert all(0.0 <= share < 1.0 for share in done)
    quantiles = [forecast.quantile(share) for share in shares]
    assert all(math.isfinite(quantile) and quantile >= 0.0 for quantile in quantiles)
    assert quantiles == pytest.approx(sorted(quantiles))
    assert 0.0 < forecast.early(2.0) <= forecast.early(1.5) <= forecast.late(1.5) <= forecast.late(2.0) < math.inf
    assert all(0.0 <= forecast.unseen(last, age) <= age - last + 1e-6 for last, age in pairwise(ages))


@settings(max_examples=40)
@given(st.lists(intervals, min_size=1, max_size=8))
def test_a_lesson_weighs_one(lessons: list[tuple[float, float]]) -> None:
    """Each lesson weighs one, however wide, and old ones fade: the weight is bounded for ever."""
    sketch, expected = Sketch(), 0.0
    forecast = Durations().forecast(KIND)
    for low, high in lessons:
        sketch.add(forecast.parts(low, high))
        expected = expected * 0.99 + 1.0
    assert sketch.weight == pytest.approx(expected, rel=1e-6)
    assert min(sketch.counts) >= 0.0


@pytest.mark.parametrize("bad", [(-1.0, 5.0), (5.0, 4.0), (0.0, 0.0), (1.0, math.inf), (math.nan, 5.0), (1.0, math.nan)])
def test_what_teaches_nothing(bad: tuple[float, float]) -> None:
    """What is no time changes nothing."""
    durations = taught(bad)
    assert durations.changes() == {}


def test_what_says_nothing_changes_nothing() -> None:
    """A task that nobody looked at for a day leaves the shares as they are."""
    durations = taught(*[(100.0 + step, 110.0 + step) for step in range(0, 60, 2)])
    before = durations.forecast(KIND)
    for _ in range(30):
        durations.learn(KIND, 0.0, 86400.0)
    after = durations.forecast(KIND)
    assert after.quantile(0.5) == pytest.approx(before.quantile(0.5), rel=0.05)
    assert after.early(1.5) == pytest.approx(before.early(1.5), rel=0.1)


def test_hierarchy() -> None:
    """A finished task teaches all its levels; what is attached to by its route, and kinds never met, have the coarser ones to go by."""
    pro, other = (kind_asked("videos/text2video", {"model_name": "m", "mode": mode, "duration": 5}) for mode in ("pro", "std"))
    durations = taught(*[(60.0, 62.0)] * 20, kind=pro)
    for kind in (pro, other, kind_asked("videos/text2video", {})):
        assert durations.forecast(kind).quantile(0.5) == pytest.approx(61.0, rel=0.1)
    for _ in range(6):
        durations.learn(other, 200.0, 202.0)
    assert durations.forecast(other).quantile(0.5) == pytest.approx(201.0, rel=0.1)
    assert durations.forecast(pro).quantile(0.5) == pytest.approx(61.0, rel=0.1)
    assert durations.forecast(kind_asked("images/generations", {})).lessons == 0


@pytest.mark.parametrize("usual", [40.0, 160.0, 640.0])
def test_learning_settles(usual: float) -> None:
    """Over hundreds of tasks that are learnt from late looks alone the first look comes to where it belongs and stays there."""
    dice, durations, kind = random.Random(1), Durations(), Kind(levels=("k",), usual=usual)
    firsts = []
    for _ in range(500):
        live(durations, lognormal(dice), dice)
        firsts.append(Paces(Polling(), durations).of(kind).first)
    early = 160.0 * math.exp(-0.3 * 1.7)
    assert all(0.6 * early < first < 1.3 * early for first in firsts[100:])
    assert sum(firsts[300:]) / 200 / early < 1.1


def test_a_faster_service_is_noticed() -> None:
    """When tasks come to take half as long, looks follow; until then none is later than the first look of before."""
    dice, durations = random.Random(3), Durations()
    for _ in range(150):
        live(durations, lognormal(dice, sigma=0.1), dice)
    before = Paces(Polling(), durations).of(KIND).first
    lags = [live(durations, lognormal(dice, 80.0, 0.1), dice)[1] for _ in range(60)]
    assert max(lags) < before
    assert sum(lags[30:]) / 30 < 10.0
    assert Paces(Polling(), durations).of(KIND).first < 90.0


def test_alarms() -> None:
    """What is well known is looked at early again for a few tasks, after one has failed or come sooner than expected."""
    known = taught(*[(150.0, 160.0)] * 20)
    assert known.forecast(KIND).calm
    known.alarm(KIND)
    assert not known.forecast(KIND).calm
    for _ in range(4):
        known.learn(KIND, 150.0, 160.0)
    assert known.forecast(KIND).calm
    known.learn(KIND, 0.0, 60.0)
    assert not known.forecast(KIND).calm
    Durations().alarm(KIND)


@settings(max_examples=20)
@given(st.lists(intervals, max_size=8))
def test_kept_as_text(lessons: list[tuple[float, float]]) -> None:
    """What was learnt is the same after it was written down and read."""
    first = taught(*lessons)
    texts = first.changes()
    assert first.changes() == {}
    again = Durations()
    again.recall(texts)
    for key, sketch in first._sketches.items():
        assert list(again._sketches[key].counts) == pytest.approx(list(sketch.counts), abs=1e-4)
        assert again._sketches[key].lessons == sketch.lessons


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "[1, 2]", '[1, "a", 2]', "[1, 9999, 1]", "[1, 5, -1]", "[1, 5, 1e9]", "[true, 1, 1]", "[1, 2.5, 1]"]
)
def test_what_is_no_sketch(text: str) -> None:
    """What cannot be read is told, and does no harm to what can be."""
    durations = Durations()
    with pytest.raises(ValueError, match=r".*"):
        durations.recall({"other": text, "k": Sketch(lessons=3).to_text()})
    assert durations.forecast(KIND).quantile(0.5) == pytest.approx(160.0, rel=0.05)


def test_merging() -> None:
    """Two that have learnt know what both do, and weigh no more than one can."""
    one, other = Sketch(), Sketch()
    forecast = Durations().forecast(KIND)
    for _ in range(300):
        one.add(forecast.parts(99.0, 100.0))
        other.add(forecast.parts(199.0, 200.0))
    one.merge(other)
    assert one.weight == pytest.approx(100.0, rel=0.01)
    assert one.lessons == 600
    assert sum(one.counts[:58]) == pytest.approx(50.0, rel=0.1)


def test_memory_is_bounded() -> None:
    """Kinds beyond the bound are forgotten, those first that were taught least recently; what is known of one takes a kilobyte."""
    durations = Durations()
    for number in range(300):
        durations.learn(Kind(levels=(f"k{number}",), usual=100.0), 50.0, 51.0)
        durations.forecast(Kind(levels=(f"k{number}",), usual=100.0))
    assert list(durations._sketches) == [f"k{number}" for number in range(172, 300)]
    assert len(durations._forecasts) <= 128
    assert sys.getsizeof(durations._sketches["k299"].bins) < 1300
    assert len(durations.changes()) == 128


def test_a_thousand_lessons_make_few_forecasts() -> None:
    """However many tasks of a kind end, what is expected and the pace are made anew for one in five at most; and they end up right."""
    durations, dice = Durations(), random.Random(4)
    paces = Paces(Polling(), durations)
    made = set[Pace]()
    for _ in range(1000):
        takes = lognormal(dice, sigma=0.1)
        durations.learn(KIND, takes - 2.0, takes + 2.0)
        made |= {paces.of(KIND) for _ in range(4)}
    assert len({pace.forecast for pace in made}) <= len(made) <= 200
    assert durations.forecast(KIND).quantile(0.5) == pytest.approx(160.0, rel=0.05)


def test_old_lessons_fade_for_ever() -> None:
    """What older lessons weigh stays exact over any number of later ones."""
    sketch, forecast = Sketch(), Durations().forecast(KIND)
    sketch.add(forecast.parts(999.0, 1000.0))
    for _ in range(300):
        sketch.add(forecast.parts(99.0, 100.0))
    assert sum(sketch.counts[70:]) == pytest.approx(0.99**300, rel=1e-6)
    for _ in range(5000):
        sketch.add(forecast.parts(99.0, 100.0))
    assert sketch.weight == pytest.approx(100.0, rel=1e-6)
    assert max(sketch.bins) < math.inf


def test_unseen() -> None:
    """A look is worth more the longer the last one is past, and the more likely the end is since."""
    forecast: Forecast = taught(*[(150.0, 160.0)] * 20).forecast(KIND)
    assert forecast.unseen(100.0, 100.0) == forecast.unseen(100.0, 90.0) == 0.0
    assert forecast.unseen(140.0, 170.0) > forecast.unseen(140.0, 160.0) > forecast.unseen(100.0, 120.0) > 0.0
    assert forecast.unseen(140.0, 170.0) < 30.0
    assert forecast.unseen(5000.0, 6000.0) > 0.0
