"""What tests of traces share: a real SDK of OpenTelemetry that exports into memory, the observer that fills it, and how to read spans."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from journals import ROUTE
from kling_async.emulator import Emulator
from kling_async.integrations.opentelemetry import Tracing

TASK = f"kling {ROUTE}"


class Traces:
    """A real SDK that exports into memory, and the observer that fills it."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(tracer_provider=self.provider, **options)

    def finished(self, name: str) -> list[ReadableSpan]:
        """Spans of that name that have ended, in the order of their beginnings."""
        return sorted((span for span in self.exporter.get_finished_spans() if span.name == name), key=lambda span: span.start_time or 0)

    def the(self, name: str) -> ReadableSpan:
        """The only one of that name."""
        (span,) = self.finished(name)
        return span


def seconds(span: ReadableSpan) -> float:
    """How long it took."""
    assert span.start_time is not None
    assert span.end_time is not None
    return round((span.end_time - span.start_time) / 1e9, 3)


def facts(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes."""
    return dict(span.attributes or {})


def is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether it is a child of the other."""
    return span.parent == parent.get_span_context()


async def gateway() -> AsyncIterator[Emulator]:
    """A gateway where a video takes 100 s of a time that costs none; to be made a fixture."""
    async with Emulator(durations=100, seed=1) as emulator:
        yield emulator
