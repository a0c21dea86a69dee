"""Records as a SQL store keeps them: texts and columns, and records made of these again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, Final

import attrs
import msgspec

from ..._errors import NotStorable, PayloadTooLarge
from ..._records import DEFAULT_CONFIG, DatasetFingerprint, ErrorRecord, RolloutConfig, Run
from ..._resources import NamedResources
from ..._span import (
    _NO_RESOURCE,
    OK_STATUS,
    UNSET_STATUS,
    Event,
    Link,
    OtelResource,
    Span,
    SpanContext,
    TraceStatus,
)
from ._values import decode, encode

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

NO_LIMIT: Final = 1 << 62


UNREADABLE: Final = (msgspec.DecodeError, ValueError, TypeError, LookupError, AttributeError)
"""What reading a text raises that was not written by this package."""


def unreadable(what: str, exc: Exception) -> msgspec.DecodeError:
    """Say which record it is that cannot be read."""
    return msgspec.DecodeError(f"{what} cannot be read ({type(exc).__name__}: {exc})")


# Configurations: few different ones, each met again and again.


@lru_cache(256)
def encode_config(config: RolloutConfig) -> str:
    """Give a configuration's text, without what is as it is by default: every rollout has one."""
    fields = attrs.asdict(config, recurse=False)
    return encode(
        {name: value for name, value in fields.items() if value != getattr(DEFAULT_CONFIG, name)}, "config", NO_LIMIT
    )


@lru_cache(256)
def decode_config(text: str) -> RolloutConfig:
    """Give the configuration of a text."""
    # What a later version added is left to it.
    known = {name: value for name, value in decode(text).items() if name in _CONFIG_FIELDS}
    return RolloutConfig(**known)


_CONFIG_FIELDS = frozenset(attrs.fields_dict(RolloutConfig))


# Spans, as arrays: half the size of objects and half the time.

_PLAIN: Final = frozenset({str, int, bool, type(None)})


def encode_spans(spans: Sequence[Span], limit: int) -> str:
    """Give the text of an attempt's spans, whose ids are kept beside it.

    Raises:
        NotStorable: an attribute cannot be kept.
        PayloadTooLarge: they take more than `limit` bytes.
    """
    rows = [_span_row(span) for span in spans]
    try:
        try:
            encoded = _encode(rows)
        except UnicodeEncodeError:
            encoded = _encode([_with_surrogates(row) for row in rows])
    except (TypeError, ValueError, RecursionError) as exc:
        raise NotStorable(f"the spans of rollout {spans[0].rollout_id} cannot be stored: {exc}") from exc
    if len(encoded) > limit:
        raise PayloadTooLarge(
            f"{len(spans)} spans of rollout {spans[0].rollout_id} take {len(encoded):,} bytes, the store's limit is "
            f"{limit:,}; record less, or raise the limit with max_payload_bytes=…"
        )
    return encoded.decode()


def _span_row(span: Span) -> tuple[Any, ...]:
    status = span.status
    row = (
        span.sequence_id,
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.name,
        "OK" if status is OK_STATUS else [status.status_code, status.description],
        _attributes(span.attributes, span),
        _time(span.start_time),
        _time(span.end_time),
    )
    resource = span.resource
    # Almost always the same one, and comparing takes longer.
    plain = resource is _NO_RESOURCE or resource == _NO_RESOURCE
    if plain and span.kind == "INTERNAL" and not span.events and not span.links:
        return row
    events = [(event.name, _attributes(event.attributes, span), _time(event.timestamp)) for event in span.events]
    links = [(_context(link.context), _attributes(link.attributes, span)) for link in span.links]
    return (*row, span.kind, events, links, [_attributes(resource.attributes, span), resource.schema_url])


def _with_surrogates(row: tuple[Any, ...]) -> tuple[Any, ...] | str:
    """Give a row as its text with tags if UTF-8 has not all its characters, as in names of files that are no text."""
    try:
        _encode(row)
    except UnicodeEncodeError:
        return encode(row, "span", NO_LIMIT)
    return row


