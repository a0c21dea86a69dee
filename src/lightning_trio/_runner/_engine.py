"""The engine of an open runner: it claims rollouts, passes them to workers, and commits their outcomes.

An attempt holds a slot from before it is claimed until its outcome is committed, an abandoned call until it ends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import attrs
import trio

from .._concurrency import FlatNursery, open_leavable_nursery
from .._errors import RunnerClosed, StaleAttempt
from .._host import WALL_CLOCK, GracefulShutdown
from .._lifecycle import TERMINAL_ROLLOUT
from .._records import (
    REPORTER_RETRIES,
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    CompletedRollout,
    EnqueueRolloutRequest,
    GiveBack,
    RetryIn,
    RolloutConfig,
    RolloutStatus,
    RunnerStatistics,
)
from .._resources import NamedResources, without_keys
from .._spans import Link
from ..store import LightningStore
from ..tracing import AttemptRecorder, Tracer, as_runner, host_link
from ._bindings import Bindings
from ._commits import Commits
from ._inspection import RunningAttempt
from ._live_attempt import EndedAttempt
from ._report import describe
from ._slots import Seat
from ._sub_rollouts import Admission, Caller, find_caller
from ._workers import ClaimedRollout, Workers

_CLAIM_AT_ONCE = 256
"""The most rollouts to claim at once; Trio's loop serves other tasks in between."""


@attrs.frozen
class EngineSettings:
    """The settings of the runner that an engine needs."""

    agent_name: str
    default_config: RolloutConfig
    max_concurrency: int
    grace_seconds: float
    worker_id: str


