"""The time limit of an attempt."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import attrs

from .._errors import AttemptTimedOut
from .._records import RolloutConfig


@attrs.frozen
class Allowance:
    """How many seconds an attempt may run, and the error if it runs longer; `final` rules out another attempt."""

    seconds: float
    make_error: Callable[[], AttemptTimedOut]
    final: bool = False


def allowance(config: RolloutConfig, sequence_id: int, waited: float, spent: float) -> Allowance:
    """Return how long an attempt may run; with 0 seconds it must not begin.

    Args:
        config: the rollout's.
        sequence_id: the attempt's number.
        waited: the seconds that the rollout waited in the queue.
        spent: the seconds since its first attempt began.

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