def with_number(span: Span, sequence_id: int) -> Span:
    """Give a span with another number."""
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


def _time(value: float | None) -> float | None:
    return value if value is None or isfinite(value) else None


def _context(context: SpanContext) -> tuple[Any, ...]:
    return (context.trace_id, context.span_id, context.is_remote, dict(context.trace_state))


def _attributes(attributes: Mapping[str, Any], span: Span) -> Any:
    """Give attributes as they are if JSON has them all, else their text with tags."""
    for name, value in attributes.items():
        kind = type(value)
        if kind in _PLAIN:
            continue
        if kind is float and isfinite(value):
            continue
        if kind is list and all(type(each) is str for each in value):
            continue
        return encode(dict(attributes), f"attributes of the span {span.name!r}: {name}", NO_LIMIT)
    return attributes if type(attributes) is dict else dict(attributes)


def _read_attributes(stored: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = decode(stored) if type(stored) is str else stored
    return attributes


def decode_spans(text: str, rollout_id: str, attempt_id: str) -> list[Span]:
    """Give the spans of a text."""
    try:
        return [_read_span(row, rollout_id, attempt_id) for row in _decode(text)]
    except UNREADABLE as exc:
        raise unreadable(f"what attempt {attempt_id} of rollout {rollout_id} recorded", exc) from exc


def _read_span(stored: Any, rollout_id: str, attempt_id: str) -> Span:
    row: Sequence[Any] = decode(stored) if type(stored) is str else stored
    sequence_id, trace_id, span_id, parent_id, name, status, attributes, start, end, *rest = row
    fields = (
        rollout_id,
        attempt_id,
        sequence_id,
        trace_id,
        span_id,
        parent_id,
        name,
        _read_status(status),
        _read_attributes(attributes),
        start,
        end,
    )
    if not rest:
        return Span(*fields)
    kind, events, links, (resource, schema_url) = rest
    return Span(
        *fields,
        tuple(Event(each, _read_attributes(stored), timestamp) for each, stored, timestamp in events),
        tuple(Link(SpanContext(*context), _read_attributes(stored)) for context, stored in links),
        kind,
        OtelResource(_read_attributes(resource), schema_url),
    )


def _read_status(stored: Any) -> TraceStatus:
    if stored == "OK":
        return OK_STATUS
    code, description = stored
    return UNSET_STATUS if code == "UNSET" and description is None else TraceStatus(code, description)


# Errors, resources, runs.


def encode_error(error: ErrorRecord | None) -> str | None:
    """Give an error's text; the exception itself stays in the process."""
    if error is None:
        return None
    return encode([error.type, error.message, error.traceback], "error", NO_LIMIT)


def decode_error(text: str | None) -> ErrorRecord | None:
    """Give the error of a text."""
    return None if text is None else ErrorRecord(*decode(text))


def encode_resources(resources: NamedResources, limit: int) -> str:
    """Give the text of a snapshot's resources.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`.
    """
    return encode(dict(resources), "resources", limit)


@lru_cache(64)
def decode_resources(text: str) -> NamedResources:
    """Give the resources of a text; the same mapping for the same text, so that agents are bound once."""
    resources: NamedResources = decode(text)
    return resources


def encode_run(run: Run, limit: int) -> str:
    """Give the text of a run.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`.
    """
    fields = {field.name: getattr(run, field.name) for field in attrs.fields(Run)}
    fields["datasets"] = {mode: [each.tasks, each.digest] for mode, each in run.datasets.items()}
    for name in ("state", "history", "config"):
        # Said by the name the user knows.
        encode(fields[name], name, limit)
    return encode(fields, "run", limit)


def decode_run(text: str) -> Run:
    """Give the run of a text."""
    try:
        fields = decode(text)
        fields["datasets"] = {mode: DatasetFingerprint(*each) for mode, each in fields["datasets"].items()}
        return Run(**{name: value for name, value in fields.items() if name in _RUN_FIELDS})
    except UNREADABLE as exc:
        raise unreadable("a run", exc) from exc


_RUN_FIELDS = frozenset(attrs.fields_dict(Run))
