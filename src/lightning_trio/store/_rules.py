"""What all stores say and refuse alike."""

from __future__ import annotations

from .._errors import StaleRun
from .._lifecycle import may_replace
from .._records import ErrorRecord, Run


def lost_error(worker_id: str | None) -> ErrorRecord:
    """Say why an attempt ended that was lost with its worker."""
    return ErrorRecord("LeaseExpired", f"its runner {worker_id} was not heard of until its lease ran out", "")


def lease_left(until: float, now: float) -> float | None:
    """Give how long a lease still lasts, None once it has run out."""
    return until - now if until > now else None


def check_run(known: Run | None, new: Run) -> None:
    """Refuse what a `fit` reports of a run that another has taken up.

    Raises:
        StaleRun: saying who has.
    """
    if known is not None and not may_replace(known, new):
        raise StaleRun(
            f"{new.run_id} has been taken up by {known.worker_id}; what {new.worker_id} still reports of it is refused"
        )
