"""How rollouts go from status to status. Pure functions of records."""

from __future__ import annotations

from .._public import public_in
from .._records import AttemptStatus, RolloutConfig, RolloutStatus, Run


@public_in("lightning_trio.store")
def rollout_status_after(
    status: AttemptStatus, sequence_id: int, config: RolloutConfig, *, final: bool = False
) -> RolloutStatus:
    """Derive a rollout's status from its latest attempt's status and number; a `final` attempt gets no successor.

    >>> rollout_status_after("timeout", 1, RolloutConfig(max_attempts=2, retry_condition=["timeout"]))
    'requeuing'
    """
    if status == "preparing" or status == "running" or status == "succeeded" or status == "cancelled":
        return status
    tried_again = status in config.retry_condition or (status == "failed" and config.retry_exceptions)
    return "requeuing" if tried_again and not final and sequence_id < config.max_attempts else "failed"


@public_in("lightning_trio.store")
def may_replace(known: Run, new: Run) -> bool:
    """Tell whether a run's record may be replaced: by its own `fit`, or by one that takes it up.

    Of two that take it up at once the second is refused, and what the `fit` before still reports is, too.

    >>> begun = Run("run-1", worker_id="a")
    >>> may_replace(begun, Run("run-1", worker_id="b")), may_replace(begun, Run("run-1", worker_id="b", takeovers=1))
    (False, True)
    """
    return new.takeovers > known.takeovers or (new.takeovers == known.takeovers and new.worker_id == known.worker_id)


@public_in("lightning_trio.store")
def rollout_status_after_loss(lost: int, config: RolloutConfig) -> RolloutStatus:
    """Derive a rollout's status from how many of its attempts were lost with their runner, the last one included.

    >>> [rollout_status_after_loss(lost, RolloutConfig(max_lost_attempts=2)) for lost in (1, 2)]
    ['requeuing', 'failed']
    """
    return "requeuing" if lost < config.max_lost_attempts else "failed"
