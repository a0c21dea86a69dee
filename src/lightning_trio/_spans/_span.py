"""The span record: one recorded step of an attempt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import attrs

from .. import semconv
from .._ids import new_span_id, new_trace_id
from .._plain_record import PlainRecord
from .._public import public
from .._quick_init import quick_init, quick_init_with

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext as OtelSpanContext


Attributes: TypeAlias = Mapping[str, Any]
StatusCode: TypeAlias = Literal["UNSET", "OK", "ERROR"]


@public
@quick_init
@attrs.frozen
class TraceStatus(PlainRecord):
    """The status of a step; if the code is ``"ERROR"``, `description` has details."""

    status_code: StatusCode
    description: str | None = None


UNSET_STATUS = TraceStatus("UNSET")
OK_STATUS = TraceStatus("OK")


@public
@attrs.frozen
class SpanContext(PlainRecord):
    """The identity of a span: 32 and 16 hexadecimal digits."""

    trace_id: str
    span_id: str
    is_remote: bool = False
    trace_state: Mapping[str, str] = attrs.field(factory=dict[str, str])


@public
@attrs.frozen
class Event(PlainRecord):
    """An event at one moment within a span; `timestamp` is in Unix seconds."""

    name: str
    attributes: Attributes = attrs.field(factory=dict[str, Any])
    timestamp: float | None = None


@public
@attrs.frozen
class Link(PlainRecord):
    """A reference to a related span, often of another trace."""

    context: SpanContext
    attributes: Attributes = attrs.field(factory=dict[str, Any])


@public
@attrs.frozen
class OtelResource(PlainRecord):
    """The producer of a span, in OpenTelemetry's sense; not one of an agent's resources."""

    attributes: Attributes = attrs.field(factory=dict[str, Any])
    schema_url: str = ""


NO_RESOURCE = OtelResource()


@public
@quick_init
@attrs.frozen
class SpanCoreFields(PlainRecord):
    """A span before it belongs to an attempt; emitters return it."""

    name: str
    status: TraceStatus = OK_STATUS
    attributes: Attributes = attrs.field(factory=dict[str, Any])
    start_time: float | None = None
    end_time: float | None = None


def _same_context(span: Span, context: SpanContext) -> None:
    if (context.trace_id, context.span_id) != (span.trace_id, span.span_id):
        raise ValueError(
            f"context={context!r} is not that of the span, which has trace_id={span.trace_id!r} and "
            f"span_id={span.span_id!r}; leave context out"
        )


def _same_parent(span: Span, parent: SpanContext) -> None:
    if parent.span_id != span.parent_id:
        raise ValueError(f"parent={parent!r} is not the span's parent_id={span.parent_id!r}; leave parent out")


@public
@quick_init_with(context=_same_context, parent=_same_parent)
@attrs.frozen(init=False)
class Span(PlainRecord):
    """One recorded step of an attempt.

    Ids are hexadecimal strings (32 digits for the trace, 16 for spans), times are Unix seconds. `sequence_id` numbers
    an attempt's spans by start time, from 1. `kind` is OpenTelemetry's: ``"INTERNAL"``, ``"CLIENT"``, …. `context` and
    `parent` are the ids once more, as Agent-lightning 0.3 wrote them; they may be left out.
    """

    rollout_id: str
    attempt_id: str
    sequence_id: int
    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    status: TraceStatus
    attributes: Attributes
    start_time: float | None
    end_time: float | None
    events: Sequence[Event] = ()
    links: Sequence[Link] = ()
    kind: str = "INTERNAL"
    resource: OtelResource = NO_RESOURCE

    if TYPE_CHECKING:

        def __init__(  # noqa: PLR0913  # the fields of a span
            self,
            rollout_id: str,
            attempt_id: str,
            sequence_id: int,
            trace_id: str,
            span_id: str,
            parent_id: str | None,
            name: str,
            status: TraceStatus,
            attributes: Attributes,
            start_time: float | None,
            end_time: float | None,
            events: Sequence[Event] = (),
            links: Sequence[Link] = (),
            kind: str = "INTERNAL",
            resource: OtelResource = NO_RESOURCE,
            context: SpanContext | None = None,
            parent: SpanContext | None = None,
        ) -> None: ...

    @property
    def context(self) -> SpanContext:
        """The span's ids."""
        return SpanContext(self.trace_id, self.span_id)

    @property
    def parent(self) -> SpanContext | None:
        """The parent's ids, None for a root."""
        return None if self.parent_id is None else SpanContext(self.trace_id, self.parent_id)

    @classmethod
    def from_attributes(  # noqa: PLR0913  # the fields of a span
        cls,
        *,
        attributes: Attributes,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
        name: str | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        parent_id: str | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
        resource: OtelResource | None = None,
        status: TraceStatus | None = None,
    ) -> Span:
        """Make a span from attributes; ids left out are random, and other fields left out are empty or OK."""
        return cls(
            rollout_id or "",
            attempt_id or "",
            sequence_id or 0,
            trace_id or new_trace_id(),
            span_id or new_span_id(),
            parent_id,
            name or semconv.AGL_VIRTUAL,
            status or OK_STATUS,
            dict(attributes),
            start_time,
            end_time,
            resource=resource or NO_RESOURCE,
        )

    @classmethod
    def from_core_fields(cls, core: SpanCoreFields, *, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
        """Make a span of an attempt from `core`; the default of the start is now, that of the end is the start."""
        start = time.time() if core.start_time is None else core.start_time
        return cls(
            rollout_id,
            attempt_id,
            sequence_id,
            new_trace_id(),
            new_span_id(),
            None,
            core.name,
            core.status,
            dict(core.attributes),
            start,
            start if core.end_time is None else core.end_time,
        )

    @classmethod
    def from_opentelemetry(cls, readable: ReadableSpan, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
        """Convert a span of the OpenTelemetry SDK, its times from nanoseconds to seconds."""
        # Programs' own spans have the method, and not always the attribute.
        context = readable.get_span_context()
        status = readable.status
        return cls(
            rollout_id,
            attempt_id,
            sequence_id,
            new_trace_id() if context is None else f"{context.trace_id:032x}",
            new_span_id() if context is None else f"{context.span_id:016x}",
            None if readable.parent is None else f"{readable.parent.span_id:016x}",
            readable.name,
            TraceStatus(cast("StatusCode", status.status_code.name), status.description),
            dict(readable.attributes or {}),
            _seconds(readable.start_time),
            _seconds(readable.end_time),
            tuple(
                Event(event.name, dict(event.attributes or {}), _seconds(event.timestamp)) for event in readable.events
            ),
            tuple(Link(_context(link.context), dict(link.attributes or {})) for link in readable.links),
            getattr(readable.kind, "name", "INTERNAL"),
            OtelResource(dict(readable.resource.attributes), readable.resource.schema_url),
        )


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def _context(context: OtelSpanContext) -> SpanContext:
    return SpanContext(
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        context.is_remote,
        dict(context.trace_state),
    )


def with_number(span: Span, sequence_id: int) -> Span:
    """Return a span with another sequence number."""
    # Five times as quick as `attrs.evolve`.
    return Span(
        span.rollout_id,
        span.attempt_id,
        sequence_id,
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.name,
        span.status,
        span.attributes,
        span.start_time,
        span.end_time,
        span.events,
        span.links,
        span.kind,
        span.resource,
    )
