"""Values that all stores compute alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .._host import is_dead, is_stopped, process_here
from .._public import public_in
from .._records import ErrorRecord
from .._spans import MOST_INT

_SILENT_SECONDS: Final = 600.0
"""How long a runner may be silent beyond its lease while its process runs on this machine."""


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


def keeps_attempts(identity: Mapping[str, Any] | None, overdue: float) -> bool:
    """Whether a worker keeps its attempts although its lease has run out, because its process is alive here.

    A process that is stopped keeps them for as long as it is; one that runs, but is kept from its heartbeats, for ten
    minutes: its runner may have been closed while the store was away.

    Args:
        identity: the worker's heartbeat statistics, `own_process` of its process.
        overdue: how many seconds ago the lease ran out.
    """
    process = None if identity is None else process_here(identity)
    if identity is None or process is None or is_dead(process, identity.get("started")):
        return False
    return overdue < _SILENT_SECONDS or is_stopped(process)


def lease_left(until: float, now: float) -> float | None:
    """Return how many seconds a lease still lasts, None once it has run out."""
    return until - now if until > now else None
