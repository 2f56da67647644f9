from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from opentelemetry import baggage, context
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode

from journals import FOX, ROUTE, session
from kling_async._pacing import Polling
from kling_async.emulator import Emulator
from kling_async.errors import KlingError, TaskFailedError
from kling_async.jobs import Text2Video
from kling_async.models import Status, TaskRef
from kling_async.observers import Anomaly, Exchange, Record, Saved, StatusChange
from kling_async.testing import leaked
from traces import TASK, Traces, facts, gateway, is_below, seconds

pytestmark = pytest.mark.usefixtures("nothing_is_left")

emulator = pytest.fixture(gateway)

CANARY = "c4n4ry"


async def test_a_whole_generation(emulator: Emulator, tmp_path: Path) -> None:
    """A task's span is a child of the caller's; submit, wait and save are below it, one after the other, as long as they took."""
    traces = Traces()
    emulator.fault("slow", route=ROUTE, method="POST", seconds=3)
    async with session(emulator, observers=[traces.tracing]) as kling:
        with traces.provider.get_tracer("app").start_as_current_span("request"):
            handle = await kling.submit(Text2Video(prompt="a fox", model_name="kling-v2-6"))
        emulator.fault("slow", route="files", seconds=5)
        (path,) = await handle.save(tmp_path)
    task, submit, post, wait, save = map(traces.the, (TASK, "submit", "POST", "wait", "save"))
    assert is_below(task, traces.the("request"))
    assert all(is_below(span, task) for span in (submit, wait, save))
    assert is_below(post, submit)
    assert seconds(submit) == seconds(post) == 3
    assert seconds(wait) == seconds(task) - 3 >= 97
    assert task.start_time == submit.start_time
    assert (task.end_time, wait.start_time) == (wait.end_time, submit.end_time)
    assert save.start_time is not None
    assert task.end_time is not None
    assert save.start_time >= task.end_time
    assert seconds(save) >= 5
    assert {span.status.status_code for span in (task, submit, post, wait, save)} == {StatusCode.UNSET}
    assert (task.kind, submit.kind) == (SpanKind.CLIENT, SpanKind.INTERNAL)
    reads = sum(seen.method == "GET" and seen.route == ROUTE for seen in emulator.log.requests)
    host, _, port = emulator.url.removeprefix("http://").partition(":")
    assert facts(task) == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "kling",
        "gen_ai.request.model": "kling-v2-6",
        "kling.route": ROUTE,
        "kling.task_id": handle.task_id,
        "kling.external_task_id": handle.ref.external_task_id,
        "kling.how": "accepted",
        "kling.status": "succeed",
        "kling.reads": reads,
        "server.address": host,
        "server.port": int(port),
    }
    assert facts(post) == {"http.request.method": "POST", "http.response.status_code": 200}
    assert [event.name for event in wait.events] == ["submitted", "processing", "succeed"]
    assert facts(save) == {"file.size": path.stat().st_size}


class Tenants(SpanProcessor):
    """Puts what the caller's context carries onto each span that begins in it."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        span.set_attribute("tenant", str(baggage.get_baggage("tenant", parent_context)))


async def test_what_a_context_carries(emulator: Emulator) -> None:
    """Each span of a task has the baggage of whoever submitted it; one from elsewhere has nobody's."""
    traces = Traces()
    traces.provider.add_span_processor(Tenants())
    async with session(emulator) as kling:
        other = (await kling.submit(FOX)).ref
    async with session(emulator, observers=[traces.tracing]) as kling:
        token = context.attach(baggage.set_baggage("tenant", "fox"))
        handle = await kling.submit(Text2Video(prompt="a fox"))
        await asyncio.gather(handle, kling.attach(other))
        context.detach(token)
    assert {(span.name, facts(span)["tenant"]) for span in traces.exporter.get_finished_spans()} == {
        *((name, "fox") for name in (TASK, "submit", "POST", "wait")),
        *((name, "None") for name in (TASK, "wait")),
    }


async def test_a_task_that_fails(emulator: Emulator) -> None:
    """Its span is an error; those of its creation and of the wait are none."""
    traces = Traces()
    async with session(emulator, observers=[traces.tracing]) as kling:
        with pytest.raises(TaskFailedError):
            await kling.run(Text2Video(prompt="[fail: no] a fox"))
    task = traces.the(TASK)
    assert task.status.status_code is StatusCode.ERROR
    assert facts(task)["error.type"] == "TaskFailedError"
    assert facts(task)["kling.status"] == "failed"
    assert {traces.the(name).status.status_code for name in ("submit", "POST", "wait")} == {StatusCode.UNSET}


async def test_tasks_from_elsewhere(emulator: Emulator, tmp_path: Path) -> None:
    """What was attached to or recovered has a trace of its own, from the first look on, whoever happens to look."""
    async with session(emulator, tmp_path / "journal.db") as kling:
        left, other = await kling.submit(FOX), await kling.submit(Text2Video(prompt="a cat"))
    traces, looks = Traces(), dict[str, float]()
    now = asyncio.get_running_loop().time

    def looked(record: Record) -> None:
        if isinstance(record, Exchange):
            looks.setdefault(record.subject, now() - record.seconds)
        elif isinstance(record, StatusChange) and record.after.final:
            looks[record.ref.task_id] = round(now() - looks[record.ref.task_id], 3)

    async with session(emulator, tmp_path / "journal.db", observers=[traces.tracing, looked]) as kling:
        await asyncio.sleep(30)
        with traces.provider.get_tracer("app").start_as_current_span("request"):
            recovered = {handle.task_id: handle for handle in await kling.recover()}
            await asyncio.gather(recovered[left.task_id], kling.attach(other.ref))
    spans = traces.finished(TASK)
    assert looks.keys() == {left.task_id, other.task_id}
    assert [span.parent for span in spans] == [None, None]
    assert all("kling.how" not in facts(span) and facts(span)["kling.status"] == "succeed" for span in spans)
    assert {facts(span)["kling.task_id"]: seconds(span) for span in spans} == looks
    assert all(is_below(wait, span) for wait, span in zip(traces.finished("wait"), spans, strict=True))


