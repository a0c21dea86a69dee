"""Workers: runners as a store sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .._public import public
from ._statuses import WorkerStatus


@public
@attrs.frozen
class Worker:
    """Who takes rollouts from a store, and what it was last seen doing.

    With `lease_seconds` it has its attempts on a lease, which runs out when it was not put into the store anew for
    that long, by the store's clock; 0 ends it at once, None (no lease) lets it keep its attempts for ever.
    """

    worker_id: str
    status: WorkerStatus = "unknown"
    heartbeat_stats: Mapping[str, Any] | None = None
    last_heartbeat_time: float | None = None
    last_dequeue_time: float | None = None
    last_busy_time: float | None = None
    last_idle_time: float | None = None
    current_rollout_id: str | None = None
    current_attempt_id: str | None = None
    lease_seconds: float | None = None
    lease_left_seconds: float | None = attrs.field(default=None, eq=False)
    """How long the lease still lasts, as the store says when it is asked; None without one and once it has run out."""


@public
@attrs.frozen
class Expiry:
    """What `LightningStore.expire` did: the rollouts whose attempt it ended, and when to call it again.

    `next_in` is in seconds; None if nothing at hand can run out.
    """

    requeued: Sequence[str] = ()
    failed: Sequence[str] = ()
    next_in: float | None = None
