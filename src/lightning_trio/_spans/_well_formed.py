"""Whether the fields of a span have the types that stores and exporters rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._span import Event, Link, OtelResource, Span, SpanContext, TraceStatus

_LONGEST_ID = 64
"""The most characters of an id; OpenTelemetry's have 32 and 16."""


def malformed_field(span: Span) -> str | None:
    """Return the name of the first field of a span that has a wrong type, None if none has.

    The values of attributes may be anything, as emitters take them.

    >>> malformed_field(Span.from_attributes(attributes={"n": 1}))
    """
    return next((field for field, is_valid in _FIELDS.items() if not is_valid(getattr(span, field))), None)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and abs(value) < 1e300)


def _is_attributes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_status(value: Any) -> bool:
    return (
        isinstance(value, TraceStatus)
        and value.status_code in ("UNSET", "OK", "ERROR")
        and (value.description is None or isinstance(value.description, str))
    )


def _is_event(value: Any) -> bool:
    return (
        isinstance(value, Event)
        and isinstance(value.name, str)
        and _is_attributes(value.attributes)
        and _is_time(value.timestamp)
    )


def _is_link(value: Any) -> bool:
    return (
        isinstance(value, Link)
        and isinstance(value.context, SpanContext)
        and _is_id(value.context.trace_id)
        and _is_id(value.context.span_id)
        and _is_attributes(value.attributes)
    )


def _is_resource(value: Any) -> bool:
    return isinstance(value, OtelResource) and _is_attributes(value.attributes) and isinstance(value.schema_url, str)


def _all(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Sequence) and not isinstance(value, str) and all(map(is_valid, value))


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "trace_id": _is_id,
    "span_id": _is_id,
    "parent_id": lambda value: value is None or _is_id(value),
    "name": lambda value: isinstance(value, str),
    "status": _is_status,
    "attributes": _is_attributes,
    "start_time": _is_time,
    "end_time": _is_time,
    "events": _all(_is_event),
    "links": _all(_is_link),
    "kind": lambda value: isinstance(value, str),
    "resource": _is_resource,
}
