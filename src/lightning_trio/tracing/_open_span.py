"""A span between its start and its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import attrs
from opentelemetry.context import Context
from opentelemetry.trace import set_span_in_context

from .._spans import Event, Span, TraceStatus
from ._otel_context import NativeSpan

if TYPE_CHECKING:
    from ._recorder import AttemptRecorder


@attrs.define(eq=False)
class OpenSpan:
    """A span of ours that has started and not ended."""

    recorder: AttemptRecorder
    sequence_id: int
    span_id: str
    parent_id: str
    name: str
    start_time: float
    attributes: dict[str, Any]
    events: list[Event] = attrs.field(factory=list[Event])

    def end(self, status: TraceStatus) -> Span:
        """End the span; one that ends after its attempt is counted as late and not recorded."""
        recorder = self.recorder
        recorder.activity += 1
        span = recorder.make_span(
            self.sequence_id,
            self.span_id,
            self.parent_id,
            self.name,
            status,
            self.attributes,
            self.start_time,
            time.time(),
            tuple(self.events),
        )
        if recorder.open_spans.pop(self.span_id, None) is None:
            recorder.tracer.count_late_span()
        else:
            recorder.spans.append(span)
        return span

    def context(self) -> Context:
        """Return the current OpenTelemetry context with this span as the current one."""
        return set_span_in_context(NativeSpan(self.recorder, self.span_id))
