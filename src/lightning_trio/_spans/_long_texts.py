"""The size of spans, and long texts in their attributes as pieces.

A text of a hundred megabytes is neither encoded nor copied at once, because a call into C holds the interpreter's lock
until it returns, and Trio's thread waits meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import attrs

from ._span import Span

LARGE: Final = 1 << 18
"""From how many characters on a text, or the spans of an attempt, are handled in slices."""

MANY: Final = 1000
"""From how many spans on those of an attempt are handled in slices, whatever their size."""

_LEAST: Final = 80
"""The least that a span takes as JSON without its attributes: its ids, for the most part."""


def size_of(spans: Iterable[Span]) -> int:
    """Return the least number of bytes that spans take as JSON, without looking at what each text is made of.

    >>> size_of([Span.from_attributes(attributes={"text": "x" * 1000, "number": 1})])
    1080
    """
    size = 0
    # Written out, because it runs for each span.
    for span in spans:
        size += _LEAST
        for value in span.attributes.values():
            if value.__class__ is str:
                size += len(value)
            elif value.__class__ is list:
                size += sum(len(each) if type(each) is str else 1 for each in value)
        if span.events:
            size += sum(_texts_in(event.attributes) for event in span.events)
    return size


def _texts_in(attributes: Mapping[str, Any]) -> int:
    return sum(len(value) for value in attributes.values() if type(value) is str)


def size_of_all(spans: Sequence[Span]) -> float:
    """Return `size_of` the spans of an attempt; infinity if they are too many to look at each."""
    return size_of(spans) if len(spans) <= MANY else math.inf


class LongText(NamedTuple):
    """A text that was taken out of the attributes of a span (`event` is None) or of one of its events."""

    event: int | None
    name: str
    text: str

    def pieces(self) -> Iterator[str]:
        """Return the text in pieces, none of which is long."""
        for start in range(0, len(self.text), LARGE):
            yield self.text[start : start + LARGE]

    @property
    def number(self) -> int:
        """The number of pieces."""
        return -(-len(self.text) // LARGE)


def join_pieces(pieces: Iterable[str]) -> str:
    """Return the text that pieces make."""
    text = ""
    for piece in pieces:
        # Unlike `str.join`, Python makes room for the next piece where the text is, and copies only the piece.
        text += piece
    return text


def without_long_texts(span: Span) -> tuple[Span, Sequence[LongText]]:
    """Return a span with empty texts in place of long ones, and the long ones."""
    texts = _long_texts(span.attributes, None)
    for index, event in enumerate(span.events):
        texts += _long_texts(event.attributes, index)
    if not texts:
        return span, ()
    return with_long_texts(span, [text._replace(text="") for text in texts]), texts


def _long_texts(attributes: Mapping[str, Any], event: int | None) -> list[LongText]:
    items = attributes.items()
    return [LongText(event, name, value) for name, value in items if type(value) is str and len(value) > LARGE]


def with_long_texts(span: Span, texts: Sequence[LongText]) -> Span:
    """Return a span with texts in the places that they were taken from."""
    attributes = {**span.attributes, **_texts_of(texts, None)}
    events = tuple(
        attrs.evolve(event, attributes={**event.attributes, **_texts_of(texts, index)})
        for index, event in enumerate(span.events)
    )
    return attrs.evolve(span, attributes=attributes, events=events)


def _texts_of(texts: Sequence[LongText], event: int | None) -> dict[str, str]:
    return {text.name: text.text for text in texts if text.event == event}
