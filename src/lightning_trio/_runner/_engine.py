"""The engine of an open runner: slots, claiming, running, committing.

An attempt holds a slot from before it is claimed until its outcome is committed (an abandoned thread until it
really ends). Outcomes of many attempts are committed together: whatever has ended while the store was busy goes into
the next commit.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress

import attrs
import trio

from .._agents import BoundAgent, bind_agent
from .._concurrency import FlatNursery
from .._errors import LightningTrioError, NotStorable, RunnerClosed, StaleAttempt
from .._host import Stop
from .._lifecycle import TERMINAL_ROLLOUT, allowance, is_final, retry_delay
from .._records import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    CompletedRollout,
    EnqueueRolloutRequest,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    RunnerStatistics,
)
from .._resources import NamedResources
from .._spans import Link
from ..store import LightningStore
from ..tracing import host_link
from ._attempt import EndedAttempt, Progress, Surroundings, run_attempt
from ._inspection import RunningAttempt, look_at_running
from ._report import describe
from ._storable import finish_storable

logger = logging.getLogger("lightning_trio.runner")

_CLAIM_AT_ONCE = 256
"""The most rollouts to claim in one go; the loop serves other tasks in between."""

_LAST_COMMIT_SECONDS = 30.0
"""How long committing may take once the runner is being closed or cancelled."""


@attrs.define(eq=False)
class _Waiting:
    """Somebody waits for a commit and wants the rollout's status."""

    committed: trio.Event = attrs.field(factory=trio.Event)
    status: RolloutStatus | None = None


