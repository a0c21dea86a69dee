"""What OpenTelemetry's context holds of an attempt, for instrumented libraries and for threads that carry it."""

from __future__ import annotations

from typing import Protocol

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

from .._spans import Link
from .._spans import SpanContext as SpanIds

RECORDER_KEY = otel_context.create_key("lightning_trio-attempt")
"""Where the context holds the attempt, for threads that carry that context and not ours."""

# The key under which OpenTelemetry keeps the current span has no public name; this is how to learn it.
[SPAN_KEY] = set_span_in_context(INVALID_SPAN, Context())
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Trace(Protocol):
    """What a span of ours knows of its attempt here: the recorder, which has the trace's id."""

    trace_id: str


class NativeSpan(NonRecordingSpan):
    """Stand for one of our spans in the context, so that instrumented libraries parent to it.

    It works out its ids only when asked.
    """

    def __init__(self, recorder: Trace, span_id: str) -> None:
        # The base class wants a SpanContext at once; most attempts never need theirs (2 µs).
        self.recorder = recorder
        self.span_id = span_id

    def get_span_context(self) -> SpanContext:
        return SpanContext(
            int(self.recorder.trace_id, 16), int(self.span_id, 16), is_remote=False, trace_flags=_SAMPLED
        )

    def __repr__(self) -> str:
        return f"NativeSpan(trace_id={self.recorder.trace_id!r}, span_id={self.span_id!r})"


def host_link() -> Link | None:
    """Return a link to the span current in the caller, None where there is none."""
    span = get_current_span()
    if span is INVALID_SPAN or not (context := span.get_span_context()).is_valid:
        return None
    return Link(SpanIds(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.is_remote))
