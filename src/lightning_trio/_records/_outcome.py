"""How an attempt ended, as a runner reports it to a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from .._spans import Span
from .._spans import NO_USAGE, Usage
from ._error_record import ErrorRecord
from ._statuses import AttemptStatus


@attrs.frozen
class AttemptOutcome:
    """Report how an attempt ended; a store commits it, its spans and the rollout's status together.

    `status` ``"cancelled"`` with `requeue` puts the rollout back into the queue; that attempt does not count
    towards `max_attempts`. `retry_delay` is the wait in seconds before the rollout may be claimed for a further
    attempt, if it gets one; None where the reporter runs that attempt itself. With `final` there is no further
    attempt, whatever the configuration says.
    """

    rollout_id: str
    attempt_id: str
    status: AttemptStatus
    end_time: float
    spans: Sequence[Span] = ()
    error: ErrorRecord | None = None
    final_reward: float | None = None
    duration: float | None = None
    retry_delay: float | None = 0.0
    requeue: bool = False
    final: bool = False
    usage: Usage = NO_USAGE
