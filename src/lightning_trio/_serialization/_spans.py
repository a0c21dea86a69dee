"""Spans as JSON text and back, as arrays: half the size of objects and half the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import isfinite
from typing import Any, Final, TypeVar

import msgspec

from .._errors import NotStorable, PayloadTooLarge
from .._spans import (
    LARGE,
    NO_RESOURCE,
    OK_STATUS,
    UNSET_STATUS,
    Event,
    Link,
    LongText,
    OtelResource,
    Span,
    SpanContext,
    TraceStatus,
    join_pieces,
    size_of,
    with_long_texts,
    without_long_texts,
)
from ._values import NO_LIMIT, UNREADABLE, decode, encode, unreadable

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


T = TypeVar("T")

_PLAIN: Final = frozenset({str, int, bool, type(None)})


def encode_spans(spans: Sequence[Span], limit: int) -> str:
    """Return an attempt's spans as text, without its ids, which the store keeps beside it.

    Raises:
        NotStorable: an attribute cannot be stored.
        PayloadTooLarge: they take more than `limit` bytes.
    """
    encoded = _guarded(_encode_all, spans)
    if len(encoded) > limit:
        raise PayloadTooLarge.all_spans(spans[0].rollout_id, len(spans), len(encoded), limit)
    return encoded.decode()


def _guarded(encode_them: Callable[..., T], spans: Sequence[Span], *args: int) -> T:
    """Return `encode_them(spans, *args)`.

    Raises:
        NotStorable: whatever else it raised.
    """
    try:
        return encode_them(spans, *args)
    except (NotStorable, KeyboardInterrupt):
        raise
    except BaseException as exc:
        # A span that an agent returns may have anything in it, with methods that raise anything.
        raise NotStorable.spans(spans[0].rollout_id, exc) from exc


def _encode_all(spans: Sequence[Span]) -> bytes:
    return _encode_rows([_span_row(span) for span in spans])


def _encode_rows(rows: Sequence[Any]) -> bytes:
    try:
        return _encode(rows)
    except ValueError:
        return _encode([_with_tags(row) for row in rows])


_AT_ONCE: Final = 256
"""The most spans in one part."""


def encode_parts(spans: Sequence[Span], limit: int) -> list[str]:
    """Return an attempt's spans as several texts, none of which takes long to encode, to store, or to read again.

    A part is a list of spans, or a piece of a long text, of which there are as many as the next span with long texts
    says.

    Raises:
        NotStorable, PayloadTooLarge: see `encode_spans`.
    """
    size, parts = _guarded(_encode_in_parts, spans, limit)
    if size > limit:
        raise PayloadTooLarge.all_spans(spans[0].rollout_id, len(spans), size, limit)
    return parts


def _encode_in_parts(spans: Sequence[Span], limit: int) -> tuple[int, list[str]]:
    """Return the size of the parts in bytes, and those within the limit."""
    parts: list[str] = []
    size = 0
    for part in _parts(spans):
        size += len(part)
        if size <= limit:
            parts.append(part.decode())
    return size, parts


def _parts(spans: Sequence[Span]) -> Iterator[bytes]:
    for batch in _batches(spans):
        rows: list[Any] = []
        for span in batch:
            short, texts = without_long_texts(span)
            for text in texts:
                for piece in text.pieces():
                    yield encode(piece, text.name, NO_LIMIT).encode()
            places = [(each.event, each.name, each.number) for each in texts]
            rows.append({"row": _span_row(short), "texts": places} if texts else _span_row(short))
        yield _encode_rows(rows)


def _batches(spans: Sequence[Span]) -> Iterator[list[Span]]:
    batch: list[Span] = []
    size = 0
    for span in spans:
        batch.append(span)
        size += size_of((span,))
        if len(batch) >= _AT_ONCE or size >= LARGE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def decode_parts(parts: Iterable[str], rollout_id: str, attempt_id: str) -> list[Span]:
    """Return the spans encoded in parts."""
    spans: list[Span] = []
    pieces: list[str] = []
    try:
        for part in parts:
            if part.startswith("["):
                spans += [_read_whole(stored, pieces, rollout_id, attempt_id) for stored in _decode(part)]
                pieces = []
            else:
                pieces.append(decode(part))
    except UNREADABLE as exc:
        raise unreadable(f"the spans of attempt {attempt_id} of rollout {rollout_id}", exc) from exc
    return spans


def _read_whole(stored: Any, pieces: list[str], rollout_id: str, attempt_id: str) -> Span:
    """Return a span, with the long texts that it takes from `pieces`."""
    if type(stored) is str:
        stored = decode(stored)
    if type(stored) is not dict:
        return _read_span(stored, rollout_id, attempt_id)
    texts: list[LongText] = []
    for event, name, number in stored["texts"]:
        texts.append(LongText(event, name, join_pieces(islice(pieces, number))))
        del pieces[:number]
    return with_long_texts(_read_span(stored["row"], rollout_id, attempt_id), texts)


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
    # It is nearly always the same object, and an identity check is quicker than a comparison.
    plain = resource is NO_RESOURCE or resource == NO_RESOURCE
    if plain and span.kind == "INTERNAL" and not span.events and not span.links:
        return row
    events = [(event.name, _attributes(event.attributes, span), _time(event.timestamp)) for event in span.events]
    links = [(_context(link.context), _attributes(link.attributes, span)) for link in span.links]
    return (*row, span.kind, events, links, [_attributes(resource.attributes, span), resource.schema_url])


def _with_tags(row: tuple[Any, ...]) -> tuple[Any, ...] | str:
    """Return a row, or its text with tags if it cannot be encoded: invalid text, as of file names; long integers."""
    try:
        _encode(row)
    except ValueError:
        return encode(row, "span", NO_LIMIT)
    return row


def _time(value: float | None) -> float | None:
    return value if value is None or isfinite(value) else None


def _context(context: SpanContext) -> tuple[Any, ...]:
    return (context.trace_id, context.span_id, context.is_remote, dict(context.trace_state))


def _attributes(attributes: Mapping[str, Any], span: Span) -> Any:
    """Return attributes as they are if JSON can represent them, else as text with tags."""
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
    """Return the spans encoded in a text."""
    try:
        return [_read_span(row, rollout_id, attempt_id) for row in _decode(text)]
    except UNREADABLE as exc:
        raise unreadable(f"the spans of attempt {attempt_id} of rollout {rollout_id}", exc) from exc


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
