"""The state machine: how rollouts and attempts go from one status to the next. Pure functions of records."""

from __future__ import annotations

import math
from typing import Final

import attrs

from ._exception_names import is_named
from ._records import AttemptStatus, ErrorRecord, RolloutConfig, RolloutStatus, Run

TERMINAL_ROLLOUT: Final[frozenset[RolloutStatus]] = frozenset({"succeeded", "failed", "cancelled"})
TERMINAL_ATTEMPT: Final[frozenset[AttemptStatus]] = frozenset(
    {"succeeded", "failed", "timeout", "unresponsive", "cancelled"}
)
UNFINISHED_ROLLOUT: Final[frozenset[RolloutStatus]] = frozenset({"queuing", "preparing", "running", "requeuing"})
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
    tried_again = status in config.retry_condition or (status == "failed" and config.retry_exceptions)
    return "requeuing" if tried_again and not final and sequence_id < config.max_attempts else "failed"


def may_replace(known: Run, new: Run) -> bool:
    """Tell whether a run's record may be replaced: by its own `fit`, or by one that takes it up.

    Of two that take it up at once the second is refused, and what the `fit` before still reports is, too.

    >>> begun = Run("run-1", worker_id="a")
    >>> may_replace(begun, Run("run-1", worker_id="b")), may_replace(begun, Run("run-1", worker_id="b", takeovers=1))
    (False, True)
    """
    return new.takeovers > known.takeovers or (new.takeovers == known.takeovers and new.worker_id == known.worker_id)


def rollout_status_after_loss(lost: int, config: RolloutConfig) -> RolloutStatus:
    """Derive a rollout's status from how many of its attempts were lost with their runner, the last one included.

    >>> [rollout_status_after_loss(lost, RolloutConfig(max_lost_attempts=2)) for lost in (1, 2)]
    ['requeuing', 'failed']
    """
    return "requeuing" if lost < config.max_lost_attempts else "failed"


@attrs.frozen
class Allowance:
    """How long an attempt may run and what is said when that is over; with `final` no other attempt follows then."""

    seconds: float
    reason: str
    final: bool = False


def allowance(config: RolloutConfig, sequence_id: int, waited: float, spent: float) -> Allowance:
    """Decide how long an attempt may run; no time at all says it must not begin.

    Args:
        config: the rollout's.
        sequence_id: the attempt's number.
        waited: how long the rollout waited in the queue before, in seconds.
        spent: how long ago its first attempt began, in seconds.

    >>> allowance(RolloutConfig(timeout_seconds=30, total_timeout_seconds=60), 2, 0.0, 50.0).seconds
    10.0
    """
    queue, total = config.queue_timeout_seconds, config.total_timeout_seconds
    if queue is not None and sequence_id == 1 and waited > queue:
        reason = f"not run, for it waited {waited:.3g} s in the queue; queue_timeout_seconds is {queue:g}"
        return Allowance(0.0, reason, final=True)
    seconds = math.inf if config.timeout_seconds is None else config.timeout_seconds
    if total is None or seconds <= total - spent:
        return Allowance(seconds, f"stopped at its deadline after {seconds:g} s")
    if spent < total:
        reason = f"stopped, for its rollout had taken {total:g} s, its total_timeout_seconds"
        return Allowance(total - spent, reason, final=True)
    reason = f"not run, for the attempts before took {spent:.3g} s; total_timeout_seconds is {total:g}"
    return Allowance(0.0, reason, final=True)


def is_final(status: AttemptStatus, error: ErrorRecord | None, config: RolloutConfig, spent: float) -> bool:
    """Decide whether there is no further attempt, whatever the statuses say.

    Args:
        status: how the attempt ended.
        error: what it ended with.
        config: the rollout's.
        spent: how long ago, in seconds, the rollout's first attempt will have begun when the next one would.

    >>> is_final("failed", ErrorRecord.from_exception(KeyError()), RolloutConfig(retry_exceptions=[OSError]), 0.0)
    True
    """
    if config.total_timeout_seconds is not None and spent >= config.total_timeout_seconds:
        return True
    if status != "failed" or not config.retry_exceptions or error is None:
        return False
    if error.exception is None:
        # It was raised in another process and could not come over.
        return error.type not in {name.rpartition(".")[2] for name in config.retry_exceptions}
    return not is_named(error.exception, config.retry_exceptions)


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
