"""Terminal statuses, and those of queued rollouts."""

from __future__ import annotations

from typing import Final

from .._records import AttemptStatus, RolloutStatus

TERMINAL_ROLLOUT: Final[frozenset[RolloutStatus]] = frozenset({"succeeded", "failed", "cancelled"})
TERMINAL_ATTEMPT: Final[frozenset[AttemptStatus]] = frozenset(
    {"succeeded", "failed", "timeout", "unresponsive", "cancelled"}
)
UNFINISHED_ROLLOUT: Final[frozenset[RolloutStatus]] = frozenset({"queuing", "preparing", "running", "requeuing"})
QUEUED: Final[frozenset[RolloutStatus]] = frozenset({"queuing", "requeuing"})
