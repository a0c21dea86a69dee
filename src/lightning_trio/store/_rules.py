"""What all stores say alike."""

from __future__ import annotations

from .._records import ErrorRecord


def lost_error(worker_id: str | None) -> ErrorRecord:
    """Say why an attempt ended that was lost with its worker."""
    return ErrorRecord("LeaseExpired", f"its runner {worker_id} was not heard of until its lease ran out", "")


def lease_left(until: float, now: float) -> float | None:
    """Give how long a lease still lasts, None once it has run out."""
    return until - now if until > now else None
