from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from prometheus_client import CollectorRegistry

from journals import FOX, ROUTE, session
from kling_async.emulator import Emulator
from kling_async.errors import KlingError, SubmitOutcomeUnknown, TaskFailedError
from kling_async.integrations import opentelemetry, prometheus
from kling_async.integrations._recent import Recent
from kling_async.jobs import Text2Video
from kling_async.models import Status, TaskRef
from kling_async.observers import Record, StatusChange, Waiting

pytestmark = pytest.mark.usefixtures("nothing_is_left")


class OpenTelemetry:
    """A real SDK that is read from memory, and the observer that fills it."""

    def __init__(self, **options: Any) -> None:
        self.reader = InMemoryMetricReader()
        self.metrics = opentelemetry.Metrics(meter_provider=MeterProvider([self.reader], shutdown_on_exit=False), **options)

    def read(self, name: str, /, **labels: str) -> float | tuple[int, float]:
        """A number, or how many there are in a histogram and their sum; 0 for what was never counted."""
        wanted = {label if label == "error.type" else f"kling.{label}": value for label, value in labels.items()}
        data = self.reader.get_metrics_data()
        for metric in data.resource_metrics[0].scope_metrics[0].metrics if data else ():
            for point in metric.data.data_points:
                if metric.name == f"kling.{name}" and dict(point.attributes or {}) == wanted:
                    if isinstance(point, HistogramDataPoint):
                        return point.count, round(point.sum, 3)
                    assert isinstance(point, NumberDataPoint)
                    return point.value
        return 0


class Prometheus:
    """A real registry, and the observer that fills it."""

    def __init__(self, **options: Any) -> None:
        self.registry = CollectorRegistry()
        self.metrics = prometheus.Metrics(registry=self.registry, **options)

    def read(self, name: str, /, **labels: str) -> float | tuple[int, float]:
        """The same."""
        wanted = {label.partition(".")[0]: value for label, value in labels.items()}
        if name == "creations":
            wanted.setdefault("error", "")
        own = f"kling_{name.replace('.', '_')}{'_seconds' if name.endswith('duration') else ''}"
        values = (self.registry.get_sample_value(f"{own}{ending}", wanted) for ending in ("", "_total", "_count", "_sum"))
        number, total, count, sum_of_them = values
        return number or total or 0 if count is None else (int(count), round(sum_of_them or 0.0, 3))


Tool = OpenTelemetry | Prometheus


@pytest.fixture(params=[OpenTelemetry, Prometheus])
def tool(request: pytest.FixtureRequest) -> Tool:
    """One that counts, of either kind."""
    made: Tool = request.param()
    return made


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """A gateway where a video takes 100 s of a time that costs none."""
    async with Emulator(durations=100, seed=1) as emulator:
        yield emulator


def pair(value: float | tuple[int, float]) -> tuple[int, float]:
    """That of a histogram."""
    assert isinstance(value, tuple)
    return value


async def test_a_crowd(tool: Tool) -> None:
    """Tasks are in flight while they run and none is afterwards; each end counts its reads and its seconds, by how it ended."""
    async with Emulator(durations=100, seed=1) as emulator, session(emulator, observers=[tool.metrics]) as kling:
        handles = [await kling.submit(Text2Video(prompt=f"fox {number}")) for number in range(19)]
        handles.append(await kling.submit(Text2Video(prompt="[fail: no] a fox")))
        waiting = asyncio.gather(*handles, return_exceptions=True)
        await asyncio.sleep(50)
        assert tool.read("tasks.in_flight", route=ROUTE) == 20
        await waiting
        assert tool.read("tasks.in_flight", route=ROUTE) == 0
        reads = sum(seen.method == "GET" for seen in emulator.log.requests)
    assert tool.read("task.reads", route=ROUTE) == (20, reads)
    count, total = pair(tool.read("task.duration", route=ROUTE, status="succeed"))
    assert count == 19
    assert 100 <= total / count < 300
    assert pair(tool.read("task.duration", route=ROUTE, status="failed"))[0] == 1
    assert tool.read("creations", route=ROUTE, how="accepted") == 20
    assert (len(tool.metrics._numbers._tasks), len(tool.metrics._numbers._waits)) == (0, 0)


async def test_waits(tool: Tool, emulator: Emulator) -> None:
    """Seconds that creations waited for a slot or before a retry are those that passed, not those that were announced."""
    told: list[Record] = []
    async with session(emulator, observers=[tool.metrics, told.append], in_flight=1) as kling:
        await kling.submit(FOX)
        emulator.fault("status", route=ROUTE, method="POST", status=425)
        emulator.fault("slow", route=ROUTE, method="POST", seconds=3)
        started = asyncio.get_running_loop().time()
        waiting = asyncio.ensure_future(kling.submit(Text2Video(prompt="a fox")))
        leaving = asyncio.ensure_future(kling.submit(Text2Video(prompt="a fox")))
        await asyncio.sleep(10)
        leaving.cancel()
        await waiting
        took = asyncio.get_running_loop().time() - started
    (pause,) = [record.seconds for record in told if isinstance(record, Waiting) and record.why == "retry"]
    assert pause is not None
    assert tool.read("creation.wait.duration", why="retry") == pytest.approx((1, pause), abs=0.01)
    assert tool.read("creation.wait.duration", why="slot") == pytest.approx((2, 10 + took - pause - 3), abs=0.01)
    assert tool.read("creations", route=ROUTE, how="withdrawn") == 1
    assert len(tool.metrics._numbers._waits) == 0