class Engine:
    """Run attempts for one open runner."""

    def __init__(
        self,
        shared: Surroundings,
        store: LightningStore,
        resources: NamedResources,
        default_config: RolloutConfig,
        max_concurrency: int,
        worker_id: str,
        grace_seconds: float,
    ) -> None:
        self._shared = shared
        self._store = store
        self._own_resources = resources
        self._default_config = default_config
        self._slots = trio.Semaphore(max_concurrency, max_value=max_concurrency)
        self._max_concurrency = max_concurrency
        self._worker_id = worker_id
        self._bound: dict[tuple[RolloutMode | None, int], tuple[NamedResources, BoundAgent | Exception]] = {}
        self._uncommitted: list[tuple[EndedAttempt, _Waiting | None]] = []
        self._ended = trio.Event()
        self._idle = trio.Event()
        """Set when nothing is left to commit; made anew by whoever waits for that."""
        self._committing = False
        self._closing = False
        self._calls: set[trio.CancelScope] = set()
        self._failed = False
        self._random = random.Random()
        self._live: dict[str, Progress] = {}
        """The attempts that run, the oldest first."""
        self.stop: Stop = Stop(grace_seconds, lambda: len(self._live))
        self._on_failure: dict[str | None, Callable[[], None]] = {}
        """Whom to tell of failed rollouts, by run."""
        self._clock = trio.lowlevel.current_clock()
        self._thread = threading.get_ident()
        self._retrying = 0
        self._abandoned: set[str] = set()
        self._late_results = 0
        self._attempts = 0
        self._by_status: dict[AttemptStatus, int] = {}

    def is_busy(self) -> bool:
        """Tell whether attempts run."""
        return bool(self._live)

    def statistics(self) -> RunnerStatistics:
        """Count what runs, waits and is done."""
        by_status = self._by_status
        return RunnerStatistics(
            running=len(self._live),
            retrying=self._retrying,
            succeeded=by_status.get("succeeded", 0),
            failed=by_status.get("failed", 0),
            timed_out=by_status.get("timeout", 0) + by_status.get("unresponsive", 0),
            cancelled=by_status.get("cancelled", 0),
            attempts=self._attempts,
            abandoned_threads=len(self._abandoned),
            max_concurrency=self._max_concurrency,
            late_results=self._late_results,
        )

    def running(self, limit: int | None = None) -> list[RunningAttempt]:
        """Look at the attempts that run, the oldest first; from any thread, and from a signal handler."""
        return look_at_running(self._live, self._clock.current_time(), self._thread, limit)

    def describe(self, limit: int) -> str:
        """Say what runs, in lines for a terminal; as `running`."""
        ages = [progress.started for progress in list(self._live.values())[-1:]]
        youngest = self._clock.current_time() - ages[0] if ages else None
        return describe(
            self._shared.agent.name, self.statistics(), self._store.queued_nowait(), self.running(limit), youngest
        )

    # Agents and resources.

    def bind(self, mode: RolloutMode | None, resources: NamedResources) -> BoundAgent:
        """Give the agent with its arguments from `resources`; decided once per snapshot.

        Raises:
            AgentSignatureError, UnsupportedLane: see `bind_agent`.
        """
        bound = self._bind(mode, resources)
        if isinstance(bound, Exception):
            raise bound
        return bound

    def _bind(self, mode: RolloutMode | None, resources: NamedResources) -> BoundAgent | Exception:
        key = (mode, id(resources))
        known = self._bound.get(key)
        # The mapping is kept beside its answer, so that its id cannot pass to another one.
        if known is not None and known[0] is resources:
            return known[1]
        try:
            bound: BoundAgent | Exception = bind_agent(self._shared.agent, mode, resources)
        except LightningTrioError as exc:
            bound = exc
        if len(self._bound) > 1024:
            self._bound.clear()
        self._bound[key] = (resources, bound)
        return bound

    async def _snapshots(self, rollouts: Iterable[AttemptedRollout]) -> dict[str | None, NamedResources]:
        ids = {rollout.resources_id for rollout in rollouts}
        snapshots: dict[str | None, NamedResources] = {}
        # A claimed rollout must not be lost to a cancellation before its task exists.
        with trio.CancelScope(shield=True):
            for resources_id in ids:
                update = None if resources_id is None else await self._store.get_resources_by_id(resources_id)
                snapshots[resources_id] = self._own_resources if update is None else update.resources
        return snapshots

    # Working off a queue.

    @trio.lowlevel.enable_ki_protection
    async def work(self, run_id: str | None) -> None:
        """Claim and run the queue's rollouts until cancelled; then wait for none, requeue what runs.

        Raises:
            KeyboardInterrupt, Terminated: stopped by a signal, after the grace period; see `Stop`.
        """
        host = host_link()
        with self._call(), self.stop.working() as work:
            # Flat, for a Ctrl-C that is raised in an agent's code is to leave it plain.
            async with FlatNursery() as nursery:
                with work.claiming(nursery.cancel_scope):
                    await self._work(run_id, host, nursery)
            await work.wait_others()
            if not work.ending:
                # Whoever waits for rollouts would do so for ever.
                raise RuntimeError("working off the queue ended, though nobody had ended it; please report this")

    async def _work(self, run_id: str | None, host: Link | None, nursery: trio.Nursery) -> None:
        while True:
            await self._store.wait_claimable(run_id=run_id)
            # Without a checkpoint where there is a slot: the store claims while what was claimed before begins to run.
            if not (held := self._take_slots(_CLAIM_AT_ONCE)):
                await self._slots.acquire()
                held = 1 + self._take_slots(_CLAIM_AT_ONCE - 1)
            claimed: list[AttemptedRollout] = []
            try:
                claimed = await self._store.claim(
                    held,
                    run_id=run_id,
                    worker_id=self._worker_id,
                    default_config=self._default_config,
                )
            finally:
                for _ in range(held - len(claimed)):
                    self._slots.release()
            await self._start_all(claimed, host, nursery)

    def _take_slots(self, wanted: int) -> int:
        taken = min(wanted, self._slots.value)
        for _ in range(taken):
            self._slots.acquire_nowait()
        return taken

    async def _start_all(self, claimed: Sequence[AttemptedRollout], host: Link | None, nursery: trio.Nursery) -> None:
        snapshots = await self._snapshots(claimed)
        for rollout in claimed:
            nursery.start_soon(
                self._run_claimed, rollout, snapshots[rollout.resources_id], host, name=rollout.rollout_id
            )

    @trio.lowlevel.enable_ki_protection
    async def _run_claimed(self, rollout: AttemptedRollout, resources: NamedResources, host: Link | None) -> None:
        ended = await self._run(rollout, resources, host, await self._spent(rollout))
        if ended.outcome.status == "cancelled":
            ended.outcome = attrs.evolve(ended.outcome, requeue=True)
        self._commit_soon(ended, None)
        if ended.stop is not None:
            raise ended.stop

    async def _spent(self, rollout: AttemptedRollout) -> float:
        """How many seconds ago the rollout's first attempt began, asked only where it matters."""
        if rollout.config.total_timeout_seconds is None or rollout.attempt.sequence_id == 1:
            return 0.0
        # A claimed rollout must not be lost to a cancellation here.
        attempts: Sequence[Attempt] = []
        with trio.CancelScope(shield=True):
            attempts = await self._store.query_attempts(rollout.rollout_id)
        return max(rollout.attempt.start_time - attempts[0].start_time, 0.0)

    # One rollout for a caller who waits for it.

    @trio.lowlevel.enable_ki_protection
    async def acquire_slot(self) -> None:
        """Wait for a slot, which `run_new` gives back."""
        with self._call():
            await self._slots.acquire()

    @trio.lowlevel.enable_ki_protection
    async def run_new(self, request: EnqueueRolloutRequest) -> CompletedRollout:
        """Run a rollout that bypasses the queue, retries included; the caller has acquired a slot.

        When the caller is cancelled, the rollout ends as cancelled.

        Raises:
            RunnerClosed: the runner was closed meanwhile; the rollout ends as cancelled.
        """
        with self._call():
            return await self._run_new(request)
        # Not reached: `_call` raises where its block was cancelled.
        raise AssertionError

    async def _run_new(self, request: EnqueueRolloutRequest) -> CompletedRollout:
        started: list[AttemptedRollout] = []
        try:
            started = await self._store.start([request], worker_id=self._worker_id, default_config=self._default_config)
        finally:
            if not started:
                self._slots.release()
        [rollout] = started
        resources = (await self._snapshots(started))[rollout.resources_id]
        host = host_link()
        began = trio.current_time()
        while True:
            ended = await self._run(rollout, resources, host, trio.current_time() - began)
            delay = ended.outcome.retry_delay or 0.0
            ended.outcome = attrs.evolve(ended.outcome, retry_delay=None)
            status = await self._commit(ended)
            if status is None:
                ended.refuse()
                return ended.completed("cancelled")
            if status in TERMINAL_ROLLOUT:
                return ended.completed(status)
            try:
                rollout = await self._next_attempt(rollout, delay)
            except StaleAttempt:
                # Somebody cancelled it through the store while it waited.
                return ended.completed("cancelled")

    async def _next_attempt(self, rollout: AttemptedRollout, delay: float) -> AttemptedRollout:
        self._retrying += 1
        holds_slot = False
        try:
            await trio.sleep(delay)
            await self._slots.acquire()
            holds_slot = True
            [rollout] = await self._store.start([rollout.rollout_id], worker_id=self._worker_id)
        except BaseException:
            if holds_slot:
                self._slots.release()
            with trio.CancelScope(shield=True), suppress(StaleAttempt):
                await self._store.update_rollout(rollout.rollout_id, status="cancelled")
            raise
        finally:
            self._retrying -= 1
        return rollout

    async def _run(
        self, rollout: AttemptedRollout, resources: NamedResources, host: Link | None, spent: float
    ) -> EndedAttempt:
        """Run an attempt that begins `spent` seconds after the rollout's first one."""
        self._attempts += 1
        attempt, config = rollout.attempt, rollout.config
        bound = self._bind(rollout.mode, resources)
        progress = Progress(rollout, bound.lane if isinstance(bound, BoundAgent) else None, trio.current_time())
        if config.queue_timeout_seconds is not None or config.total_timeout_seconds is not None:
            waited = attempt.start_time - rollout.start_time
            progress.allowance = allowance(config, attempt.sequence_id, waited, spent)
        self._live[attempt.attempt_id] = progress
        ended = await run_attempt(self._shared, rollout, resources, bound, host, progress)
        del self._live[attempt.attempt_id]
        self._late_results += progress.returned_late
        outcome = ended.outcome
        if outcome.status != "succeeded" and outcome.status != "cancelled":
            delay = retry_delay(attempt.sequence_id, config, self._random.random())
            spent += trio.current_time() - progress.started + delay
            final = progress.timed_out and progress.allowance is not None and progress.allowance.final
            final = final or is_final(outcome.status, outcome.error, config, spent)
            ended.outcome = attrs.evolve(outcome, retry_delay=delay, final=final)
        return ended

    # Committing.

    def _commit_soon(self, ended: EndedAttempt, waiting: _Waiting | None) -> None:
        self._uncommitted.append((ended, waiting))
        self._ended.set()

    async def _commit(self, ended: EndedAttempt) -> RolloutStatus | None:
        """Commit and wait for it, also when cancelled; then let the cancellation go on. None says: refused."""
        waiting = _Waiting()
        self._commit_soon(ended, waiting)
        with trio.CancelScope(shield=True):
            await waiting.committed.wait()
        if ended.stop is not None:
            raise ended.stop
        if self._failed:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise RunnerClosed("the runner was closed by an error of its store, which is raised where it was opened")
        return waiting.status

    @trio.lowlevel.enable_ki_protection
    async def commit_all(self) -> None:
        """Commit outcomes until `close`, then what is left. To be run in a task of its own."""
        batch: list[tuple[EndedAttempt, _Waiting | None]] = []
        try:
            with trio.CancelScope(shield=True) as scope:
                while self._uncommitted or self._calls or not self._closing:
                    if not self._uncommitted:
                        self._ended = trio.Event()
                        await self._ended.wait()
                    if self._closing:
                        scope.deadline = min(scope.deadline, trio.current_time() + _LAST_COMMIT_SECONDS)
                    batch, self._uncommitted = self._uncommitted, []
                    self._committing = True
                    await self._commit_batch(batch)
                    self._committing = False
                    batch = []
                    if not self._uncommitted:
                        self._idle.set()
        finally:
            self._idle.set()
            self._give_up([*batch, *self._uncommitted])

    async def wait_committed(self) -> None:
        """Wait until all attempts that have ended are committed, or cannot be."""
        while (self._uncommitted or self._committing) and not self._failed:
            if self._idle.is_set():
                self._idle = trio.Event()
            await self._idle.wait()

    @contextmanager
    def telling_failures(self, run_id: str, fn: Callable[[], None]) -> Generator[None]:
        """Call `fn` whenever a rollout of the run has failed for good."""
        self._on_failure[run_id] = fn
        try:
            yield
        finally:
            del self._on_failure[run_id]

    async def _commit_batch(self, batch: Sequence[tuple[EndedAttempt, _Waiting | None]]) -> None:
        try:
            statuses = await self._store.finish([ended.outcome for ended, _ in batch])
        except NotStorable:
            # Nothing of the call is stored; the others must not suffer for the one whose payload it is.
            statuses = []
            for ended, _ in batch:
                ended.outcome, status = await finish_storable(self._store, ended.outcome)
                statuses.append(status)
        for (ended, waiting), status in zip(batch, statuses, strict=True):
            self._committed(ended, waiting, status)

    def _give_up(self, lost: Sequence[tuple[EndedAttempt, _Waiting | None]]) -> None:
        """Let those go who wait for a commit that will not come."""
        if not lost:
            return
        self._failed = True
        logger.error("%d outcomes could not be committed: the store failed or took too long", len(lost))
        for _, waiting in lost:
            if waiting is not None:
                waiting.committed.set()

    def _committed(self, ended: EndedAttempt, waiting: _Waiting | None, status: RolloutStatus | None) -> None:
        # Refused: somebody else has ended the rollout, and what the attempt came to counts for nothing.
        attempt_status = ended.outcome.status if status is not None else "cancelled"
        self._by_status[attempt_status] = self._by_status.get(attempt_status, 0) + 1
        if status is not None:
            self._shared.tracer.finish_attempt(ended.outcome.spans)
        if status == "failed" and (tell := self._on_failure.get(ended.rollout.run_id)) is not None:
            tell()
        if waiting is not None:
            waiting.status = status
            waiting.committed.set()
        if ended.abandoned is None:
            self._slots.release()
        else:
            rollout_id = ended.rollout.rollout_id
            self._abandoned.add(rollout_id)
            logger.warning(
                "rollout %s was %s, but its %s could not be stopped and was abandoned: it keeps its slot until it "
                "ends and can record nothing more",
                rollout_id,
                {"timeout": "stopped at its deadline"}.get(attempt_status, attempt_status),
                ended.abandoned.kind,
            )
            ended.abandoned.when_ended(functools.partial(self._abandoned_ended, rollout_id))

    def _abandoned_ended(self, rollout_id: str) -> None:
        self._abandoned.discard(rollout_id)
        self._late_results += 1
        self._slots.release()

    def say_abandoned(self) -> None:
        """Name what outlives the runner."""
        if self._abandoned:
            logger.warning(
                "the runner is closed, and %d abandoned attempts still run (they do not keep the process alive): %s",
                len(self._abandoned),
                ", ".join(sorted(self._abandoned)[:20]),
            )

    @contextmanager
    def _call(self) -> Generator[None]:
        """Mark something that runs attempts, so that closing the runner ends it and waits for its commits."""
        self.check_open()
        with trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                yield
            finally:
                self._calls.discard(scope)
                self._ended.set()
        if scope.cancelled_caught:
            self.check_open()

    def check_open(self) -> None:
        """Refuse what comes, or is still there, when the runner is closed."""
        if self._closing:
            raise RunnerClosed("the runner was closed while this went on; keep it inside `async with runner:`")

    def close(self) -> None:
        """Cancel what still runs and let `commit_all` end once everything is committed."""
        self._closing = True
        self._ended.set()
        for scope in list(self._calls):
            scope.cancel()
