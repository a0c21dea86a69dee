"""The state machine: how rollouts and attempts go from one status to the next. Pure functions of records."""

from __future__ import annotations

from typing import Final

from ._records import AttemptStatus, RolloutConfig, RolloutStatus

TERMINAL_ROLLOUT: Final[frozenset[RolloutStatus]] = frozenset({"succeeded", "failed", "cancelled"})
TERMINAL_ATTEMPT: Final[frozenset[AttemptStatus]] = frozenset(
    {"succeeded", "failed", "timeout", "unresponsive", "cancelled"}
)
QUEUED: Final[frozenset[RolloutStatus]] = frozenset({"queuing", "requeuing"})


def rollout_status_after(
    status: AttemptStatus, sequence_id: int, config: RolloutConfig, *, final: bool = False
) -> RolloutStatus:
    """Derive a rollout's status from its latest attempt's status and number; a `final` attempt gets no successor.

    >>> rollout_status_after("timeout", 1, RolloutConfig(max_attempts=2, retry_condition=["timeout"]))
    'requeuing'
    """
    if status == "preparing" or status == "running" or status == "succeeded" or status == "cancelled":
        return status
    if not final and status in config.retry_condition and sequence_id < config.max_attempts:
        return "requeuing"
    return "failed"


def rollout_status_after_loss(lost: int, config: RolloutConfig) -> RolloutStatus:
    """Derive a rollout's status from how many of its attempts were lost with their runner, the last one included.

    >>> [rollout_status_after_loss(lost, RolloutConfig(max_lost_attempts=2)) for lost in (1, 2)]
    ['requeuing', 'failed']
    """
    return "requeuing" if lost < config.max_lost_attempts else "failed"


def retry_delay(sequence_id: int, config: RolloutConfig, random: float) -> float:
    """Give the wait in seconds after attempt number `sequence_id`; `random` lies in [0, 1).

    The wait doubles with each attempt up to `backoff_max_seconds`, and a share `backoff_jitter` of it is random.
    Source: "equal jitter" for 0.5 and "full jitter" for 1, in
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.

    >>> retry_delay(3, RolloutConfig(), 0.0), retry_delay(3, RolloutConfig(), 0.5)
    (1.0, 1.5)
    """
    # 2**63 seconds are enough; a larger exponent would overflow a float.
    whole = min(config.backoff_seconds * 2.0 ** min(sequence_id - 1, 63), config.backoff_max_seconds)
    return whole * (1.0 - config.backoff_jitter) + whole * config.backoff_jitter * random
