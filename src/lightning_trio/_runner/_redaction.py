"""Removal of api keys from the texts that an attempt raised or recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from .._records import ErrorRecord
from .._resources import knows_keys, without_keys
from .._spans import LARGE, Event, Span, join_pieces

_NO_TEXTS: Final = frozenset({int, float, bool, type(None)})


def redact(error: ErrorRecord | None, spans: list[Span]) -> tuple[ErrorRecord | None, list[Span]]:
    """Return an attempt's error and spans with every api key that this process knows replaced in their texts.

    The exception itself is unchanged: it stays in the process, and it belongs to the agent.
    """
    if not knows_keys():
        return error, spans
    return None if error is None else _clean_error(error), [_clean_span(span) for span in spans]


def _clean_error(error: ErrorRecord) -> ErrorRecord:
    return ErrorRecord(
        without_keys(error.type), without_keys(error.message), without_keys(error.traceback), error.exception
    )


def _clean_span(span: Span) -> Span:
    changes: dict[str, Any] = {}
    if (name := without_keys(span.name)) is not span.name:
        changes["name"] = name
    description = span.status.description
    if description is not None and (clean := without_keys(description)) is not description:
        changes["status"] = attrs.evolve(span.status, description=clean)
    if (attributes := _clean(span.attributes)) is not span.attributes:
        changes["attributes"] = attributes
    if span.events:
        changes["events"] = tuple(_clean_event(event) for event in span.events)
    return attrs.evolve(span, **changes) if changes else span


def _clean_event(event: Event) -> Event:
    return attrs.evolve(event, name=without_keys(event.name), attributes=_clean(event.attributes))


def _clean(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the attributes without keys; the same mapping if there is no key in it."""
    changed: dict[str, Any] = {}
    for name, value in attributes.items():
        if type(value) not in _NO_TEXTS and (clean := _clean_value(value)) is not value:
            changed[name] = clean
    return {**attributes, **changed} if changed else attributes


def _clean_value(value: Any) -> Any:
    if isinstance(value, str):
        return without_keys(value) if len(value) <= LARGE else _clean_long(value)
    if isinstance(value, Mapping):
        return _clean(value)
    if isinstance(value, list | tuple):
        clean = [_clean_value(each) for each in value]
        if any(new is not old for new, old in zip(clean, value, strict=True)):
            return clean if isinstance(value, list) else tuple(clean)
    return value


_LONGEST: Final = 4096
"""No key is longer, however it is written."""


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
    while end < len(text):
        around = text[end - _LONGEST : end + _LONGEST]
        if without_keys(around) is around:
            break
        end += _LONGEST
    return end
