"""How long an attempt may run."""

from __future__ import annotations

import math

import attrs

from .._records import RolloutConfig


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
