"""The recorder of one running attempt: its trace id, its spans, and which of them are still open.

Our own spans are plain records (about 2 µs each, where a span of the OpenTelemetry SDK takes 10).
"""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, SpanContext

from .. import semconv
from .._errors import AttemptAbandoned, NoActiveRollout, PayloadTooLarge
from .._ids import new_span_id, new_trace_and_span_id
from .._records import AttemptedRollout, AttemptStatus
from .._resources import NamedResources
from .._spans import OK_STATUS, Event, Link, Span, TraceStatus, copy_attributes, hang_below_root, size_of
from ._open_span import OpenSpan
from ._otel_context import RECORDER_KEY, SPAN_KEY, GeneratorSpan, NativeSpan

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider


_sequence_id = operator.attrgetter("sequence_id")

OF_RUNNER: ContextVar[AttemptRecorder | None] = ContextVar("lightning_trio_of_runner", default=None)
"""The attempt in whose context code of a runner is running."""


class SpanSink(Protocol):
    """What a recorder needs of the tracer it records for."""

    @property
    def router(self) -> object | None:
        """The processor that routes the spans of libraries, None before a provider was needed."""
        ...

    @property
    def provider(self) -> TracerProvider:
        """The provider that libraries get their tracers from."""
        ...

    def count_late_span(self) -> None:
        """Count a span that came after its attempt had ended."""
        ...

    def forget_library_spans(self, span_ids: Sequence[int]) -> None:
        """Remove the open spans of an attempt that has ended."""
        ...

    def convert(self, span: ReadableSpan, *, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
        """Return a library's span as a record."""
        ...


class AttemptRecorder:
    """Collect the spans of one attempt; may be called from any thread.

    Appending to a list and advancing a counter are atomic in CPython, so no lock is needed. `close` first sets
    `closed`, then collects: a thread that emits meanwhile gets an error, whether or not its span was recorded.
    """

    __slots__ = (
        "__weakref__",
        "_sequence",
        "abandoned",
        "activity",
        "agent_name",
        "closed",
        "has_foreign_spans",
        "host_link",
        "library_spans",
        "limit",
        "on_span",
        "open_spans",
        "remote_activity",
        "resources",
        "rollout",
        "root_id",
        "size",
        "spans",
        "start_time",
        "trace_id",
        "tracer",
    )

    def __init__(
        self,
        tracer: SpanSink,
        rollout: AttemptedRollout,
        resources: NamedResources,
        agent_name: str,
        host_link: Link | None,
        limit: int | None = None,
    ) -> None:
        # Written out because it runs once per attempt, and attrs' factories would take twice as long.
        self.tracer: SpanSink = tracer
        self.rollout: AttemptedRollout = rollout
        self.resources: NamedResources = resources
        self.agent_name: str = agent_name
        self.host_link: Link | None = host_link
        self.trace_id: str
        self.root_id: str
        self.trace_id, self.root_id = new_trace_and_span_id()
        self.start_time: float = time.time()
        self.spans: list[Span] = []
        self.open_spans: dict[str, OpenSpan] = {}
        self.library_spans: dict[int, tuple[int, ReadableSpan]] = {}
        """Open spans of libraries: span id → (sequence id, the live span)."""
        self.has_foreign_spans: bool = False
        self.activity: int = 0
        """The number of span starts and ends, by which a watchdog detects silence."""
        self.remote_activity: Callable[[], int] | None = None
        """Returns the same number for what a worker process records for this attempt."""
        self.on_span: Callable[[AttemptRecorder], object] | None = None
        """Called in the context of each span that starts, also of those that come too late."""
        self.limit: int | None = limit
        """How many bytes the spans may take in the store, None without a limit."""
        self.size: int = 0
        """The least that the spans take, counted only where there is a limit; beyond it, nothing more is recorded."""
        self.closed: bool = False
        self.abandoned: bool = False
        self._sequence = itertools.count(2)

    def context(self) -> Context:
        """Return the current OpenTelemetry context with this attempt and its root span added."""
        # Equivalent to two calls of set_value, with one copy instead of two.
        return Context({**otel_context.get_current(), RECORDER_KEY: self, SPAN_KEY: NativeSpan(self, self.root_id)})

    def check_open(self) -> None:
        """Raise, and count a late span, if the attempt has ended.

        Raises:
            AttemptAbandoned: in the code of an attempt that was abandoned.
            NoActiveRollout: elsewhere, also in what a hook of that attempt has started.
        """
        if not self.closed:
            return
        self._count_late_span()
        rollout_id, attempt_id = self.rollout.rollout_id, self.rollout.attempt.attempt_id
        if self.has_abandoned_caller():
            raise AttemptAbandoned.abandoned(rollout_id, attempt_id)
        raise NoActiveRollout.ended(rollout_id, attempt_id)

    def has_abandoned_caller(self) -> bool:
        """Whether the calling code is that of this attempt, which was abandoned, and not a runner's or a hook's."""
        return self.abandoned and OF_RUNNER.get() is not self

    def _count_late_span(self) -> None:
        self.tracer.count_late_span()
        if self.on_span is not None:
            self.on_span(self)

    def next_sequence_id(self) -> int:
        """Return the next sequence id, and count it as activity."""
        self.activity += 1
        if self.on_span is not None:
            self.on_span(self)
        return next(self._sequence)

    def make_span(  # noqa: PLR0913  # the fields of a span; positional because it runs once per span
        self,
        sequence_id: int,
        span_id: str,
        parent_id: str | None,
        name: str,
        status: TraceStatus,
        attributes: Mapping[str, Any],
        start_time: float,
        end_time: float,
        events: Sequence[Event] = (),
        links: Sequence[Link] = (),
    ) -> Span:
        """Make a span of this attempt."""
        return Span(
            self.rollout.rollout_id,
            self.rollout.attempt.attempt_id,
            sequence_id,
            self.trace_id,
            span_id,
            parent_id,
            name,
            status,
            attributes,
            start_time,
            end_time,
            events,
            links,
        )

    def record(self, name: str, attributes: dict[str, Any], status: TraceStatus, parent_id: str | None = None) -> Span:
        """Record a span that starts and ends now, below the current one or `parent_id`.

        Raises:
            AttemptAbandoned, NoActiveRollout: the attempt has ended, see `check_open`.
            PayloadTooLarge: the store would not take the attempt's spans with this one.
        """
        if self.closed:
            self.check_open()
        now = time.time()
        self.activity += 1
        if self.on_span is not None:
            self.on_span(self)
        # make_span written out: calling it would add a tenth to the time of this.
        span = Span(
            self.rollout.rollout_id,
            self.rollout.attempt.attempt_id,
            next(self._sequence),
            self.trace_id,
            new_span_id(),
            parent_id or self._parent_id(),
            name,
            status,
            attributes,
            now,
            now,
        )
        if self.limit is not None:
            self._make_room(span)
        self.spans.append(span)
        if self.closed:
            # Another thread has closed the attempt since the first check: this span is never read.
            self.check_open()
        return span

    def keep(self, span: Span) -> None:
        """Add a finished span.

        Raises:
            PayloadTooLarge: see `record`.
        """
        # Those that end with the attempt are counted by the store.
        if self.limit is not None and not self.closed:
            self._make_room(span)
        self.spans.append(span)

    def _make_room(self, span: Span) -> None:
        self.size += size_of((span,))
        if self.limit is not None and self.size > self.limit:
            self.check_room()

    def check_room(self) -> None:
        """Raise if the attempt has tried to record more than its store takes, even if it has caught the error.

        Raises:
            PayloadTooLarge: it has.
        """
        if self.limit is not None and self.size > self.limit:
            raise PayloadTooLarge.while_recording(self.rollout.rollout_id, self.size, self.limit)

    def start_span(self, name: str, attributes: dict[str, Any]) -> OpenSpan:
        """Start a child of the current span; the caller ends it."""
        self.check_open()
        span = OpenSpan(self, self.next_sequence_id(), new_span_id(), self._parent_id(), name, time.time(), attributes)
        self.open_spans[span.span_id] = span
        return span

    def _parent_id(self) -> str:
        # Like get_current_span, without its check against an abstract base class (1 µs).
        current: Any = otel_context.get_current().get(SPAN_KEY, INVALID_SPAN)
        if current.__class__ is NativeSpan:
            native: NativeSpan = current
            return native.span_id if native.recorder is self else self.root_id
        if isinstance(current, GeneratorSpan):
            current = current.resolved()
            if isinstance(current, NativeSpan):
                return current.span_id if current.recorder is self else self.root_id
        context: SpanContext = current.get_span_context()
        if f"{context.trace_id:032x}" != self.trace_id:
            return self.root_id
        self.has_foreign_spans = True
        return f"{context.span_id:016x}"

    def start_library_span(self, span: ReadableSpan) -> None:
        """Record that a library has started a span in this attempt."""
        context = span.context
        if context is None:
            return
        if self.closed:
            self._count_late_span()
            return
        self.has_foreign_spans = True
        self.library_spans[context.span_id] = (self.next_sequence_id(), span)

    def end_library_span(self, span: ReadableSpan) -> None:
        """Add a library's finished span."""
        context = span.context
        started = None if context is None else self.library_spans.pop(context.span_id, None)
        if started is not None:
            # An error would be logged for each further span; the attempt gets it when its agent returns.
            with suppress(PayloadTooLarge):
                self.keep(self._own(self._from_library(span, started[0])))

    def adopt(self, returned: Sequence[Span]) -> None:
        """Add the spans that the agent returned, except those that are recorded already.

        Raises:
            PayloadTooLarge: see `record`.
        """
        self.has_foreign_spans = True
        known = {span.span_id for span in self.spans}
        known.add(self.root_id)
        for span in returned:
            if span.span_id not in known:
                known.add(span.span_id)
                owned = attrs.evolve(
                    span,
                    rollout_id=self.rollout.rollout_id,
                    attempt_id=self.rollout.attempt.attempt_id,
                    sequence_id=self.next_sequence_id(),
                    # The agent may keep what it returned, and change it.
                    attributes=copy_attributes(span.attributes),
                )
                self.keep(self._own(owned))

    def note_stored(self, span: Span) -> None:
        """Add a span that a store has stored already; the store does not store it again with the others."""
        if not self.closed:
            self.has_foreign_spans = True
            self.spans.append(span)

    def count_activity(self) -> int:
        """Return a number that grows while the attempt records something, in whichever process it runs."""
        return self.activity + (0 if self.remote_activity is None else self.remote_activity())

    def continue_trace(self, trace_id: str, root_id: str, sequence_id: int) -> None:
        """Continue the trace of a recorder in another process, which keeps the root span."""
        self.trace_id = trace_id
        self.root_id = root_id
        self._sequence = itertools.count(sequence_id)

    def add_remote_spans(self, spans: Sequence[Span], sequence_id: int) -> None:
        """Add what a worker process recorded for this attempt; `sequence_id` is the next free one."""
        self.has_foreign_spans = True
        self.spans.extend(spans)
        # Meanwhile, a store may have taken numbers here.
        self._sequence = itertools.count(max(sequence_id, next(self._sequence)))

    def in_trace(self, span: Span) -> Span:
        """Return a span that was made without a trace as a child of this trace's root."""
        return attrs.evolve(span, trace_id=self.trace_id, parent_id=self.root_id)

    def close(self, status: AttemptStatus, description: str | None) -> list[Span]:
        """Close the attempt's trace and return all its spans, ordered by start.

        Spans still open are ended with status ERROR and a description that says so.
        """
        self.closed = True
        if self.open_spans or self.library_spans:
            self.end_open_spans(status)
        self.spans.append(self._root_span(status, description))
        spans = list(self.spans)
        if self.has_foreign_spans:
            spans = hang_below_root(spans, self.root_id)
        spans.sort(key=_sequence_id)
        return spans

    def close_bare(self, status: AttemptStatus, description: str) -> list[Span]:
        """Close the attempt's trace and return its root span alone, because the others cannot be read."""
        self.closed = True
        self.open_spans.clear()
        self.tracer.forget_library_spans(list(self.library_spans))
        self.library_spans.clear()
        return [self._root_span(status, description)]

    def end_open_spans(self, status: str) -> None:
        """Close the trace to further spans and end those still open."""
        self.closed = True
        if self.open_spans or self.library_spans:
            left_open = TraceStatus("ERROR", f"still open when the attempt ended ({status})")
            self._end_open_spans(left_open, OK_STATUS if status == "succeeded" else left_open)

    def _end_open_spans(self, left_open: TraceStatus, left_generator: TraceStatus) -> None:
        # Another thread may end the last one meanwhile.
        with suppress(KeyError):
            while self.open_spans:
                _, last = self.open_spans.popitem()
                # A generator that was left early ends when it is collected, which may be after its attempt.
                self.spans.append(self._cut_off(last, left_generator if last.in_generator else left_open))
        self.tracer.forget_library_spans(list(self.library_spans))
        while self.library_spans:
            _, (sequence_id, live) = self.library_spans.popitem()
            span = self._own(self._from_library(live, sequence_id))
            self.spans.append(attrs.evolve(span, status=left_open, end_time=time.time()))
            self.tracer.count_late_span()

    def _cut_off(self, span: OpenSpan, status: TraceStatus) -> Span:
        """Return an open span as it is now."""
        self.activity += 1
        return self.make_span(
            span.sequence_id,
            span.span_id,
            span.parent_id,
            span.name,
            status,
            # A copy, because code that was abandoned still holds the span.
            dict(span.attributes),
            span.start_time,
            time.time(),
            tuple(span.events),
        )

    def _root_span(self, status: AttemptStatus, description: str | None) -> Span:
        attributes: dict[str, Any] = {
            semconv.GEN_AI_OPERATION_NAME: semconv.INVOKE_AGENT,
            semconv.GEN_AI_AGENT_NAME: self.agent_name,
        }
        return Span(
            self.rollout.rollout_id,
            self.rollout.attempt.attempt_id,
            1,
            self.trace_id,
            self.root_id,
            None,
            f"{semconv.INVOKE_AGENT} {self.agent_name}",
            OK_STATUS if status == "succeeded" else TraceStatus("ERROR", description or status),
            attributes,
            self.start_time,
            time.time(),
            (),
            () if self.host_link is None else (self.host_link,),
        )

    def _from_library(self, span: ReadableSpan, sequence_id: int) -> Span:
        return self.tracer.convert(
            span,
            rollout_id=self.rollout.rollout_id,
            attempt_id=self.rollout.attempt.attempt_id,
            sequence_id=sequence_id,
        )

    def _own(self, span: Span) -> Span:
        """Return a span moved into this trace; its original trace id is kept as an attribute."""
        if span.trace_id == self.trace_id:
            return span
        original = {semconv.LightningSpanAttributes.ORIGINAL_TRACE_ID.value: span.trace_id}
        return attrs.evolve(span, trace_id=self.trace_id, attributes={**span.attributes, **original})
