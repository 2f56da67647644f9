from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from journals import FOX, ROUTE, session
from kling_async.emulator import Emulator
from kling_async.errors import KlingError, SubmitOutcomeUnknown
from kling_async.jobs import Text2Video
from kling_async.observers import Exchange
from traces import TASK, Traces, facts, gateway, is_below, seconds

pytestmark = pytest.mark.usefixtures("nothing_is_left")

emulator = pytest.fixture(gateway)


@pytest.mark.parametrize(
    ("fault", "options", "how", "error", "types"),
    [
        ("code", {"code": 1201}, "rejected", "InvalidRequestError", ["400"]),
        ("status", {"status": 500}, "unknown", "SubmitOutcomeUnknown", ["500"]),
        ("hang", {}, "unknown", "SubmitOutcomeUnknown", ["timeout"]),
    ],
    ids=["refused", "broken", "lost"],
)
async def test_a_creation_that_comes_to_nothing(
    emulator: Emulator, *, fault: str, options: dict[str, Any], how: str, error: str, types: list[str]
) -> None:
    """There is a span of it all the same, which says why, and holds no word of the service's."""
    traces = Traces()
    emulator.fault(fault, route=ROUTE, method="POST", **options)
    async with session(emulator, observers=[traces.tracing]) as kling:
        with pytest.raises(KlingError):
            await kling.submit(FOX)
    task, submit = traces.the(TASK), traces.the("submit")
    for span in (task, submit):
        assert (span.status.status_code, span.status.description, facts(span)["error.type"]) == (StatusCode.ERROR, error, error)
    assert (facts(task)["kling.how"], task.end_time) == (how, submit.end_time)
    assert [facts(post).get("error.type") for post in traces.finished("POST")] == types
    assert traces.finished("wait") == []
    assert (len(traces.tracing._tasks), len(traces.tracing._creations)) == (0, 0)


async def test_waits_of_a_creation(emulator: Emulator) -> None:
    """Waiting for a slot and pauses before a retry are spans between the requests, and leave no gap and no overlap."""
    traces = Traces()
    async with session(emulator, observers=[traces.tracing], in_flight=1) as kling:
        first = await kling.submit(Text2Video(prompt="a fox"))
        emulator.fault("status", route=ROUTE, method="POST", status=425)
        second = await kling.submit(FOX)
        await asyncio.gather(first, second)
    (task,) = (span for span in traces.finished(TASK) if facts(span)["kling.external_task_id"] == FOX.external_task_id)
    submit = next(span for span in traces.finished("submit") if is_below(span, task))
    steps = sorted((span for span in traces.exporter.get_finished_spans() if is_below(span, submit)), key=lambda span: span.start_time or 0)
    assert [span.name for span in steps] == ["slot", "POST", "retry", "POST"]
    assert [span.end_time for span in steps[:-1]] == [span.start_time for span in steps[1:]]
    assert (steps[0].start_time, steps[-1].end_time) == (submit.start_time, submit.end_time)
    assert seconds(steps[0]) >= 99
    assert seconds(steps[2]) < 2
    assert facts(steps[1])["error.type"] == "425"


async def test_withdrawn_before_anything_was_sent(emulator: Emulator) -> None:
    """Who goes while waiting for a slot leaves a span that ends there, and is no error."""
    traces = Traces()
    async with session(emulator, observers=[traces.tracing], in_flight=1) as kling:
        await kling.submit(Text2Video(prompt="a fox"))
        waiting = asyncio.ensure_future(kling.submit(FOX))
        await asyncio.sleep(7)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    withdrawn = traces.the(TASK)
    assert (facts(withdrawn)["kling.how"], withdrawn.status.status_code) == ("withdrawn", StatusCode.UNSET)
    assert seconds(withdrawn) == seconds(traces.the("slot")) == 7


