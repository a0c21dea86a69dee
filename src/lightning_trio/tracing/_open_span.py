"""A span between its start and its end."""

from __future__ import annotations

import time
from contextvars import Token
from types import FrameType
from typing import TYPE_CHECKING, Any

import attrs
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import set_span_in_context

from .._spans import Event, Span, TraceStatus
from ._otel_context import SPAN_KEY, GeneratorSpan, NativeSpan, generator_around, leave_context

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
    _current: NativeSpan | None = None
    _token: Token[Context] | None = None

    def end(self, status: TraceStatus, end_time: float | None = None) -> Span:
        """End the span, now without an `end_time`; one that ends after its attempt is late and not recorded.

        Raises:
            PayloadTooLarge: see `AttemptRecorder.record`.
        """
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
            time.time() if end_time is None else end_time,
            tuple(self.events),
        )
        if recorder.open_spans.pop(self.span_id, None) is not None:
            recorder.keep(span)
        elif not self.in_generator:
            recorder.tracer.count_late_span()
        return span

    @property
    def in_generator(self) -> bool:
        """Whether it is an operation's in a generator, which ends late if the generator is left early."""
        return isinstance(self._current, GeneratorSpan)

    def enter(self, caller: FrameType | None) -> None:
        """Make this span the current one for the code that follows `caller`."""
        generator = generator_around(caller)
        if generator is None:
            self._current = NativeSpan(self.recorder, self.span_id)
        else:
            self._current = GeneratorSpan(self.recorder, self.span_id, generator)
        self._token = otel_context.attach(set_span_in_context(self._current))

    def leave(self) -> None:
        """Undo `enter`."""
        assert self._token is not None
        if isinstance(self._current, GeneratorSpan):
            self._current.ended = True
            if otel_context.get_current().get(SPAN_KEY) is not self._current:
                # Another operation has begun since then and is still open, or this is another context.
                return
        leave_context(self._token)
