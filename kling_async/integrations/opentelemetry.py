"""OpenTelemetry: `KlingSession(observers=[Tracing(), Metrics()])` makes spans and metrics. Extra `otel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from attrs import define, field
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Counter, Histogram, Meter, MeterProvider, UpDownCounter
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, StatusCode, Tracer, TracerProvider

from kling_async._clock import Clock, SystemClock
from kling_async._version import __version__
from kling_async.integrations._numbers import AT_MOST, AVOIDED, READS, TASK_SECONDS, WAIT_SECONDS, Numbers
from kling_async.integrations._recent import Recent, key_of
from kling_async.models import Status, TaskRef
from kling_async.observers import Anomaly, Exchange, Record, Saved, Settled, StatusChange, Waiting

__all__ = ["Metrics", "Tracing"]

_NAME: Final = "kling_async"
_STEPS: Final = 64
"""Requests and waits of one creation that are remembered: one that is refused for hours makes very many."""
_GOOD: Final = range(400)
"""HTTP statuses that are no errors."""

Facts = Mapping[str, str | int]


@define
class _Step:
    """A request of a creation, or a wait before one."""

    name: str
    begun: float
    ended: float | None = None
    facts: Facts = field(factory=dict)
    error: str | None = None


@define
class _Task:
    """A task, as its spans need it."""

    begun: float
    """When it was asked for, or first looked at, by the clock's `now`."""
    epoch: float
    """What makes Unix seconds of that. Taken once, so that no step of the machine's clock makes a span end before it began."""
    span: Span | None = None
    """None before anything is known but that somebody looks at it."""
    wait: Span | None = None
    """None before and after."""
    reads: int = 0

    def at(self, now: float) -> int:
        """Unix nanoseconds."""
        return int((now + self.epoch) * 1e9)