async def test_duplicates_that_were_not_bought(tool: Tool) -> None:
    """A purchase under the same word, and a lost answer that was found by its key, count as a duplicate each."""
    async with Emulator(profile="official", durations=100, seed=1) as emulator, session(emulator, observers=[tool.metrics]) as kling:
        handles = [await kling.submit(Text2Video(prompt="a fox"), dedupe="order-17")]
        await asyncio.sleep(50)
        handles += [await kling.submit(Text2Video(prompt="a fox"), dedupe="order-17") for _ in range(2)]
        emulator.fault("drop", route=ROUTE, method="POST", accepted=True)
        handles.append(await kling.submit(FOX))
        assert tool.read("tasks.in_flight", route=ROUTE) == 2
        await asyncio.gather(*handles)
        assert len(emulator.log.tasks) == 2
    assert tool.read("duplicates.avoided", how="reused") == 2
    assert tool.read("duplicates.avoided", how="found") == 1
    assert tool.read("duplicates.avoided", how="accepted") == 0
    assert tool.read("creations", route=ROUTE, how="accepted") == 1
    count, total = pair(tool.read("task.duration", route=ROUTE, status="succeed"))
    assert (count, total >= 200) == (2, True)
    assert tool.read("tasks.in_flight", route=ROUTE) == 0


async def test_creations_that_came_to_nothing(tool: Tool, emulator: Emulator) -> None:
    """They are counted by what is known of them and by their error, and nothing is in flight."""
    async with session(emulator, observers=[tool.metrics]) as kling:
        emulator.fault("code", route=ROUTE, method="POST", code=1201)
        emulator.fault("hang", route=ROUTE, method="POST")
        for error in (KlingError, SubmitOutcomeUnknown):
            with pytest.raises(error):
                await kling.submit(Text2Video(prompt="a fox"))
        with pytest.raises(TaskFailedError):
            await kling.run(Text2Video(prompt="[fail: no] a fox"))
    assert tool.read("creations", route=ROUTE, how="rejected", **{"error.type": "InvalidRequestError"}) == 1
    assert tool.read("creations", route=ROUTE, how="unknown", **{"error.type": "SubmitOutcomeUnknown"}) == 1
    assert tool.read("anomalies", what="outcome-unknown") == 1
    assert tool.read("tasks.in_flight", route=ROUTE) == 0


async def test_tasks_from_elsewhere(tool: Tool, emulator: Emulator) -> None:
    """What was attached to is in flight from the first look on; how long it took from its purchase is not known here."""
    async with session(emulator) as kling:
        ref = (await kling.submit(FOX)).ref
    async with session(emulator, observers=[tool.metrics]) as kling:
        waiting = asyncio.ensure_future(kling.attach(ref).wait())
        await asyncio.sleep(50)
        assert tool.read("tasks.in_flight", route=ROUTE) == 1
        await waiting
    assert tool.read("tasks.in_flight", route=ROUTE) == 0
    assert pair(tool.read("task.reads", route=ROUTE))[0] == 1
    assert tool.read("task.duration", route=ROUTE, status="succeed") == 0


@pytest.mark.parametrize("kind", [OpenTelemetry, Prometheus])
async def test_what_never_ends_is_bounded(kind: type[Tool]) -> None:
    """Of tasks that nobody sees end, as many are remembered as were asked for; who had to make room and ends is not counted twice."""
    tool = kind(at_most=10)
    refs = [TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id=str(number)) for number in range(25)]
    for ref in refs:
        tool.metrics(StatusChange(ref=ref, before=None, after=Status.PROCESSING))
        tool.metrics(Waiting(why="slot", external_task_id=ref.task_id))
    assert tool.read("tasks.in_flight", route=ROUTE) == 10
    assert (len(tool.metrics._numbers._tasks), len(tool.metrics._numbers._waits)) == (10, 10)
    for ref in refs:
        tool.metrics(StatusChange(ref=ref, before=Status.PROCESSING, after=Status.SUCCEED))
    assert tool.read("tasks.in_flight", route=ROUTE) == 0


async def test_who_makes_room() -> None:
    """What was asked about lately stays, and whoever makes room is told of."""
    lost: list[int] = []
    recent = Recent[str, int](2, lost.append)
    for number, name in enumerate("ab"):
        recent.put(name, number)
    assert recent.get("a") == 0
    recent.put("c", 2)
    assert (lost, list(recent)) == ([1], ["a", "c"])


async def test_one_registry_counts_once() -> None:
    """Who registers a second time hears so at once, instead of losing half the numbers."""
    registry = CollectorRegistry()
    prometheus.Metrics(registry=registry)
    with pytest.raises(ValueError, match="kling_tasks_in_flight"):
        prometheus.Metrics(registry=registry)
