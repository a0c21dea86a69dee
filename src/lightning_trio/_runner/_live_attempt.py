"""An attempt while it runs, and once it has ended and is not committed yet."""

from __future__ import annotations

import math

import attrs
import trio

from .._lifecycle import Allowance
from .._records import AttemptedRollout, AttemptOutcome, CompletedRollout, RolloutStatus
from ..lanes import AbandonedCall, Call, OpenLane
from ..tracing import AttemptRecorder


@attrs.define(eq=False)
class LiveAttempt:
    """An attempt that runs; what looks at running attempts looks here.

    Args:
        recorder: what it is recorded with, the rollout among it.
        call: what its lane is asked to run; None if the agent could not be bound.
        lane: the lane.
        refusal: why the agent could not be bound.
        started: when it was begun, on Trio's clock; the time of opening hooks and of a worker's start is left out.
        allowance: how long it may run, where more than `timeout_seconds` decides that.
    """

    recorder: AttemptRecorder
    call: Call | None
    lane: OpenLane | None
    refusal: Exception | None
    started: float
    allowance: Allowance | None = None
    limit: float = math.inf
    """How many seconds it may run; 0 if it must not begin."""
    owner: trio.lowlevel.Task | None = None
    """The task that runs the attempt."""
    scope: trio.CancelScope | None = None
    """What its deadline stands on; None while it has none."""
    duration: float | None = None
    """How many seconds the agent ran, once it has returned in time or late."""
    silent: bool = False
    """Whether it was stopped because it recorded nothing."""
    returned_late: bool = False
    """Whether it returned when it should have been stopped."""

    @property
    def rollout(self) -> AttemptedRollout:
        """The rollout with this attempt."""
        return self.recorder.rollout


@attrs.define(eq=False)
class EndedAttempt:
    """An attempt that has ended and is not committed yet.

    `stop` is the cancellation or Ctrl-C that ended it and that must go on up once the outcome is safe.
    """

    rollout: AttemptedRollout
    outcome: AttemptOutcome
    stop: BaseException | None = None
    abandoned: AbandonedCall | None = None

    def refuse(self) -> None:
        """Take back what the attempt came to, since its rollout had been ended through the store meanwhile."""
        self.outcome = attrs.evolve(self.outcome, status="cancelled", error=None, final_reward=None)

    def completed(self, status: RolloutStatus) -> CompletedRollout:
        """Return the records for a caller, with the rollout's status after the commit."""
        outcome = self.outcome
        attempt = attrs.evolve(
            self.rollout.attempt,
            status=outcome.status,
            end_time=outcome.end_time,
            error=outcome.error,
            final_reward=outcome.final_reward,
            duration=outcome.duration,
            usage=outcome.usage,
        )
        rollout = attrs.evolve(self.rollout, status=status, end_time=outcome.end_time, attempt=attempt)
        return CompletedRollout(rollout, attempt, outcome.spans)
