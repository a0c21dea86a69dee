"""Workers take claimed rollouts and return outcomes.

`LocalWorkers` are this process with its lanes. Other processes and machines, each with lanes of their own, can
implement the same protocol.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import attrs
import trio

from .._errors import LightningTrioError
from .._lifecycle import allowance, is_final, retry_delay
from .._records import FINAL, GIVE_BACK, AttemptedRollout, AttemptOutcome, AttemptStatus, RetryIn
from .._resources import NamedResources
from .._spans import Link
from ..lanes import Call
from ..tracing import AttemptRecorder
from ._attempt import AttemptParts, run_attempt
from ._bindings import Bindings
from ._live_attempt import EndedAttempt, LiveAttempt
from ._slots import Slots

logger = logging.getLogger("lightning_trio.runner")


class ClaimedRollout(NamedTuple):
    """A rollout with its new attempt, and the resources to run it with.

    `host` is a link to the host program's current span, `spent` is the seconds since the rollout's first attempt began.
    """

    rollout: AttemptedRollout
    resources: NamedResources
    host: Link | None
    spent: float = 0.0


class Workers(Protocol):
    """Workers run attempts, each with a slot from before its rollout is claimed until its outcome is committed."""

    @property
    def slots(self) -> Slots:
        """The places of attempts."""
        ...

    def start(
        self, claimed: Sequence[ClaimedRollout], nursery: trio.Nursery, report: Callable[[EndedAttempt], None]
    ) -> None:
        """Start attempts, and report each when it has ended.

        The rollouts of cancelled attempts go back to the queue.

        Args:
            claimed: the attempts to run; a slot was taken for each.
            nursery: the nursery of the tasks that run them or wait for them.
            report: called for each in Trio's thread.
        """
        ...

    async def run(self, claimed: ClaimedRollout) -> EndedAttempt:
        """Run one attempt for a caller that waits for it, and return the ended attempt."""
        ...

    def committed(self, ended: EndedAttempt, status: AttemptStatus) -> None:
        """Release the slot of an attempt whose outcome is committed, or, if its call is abandoned, when the call ends.

        Args:
            ended: the attempt.
            status: its status in the statistics, ``"cancelled"`` if its outcome was refused.
        """
        ...


class LocalWorkers:
    """Run attempts in this process.

    Args:
        parts: the parts that they share.
        bindings: the agent bound to resources.
        max_concurrency: how many may run at a time.
    """

    def __init__(self, parts: AttemptParts, bindings: Bindings, max_concurrency: int) -> None:
        self._parts = parts
        self.bindings = bindings
        self._slots = Slots(max_concurrency)
        self._random = random.Random()
        self.live: dict[str, LiveAttempt] = {}
        """The running attempts by id, the oldest first."""
        self.attempts = 0
        """The number of attempts that have begun."""
        self.abandoned: set[str] = set()
        """The rollouts whose abandoned calls still run."""
        self.late_results = 0
        """The number of results that were refused because they came too late."""

    @property
    def slots(self) -> Slots:
        """The places of attempts."""
        return self._slots

    def start(
        self, claimed: Sequence[ClaimedRollout], nursery: trio.Nursery, report: Callable[[EndedAttempt], None]
    ) -> None:
        """Start attempts, each in a task of its own."""
        for each in claimed:
            nursery.start_soon(self._run_and_report, each, report, name=each.rollout.rollout_id)

    @trio.lowlevel.enable_ki_protection
    async def _run_and_report(self, claimed: ClaimedRollout, report: Callable[[EndedAttempt], None]) -> None:
        ended = await self.run(claimed)
        if ended.outcome.status == "cancelled":
            ended.outcome = attrs.evolve(ended.outcome, next=GIVE_BACK)
        report(ended)
        if ended.stop is not None:
            raise ended.stop

    async def run(self, claimed: ClaimedRollout) -> EndedAttempt:
        """Run an attempt in the current task."""
        live = self._begin(claimed)
        attempt_id = claimed.rollout.attempt.attempt_id
        self.live[attempt_id] = live
        ended = await run_attempt(live, self._parts)
        del self.live[attempt_id]
        outcome = ended.outcome
        if outcome.status != "succeeded" and outcome.status != "cancelled":
            self.late_results += live.returned_late
            ended.outcome = self._plan_retry(live, outcome, claimed.spent)
        return ended

    def _begin(self, claimed: ClaimedRollout) -> LiveAttempt:
        self.attempts += 1
        parts = self._parts
        rollout, resources, host, spent = claimed
        config, attempt = rollout.config, rollout.attempt
        recorder = AttemptRecorder(parts.tracer, rollout, resources, parts.agent_name, host)
        bound = self.bindings.try_to_bind(rollout.mode, resources)
        now = parts.clock.current_time()
        if isinstance(bound, LightningTrioError):
            live = LiveAttempt(recorder, None, None, bound, now)
        else:
            live = LiveAttempt(recorder, Call(bound, recorder), parts.lanes[bound.lane], None, now)
        if config.queue_timeout_seconds is not None or config.total_timeout_seconds is not None:
            waited = attempt.start_time - rollout.start_time
            live.allowance = allowance(config, attempt.sequence_id, waited, spent)
            live.limit = live.allowance.seconds
        elif config.timeout_seconds is not None:
            live.limit = config.timeout_seconds
        return live

    def _plan_retry(self, live: LiveAttempt, outcome: AttemptOutcome, spent: float) -> AttemptOutcome:
        """Return the outcome with what follows an unsuccessful attempt: a retry or the end."""
        config, attempt = live.rollout.config, live.rollout.attempt
        delay = retry_delay(attempt.sequence_id, config, self._random.random())
        spent += self._parts.clock.current_time() - live.started + delay
        used_up = outcome.status == "timeout" and live.allowance is not None and live.allowance.final
        final = used_up or is_final(outcome.status, outcome.error, config, spent)
        return attrs.evolve(outcome, next=FINAL if final else RetryIn(delay))

    def committed(self, ended: EndedAttempt, status: AttemptStatus) -> None:
        """Release the attempt's slot, or log that its abandoned call still holds it."""
        if ended.abandoned is None:
            self._slots.give_back()
            return
        rollout_id = ended.rollout.rollout_id
        self.abandoned.add(rollout_id)
        logger.warning(
            "rollout %s was %s, but its %s could not be stopped and was abandoned: it keeps its slot until it "
            "ends and can record nothing more",
            rollout_id,
            {"timeout": "stopped at its deadline"}.get(status, status),
            ended.abandoned.kind,
        )
        ended.abandoned.when_ended(functools.partial(self._abandoned_ended, rollout_id))

    def _abandoned_ended(self, rollout_id: str) -> None:
        self.abandoned.discard(rollout_id)
        self.late_results += 1
        self._slots.give_back()

    def log_abandoned(self) -> None:
        """Log the rollouts whose abandoned calls outlive the runner."""
        if self.abandoned:
            logger.warning(
                "the runner is closed, and %d abandoned attempts still run (they do not keep the process alive): %s",
                len(self.abandoned),
                ", ".join(sorted(self.abandoned)[:20]),
            )
