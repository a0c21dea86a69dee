"""Workers take claimed rollouts and return outcomes.

`LocalWorkers` are this process with its lanes. Other processes and machines, each with lanes of their own, can
implement the same protocol.
"""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from typing import NamedTuple, Protocol

import attrs
import trio

from .._agents import AgentCopy
from .._concurrency import FlatNursery, LeavableNursery, leave_behind, listening_for_waits, open_leavable_nursery
from .._errors import AgentSignatureError, LightningTrioError
from .._host import WALL_CLOCK
from .._lifecycle import allowance, is_final, retry_delay
from .._log import Log
from .._records import FINAL, GIVE_BACK, AttemptedRollout, AttemptOutcome, AttemptStatus, RetryIn
from .._resources import NamedResources
from .._spans import Link
from ..lanes import Call, RunningTask
from ..tracing import AttemptRecorder, enter_attempt, find_recorder, leave_attempt
from ._attempt import AttemptParts, run_attempt, time_is_up
from ._bindings import Bindings
from ._ending import Raised, Returned, Silent, TimedOut
from ._inspection import RunningAttempt, running_attempts
from ._live_attempt import EndedAttempt, LiveAttempt, Place
from ._overdue import AbandonedTask, OverdueWatch
from ._slot_watch import Progress, SlotWatch
from ._slots import Slots
from ._sub_rollouts import OPEN, Admission, Caller

logger = Log("lightning_trio.runner")


@attrs.define(eq=False)
class ClaimedRollout:
    """A rollout with its new attempt, and the resources to run it with.

    `host` is a link to the host program's current span, `spent` is the seconds since the rollout's first attempt began,
    `admission` is the admission of a sub-rollout.
    """

    rollout: AttemptedRollout
    resources: NamedResources
    host: Link | None
    spent: float = 0.0
    admission: Admission | None = None


class AttemptCounts(NamedTuple):
    """Numbers of attempts since the runner was opened."""

    running: int
    """Attempts that run now."""
    begun: int
    abandoned: int
    """Attempts that have ended, but whose call could not be stopped and still holds a slot."""
    late_results: int
    """Results that were rejected because they came too late."""


