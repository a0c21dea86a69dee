"""Values that all stores compute alike."""

from __future__ import annotations

from .._records import ErrorRecord


def lost_error(worker_id: str | None) -> ErrorRecord:
    """Return the error record of an attempt that was lost with its worker."""
    return ErrorRecord("LeaseExpired", f"its runner {worker_id} sent no heartbeat before its lease ran out", "")


def lease_left(until: float, now: float) -> float | None:
    """Return how many seconds a lease still lasts, None once it has run out."""
    return until - now if until > now else None
