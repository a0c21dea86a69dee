"""How an attempt ended, as a runner reports it to a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final as Constant
from typing import TypeAlias

import attrs

from .._public import public_in
from .._quick_init import quick_init
from .._spans import NO_USAGE, Span, Usage
from ._error_record import ErrorRecord
from ._statuses import AttemptStatus


@public_in("lightning_trio.store")
@attrs.frozen
class GiveBack:
    """The rollout goes back into the queue, and the attempt does not count towards `max_attempts`.

    Args:
        queued: False if the reporter runs the rollout again itself, and nothing is queued.
    """

    queued: bool = True


@public_in("lightning_trio.store")
@attrs.frozen
class RetryIn:
    """If the configuration grants another attempt, it may be claimed after this many seconds."""

    seconds: float = 0.0


@public_in("lightning_trio.store")
@attrs.frozen
class ReporterRetries:
    """If the configuration grants another attempt, the reporter runs it itself; nothing is queued."""


@public_in("lightning_trio.store")
@attrs.frozen
class Final:
    """There is no further attempt, whatever the configuration says."""


Next: TypeAlias = GiveBack | RetryIn | ReporterRetries | Final
"""The next step of a rollout after an attempt."""

GIVE_BACK: Constant = GiveBack()
RETRY_NOW: Constant = RetryIn(0.0)
REPORTER_RETRIES: Constant = ReporterRetries()
FINAL: Constant = Final()


@public_in("lightning_trio.store")
@quick_init
@attrs.frozen
class AttemptOutcome:
    """The end of an attempt; a store commits it, its spans and the rollout's status together.

    `next` is the next step of the rollout. `GiveBack` always puts the rollout back into the queue; the others matter
    only if the configuration grants another attempt.
    """

    rollout_id: str
    attempt_id: str
    status: AttemptStatus
    end_time: float
    spans: Sequence[Span] = ()
    error: ErrorRecord | None = None
    final_reward: float | None = None
    duration: float | None = None
    next: Next = RETRY_NOW
    usage: Usage = NO_USAGE