class Workers(Protocol):
    """Workers run attempts, each with a slot from before its rollout is claimed until its outcome is committed."""

    @property
    def slots(self) -> Slots:
        """The places of attempts."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Accept attempts within the block."""
        ...

    def start(
        self, claimed: Sequence[ClaimedRollout], nursery: trio.Nursery, report: Callable[[EndedAttempt], None]
    ) -> None:
        """Start attempts, and report each exactly once when it has ended.

        A cancelled attempt is reported, too, as ``"cancelled"`` with `GIVE_BACK`, so that its rollout goes back to the
        queue; the cancellation, `EndedAttempt.stop`, is raised in the nursery after that.

        Args:
            claimed: the attempts to run; a slot was taken for each.
            nursery: the nursery of the tasks that run them or wait for them.
            report: called for each in Trio's thread.
        """
        ...

    async def run(self, claimed: ClaimedRollout) -> EndedAttempt:
        """Run one attempt for a caller that waits for it, and return the ended attempt.

        A cancellation of the caller is not raised but returned in `EndedAttempt.stop`; the caller raises it when the
        outcome is committed. `AttemptOutcome.next` says whether another attempt follows a failed one.
        """
        ...

    def committed(self, ended: EndedAttempt, status: AttemptStatus) -> None:
        """Release the slot of an attempt whose outcome is committed, or, if its call is abandoned, when the call ends.

        Args:
            ended: the attempt.
            status: its status in the statistics, ``"cancelled"`` if its outcome was refused.
        """
        ...

    def counts(self) -> AttemptCounts:
        """Return the numbers of attempts; called from any thread."""
        ...

    def running(self, limit: int | None = None) -> list[RunningAttempt]:
        """Return the attempts that run, the oldest first; called from any thread, and from signal handlers."""
        ...

    def recorder_of(self, attempt_id: str) -> AttemptRecorder | None:
        """Return the recorder of a running attempt, None if it does not run in this process; called as `running` is."""
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
        parts: the parts that they share.
        bindings: the agent bound to resources.
        max_concurrency: how many may run at a time.
    """

    def __init__(self, parts: AttemptParts, bindings: Bindings, max_concurrency: int) -> None:
        self._parts = parts
        self._bindings = bindings
        self._copies = bindings.copies
        self._slots = Slots(max_concurrency)
        self._random = random.Random()
        self._thread = threading.get_ident()
        self._live: dict[str, LiveAttempt] = {}
        """The running attempts by id, the oldest first."""
        self._begun = 0
        self._abandoned: dict[str, str] = {}
        """The rollouts whose abandoned calls still run, with the kind of call."""
        self._late_results = 0
        self._report: Callable[[EndedAttempt], None]
        """What the ends of attempts from the queue are reported to."""
        self._waiters: dict[str, Callable[[EndedAttempt], None]] = {}
        """What the ends of attempts in `_apart` are reported to."""
        self._admissions: dict[str, Admission] = {}
        """The admissions of running sub-rollouts, by attempt."""
        self._callers: dict[str, Caller] = {}
        """The running attempts whose agents have called a runner."""
        self._apart: LeavableNursery
        """Where attempts run that must not run in their caller's task."""
        self._finishing: trio.Nursery
        """Where attempts end that were given up."""
        self._overdue = OverdueWatch(self.attempts, self._locate, self._give_up, parts.watch)
        self._slot_watch = SlotWatch(
            parts.agent_name, self._slots, self.attempts, self._progress, self._locate, self._has_calls
        )

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Let the agents that run here call runners within the block."""
        OPEN[:] = [*OPEN, self]
        try:
            with self._parts.watch.joined(self), listening_for_waits(self._wait_of_caller):
                async with FlatNursery() as self._finishing:
                    watching = trio.CancelScope()
                    self._finishing.start_soon(self._watch, watching)
                    try:
                        async with open_leavable_nursery() as self._apart:
                            yield
                    finally:
                        watching.cancel()
        finally:
            OPEN[:] = [each for each in OPEN if each is not self]

    def caller_of(self, recorder: AttemptRecorder) -> Caller | None:
        """Return a running attempt as a caller, None if it does not run here, or if another thread asks."""
        attempt_id = recorder.rollout.attempt.attempt_id
        caller = self._callers.get(attempt_id)
        live = None if caller is not None else self._live.get(attempt_id)
        if live is not None and live.recorder is recorder and self._thread == threading.get_ident():
            admission = self._admissions.get(attempt_id)
            if admission is None:
                caller = Caller(recorder, self._slots)
            else:
                caller = Caller(recorder, self._slots, admission.seat, admission.caller)
            self._callers[attempt_id] = caller
        return caller

    def _wait_of_caller(self) -> AbstractContextManager[None]:
        """Return what an attempt that waits for rollouts in a store holds meanwhile, if it runs here."""
        recorder = find_recorder()
        caller = None if recorder is None else self.caller_of(recorder)
        return nullcontext() if caller is None else caller.waiting()

    def attempts(self) -> Collection[LiveAttempt]:
        """Return the running attempts; called from any thread."""
        return self._live.values()

    def extend(self, live: LiveAttempt, seconds: float) -> None:
        """Move the deadline of an attempt that others kept from running, and of the sub-rollouts it waits for."""
        live.limit += seconds
        if live.scope is not None:
            live.scope.deadline += seconds
        caller = self._callers.get(live.recorder.rollout.attempt.attempt_id)
        for scope in () if caller is None else caller.tasks:
            scope.deadline += seconds

    @property
    def slots(self) -> Slots:
        """The places of attempts."""
        return self._slots

    def start(
        self, claimed: Sequence[ClaimedRollout], nursery: trio.Nursery, report: Callable[[EndedAttempt], None]
    ) -> None:
        """Start attempts, each in a task of its own."""
        self._report = report
        for each in claimed:
            nursery.start_soon(self._run_and_report, each, report, name=each.rollout.rollout_id)

    @trio.lowlevel.enable_ki_protection
    async def _run_and_report(self, claimed: ClaimedRollout, report: Callable[[EndedAttempt], None]) -> None:
        live = self._begin(claimed)
        # Never left: the context is this task's own and ends with it.
        enter_attempt(live.recorder)
        ended = await self._run(live)
        if ended is None:
            return
        if ended.outcome.status == "cancelled":
            ended.outcome = attrs.evolve(ended.outcome, next=GIVE_BACK)
        report(ended)
        if ended.stop is not None:
            raise ended.stop

    async def run(self, claimed: ClaimedRollout) -> EndedAttempt:
        """Run an attempt in the current task, or in its own if this one may have to go on without it.

        A sub-rollout has a task of its own, too, because Python's stack is limited.
        """
        live = self._begin(claimed)
        admission = claimed.admission
        if admission is not None or (live.is_limited and live.lane is not None and live.lane.in_trio):
            return await self._run_apart(live, None if admission is None else admission.caller)
        context = enter_attempt(live.recorder)
        try:
            ended = await self._run(live)
        finally:
            leave_attempt(context)
        assert ended is not None
        return ended

    async def _run_apart(self, live: LiveAttempt, caller: Caller | None) -> EndedAttempt:
        """Run an attempt in a task of its own, and wait for its end; a cancellation is passed on to it."""
        results: list[EndedAttempt] = []
        # At one moment with its own deadline, that of its parent counts: it ends as cancelled.
        ended, scope = trio.Event(), trio.CancelScope(deadline=trio.current_effective_deadline())

        def report(result: EndedAttempt) -> None:
            results.append(result)
            ended.set()

        self._waiters[live.rollout.attempt.attempt_id] = report
        if caller is not None:
            caller.tasks.add(scope)
        self._apart.nursery.start_soon(self._run_within, live, scope, name=live.rollout.rollout_id)
        stop = None
        try:
            await ended.wait()
        except trio.Cancelled as exc:
            stop = exc
            scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()
        if caller is not None:
            caller.tasks.discard(scope)
        [result] = results
        if isinstance(result.stop, trio.Cancelled):
            # The caller's own; if the agent ended by itself, Trio raises it again at the next checkpoint.
            result.stop = stop
        return result

    @trio.lowlevel.enable_ki_protection
    async def _run_within(self, live: LiveAttempt, scope: trio.CancelScope) -> None:
        with scope:
            live.owner = trio.lowlevel.current_task()
            # Another task may have blocked Trio's thread since the caller's.
            live.started = self._parts.clock.current_time()
            # Never left, as in _run_and_report.
            enter_attempt(live.recorder)
            ended = await self._run(live)
            if ended is not None:
                self._waiters.pop(live.rollout.attempt.attempt_id)(ended)

    async def _run(self, live: LiveAttempt) -> EndedAttempt | None:
        """Run an attempt; returns None if it was given up, once its task ends."""
        attempt_id = live.recorder.rollout.attempt.attempt_id
        self._live[attempt_id] = live
        try:
            ended = await run_attempt(live, self._parts)
        finally:
            self._live.pop(attempt_id, None)
        if ended is None:
            assert live.call is not None
            assert isinstance(live.call.abandoned, AbandonedTask)
            live.call.abandoned.end()
            return None
        if live.copy is not None:
            self._end_use(live, ended)
        if ended.outcome.status != "succeeded" or self._callers or self._admissions:
            self._complete(live, ended)
        return ended

    def _complete(self, live: LiveAttempt, ended: EndedAttempt) -> None:
        """Add to an attempt that has ended what follows from its end."""
        if self._callers or self._admissions:
            self._end_family(live, ended)
        outcome = ended.outcome
        if outcome.status == "failed" and self._repeats(live):
            ended.outcome = attrs.evolve(outcome, status="cancelled", next=GIVE_BACK)
        elif outcome.status != "succeeded" and outcome.status != "cancelled":
            self._late_results += isinstance(live.ending, TimedOut | Silent) and live.ending.returned
            ended.outcome = self._plan_retry(live, outcome)

    def _repeats(self, live: LiveAttempt) -> bool:
        """Whether an attempt failed because another rollout ended, and does not count, as one lost with its worker."""
        other = None if live.call is None else live.call.disturbed_by
        if other is None or live.rollout.attempt.sequence_id >= live.rollout.config.max_lost_attempts:
            return False
        logger.warning(
            "rollout %s (agent %s) runs again: it failed because %s was stopped, which ended what both wait for; let a "
            "task of its own do what serves several rollouts, and write: await asyncio.shield(task)",
            live.rollout.rollout_id,
            self._parts.agent_name,
            other,
        )
        return True

    # Attempts that do not end at their deadlines, and calls that do not get a slot.

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            async with FlatNursery() as nursery:
                nursery.start_soon(self._overdue.run)
                nursery.start_soon(self._slot_watch.run)

    def _progress(self) -> Progress:
        recorded = sum(live.recorder.count_activity() for live in self._live.values())
        return Progress(self._begun, len(self._live), len(self._abandoned), recorded)

    def _has_calls(self, live: LiveAttempt) -> bool:
        caller = self._callers.get(live.recorder.rollout.attempt.attempt_id)
        return caller is not None and bool(caller.calls)

    def _locate(self, live: LiveAttempt) -> RunningTask | None:
        return None if live.lane is None or live.call is None else live.lane.locate(live.call, self._thread)

    def _give_up(self, live: LiveAttempt) -> None:
        """End an attempt without its task."""
        assert live.call is not None
        assert live.owner is not None
        live.call.abandoned = AbandonedTask()
        del self._live[live.rollout.attempt.attempt_id]
        leave_behind(live.owner)
        live.owner = None
        self._finishing.start_soon(self._end_without_task, live)

    @trio.lowlevel.enable_ki_protection
    async def _end_without_task(self, live: LiveAttempt) -> None:
        # Never left, as in _run_and_report.
        enter_attempt(live.recorder)
        ended = await run_attempt(live, self._parts, time_is_up(live, returned=False))
        assert ended is not None
        if live.copy is not None:
            self._end_use(live, ended)
        self._complete(live, ended)
        report = self._waiters.pop(ended.rollout.attempt.attempt_id, None) or self._report
        report(ended)
        if ended.stop is not None:
            raise ended.stop

    def _end_family(self, live: LiveAttempt, ended: EndedAttempt) -> None:
        """End an attempt as a sub-rollout and as a caller, if it is one."""
        attempt_id = ended.rollout.attempt.attempt_id
        admission = self._admissions.pop(attempt_id, None)
        if admission is not None:
            admission.caller.remove_child(live.recorder)
            ended.place = admission.seat
        caller = self._callers.pop(attempt_id, None)
        if caller is not None:
            caller.end()
            ended.place = caller
            if not isinstance(live.ending, Returned | Raised):
                caller.stop_calls()

    def _begin(self, claimed: ClaimedRollout) -> LiveAttempt:
        self._begun += 1
        parts = self._parts
        rollout, resources = claimed.rollout, claimed.resources
        recorder = AttemptRecorder(parts.tracer, rollout, resources, parts.agent_name, claimed.host, parts.limit)
        if claimed.admission is not None:
            self._admissions[rollout.attempt.attempt_id] = claimed.admission
            claimed.admission.caller.add_child(recorder)
        bound = self._bindings.try_to_bind(rollout.mode, resources)
        now = parts.clock.current_time()
        copy: AgentCopy | None = None
        if self._copies is not None and not isinstance(bound, LightningTrioError):
            try:
                copy = self._copies.take()
                bound = copy.bind(bound)
            except AgentSignatureError as exc:
                bound = exc
        if isinstance(bound, LightningTrioError):
            live = LiveAttempt(recorder, None, None, bound, now)
        else:
            lane = parts.lanes[bound.lane]
            live = LiveAttempt(recorder, Call(bound, recorder), lane, None, now)
            live.copy = copy
            if lane.in_trio and not parts.watch.watches:
                parts.watch.watch()
        live.owner = trio.lowlevel.current_task()
        live.spent = claimed.spent
        self._limit(live, claimed, now)
        return live

    def _limit(self, live: LiveAttempt, claimed: ClaimedRollout, now: float) -> None:
        """Set how long an attempt that begins `now` may run, and have its deadline watched."""
        rollout = claimed.rollout
        config = rollout.config
        if config.unresponsive_seconds is not None:
            self._overdue.expect(now + config.unresponsive_seconds)
        if config.queue_timeout_seconds is not None or config.total_timeout_seconds is not None:
            attempt = rollout.attempt
            # The clock may have been set in between.
            waited = min(attempt.start_time - rollout.start_time, WALL_CLOCK.since(rollout.start_time))
            live.allowance = allowance(config, attempt.sequence_id, waited, claimed.spent)
            live.limit = live.allowance.seconds
        elif config.timeout_seconds is not None:
            live.limit = config.timeout_seconds
        else:
            return
        if now + live.limit < self._overdue.covered:
            self._overdue.expect(now + live.limit)

    def _end_use(self, live: LiveAttempt, ended: EndedAttempt) -> None:
        """Make an attempt's copy of the agent available to others, or let its abandoned call keep it."""
        assert self._copies is not None
        assert live.copy is not None
        self._copies.attempt_ended()
        if ended.abandoned is None:
            self._copies.give_back(live.copy)
        else:
            ended.copy = live.copy

    def _plan_retry(self, live: LiveAttempt, outcome: AttemptOutcome) -> AttemptOutcome:
        """Return the outcome with what follows an unsuccessful attempt: a retry or the end."""
        config, attempt = live.rollout.config, live.rollout.attempt
        delay = retry_delay(attempt.sequence_id, config, self._random.random())
        spent = live.spent + self._parts.clock.current_time() - live.started + delay
        used_up = isinstance(live.ending, TimedOut) and live.ending.final
        final = used_up or is_final(outcome.status, outcome.error, config, spent)
        return attrs.evolve(outcome, next=FINAL if final else RetryIn(delay))

    def committed(self, ended: EndedAttempt, status: AttemptStatus) -> None:
        """Release the attempt's slot, or log that its abandoned call still holds it."""
        if ended.abandoned is None:
            (ended.place or self._slots).release()
            return
        rollout_id = ended.rollout.rollout_id
        self._abandoned[rollout_id] = ended.abandoned.kind
        logger.warning(
            "rollout %s was %s, but its %s could not be stopped and was abandoned: it keeps its slot until it "
            "ends and can record nothing more",
            rollout_id,
            {"timeout": "stopped at its deadline"}.get(status, status),
            ended.abandoned.kind,
        )
        ended.abandoned.when_ended(functools.partial(self._abandoned_ended, rollout_id, ended.place, ended.copy))

    def _abandoned_ended(self, rollout_id: str, place: Place | None, copy: AgentCopy | None) -> None:
        self._abandoned.pop(rollout_id, None)
        if copy is not None and self._copies is not None:
            self._copies.give_back(copy)
        self._late_results += 1
        (place or self._slots).release()

    def counts(self) -> AttemptCounts:
        """Count the attempts of this process."""
        return AttemptCounts(len(self._live), self._begun, len(self._abandoned), self._late_results)

    def running(self, limit: int | None = None) -> list[RunningAttempt]:
        """Return the running attempts of this process, the oldest first."""
        return running_attempts(self._live, self._parts.clock.current_time(), self._thread, limit)

    def recorder_of(self, attempt_id: str) -> AttemptRecorder | None:
        """Return the recorder of a running attempt."""
        live = self._live.get(attempt_id)
        return None if live is None else live.recorder

    def youngest_age(self) -> float | None:
        """Return the age of the attempt that began last."""
        # Copied, because other threads ask while attempts begin and end.
        started = [live.started for live in list(self._live.values())[-1:]]
        return self._parts.clock.current_time() - started[0] if started else None

    def log_abandoned(self) -> None:
        """Log the rollouts whose abandoned calls outlive the runner."""
        if not self._abandoned:
            return
        tasks = sum(kind == AbandonedTask.kind for kind in self._abandoned.values())
        logger.warning(
            "the runner is closed, and %d abandoned attempts still run (%s): %s",
            len(self._abandoned),
            f"Trio waits for {tasks} of them at its end" if tasks else "they do not keep the process alive",
            ", ".join(sorted(self._abandoned)[:20]),
        )