class Engine:
    """Run attempts for one open runner."""

    def __init__(
        self,
        settings: EngineSettings,
        store: LightningStore,
        tracer: Tracer,
        bindings: Bindings,
        workers: Workers,
    ) -> None:
        self._settings = settings
        self._store = store
        self._tracer = tracer
        self._workers = workers
        self.bindings: Bindings = bindings
        self.commits: Commits = Commits(store, self._committed)
        self.shutdown: GracefulShutdown = GracefulShutdown(settings.grace_seconds, lambda: workers.counts().running)
        self._closing = False
        self._calls: set[trio.CancelScope] = set()
        self._on_failure: dict[str | None, Callable[[], None]] = {}
        """Callbacks for failed rollouts, by run."""
        self._retrying = 0
        self._by_status: dict[AttemptStatus, int] = {}

    # Statistics and inspection.

    def is_busy(self) -> bool:
        """Whether any attempts run."""
        return self._workers.counts().running > 0

    def runs(self, recorder: AttemptRecorder) -> bool:
        """Whether a recorder is of an attempt that runs here."""
        return self._workers.recorder_of(recorder.rollout.attempt.attempt_id) is recorder

    def statistics(self) -> RunnerStatistics:
        """Return the counts of running, waiting and finished attempts."""
        by_status, counts = self._by_status, self._workers.counts()
        return RunnerStatistics(
            running=counts.running,
            retrying=self._retrying,
            succeeded=by_status.get("succeeded", 0),
            failed=by_status.get("failed", 0),
            timed_out=by_status.get("timeout", 0) + by_status.get("unresponsive", 0),
            cancelled=by_status.get("cancelled", 0),
            attempts=counts.begun,
            abandoned_threads=counts.abandoned,
            max_concurrency=self._settings.max_concurrency,
            late_results=counts.late_results,
        )

    def running(self, limit: int | None = None) -> list[RunningAttempt]:
        """Return the running attempts, the oldest first; may be called from any thread and from a signal handler."""
        return self._workers.running(limit)

    def describe(self, limit: int) -> str:
        """Return the running attempts as text for a terminal; may be called wherever `running` may."""
        workers = self._workers
        report = describe(
            self._settings.agent_name,
            self.statistics(),
            self._store.queued_nowait(),
            workers.running(limit),
            workers.youngest_age(),
        )
        return without_keys(report)

    # Rollouts from the queue.

    @trio.lowlevel.enable_ki_protection
    async def work(self, run_id: str | None) -> None:
        """Claim and run queued rollouts until cancelled; then requeue those that run.

        Raises:
            KeyboardInterrupt, Terminated: stopped by a signal, after the grace period; see `GracefulShutdown`.
        """
        caller = find_caller()
        host = host_link() if caller is None else caller.link()
        with self._call(caller), self.shutdown.stoppable() as call:
            # It leaves attempts behind that were given up.
            async with open_leavable_nursery() as leavable:
                nursery = leavable.nursery
                with call.claiming(nursery.cancel_scope):
                    await self._claim_all(run_id, host, nursery, caller)
            await call.wait_others()
            if not call.stopping:
                # Callers that wait for rollouts would wait for ever.
                raise RuntimeError(
                    "the runner's own nursery was cancelled, and with it all of its attempts: does an agent cancel "
                    "trio.lowlevel.current_task().parent_nursery? Open a nursery in the agent, and cancel that one"
                )

    async def _claim_all(
        self, run_id: str | None, host: Link | None, nursery: trio.Nursery, caller: Caller | None
    ) -> None:
        slots = self._workers.slots
        seat: Seat | None = None
        while True:
            await self._store.wait_claimable(run_id=run_id)
            # No checkpoint if a slot is free: the store claims while the previous rollouts start.
            if caller is None:
                held = slots.take_nowait(_CLAIM_AT_ONCE) or await slots.take(_CLAIM_AT_ONCE, nursery)
            else:
                held, seat = await caller.take(slots, _CLAIM_AT_ONCE)
            claimed: list[AttemptedRollout] = []
            try:
                claimed = await self._store.claim(
                    held,
                    run_id=run_id,
                    worker_id=self._settings.worker_id,
                    default_config=self._settings.default_config,
                )
            finally:
                spare = held - len(claimed)
                if seat is not None and not claimed:
                    seat.release()
                    spare -= 1
                slots.give_back(spare)
            snapshots = await self.bindings.snapshots(claimed)
            ready = [
                ClaimedRollout(rollout, snapshots[rollout.resources_id], host, await self._spent(rollout))
                if rollout.config.total_timeout_seconds is not None
                else ClaimedRollout(rollout, snapshots[rollout.resources_id], host)
                for rollout in claimed
            ]
            if caller is not None:
                ready = _admitted(ready, caller, seat)
            self._workers.start(ready, nursery, self.commits.submit)

    async def _spent(self, rollout: AttemptedRollout) -> float:
        """Return how many seconds ago the rollout's first attempt began."""
        if rollout.attempt.sequence_id == 1:
            return 0.0
        # A cancellation must not lose a claimed rollout.
        attempts: list[Attempt] = []
        with trio.CancelScope(shield=True):
            attempts = list(await self._store.query_attempts(rollout.rollout_id))
        first = attempts[0].start_time
        # The clock may have been set in between.
        return max(min(rollout.attempt.start_time - first, WALL_CLOCK.since(first)), 0.0)

    # One rollout for a caller that waits for it.

    @trio.lowlevel.enable_ki_protection
    async def acquire_slot(self, running: trio.Nursery | None = None) -> Admission | None:
        """Wait for a slot, which `run_new` releases; a sub-rollout gets an admission to pass on to it.

        Args:
            running: where the caller's other attempts run.
        """
        caller = find_caller()
        with self._call(caller):
            return await self._acquire(caller, running)
        # Not reached: `_call` raises where its block was cancelled.
        raise AssertionError

    async def _acquire(self, caller: Caller | None, running: trio.Nursery | None = None) -> Admission | None:
        slots = self._workers.slots
        if caller is None:
            await slots.take(1, running)
            return None
        return Admission(caller, (await caller.take(slots, 1)).seat)

    def _release(self, admission: Admission | None) -> None:
        """Release the slot or the seat of a rollout that did not start."""
        if admission is None or admission.seat is None:
            self._workers.slots.give_back()
        else:
            admission.seat.release()

    @trio.lowlevel.enable_ki_protection
    async def run_new(self, request: EnqueueRolloutRequest, admission: Admission | None = None) -> CompletedRollout:
        """Run a rollout that bypasses the queue, retries included; the caller has acquired a slot.

        When the caller is cancelled, the rollout ends as cancelled.

        Args:
            request: the rollout.
            admission: what `acquire_slot` returned.

        Raises:
            RunnerClosed: the runner was closed meanwhile; the rollout ends as cancelled.
        """
        caller = None if admission is None else admission.caller
        with self._call(caller):
            if caller is not None:
                request = attrs.evolve(request, metadata={**(request.metadata or {}), **caller.metadata()})
            return await self._run_new(request, admission)
        # See acquire_slot.
        raise AssertionError

    async def _run_new(self, request: EnqueueRolloutRequest, admission: Admission | None) -> CompletedRollout:
        settings = self._settings
        snapshots: Mapping[str | None, NamedResources] = {}
        try:
            [rollout] = started = await self._store.start(
                [request], worker_id=settings.worker_id, default_config=settings.default_config
            )
            snapshots = await self.bindings.snapshots(started)
        finally:
            if not snapshots:
                self._release(admission)
        resources = snapshots[rollout.resources_id]
        host = host_link() if admission is None else admission.caller.link()
        began = trio.current_time()
        spent = 0.0
        while True:
            ended = await self._workers.run(ClaimedRollout(rollout, resources, host, spent, admission))
            delay = 0.0
            if isinstance(ended.outcome.next, RetryIn):
                delay = ended.outcome.next.seconds
                ended.outcome = attrs.evolve(ended.outcome, next=REPORTER_RETRIES)
            elif isinstance(ended.outcome.next, GiveBack):
                ended.outcome = attrs.evolve(ended.outcome, next=GiveBack(queued=False))
            status = await self.commits.commit(ended)
            if status is None:
                ended.refuse()
                return ended.completed("cancelled")
            if status in TERMINAL_ROLLOUT:
                return ended.completed(status)
            try:
                rollout, admission = await self._next_attempt(rollout, delay, admission)
            except StaleAttempt:
                # The rollout was cancelled through the store while it waited.
                return ended.completed("cancelled")
            spent = trio.current_time() - began

    async def _next_attempt(
        self, rollout: AttemptedRollout, delay: float, before: Admission | None
    ) -> tuple[AttemptedRollout, Admission | None]:
        self._retrying += 1
        holds_slot = False
        admission: Admission | None = None
        try:
            await trio.sleep(delay)
            admission = await self._acquire(None if before is None else before.caller)
            holds_slot = True
            [rollout] = await self._store.start([rollout.rollout_id], worker_id=self._settings.worker_id)
        except BaseException:
            if holds_slot:
                self._release(admission)
            with trio.CancelScope(shield=True), suppress(StaleAttempt), as_runner():
                await self._store.update_rollout(rollout.rollout_id, status="cancelled")
            raise
        finally:
            self._retrying -= 1
        return rollout, admission

    # Outcomes.

    def _committed(self, ended: EndedAttempt, status: RolloutStatus | None) -> None:
        # A refused outcome counts as cancelled: the rollout was ended through the store or by another runner.
        attempt_status = ended.outcome.status if status is not None else "cancelled"
        self._by_status[attempt_status] = self._by_status.get(attempt_status, 0) + 1
        try:
            if status is not None:
                self._tracer.finish_attempt(ended.outcome.spans)
            if status == "failed" and (notify := self._on_failure.get(ended.rollout.run_id)) is not None:
                notify()
        finally:
            self._workers.committed(ended, attempt_status)

    @contextmanager
    def notifying_of_failures(self, run_id: str, fn: Callable[[], None]) -> Generator[None]:
        """Call `fn` whenever a rollout of the run has failed for good."""
        self._on_failure[run_id] = fn
        try:
            yield
        finally:
            del self._on_failure[run_id]

    # Opening and closing.

    @contextmanager
    def _call(self, caller: Caller | None) -> Generator[None]:
        """Register the block, so that closing the runner cancels it and waits for its commits.

        Raises:
            AttemptAbandoned, NoActiveRollout: the attempt that made the call was stopped.
        """
        self.check_open()
        with trio.CancelScope() as scope, self.commits.expecting():
            self._calls.add(scope)
            if caller is not None:
                caller.calls.add(scope)
            try:
                yield
            finally:
                self._calls.discard(scope)
                if caller is not None:
                    caller.calls.discard(scope)
        if scope.cancelled_caught:
            self.check_open()
            if caller is not None:
                caller.recorder.check_open()

    def check_open(self) -> None:
        """Raise if the runner is closed, or was closed meanwhile.

        Raises:
            RunnerClosed: the runner is closed.
        """
        if self._closing:
            raise RunnerClosed.meanwhile("`async with runner:`")

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Commit outcomes until the block ends; then cancel running attempts and commit their outcomes."""
        async with FlatNursery() as nursery:
            nursery.start_soon(self.commits.run)
            async with self._workers.open():
                try:
                    yield
                finally:
                    self._closing = True
                    self.commits.close()
                    for scope in list(self._calls):
                        scope.cancel()


def _admitted(claimed: Sequence[ClaimedRollout], caller: Caller, seat: Seat | None) -> list[ClaimedRollout]:
    """Return rollouts as sub-rollouts of the caller, the first on the seat, if there is one."""
    return [
        attrs.evolve(each, admission=Admission(caller, None if number else seat)) for number, each in enumerate(claimed)
    ]
