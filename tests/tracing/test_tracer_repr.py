"""The representation of tracers in a debugger."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import lightning_trio as agl


def test_a_tracer_shows_where_its_spans_go() -> None:
    tracer = agl.Tracer()
    tracer.add_exporter(InMemorySpanExporter())

    assert repr(tracer) == "<Tracer: 1 exporter>"


def test_a_joined_tracer_says_so() -> None:
    assert repr(agl.Tracer(TracerProvider())) == "<Tracer: joined to a provider, 0 exporters>"