@define(eq=False, kw_only=True)
class Tracing:
    """An observer that makes a span for each task, with the spans `submit`, `wait` and `save` below it.

    The span of a task is called after its route, such as `kling videos/text2video`. It begins when the job is submitted,
    as a child of the span that is current there, and ends when the task is seen to be final. `submit` has spans below
    it for each request (`POST`), each wait for a `slot` and each pause before a `retry`; `save` follows for each file. Reads are
    counted (`kling.reads`), not traced. A task that comes from elsewhere, by `attach` or `recover`, has a trace of its own
    from the first look on. A purchase found by `dedupe` whose task is in a trace already is linked to it.

    Attributes never hold prompts, links, or texts of the service: `gen_ai.provider.name`, `gen_ai.operation.name`,
    `gen_ai.request.model`, `server.address`, `server.port`, `error.type`, `http.request.method`, `http.response.status_code`
    and `file.size` as OpenTelemetry names them; `kling.route`, `kling.external_task_id`, `kling.task_id`, `kling.status`,
    `kling.how` (as in the record `Settled`) and `kling.reads`.
    """

    tracer_provider: TracerProvider | None = None
    """The global one unless another is given."""
    at_most: int = AT_MOST
    """Tasks that are remembered. The one that nobody has looked at for the longest time makes room: when it had not ended, its
    spans end, with the event `lost-sight`."""
    clock: Clock = field(factory=SystemClock)
    """Where time comes from; for tests."""
    _tracer: Tracer = field(init=False)
    _tasks: Recent[tuple[str, str], _Task] = field(init=False)
    _creations: Recent[str, list[_Step]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tracer = trace.get_tracer(_NAME, __version__, self.tracer_provider)
        self._tasks = Recent(self.at_most, self._lose)
        self._creations = Recent(self.at_most)

    def __call__(self, record: Record) -> None:
        """Begin, end or note what the record tells."""
        match record:
            case Exchange():
                self._exchanged(record)
            case Waiting():
                self._add(record.external_task_id, _Step(record.why, self.clock.now()))
            case Settled():
                self._settled(record)
            case StatusChange():
                self._changed(record)
            case Saved():
                self._saved(record)
            case Anomaly(ref=TaskRef() as ref):
                task = self._tasks.get(key_of(ref))
                if task is not None and task.wait is not None and task.span is not None:
                    task.span.add_event(record.what, timestamp=task.at(self.clock.now()))
            case _:  # how far a file is, is no span
                pass

    def close(self) -> None:
        """End the spans of tasks that go on, as before the program ends: what has not ended is not exported."""
        self._tasks.clear()
        self._creations.clear()

    def _task(self, begun: float) -> _Task:
        return _Task(begun, self.clock.wall() - self.clock.now())

    def _start(self, route: str, facts: Facts, at: int, context: Context | None, *links: Link) -> Span:
        return self._tracer.start_span(f"kling {route}", context, SpanKind.CLIENT, facts, links, at)

    def _below(self, parent: Span, name: str, at: int, context: Context | None = None) -> Span:
        return self._tracer.start_span(name, trace.set_span_in_context(parent, context), start_time=at)

    def _exchanged(self, record: Exchange) -> None:
        begun = (now := self.clock.now()) - record.seconds
        if record.paid:
            error = record.cause or (None if record.http_status in _GOOD else str(record.http_status))
            facts: dict[str, str | int] = {"http.request.method": record.method}
            if record.http_status is not None:
                facts["http.response.status_code"] = record.http_status
            self._add(record.subject, _Step(record.method, begun, now, facts, error))
            return
        key = record.route, record.subject
        task = self._tasks.get(key) or self._tasks.put(key, self._task(begun))
        task.reads += 1

    def _add(self, key: str, step: _Step) -> None:
        steps = self._creations.get(key)
        if steps is None:
            steps = self._creations.put(key, [])
        if steps and steps[-1].ended is None:
            steps[-1].ended = step.begun
        if len(steps) < _STEPS:
            steps.append(step)

    def _settled(self, record: Settled) -> None:
        now, ref = self.clock.now(), record.ref
        known = None if ref is None else self._tasks.get(key_of(ref))
        task = self._task(now - record.seconds)
        links = [] if known is None or known.span is None else [Link(known.span.get_span_context())]
        # The current context is that of whoever submitted: the task that owns a creation was given a copy.
        facts = {**_facts_of(record.route, record.external_task_id, ref), "kling.how": record.how}
        if record.model is not None:
            facts["gen_ai.request.model"] = record.model
        span = task.span = self._start(record.route, facts, task.at(task.begun), None, *links)
        submit = self._below(span, "submit", task.at(task.begun))
        for step in self._creations.pop(record.external_task_id) or ():
            below = self._below(submit, step.name, task.at(step.begun))
            below.set_attributes(step.facts)
            _fail(below, step.error)
            below.end(task.at(now if step.ended is None else step.ended))
        _fail(submit, record.error)
        submit.end(task.at(now))
        if ref is None or links:
            _fail(span, record.error)
            span.end(task.at(now))
            return
        task.wait = self._below(span, "wait", task.at(now))
        self._tasks.put(key_of(ref), task)

    def _changed(self, record: StatusChange) -> None:
        now, key = self.clock.now(), key_of(record.ref)
        task = self._tasks.get(key) or self._tasks.put(key, self._task(now))
        if task.span is None and record.before is None:  # a task from elsewhere: who happens to look at it has no part in it
            begun = task.at(task.begun)
            facts = _facts_of(record.ref.route, record.ref.external_task_id, record.ref)
            task.span = self._start(record.ref.route, facts, begun, Context())
            task.wait = self._below(task.span, "wait", begun, Context())
        if task.span is None or task.wait is None:  # lost sight of, or ended
            return
        task.wait.add_event(str(record.after), timestamp=task.at(now))
        if record.after.final:
            task.span.set_attribute("kling.status", str(record.after))
            _fail(task.span, "TaskFailedError" if record.after is Status.FAILED else None)
            self._end(task, now)

    def _end(self, task: _Task, now: float) -> None:
        if task.wait is None or task.span is None:
            return
        task.wait.end(task.at(now))
        task.span.set_attribute("kling.reads", task.reads)
        task.span.end(task.at(now))
        task.span, task.wait = NonRecordingSpan(task.span.get_span_context()), None  # all that files need, and small

    def _lose(self, task: _Task) -> None:
        if task.span is not None:
            try:
                now = self.clock.now()
            except RuntimeError:  # the event loop has ended
                now = self.clock.wall() - task.epoch
            task.span.add_event("lost-sight", timestamp=task.at(now))
            self._end(task, now)

    def _saved(self, record: Saved) -> None:
        now = self.clock.now()
        task = None if record.ref is None else self._tasks.get(key_of(record.ref))
        times = task or self._task(now)
        begun = times.at(now - record.seconds)
        if task is None or task.span is None:
            span = self._tracer.start_span("save", start_time=begun)
        else:
            span = self._below(task.span, "save", begun)
        span.set_attribute("file.size", record.size)
        span.end(times.at(now))


def _facts_of(route: str, key: str | None, ref: TaskRef | None) -> dict[str, str | int]:
    facts: dict[str, str | int] = {"gen_ai.operation.name": "generate_content", "gen_ai.provider.name": "kling", "kling.route": route}
    if key is not None:
        facts["kling.external_task_id"] = key
    if ref is not None:
        place = urlsplit(ref.origin)
        facts["kling.task_id"] = ref.task_id
        facts["server.address"] = place.hostname or ""
        facts["server.port"] = place.port or (443 if place.scheme == "https" else 80)
    return facts


def _fail(span: Span, error: str | None) -> None:
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR, error)


