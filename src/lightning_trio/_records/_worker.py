"""Workers: runners, as a store sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .._plain_record import PlainRecord
from .._public import public
from ._statuses import WorkerStatus


@public
@attrs.frozen
class Worker(PlainRecord):
    """A runner that claims rollouts from a store, with the last known activity.

    With `lease_seconds` it holds its attempts on a lease, which runs out once its record was not written to the store
    again for that long, by the store's clock. 0 ends the lease at once; with None it keeps its attempts for ever.
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
    """How long the lease still lasted when the store was read; None without a lease and once it has run out."""


@public
@attrs.frozen
class Expiry:
    """The result of `LightningStore.expire`: the rollouts whose attempt it ended, and when to call it again.

    `next_in` is in seconds; None if there is no lease or deadline that can run out.
    """

    requeued: Sequence[str] = ()
    failed: Sequence[str] = ()
    next_in: float | None = None
