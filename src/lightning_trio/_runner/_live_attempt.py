"""An attempt while it runs, and once it has ended but is not committed yet."""

from __future__ import annotations

import math
import sys
from typing import Any, Protocol

import attrs
import trio

from .._agents import AgentCopy, LitAgent
from .._containers import copy_fields
from .._lifecycle import Allowance
from .._records import AttemptedRollout, AttemptOutcome, CompletedRollout, RolloutStatus
from ..lanes import AbandonedCall, Call, OpenLane
from ..tracing import AttemptRecorder
from ._ending import Ending


class Place(Protocol):
    """What an attempt runs on."""

    def release(self) -> None:
        """Release it."""
        ...


@attrs.define(eq=False)
class LiveAttempt:
    """A running attempt, as the engine and `Runner.running` see it.

    Args:
        recorder: its recorder, which has the rollout.
        call: its call in the lane; None if the agent could not be bound.
        lane: the lane.
        refusal: why the agent could not be bound.
        started: its start on Trio's clock, after opening hooks and the start of a worker process.

    The other fields are set later. They are arguments all the same, because attrs sets those more quickly.
    """

    recorder: AttemptRecorder
    call: Call | None
    lane: OpenLane | None
    refusal: Exception | None
    started: float
    copy: AgentCopy | None = None
    """The copy of the agent that it runs; None if attempts share the agent."""
    spent: float = 0.0
    """`ClaimedRollout.spent`."""
    allowance: Allowance | None = None
    """How long it may run, if more than `timeout_seconds` limits that."""
    limit: float = math.inf
    """How many seconds it may run, and others may keep it from running; 0 if it must not begin."""
    owner: trio.lowlevel.Task | None = None
    """The task that runs the attempt; None once the attempt was given up and ends without it."""
    scope: trio.CancelScope | None = None
    """The scope of its deadline; None while it has none, and once the agent's call has ended."""
    duration: float | None = None
    """The seconds that the agent ran, once it has returned, in time or late."""
    ending: Ending | None = None
    """How it has ended, or why it is being stopped before its deadline."""

    @property
    def agent(self) -> LitAgent[Any] | None:
        """The copy of the agent that it runs; None if attempts share the agent."""
        return None if self.copy is None else self.copy.agent

    @property
    def rollout(self) -> AttemptedRollout:
        """The rollout with this attempt."""
        return self.recorder.rollout

    @property
    def is_limited(self) -> bool:
        """Whether it may be stopped before it ends by itself."""
        return self.limit < math.inf or self.recorder.rollout.config.unresponsive_seconds is not None

    @property
    def outer_nurseries(self) -> int:
        """How many nurseries of its task are not its agent's; a great number outside of the agent's call."""
        state = None if self.call is None else self.call.state
        return state[1] if self.lane is not None and self.lane.in_trio and state is not None else sys.maxsize


@attrs.define(eq=False)
class EndedAttempt:
    """An attempt that has ended and is not committed yet.

    `stop` is the cancellation or Ctrl-C that ended it, which must propagate once the outcome is committed.
    """

    rollout: AttemptedRollout
    outcome: AttemptOutcome
    stop: BaseException | None = None
    abandoned: AbandonedCall | None = None
    copy: AgentCopy | None = None
    """The copy of the agent, which an abandoned call keeps."""
    place: Place | None = None
    """What it releases instead of a slot of its own, for attempts that called a runner or ride on their parent's."""

    def refuse(self) -> None:
        """Discard the outcome, because the rollout was ended through the store meanwhile."""
        self.outcome = attrs.evolve(self.outcome, status="cancelled", error=None, final_reward=None)

    def completed(self, status: RolloutStatus) -> CompletedRollout:
        """Return the completed rollout, with its status after the commit."""
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
        # An abandoned call keeps its task, and may change it.
        rollout = self.rollout if self.abandoned is None else copy_fields(self.rollout)
        rollout = attrs.evolve(rollout, status=status, end_time=outcome.end_time, attempt=attempt)
        return CompletedRollout(rollout, attempt, outcome.spans)
