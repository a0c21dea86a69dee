"""Values and spans without the API keys that this process knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from .._spans import LARGE, Event, Link, OtelResource, Span, join_pieces
from ._api_keys import knows_keys, longest_written, without_keys

_NO_TEXTS: Final = frozenset({int, float, bool, type(None)})


def spans_without_keys(spans: Sequence[Span]) -> Sequence[Span]:
    """Return spans without keys; the same sequence if this process knows no key."""
    return [span_without_keys(span) for span in spans] if knows_keys() else spans


def span_without_keys(span: Span) -> Span:
    """Return a span without keys in its texts and names; the same object if there is no key in it."""
    changes: dict[str, Any] = {}
    if (name := without_keys(span.name)) is not span.name:
        changes["name"] = name
    description = span.status.description
    if description is not None and (clean := without_keys(description)) is not description:
        changes["status"] = attrs.evolve(span.status, description=clean)
    if (attributes := mapping_without_keys(span.attributes)) is not span.attributes:
        changes["attributes"] = attributes
    if span.events:
        changes["events"] = tuple(_clean_event(event) for event in span.events)
    if span.links:
        changes["links"] = tuple(_clean_link(link) for link in span.links)
    if (resource := _clean_resource(span.resource)) is not span.resource:
        changes["resource"] = resource
    return attrs.evolve(span, **changes) if changes else span


def _clean_event(event: Event) -> Event:
    return attrs.evolve(event, name=without_keys(event.name), attributes=mapping_without_keys(event.attributes))


def _clean_link(link: Link) -> Link:
    context = link.context
    if context.trace_state:
        context = attrs.evolve(context, trace_state=mapping_without_keys(context.trace_state))
    return attrs.evolve(link, context=context, attributes=mapping_without_keys(link.attributes))


def _clean_resource(resource: OtelResource) -> OtelResource:
    attributes, url = mapping_without_keys(resource.attributes), without_keys(resource.schema_url)
    if attributes is resource.attributes and url is resource.schema_url:
        return resource
    return attrs.evolve(resource, attributes=attributes, schema_url=url)


def mapping_without_keys(mapping: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a mapping without keys in its names and values; the same object if there is no key in it."""
    values: dict[Any, Any] = {}
    renamed = changed = False
    for name, value in mapping.items():
        values[name] = clean = value if value.__class__ in _NO_TEXTS else value_without_keys(value)
        changed |= clean is not value
        renamed |= name.__class__ not in _NO_TEXTS and value_without_keys(name) is not name
    return _renamed(values) if renamed else values if changed else mapping


def _renamed(values: Mapping[Any, Any]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for name, value in values.items():
        clean = value_without_keys(name)
        number = 2
        while clean in result or (clean is not name and clean in values):
            # Two names with keys, of which both values are kept.
            clean = f"{value_without_keys(name)} ({number})"
            number += 1
        result[clean] = value
    return result


def value_without_keys(value: Any) -> Any:
    """Return a value of a span's attributes without keys; the same object if there is no key in it."""
    if isinstance(value, str):
        return without_keys(value) if len(value) <= LARGE else _clean_long(value)
    if isinstance(value, Mapping):
        return mapping_without_keys(value)
    if isinstance(value, list | tuple | set | frozenset):
        clean = [value_without_keys(each) for each in value]
        if all(new is old for new, old in zip(clean, value, strict=True)):
            return value
        kind = next(kind for kind in (list, tuple, set, frozenset) if isinstance(value, kind))
        return kind(clean)
    if isinstance(value, bytes | bytearray):
        text = value.decode(errors="surrogateescape")
        if (clean_text := without_keys(text)) is not text:
            return type(value)(clean_text.encode(errors="surrogateescape"))
    return value


def _clean_long(text: str) -> str:
    """Return a long text without keys, which are searched for in pieces, so that other threads run in between."""
    pieces: list[str] = []
    start, changed = 0, False
    while start < len(text):
        end = _end_of_piece(text, start + LARGE)
        piece = text[start:end]
        clean = without_keys(piece)
        changed = changed or clean is not piece
        pieces.append(clean)
        start = end
    return join_pieces(pieces) if changed else text


def _end_of_piece(text: str, end: int) -> int:
    """Return the first place from `end` on where no key is cut in two."""
    longest = longest_written()
    while end < len(text):
        around = text[max(end - longest, 0) : end + longest]
        if without_keys(around) is around:
            break
        end += longest
    return end
