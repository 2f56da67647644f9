"""When to look, simulated: `python benchmarks/pacing.py`, or `nox -s bench`. No sockets, no sleeping, seeded: the same figures each time.

The product's own watches, paces and durations are asked when to look at tasks whose durations are lognormal with a median of
120 s. Each policy looks with gaps of 5 s where it looks evenly; its reads are compared with those of a fixed interval that has
the same mean lag, from a task's end to the look that sees it.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from attrs import frozen

from kit import Figure, main
from kling_async._durations import Durations, Kind, kind_asked
from kling_async._pacing import Pace, Paces, Polling, next_gap
from kling_async._watch import Watch
from kling_async.models import Snapshot, Status, TaskRef, Video

MEDIAN: Final = 120.0
SIGMAS: Final = (0.1, 0.2, 0.3, 0.5, 0.8)
GAP: Final = 5.0
TASKS: Final = 300
SESSIONS: Final = 20
"""Of those that have learnt from few tasks, each from other ones."""
KIND: Final = Kind(levels=("simulated",), usual=MEDIAN)
REF: Final = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="t")
RUNS: Final = Snapshot(task_id="t", status=Status.PROCESSING)
DONE: Final = Snapshot(task_id="t", status=Status.SUCCEED, videos=(Video(id="v", url="https://files.example/v"),))
Spend: TypeAlias = tuple[float, float]
"""Reads per task, and mean lag in seconds."""


def watch(paces: Paces, kind: Kind, now: float, roll: float) -> Watch:
    """A task that is created now."""
    made = Watch(ref=REF, pace=paces.of(kind), polling=paces.polling, kind=kind, paces=paces, snapshot=RUNS)
    made.begin(now, roll)
    return made


def follow(takes: Sequence[float], paces: Paces, kind: Kind, dice: random.Random, *, learn: bool = False) -> Spend:
    """One task after the other, as the poller follows them; with or without learning from each."""
    reads, lag = 0, 0.0
    for take in takes:
        task = watch(paces, kind, 0.0, dice.random())
        while not task.done:
            now = task.next_look
            task.looking(now)
            task.note(DONE if now >= take else RUNS, now=now, roll=dice.random())
            reads += 1
        lag += now - take
        if learn and (took := task.took(now)) is not None:
            paces.durations.learn(kind, *took)
    return reads / len(takes), lag / len(takes)


def lognormal(sigma: float, count: int, dice: random.Random, median: float = MEDIAN) -> list[float]:
    """How long so many tasks take."""
    return [median * math.exp(dice.gauss(0.0, sigma)) for _ in range(count)]


def taught(lessons: int, sigma: float, seed: int, *, median: float = MEDIAN, usual: float = MEDIAN) -> tuple[Durations, Kind]:
    """What a session knows that has followed so many tasks, with starting values of its own."""
    dice, paces, kind = random.Random(seed), Paces(Polling()), Kind(levels=("simulated",), usual=usual)  # noqa: S311  a simulation
    if lessons:
        follow(lognormal(sigma, lessons, dice, median), paces, kind, dice, learn=True)
    return paces.durations, kind


@frozen
class Policy:
    """What is compared: how much was learnt, and how wrong it is."""

    name: str
    lessons: int
    median: float = MEDIAN
    usual: float = MEDIAN

    def spend(self, sigma: float, takes: Sequence[float]) -> Spend:
        """What it costs, and how late it is, on average over sessions."""
        sessions = SESSIONS if 0 < self.lessons < TASKS else 1
        spent = []
        for number in range(sessions):
            durations, kind = taught(self.lessons, sigma, number, median=self.median, usual=self.usual)
            dice = random.Random(-1 - number)  # noqa: S311  a simulation
            spent.append(follow(takes[number::sessions], Paces(Polling(interval=GAP), durations), kind, dice))
        return sum(reads for reads, _ in spent) / sessions, sum(lag for _, lag in spent) / sessions


POLICIES: Final = (
    Policy(f"learnt from {TASKS}", TASKS),
    Policy("learnt from 20", 20),
    Policy("learnt from 5", 5),
    Policy("starting value right", 0),
    Policy("starting value double", 0, usual=2 * MEDIAN),
    Policy("starting value half", 0, usual=MEDIAN / 2),
    Policy("20, starting value double", 20, usual=2 * MEDIAN),
    Policy("all learnt double", TASKS, median=2 * MEDIAN),
    Policy("all learnt half", TASKS, median=MEDIAN / 2),
)


def fixed_at(lag: float, takes: Sequence[float]) -> float:
    """Reads per task of a fixed interval with that mean lag, which is half the interval."""
    return sum(takes) / len(takes) / (2 * lag) + 0.5


def compare(sigma: float, count: int) -> dict[str, tuple[float, float, float]]:
    """Of each policy: reads per task, the same of a fixed interval at its lag, and that lag."""
    takes = lognormal(sigma, count, random.Random(5))  # noqa: S311  a simulation
    spent = {policy.name: policy.spend(sigma, takes) for policy in POLICIES}
    for name, polling in {
        "backoff": Polling.backoff(1.0, max_interval=GAP),
        "backoff, no cap": Polling.backoff(1.0, max_interval=86400.0),
    }.items():
        spent[name] = follow(takes, Paces(polling), KIND, random.Random(1))  # noqa: S311  a simulation
    spent["fixed"] = follow(takes, Paces(Polling.fixed(GAP)), KIND, random.Random(1))  # noqa: S311  a simulation
    return {name: (reads, fixed_at(lag, takes), lag) for name, (reads, lag) in spent.items()}


def crowd(rate: float, choose: Callable[[dict[Watch, float], float], Watch], *, sigma: float = 0.3, count: int = 1000) -> float:
    """Mean lag of tasks of which a thousand would come within eight minutes, looked at by no more than `rate` reads a second."""
    dice = random.Random(2)  # noqa: S311  a simulation
    takes = lognormal(sigma, count, dice)
    durations, kind = taught(60, sigma, 7)
    paces, lag, now = Paces(Polling(), durations), 0.0, 0.0
    coming = sorted(((dice.uniform(0.0, 0.48 * count), take) for take in takes), reverse=True)
    ends: dict[Watch, float] = {}
    looked: dict[Watch, float] = {}
    while coming or ends:
        now += 1.0 / rate
        while coming and coming[-1][0] <= now:
            start, take = coming.pop()
            task = watch(paces, kind, start, dice.random())
            ends[task], looked[task] = start + take, start
        if not looked:
            continue
        task = choose(looked, now)
        task.looking(now)
        task.note(DONE if now >= ends[task] else RUNS, now=now, roll=0.5)
        looked[task] = now
        if task.done:
            del looked[task]
            lag += now - ends.pop(task)
    return lag / count


def by_turns(looked: dict[Watch, float], _now: float) -> Watch:
    """Round robin: who was looked at longest ago."""
    return min(looked, key=looked.__getitem__)


def by_gain(looked: dict[Watch, float], now: float) -> Watch:
    """Who is worth most."""
    return max(looked, key=lambda task: task.gain(now))


LAW: Final = Pace(first=10.0, interval=5.0, max_interval=15.0)
"""How clips were looked at before anything was known of them: gaps of 5 s that grow to 15 s."""


def defaults(route: str, median: float, pace: Pace = LAW) -> tuple[Spend, Spend, Spend]:
    """Reads and lag of the old law, and of the default with nothing and with 20 tasks learnt, where a kind takes that long."""
    takes = lognormal(0.3, TASKS, random.Random(3), median)  # noqa: S311  a simulation
    dice = random.Random(4)  # noqa: S311  a simulation
    reads, late = 0, 0.0
    for take in takes:
        now = 0.0
        while now < take:
            now += next_gap(pace, now, jitter=0.2, roll=dice.random())
            reads += 1
        late += now - take
    kind, paces = kind_asked(route, {}), Paces(Polling())
    fresh = follow(takes, paces, kind, dice)
    follow(takes[:20], paces, kind, dice, learn=True)
    return (reads / len(takes), late / len(takes)), fresh, follow(takes, paces, kind, dice)


def rows(quick: bool) -> Iterator[Figure]:  # noqa: FBT001  as the table calls it
    """The two lines of the table."""
    reads, fixed, lag = compare(0.3, 100 if quick else TASKS)["learnt from 20"]
    yield Figure(
        name="reads per task at equal mean lag, sigma 0.3, after 20 tasks",
        goal="≤ 0.6 × fixed interval",
        limit=0.6,
        value=reads,
        reference=fixed,
        note=f"simulated; median {MEDIAN:.0f} s, mean lag {lag:.1f} s for both",
    )
    for rate in (20.0,) if quick else (20.0, 5.0):
        yield Figure(
            name=f"mean lag under a shared budget of {rate:.0f} reads/s",
            goal="≤ 0.6 × round robin",
            limit=0.6,
            value=crowd(rate, by_gain, count=300 if quick else 1000),
            reference=crowd(rate, by_turns, count=300 if quick else 1000),
            unit="s",
            note="simulated; 1,000 tasks of 120 s, sigma 0.3, that come within 8 minutes",
        )


def show() -> None:
    """Everything, for people."""
    print("reads per task as a part of those of a fixed interval at the same mean lag; in brackets that lag, of a fixed 5 s interval's")
    found = {sigma: compare(sigma, TASKS) for sigma in SIGMAS}
    print(f"{'sigma':26}", *(f"{sigma:>12}" for sigma in SIGMAS))
    for name in found[SIGMAS[0]]:
        cells = (found[sigma][name] for sigma in SIGMAS)
        print(f"{name:26}", *(f"{reads / fixed:5.2f} ({lag / (GAP / 2):4.1f})" for reads, fixed, lag in cells))
    print("\nby default: reads and mean lag with gaps of 5 s growing to 15 s (pictures: 2 to 5 s), with nothing, and with 20 tasks learnt")
    for route, median in (
        ("videos/text2video", 160.0),
        ("videos/text2video", 319.0),
        ("videos/image2video", 164.0),
        ("videos/lip-sync", 455.0),
    ):
        print(f"{route:26} {median:4.0f} s", *(f"{reads:6.1f} / {lag:4.1f} s" for reads, lag in defaults(route, median)))
    pictures = Pace(first=2.0, interval=2.0, max_interval=5.0)
    for route, median in (("images/generations", 8.0), ("images/generations", 32.0), ("images/kolors-virtual-try-on", 19.0)):
        print(f"{route:26} {median:4.0f} s", *(f"{reads:6.1f} / {lag:4.1f} s" for reads, lag in defaults(route, median, pictures)))
    print()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        show()
    main(rows)
