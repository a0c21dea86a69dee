"""The attempt in OpenTelemetry's context, for instrumented libraries and for threads that carry that context."""

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
"""The key of the attempt, for threads that carry OpenTelemetry's context and not ours."""

# OpenTelemetry has no public name for the key of the current span; it is read from a context that has only that.
[SPAN_KEY] = set_span_in_context(INVALID_SPAN, Context())
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Trace(Protocol):
    """What a `NativeSpan` needs of its recorder: the trace's id."""

    trace_id: str


class NativeSpan(NonRecordingSpan):
    """One of our spans in OpenTelemetry's context, so that instrumented libraries make it their parent.

    Its `SpanContext` is computed on demand.
    """

    def __init__(self, recorder: Trace, span_id: str) -> None:
        # The base class takes a SpanContext (2 µs to make), which most attempts never need.
        self.recorder = recorder
        self.span_id = span_id

    def get_span_context(self) -> SpanContext:
        return SpanContext(
            int(self.recorder.trace_id, 16), int(self.span_id, 16), is_remote=False, trace_flags=_SAMPLED
        )

    def __repr__(self) -> str:
        return f"NativeSpan(trace_id={self.recorder.trace_id!r}, span_id={self.span_id!r})"


def host_link() -> Link | None:
    """Return a link to the caller's current span, None without one."""
    span = get_current_span()
    if span is INVALID_SPAN or not (context := span.get_span_context()).is_valid:
        return None
    return Link(SpanIds(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.is_remote))
