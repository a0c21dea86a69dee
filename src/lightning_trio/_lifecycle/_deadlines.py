"""How long an attempt may run."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import attrs

from .._errors import AttemptTimedOut
from .._records import RolloutConfig


@attrs.frozen
class Allowance:
    """How long an attempt may run, and the error of one that takes longer; with `final` no other attempt follows."""

    seconds: float
    make_error: Callable[[], AttemptTimedOut]
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
        return Allowance(0.0, partial(AttemptTimedOut.in_queue, waited, queue), final=True)
    seconds = math.inf if config.timeout_seconds is None else config.timeout_seconds
    if total is None or seconds <= total - spent:
        return Allowance(seconds, partial(AttemptTimedOut.at_deadline, seconds))
    if spent < total:
        return Allowance(total - spent, partial(AttemptTimedOut.in_total, total), final=True)
    return Allowance(0.0, partial(AttemptTimedOut.in_total_before, spent, total), final=True)