@define(eq=False, kw_only=True)
class Metrics:
    """An observer that counts.

    | metric | kind | attributes | counts |
    | --- | --- | --- | --- |
    | `kling.tasks.in_flight` | up-down counter | `kling.route` | tasks that were seen to run, and not yet to end |
    | `kling.task.duration` | histogram, s | `kling.route`, `kling.status` | from a purchase made here to the end as it was seen |
    | `kling.task.reads` | histogram | `kling.route` | reads of a task until its end, pages of lists left out |
    | `kling.creation.wait.duration` | histogram, s | `kling.why` | waits for a `slot`, and pauses before a `retry` |
    | `kling.creations` | counter | `kling.route`, `kling.how`, `error.type` | creations, by what they came to, as in the record `Settled` |
    | `kling.duplicates.avoided` | counter | `kling.how` | purchases that were there already, or found after a lost answer |
    | `kling.anomalies` | counter | `kling.what` | what should not be, and was borne |
    """

    meter_provider: MeterProvider | None = None
    """The global one unless another is given."""
    at_most: int = AT_MOST
    """Tasks that are remembered. One that never ends, as nobody waits for it, is in flight until it has to make room."""
    clock: Clock = field(factory=SystemClock)
    """Where time comes from; for tests."""
    _numbers: Numbers = field(init=False)

    def __attrs_post_init__(self) -> None:
        meter = metrics.get_meter(_NAME, __version__, self.meter_provider)
        self._numbers = Numbers(_Meters(meter), self.at_most, self.clock)

    def __call__(self, record: Record) -> None:
        """Count it."""
        self._numbers.take(record)


@define(eq=False)
class _Meters:
    meter: Meter
    _in_flight: UpDownCounter = field(init=False)
    _seconds: Histogram = field(init=False)
    _reads: Histogram = field(init=False)
    _waits: Histogram = field(init=False)
    _creations: Counter = field(init=False)
    _avoided: Counter = field(init=False)
    _anomalies: Counter = field(init=False)

    def __attrs_post_init__(self) -> None:
        meter = self.meter
        self._in_flight = meter.create_up_down_counter("kling.tasks.in_flight", "{task}", "Tasks that run")
        self._seconds = _histogram(meter, "kling.task.duration", "s", "From purchase to end", TASK_SECONDS)
        self._reads = _histogram(meter, "kling.task.reads", "{read}", "Reads of a task until its end", READS)
        self._waits = _histogram(meter, "kling.creation.wait.duration", "s", "Waits of creations", WAIT_SECONDS)
        self._creations = meter.create_counter("kling.creations", "{creation}", "Creations by what they came to")
        self._avoided = meter.create_counter("kling.duplicates.avoided", "{purchase}", "Purchases not made a second time")
        self._anomalies = meter.create_counter("kling.anomalies", "{anomaly}", "What should not be, and was borne")

    def in_flight(self, change: int, route: str) -> None:
        self._in_flight.add(change, {"kling.route": route})

    def ended(self, route: str, status: Status, reads: int, seconds: float | None) -> None:
        self._reads.record(reads, {"kling.route": route})
        if seconds is not None:
            self._seconds.record(seconds, {"kling.route": route, "kling.status": str(status)})

    def waited(self, why: str, seconds: float) -> None:
        self._waits.record(seconds, {"kling.why": why})

    def settled(self, record: Settled) -> None:
        facts = {"kling.route": record.route, "kling.how": record.how}
        self._creations.add(1, facts if record.error is None else {**facts, "error.type": record.error})
        if record.how in AVOIDED:
            self._avoided.add(1, {"kling.how": record.how})

    def anomaly(self, what: str) -> None:
        self._anomalies.add(1, {"kling.what": what})


def _histogram(meter: Meter, name: str, unit: str, description: str, buckets: tuple[float, ...]) -> Histogram:
    return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=buckets)
