"""Prometheus: `KlingSession(observers=[Metrics()])` counts into a registry. Extra `prometheus`."""

from __future__ import annotations

from attrs import define, field
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from kling_async._clock import Clock, SystemClock
from kling_async.integrations._numbers import AT_MOST, AVOIDED, READS, TASK_SECONDS, WAIT_SECONDS, Numbers
from kling_async.models import Status
from kling_async.observers import Record, Settled

__all__ = ["Metrics"]


@define(eq=False, kw_only=True)
class Metrics:
    """An observer that counts; one for all sessions, as a registry takes each name once.

    | metric | kind | labels | counts |
    | --- | --- | --- | --- |
    | `kling_tasks_in_flight` | gauge | `route` | tasks that were seen to run, and not yet to end |
    | `kling_task_duration_seconds` | histogram | `route`, `status` | from a purchase made here to the end as it was seen |
    | `kling_task_reads` | histogram | `route` | reads of a task until its end, pages of lists left out |
    | `kling_creation_wait_duration_seconds` | histogram | `why` | waits for a `slot`, and pauses before a `retry` |
    | `kling_creations_total` | counter | `route`, `how`, `error` | creations, by what they came to, as in the record `Settled` |
    | `kling_duplicates_avoided_total` | counter | `how` | purchases that were there already, or found after a lost answer |
    | `kling_anomalies_total` | counter | `what` | what should not be, and was borne |

    Raises:
        ValueError: the registry has these metrics already.
    """

    registry: CollectorRegistry = REGISTRY
    """Where the metrics are registered: the default one of `prometheus_client` unless another is given."""
    at_most: int = AT_MOST
    """Tasks that are remembered. One that never ends, as nobody waits for it, is in flight until it has to make room."""
    clock: Clock = field(factory=SystemClock)
    """Where time comes from; for tests."""
    _numbers: Numbers = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._numbers = Numbers(_Meters(self.registry), self.at_most, self.clock)

    def __call__(self, record: Record) -> None:
        """Count it."""
        self._numbers.take(record)


@define(eq=False)
class _Meters:
    registry: CollectorRegistry
    _in_flight: Gauge = field(init=False)
    _seconds: Histogram = field(init=False)
    _reads: Histogram = field(init=False)
    _waits: Histogram = field(init=False)
    _creations: Counter = field(init=False)
    _avoided: Counter = field(init=False)
    _anomalies: Counter = field(init=False)

    def __attrs_post_init__(self) -> None:
        own = self.registry
        self._in_flight = Gauge("kling_tasks_in_flight", "Tasks that run", ["route"], registry=own, multiprocess_mode="livesum")
        self._seconds = Histogram(
            "kling_task_duration_seconds", "From purchase to end", ["route", "status"], registry=own, buckets=TASK_SECONDS
        )
        self._reads = Histogram("kling_task_reads", "Reads of a task until its end", ["route"], registry=own, buckets=READS)
        self._waits = Histogram("kling_creation_wait_duration_seconds", "Waits of creations", ["why"], registry=own, buckets=WAIT_SECONDS)
        self._creations = Counter("kling_creations", "Creations by what they came to", ["route", "how", "error"], registry=own)
        self._avoided = Counter("kling_duplicates_avoided", "Purchases not made a second time", ["how"], registry=own)
        self._anomalies = Counter("kling_anomalies", "What should not be, and was borne", ["what"], registry=own)

    def in_flight(self, change: int, route: str) -> None:
        self._in_flight.labels(route).inc(change)

    def ended(self, route: str, status: Status, reads: int, seconds: float | None) -> None:
        self._reads.labels(route).observe(reads)
        if seconds is not None:
            self._seconds.labels(route, status).observe(seconds)

    def waited(self, why: str, seconds: float) -> None:
        self._waits.labels(why).observe(seconds)

    def settled(self, record: Settled) -> None:
        self._creations.labels(record.route, record.how, record.error or "").inc()
        if record.how in AVOIDED:
            self._avoided.labels(record.how).inc()

    def anomaly(self, what: str) -> None:
        self._anomalies.labels(what).inc()