async def test_a_hundred_tasks() -> None:
    """Each has its trace, with its own reads, and nothing is kept of them but where a file would go."""
    traces = Traces()
    options: dict[str, Any] = {"observers": [traces.tracing], "polling": Polling(first=100, interval=100, max_interval=100)}
    async with Emulator(durations=100, seed=1, slots={"video": 100}) as emulator, session(emulator, **options) as kling:
        tracer = traces.provider.get_tracer("app")
        handles = []
        for number in range(100):
            with tracer.start_as_current_span(f"request {number}"):
                handles.append(await kling.submit(Text2Video(prompt=f"fox {number}")))
        await asyncio.gather(*handles)
        reads = [seen.task_id for seen in emulator.log.requests if seen.method == "GET"]
    tasks = {facts(span)["kling.task_id"]: span for span in traces.finished(TASK)}
    assert set(tasks) == {handle.task_id for handle in handles}
    for number, handle in enumerate(handles):
        assert is_below(tasks[handle.task_id], traces.the(f"request {number}"))
        assert facts(tasks[handle.task_id])["kling.reads"] == reads.count(handle.task_id)
    assert {type(task.span) for task in traces.tracing._tasks._values.values()} == {NonRecordingSpan}
    assert len(traces.tracing._creations) == 0


async def test_what_never_ends_is_bounded(emulator: Emulator) -> None:
    """Tasks that nobody waits for make room for newer ones; a trace that is lost sight of ends, and so does one that is closed."""
    traces = Traces(at_most=10)
    async with session(emulator, observers=[traces.tracing]) as kling:
        for number in range(15):
            handle = await kling.submit(Text2Video(prompt=f"fox {number}"))
        assert (len(traces.tracing._tasks), len(traces.finished(TASK))) == (10, 5)
        await handle
    await asyncio.to_thread(traces.tracing.close)  # where no event loop runs, as after the program's own has ended
    assert len(traces.tracing._tasks) == 0
    *lost, ended = sorted(traces.finished(TASK), key=lambda span: span.end_time or 0)
    assert len(lost) == 14
    assert {tuple(event.name for event in span.events) for span in lost} == {("lost-sight",)}
    assert (facts(ended)["kling.task_id"], ended.events) == (handle.task_id, ())
    assert len(traces.finished("wait")) == 15


async def test_files_without_a_task(emulator: Emulator, tmp_path: Path) -> None:
    """A file that is saved by its link alone is a span of whoever saves it."""
    traces = Traces()
    async with session(emulator, observers=[traces.tracing]) as kling:
        videos = await kling.run(FOX)
        with traces.provider.get_tracer("app").start_as_current_span("request"):
            await kling.save(videos, tmp_path)
    assert is_below(traces.the("save"), traces.the("request"))


async def test_no_secret_is_traced(emulator: Emulator, tmp_path: Path) -> None:
    """Neither prompts nor keys nor tokens nor signatures of links are in any span."""
    traces = Traces()
    async with session(emulator, observers=[traces.tracing]) as kling:
        handle = await kling.text2video(prompt=f"{CANARY}-prompt", callback_url=f"https://me.example/hook?token={CANARY}")
        (video,) = await handle
        await handle.save(tmp_path)
        with pytest.raises(TaskFailedError):
            await kling.run(Text2Video(prompt=f"[fail: {CANARY}] a fox"))
        emulator.fault("code", route=ROUTE, method="POST", code=1301)
        with pytest.raises(KlingError):
            await kling.text2video(prompt=f"{CANARY}-prompt")
    shown = [span.to_json() for span in traces.exporter.get_finished_spans()]
    assert any(handle.task_id in text for text in shown)
    assert leaked([CANARY, emulator.api_key, video.url.partition("?")[2]], *shown) == []


async def test_odd_histories() -> None:
    """Records in an order that nobody has promised make no span end twice, and none that hangs."""
    traces = Traces()
    ref = TaskRef(origin="https://gateway.example", action="videos", action2="text2video", task_id="t1")
    for _ in range(2):
        traces.tracing(Anomaly(what="orphan", detail="", ref=ref))
        traces.tracing(StatusChange(ref=ref, before=None, after=Status.SUCCEED))
        traces.tracing(Saved(path=None, size=1, sha256="", verified="length", ref=ref, seconds=2.0))
        traces.tracing(StatusChange(ref=ref, before=None, after=Status.PROCESSING))
    traces.tracing(StatusChange(ref=evolve(ref, task_id="lost"), before=Status.PROCESSING, after=Status.SUCCEED))
    assert facts(traces.the(TASK))["server.port"] == 443
    assert [seconds(span) for span in traces.finished("save")] == [2, 2]
