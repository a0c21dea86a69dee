"""All checks, in the order in which they run."""

from __future__ import annotations

from . import (
    _attempts,
    _changes,
    _counts,
    _familiar,
    _persistence,  # pyright: ignore[reportPrivateUsage]  # the module, which it takes for a name of the package
    _queries,
    _queue,
    _resources,
    _runs,
    _spans,
    _waits,
)
from ._steps import Check

CHECKS: tuple[Check, ...] = (
    *_queue.CHECKS,
    *_attempts.CHECKS,
    *_changes.CHECKS,
    *_waits.CHECKS,
    *_spans.CHECKS,
    *_resources.CHECKS,
    *_queries.CHECKS,
    *_counts.CHECKS,
    *_familiar.CHECKS,
    *_runs.CHECKS,
    *_persistence.CHECKS,
)
