"""How an attempt ended, as a runner reports it to a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias
from typing import Final as Constant

import attrs

if TYPE_CHECKING:
    from .._spans import Span
from .._spans import NO_USAGE, Usage
from ._error_record import ErrorRecord
from ._statuses import AttemptStatus


@attrs.frozen
class GiveBack:
    """The rollout goes back into the queue, and the attempt does not count towards `max_attempts`."""


@attrs.frozen
class RetryIn:
    """If the configuration grants another attempt, it may be claimed after this many seconds."""

    seconds: float = 0.0


@attrs.frozen
class ReporterRetries:
    """If the configuration grants another attempt, the reporter runs it itself; nothing is queued."""


@attrs.frozen
class Final:
    """There is no further attempt, whatever the configuration says."""


Next: TypeAlias = GiveBack | RetryIn | ReporterRetries | Final
"""What is to become of a rollout after an attempt."""

GIVE_BACK: Constant = GiveBack()
RETRY_NOW: Constant = RetryIn(0.0)
REPORTER_RETRIES: Constant = ReporterRetries()
FINAL: Constant = Final()


@attrs.frozen
class AttemptOutcome:
    """Report how an attempt ended; a store commits it, its spans and the rollout's status together.

    `next` says what is to become of the rollout. It matters where the configuration grants another attempt, but for
    `GiveBack`: that one always puts the rollout back into the queue.
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
