"""Values that all stores compute alike."""

from __future__ import annotations

from .._public import public_in
from .._records import ErrorRecord
from .._spans import MOST_INT


def lost_error(worker_id: str | None) -> ErrorRecord:
    """Return the error record of an attempt that was lost with its worker."""
    return ErrorRecord("LeaseExpired", f"its runner {worker_id} sent no heartbeat before its lease ran out", "")


@public_in("lightning_trio.store")
def span_number(sequence_id: int, last: int) -> int:
    """Return the `sequence_id` to store a span with: its own, or the one after `last` if it has none.

    >>> span_number(7, 3), span_number(0, 3)
    (7, 4)
    """
    # A column of a database has 63 bits for it.
    return min(sequence_id if sequence_id > 0 else last + 1, MOST_INT)


def lease_left(until: float, now: float) -> float | None:
    """Return how many seconds a lease still lasts, None once it has run out."""
    return until - now if until > now else None