async def test_the_same_purchase_again(emulator: Emulator) -> None:
    """A purchase that was made before in this process is a short span, linked to that of its task; there is one wait."""
    traces = Traces()
    async with session(emulator, observers=[traces.tracing]) as kling:
        first = await kling.submit(Text2Video(prompt="a fox"), dedupe="order-17")
        again = await kling.submit(Text2Video(prompt="a fox"), dedupe="order-17")
        await asyncio.gather(first, again)
        await (await kling.submit(Text2Video(prompt="a fox"), dedupe="order-17"))
    task, *reused = sorted(traces.finished(TASK), key=lambda span: facts(span)["kling.how"])
    assert [facts(span)["kling.how"] for span in (task, *reused)] == ["accepted", "reused", "reused"]
    assert [span.links[0].context.span_id for span in reused] == [task.get_span_context().span_id] * 2  # type: ignore[union-attr]  # it has one
    assert {facts(span)["kling.task_id"] for span in (task, *reused)} == {first.task_id}
    assert is_below(traces.the("wait"), task)
    assert len(traces.finished("submit")) == 3


async def test_a_purchase_of_another_process(emulator: Emulator, tmp_path: Path) -> None:
    """Found by its word in a journal, it is followed in the trace of whoever asked again."""
    async with session(emulator, tmp_path / "journal.db") as kling:
        bought = await kling.submit(Text2Video(prompt="a fox"), dedupe="order-17")
    traces = Traces()
    async with session(emulator, tmp_path / "journal.db", observers=[traces.tracing]) as kling:
        with traces.provider.get_tracer("app").start_as_current_span("request"):
            handle = await kling.submit(Text2Video(prompt="a fox"), dedupe="order-17")
        await handle
    task = traces.the(TASK)
    assert is_below(task, traces.the("request"))
    assert (facts(task)["kling.how"], facts(task)["kling.task_id"], facts(task)["kling.status"]) == ("reused", bought.task_id, "succeed")
    assert seconds(traces.the("wait")) > 90


@pytest.mark.parametrize(
    ("fault", "options", "types"),
    [
        ("drop", {}, ["disconnected"]),
        ("status", {"status": 425}, ["425", "400"]),  # nobody has it, it says; and then that the key is used
    ],
    ids=["dropped", "denied"],
)
async def test_a_lost_answer(fault: str, options: dict[str, Any], types: list[str]) -> None:
    """A task that is found by its key instead of being bought again is told as such, and followed as any other."""
    traces = Traces()
    async with Emulator(profile="official", durations=100, seed=1) as emulator:
        emulator.fault(fault, route=ROUTE, method="POST", accepted=True, **options)
        async with session(emulator, observers=[traces.tracing]) as kling:
            await kling.run(Text2Video(prompt="a fox"))
        assert len(emulator.log.tasks) == 1
    task = traces.the(TASK)
    assert (facts(task)["kling.how"], facts(task)["kling.status"], task.status.status_code) == ("found", "succeed", StatusCode.UNSET)
    assert [facts(span)["error.type"] for span in traces.finished("POST")] == types
    assert traces.the("submit").status.status_code is StatusCode.UNSET


async def test_a_caller_that_has_gone(emulator: Emulator) -> None:
    """The task of a caller who went while its request was under way is in that caller's trace, and marked."""
    traces = Traces()
    emulator.fault("slow", route=ROUTE, method="POST", seconds=10)
    async with session(emulator, observers=[traces.tracing]) as kling:
        with traces.provider.get_tracer("app").start_as_current_span("request"), pytest.raises(SubmitOutcomeUnknown):
            await kling.submit(FOX, timeout=5)
        await asyncio.sleep(30)
        (orphan,) = kling.orphans()
        await kling.attach(orphan)
    task = traces.the(TASK)
    assert is_below(task, traces.the("request"))
    assert (facts(task)["kling.status"], [event.name for event in task.events]) == ("succeed", ["orphan"])


async def test_a_creation_refused_for_hours_is_bounded() -> None:
    """Requests and waits of one creation are remembered as far as a person would look at them."""
    traces = Traces()
    for _ in range(100):
        traces.tracing(Exchange(method="POST", route=ROUTE, subject="ka-1", paid=True, seconds=1.0, http_status=429))
    assert [len(steps) for steps in traces.tracing._creations._values.values()] == [64]
