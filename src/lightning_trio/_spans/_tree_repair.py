"""The repair of span trees: all spans end up below the root, whatever parents libraries and agents have set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ..semconv import LightningSpanAttributes
from ._span import Span


def hang_below_root(spans: Sequence[Span], root_id: str) -> list[Span]:
    """Return the spans, with those moved below the root whose parent is missing or part of a cycle.

    The former parent of such a span becomes an attribute.

    >>> root = Span.from_attributes(attributes={}, span_id="r")
    >>> lost = Span.from_attributes(attributes={}, span_id="l", parent_id="nowhere")
    >>> [span.parent_id for span in hang_below_root([root, lost], "r")]
    [None, 'r']
    """
    parents = {span.span_id: span.parent_id for span in spans}
    loose = _find_loose(parents, root_id)
    return [_reparent(span, root_id) if span.span_id in loose else span for span in spans]


def _reparent(span: Span, root_id: str) -> Span:
    attributes = dict(span.attributes)
    if span.parent_id is not None:
        attributes[LightningSpanAttributes.ORIGINAL_PARENT_ID.value] = span.parent_id
    return attrs.evolve(span, parent_id=root_id, attributes=attributes)


def _find_loose(parents: Mapping[str, str | None], root_id: str) -> set[str]:
    """Return the ids of the spans to move below the root: one for each missing parent and each cycle."""
    loose: set[str] = set()
    placed = {root_id}
    for current in parents:
        path: set[str] = set()
        while current not in placed:
            path.add(current)
            parent_id = parents[current]
            if parent_id is None or parent_id not in parents:
                loose.add(current)
                break
            if parent_id in path:
                # A cycle: the first span found in it moves to the top.
                loose.add(parent_id)
                break
            current = parent_id
        placed |= path
    return loose
