"""The traces that are being recorded in this process, by which a store numbers a span among the recorded ones."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from ._span import Span


class LiveTrace(Protocol):
    """The trace of a running attempt; called from any thread."""

    def next_sequence_id(self) -> int:
        """Return the number of the next span."""
        ...

    def note_stored(self, span: Span) -> None:
        """Add a span that a store has stored already, so that it counts when the attempt ends."""
        ...


_finders: tuple[Callable[[str], LiveTrace | None], ...] = ()
"""One for each open runner, not one for each attempt: attempts are many, and spans without a number are few."""


@contextmanager
def finding_traces(find: Callable[[str], LiveTrace | None]) -> Generator[None]:
    """Let `find` find the traces of running attempts, by the attempts' ids, until the block ends."""
    global _finders
    _finders = (*_finders, find)
    try:
        yield
    finally:
        # Compared by identity: bound methods are equal if their objects are.
        _finders = tuple(each for each in _finders if each is not find)


def find_live_trace(attempt_id: str) -> LiveTrace | None:
    """Return the trace of an attempt that runs in this process, None if it does not."""
    for find in _finders:
        if (trace := find(attempt_id)) is not None:
            return trace
    return None
