"""Workers: what takes claimed rollouts and returns outcomes.

Here it is this process, with its lanes. Other processes and other machines, each with lanes of their own, come through
the same seam.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
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
from ..tracing import AttemptRecorder, enter_attempt, leave_attempt
from ._attempt import AttemptParts, run_attempt
from ._bindings import Bindings
from ._inspection import RunningAttempt, running_attempts
from ._live_attempt import EndedAttempt, LiveAttempt
from ._slots import Slots

logger = logging.getLogger("lightning_trio.runner")


@attrs.define(eq=False)
class ClaimedRollout:
    """A rollout with its new attempt, and what that is run with.

    `host` is a link to the host program's span that it was started in, `spent` how many seconds ago the rollout's first
    attempt began.
    """

    rollout: AttemptedRollout
    resources: NamedResources
    host: Link | None
    spent: float = 0.0


class AttemptCounts(NamedTuple):
    """Numbers of attempts since the runner was opened."""

    running: int
    """Those that run now, as far as their workers are concerned."""
    begun: int
    abandoned: int
    """Those that have ended but for a call that could not be stopped and still holds their slot."""
    late_results: int
    """Results that came too late and were refused."""


class Workers(Protocol):
    """What runs attempts. Each has a slot from before its rollout is claimed until its outcome is committed."""

    @property
    def slots(self) -> Slots:
        """The places of attempts."""
        ...

    def start(
        self, claimed: Sequence[ClaimedRollout], nursery: trio.Nursery, report: Callable[[EndedAttempt], None]
    ) -> None:
        """Run attempts, and report each when it has ended, exactly once.

        One that is cancelled is reported, too: as ``"cancelled"`` with `GIVE_BACK`, so that its rollout goes back into
        the queue. What ended it, `EndedAttempt.stop`, is raised in the nursery after that.

        Args:
            claimed: what to run, as many as slots were taken for.
            nursery: where the tasks that run them, or wait for them, belong; cancelling it ends them.
            report: called for each in Trio's thread.
        """
        ...

    async def run(self, claimed: ClaimedRollout) -> EndedAttempt:
        """Run one attempt for a caller that waits for it, and return how it ended.

        A cancellation of the caller is returned in `EndedAttempt.stop` and not raised; the caller raises it when the
        outcome is committed. `AttemptOutcome.next` says whether another attempt follows one that failed.
        """
        ...

    def committed(self, ended: EndedAttempt, status: AttemptStatus) -> None:
        """Note that an attempt's outcome is committed: its slot is free, or will be when what was abandoned ends.

        Args:
            ended: the attempt.
            status: what it counts as, ``"cancelled"`` where its outcome was refused.
        """
        ...

    def counts(self) -> AttemptCounts:
        """Return the numbers of attempts; called from any thread."""
        ...

    def running(self, limit: int | None = None) -> list[RunningAttempt]:
        """Return the attempts that run, the oldest first; called from any thread, and from signal handlers."""
        ...

    def youngest_age(self) -> float | None:
        """Return for how many seconds the youngest attempt has run, None if none runs; called as `running` is."""
        ...

    def log_abandoned(self) -> None:
        """Log the names of abandoned attempts that outlive the runner; called once it is closed."""
        ...


class LocalWorkers:
    """Run attempts in this process.

    Args:
        parts: what they share.
        bindings: the agent bound to resources.
        max_concurrency: how many may run at a time.
    """

    def __init__(self, parts: AttemptParts, bindings: Bindings, max_concurrency: int) -> None:
        self._parts = parts
        self._bindings = bindings
        self._slots = Slots(max_concurrency)
        self._random = random.Random()
        self._thread = threading.get_ident()
        self._live: dict[str, LiveAttempt] = {}
        """The attempts that run, by id, the oldest first."""
        self._begun = 0
        self._abandoned: set[str] = set()
        """The rollouts of which something still runs though their attempts have ended."""
        self._late_results = 0

    @property
    def slots(self) -> Slots:
        """The places of attempts."""
        return self._slots

    def start(
        self, claimed: Sequence[ClaimedRollout], nursery: trio.Nursery, report: Callable[[EndedAttempt], None]
    ) -> None:
        """Run attempts, each in a task of its own."""
        for each in claimed:
            nursery.start_soon(self._run_and_report, each, report, name=each.rollout.rollout_id)

    @trio.lowlevel.enable_ki_protection
    async def _run_and_report(self, claimed: ClaimedRollout, report: Callable[[EndedAttempt], None]) -> None:
        live = self._begin(claimed)
        # Never left: the context is this task's own and ends with it.
        enter_attempt(live.recorder)
        ended = await self._run(live, claimed.spent)
        if ended.outcome.status == "cancelled":
            ended.outcome = attrs.evolve(ended.outcome, next=GIVE_BACK)
        report(ended)
        if ended.stop is not None:
            raise ended.stop

    async def run(self, claimed: ClaimedRollout) -> EndedAttempt:
        """Run an attempt in the caller's task."""
        live = self._begin(claimed)
        context = enter_attempt(live.recorder)
        try:
            return await self._run(live, claimed.spent)
        finally:
            leave_attempt(context)

    async def _run(self, live: LiveAttempt, spent: float) -> EndedAttempt:
        attempt_id = live.recorder.rollout.attempt.attempt_id
        self._live[attempt_id] = live
        ended = await run_attempt(live, self._parts)
        del self._live[attempt_id]
        outcome = ended.outcome
        if outcome.status != "succeeded" and outcome.status != "cancelled":
            self._late_results += live.returned_late
            ended.outcome = self._plan_retry(live, outcome, spent)
        return ended

    def _begin(self, claimed: ClaimedRollout) -> LiveAttempt:
        self._begun += 1
        parts = self._parts
        rollout, resources = claimed.rollout, claimed.resources
        config, attempt = rollout.config, rollout.attempt
        recorder = AttemptRecorder(parts.tracer, rollout, resources, parts.agent_name, claimed.host)
        bound = self._bindings.try_to_bind(rollout.mode, resources)
        now = parts.clock.current_time()
        if isinstance(bound, LightningTrioError):
            live = LiveAttempt(recorder, None, None, bound, now)
        else:
            live = LiveAttempt(recorder, Call(bound, recorder), parts.lanes[bound.lane], None, now)
        live.owner = trio.lowlevel.current_task()
        if config.queue_timeout_seconds is not None or config.total_timeout_seconds is not None:
            waited = attempt.start_time - rollout.start_time
            live.allowance = allowance(config, attempt.sequence_id, waited, claimed.spent)
            live.limit = live.allowance.seconds
        elif config.timeout_seconds is not None:
            live.limit = config.timeout_seconds
        return live

    def _plan_retry(self, live: LiveAttempt, outcome: AttemptOutcome, spent: float) -> AttemptOutcome:
        """Say what is to follow an attempt that came to nothing."""
        config, attempt = live.rollout.config, live.rollout.attempt
        delay = retry_delay(attempt.sequence_id, config, self._random.random())
        spent += self._parts.clock.current_time() - live.started + delay
        used_up = outcome.status == "timeout" and live.allowance is not None and live.allowance.final
        final = used_up or is_final(outcome.status, outcome.error, config, spent)
        return attrs.evolve(outcome, next=FINAL if final else RetryIn(delay))

    def committed(self, ended: EndedAttempt, status: AttemptStatus) -> None:
        """Free the attempt's slot, or note that what was abandoned still holds it."""
        if ended.abandoned is None:
            self._slots.give_back()
            return
        rollout_id = ended.rollout.rollout_id
        self._abandoned.add(rollout_id)
        logger.warning(
            "rollout %s was %s, but its %s could not be stopped and was abandoned: it keeps its slot until it "
            "ends and can record nothing more",
            rollout_id,
            {"timeout": "stopped at its deadline"}.get(status, status),
            ended.abandoned.kind,
        )
        ended.abandoned.when_ended(functools.partial(self._abandoned_ended, rollout_id))

    def _abandoned_ended(self, rollout_id: str) -> None:
        self._abandoned.discard(rollout_id)
        self._late_results += 1
        self._slots.give_back()

    def counts(self) -> AttemptCounts:
        """Count the attempts of this process."""
        return AttemptCounts(len(self._live), self._begun, len(self._abandoned), self._late_results)

    def running(self, limit: int | None = None) -> list[RunningAttempt]:
        """Look at the attempts of this process."""
        return running_attempts(self._live, self._parts.clock.current_time(), self._thread, limit)

    def youngest_age(self) -> float | None:
        """Return the age of the attempt that began last."""
        # Copied, because other threads ask while attempts begin and end.
        started = [live.started for live in list(self._live.values())[-1:]]
        return self._parts.clock.current_time() - started[0] if started else None

    def log_abandoned(self) -> None:
        """Log the names of what outlives the runner."""
        if self._abandoned:
            logger.warning(
                "the runner is closed, and %d abandoned attempts still run (they do not keep the process alive): %s",
                len(self._abandoned),
                ", ".join(sorted(self._abandoned)[:20]),
            )
