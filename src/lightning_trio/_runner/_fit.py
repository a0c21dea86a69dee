"""One run of an algorithm over datasets, on an open runner."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import trio

from .._concurrency import FlatNursery, run_in_thread
from .._errors import AsyncioAgentError, Terminated
from .._lifecycle import TERMINAL_ROLLOUT
from .._log import Log
from .._plain_values import without_surrogates
from .._records import AttemptedRollout, FitResult, ResourcesUpdate, RolloutMode, Run, RunSummary, Unset
from .._resources import NamedResources
from ..algorithms import Algorithm, Baseline, Datasets, Session, digest_of_resources
from ..lanes import WRONG_LOOP_ERRORS, find_asyncio_sign
from ..store import LightningStore, RunStore
from ..tracing import as_runner
from ._engine import Engine
from ._failure_limit import FailureLimit
from ._run_start import FitSettings, Resumption, RunStart, rollouts_left
from ._sub_rollouts import find_caller

logger = Log("lightning_trio.runner")


_RECORD_SECONDS = 1.0
"""How often a run's elapsed time is recorded; a killed process loses up to this much of it."""

_LAST_RECORD_SECONDS = 2.0
"""How long the last record may take when the run is cancelled."""


class Fit:
    """Run the algorithm, with its store bound to a run of its own, and the rollouts that it enqueues."""

    def __init__(self, engine: Engine, store: LightningStore, settings: FitSettings, datasets: Datasets) -> None:
        self._engine = engine
        self._store = store
        self._settings = settings
        self._datasets = datasets

    async def run(self, resumption: Resumption) -> FitResult:
        """Run to the end and return the result."""
        await self._check_resources()
        run = await RunStart(self._store, self._settings, self._datasets).begin(resumption)
        if run.status == "finished":
            logger.info("%s has already finished; returning its result", run.run_id)
            return await self._result(run)
        return await self._work(run)

    async def _initial_resources(self, run: Run) -> ResourcesUpdate | None:
        """Return the snapshot that the run starts with; a resumed run's keeps its id."""
        own = self._settings.own
        if own is None or run.resources_id in (None, own.resources_id):
            return own
        before = await self._store.get_resources_by_id(run.resources_id)
        if before is not None and await _differ(before, own):
            logger.warning(
                "%s started with other resources; finished rollouts are kept, the others run with the new ones",
                run.run_id,
            )
        return await self._store.update_resources(run.resources_id, own.resources)

    # Running.

    async def _work(self, run: Run) -> FitResult:
        settings = self._settings
        left = await rollouts_left(self._store, run, settings.options.max_rollouts)
        caller = find_caller()
        metadata = None if caller is None else caller.metadata()
        store = RunStore(self._store, run.run_id, self._check, left, metadata)
        session = Session(
            run, store, await self._initial_resources(run), settings.max_concurrency, settings.options.adapter
        )
        begun = trio.current_time()

        def elapsed() -> float:
            return run.elapsed_seconds + trio.current_time() - begun

        limit = await self._failure_limit(run)
        try:
            with self._engine.shutdown.stoppable() as call:
                async with FlatNursery() as nursery:
                    # The end of the grace period, or a second signal, ends whatever the algorithm waits for.
                    call.stop_within(nursery.cancel_scope)
                    nursery.start_soon(_record_time, session, elapsed)
                    await self._run_limited(session, store, limit)
                    nursery.cancel_scope.cancel()
        except BaseException as exc:
            await self._record_last(session, elapsed, interrupted=isinstance(exc, KeyboardInterrupt | Terminated))
            raise
        best = session.best
        run = await session.record(
            status="finished",
            end_time=time.time(),
            elapsed_seconds=elapsed(),
            best_resources_id=None if best is None else best.resources_id,
            history=session.history,
            ended_early=limit.reason if limit is not None and limit.exceeded.is_set() else run.ended_early,
        )
        return await self._result(run, best)

    async def _record_last(self, session: Session, elapsed: Callable[[], float], *, interrupted: bool) -> None:
        """Record the progress of a run that ends early; a failure is logged, because what ended it propagates."""
        reason = f"the store took more than {_LAST_RECORD_SECONDS:g} s"
        try:
            with trio.move_on_after(_LAST_RECORD_SECONDS, shield=True), as_runner():
                await self._engine.commits.wait_idle()
                await session.record(elapsed_seconds=elapsed())
                if interrupted:
                    await self._log_interrupted(session.run_id)
                return
        except Exception as exc:
            reason = f"{type(exc).__name__}: {exc}"
        logger.warning(
            "%s ended early, and its progress could not be recorded (%s); committed rollouts are kept",
            session.run_id,
            reason,
        )

    async def _failure_limit(self, run: Run) -> FailureLimit | None:
        max_failures = self._settings.options.max_failures
        if max_failures is None:
            return None
        failed = (await self._store.summarize(run.run_id)).counts.get("failed", 0)
        return FailureLimit(max_failures, self._datasets.size, failed)

    async def _run_limited(self, session: Session, store: RunStore, limit: FailureLimit | None) -> None:
        """Run the algorithm and its rollouts, both until there are too many failures."""
        learning = trio.CancelScope()
        async with FlatNursery() as nursery:
            if limit is None:
                nursery.start_soon(self._work_off, session)
            else:
                nursery.start_soon(self._work_until, limit, session, store, learning)
            with learning:
                await self._run_algorithm(session)
            session.begun.set()
            await session.wait_all()
            nursery.cancel_scope.cancel()

    async def _work_off(self, session: Session) -> None:
        await session.begun.wait()
        await self._engine.work(session.run_id)

    async def _work_until(
        self, limit: FailureLimit, session: Session, store: RunStore, learning: trio.CancelScope
    ) -> None:
        """Run the algorithm's rollouts until there are too many failures, then cancel the remaining ones."""
        with self._engine.notifying_of_failures(store.run_id, limit.count):
            async with FlatNursery() as nursery:
                nursery.start_soon(self._work_off, session)
                await limit.exceeded.wait()
                nursery.cancel_scope.cancel()
        logger.warning("%s ends early: %s", store.run_id, limit.reason)
        await self._engine.commits.wait_idle()
        await store.refuse()
        # Baseline ends by itself, so that all tasks are counted; another algorithm might not end with failures alone.
        if not isinstance(self._settings.options.algorithm, Baseline):
            learning.cancel()

    async def _check_resources(self) -> None:
        # Baseline runs both datasets with the runner's own resources or the store's latest; another algorithm may
        # publish what the agent needs.
        own = self._settings.own
        if own is not None or isinstance(self._settings.options.algorithm, Baseline):
            snapshot = own or await self._store.get_latest_resources()
            resources = {} if snapshot is None else snapshot.resources
            for mode in self._datasets.modes:
                self._engine.bindings.bind(mode, resources)

    def _check(self, mode: RolloutMode | None | Unset, resources: NamedResources) -> None:
        for each in self._datasets.modes if isinstance(mode, Unset) else (mode,):
            self._engine.bindings.bind(each, resources)

    async def _run_algorithm(self, session: Session) -> None:
        algorithm = self._settings.options.algorithm
        datasets = self._datasets
        token = algorithm.enter_session(session)
        try:
            if algorithm.is_async():
                await _run_unprotected(algorithm, datasets)
            else:

                def run() -> object:
                    return algorithm.run(train_dataset=datasets.train, val_dataset=datasets.val)

                await run_in_thread(run, abandon_on_cancel=True)
        finally:
            algorithm.leave_session(token)

    # Ending.

    async def _result(self, run: Run, best: ResourcesUpdate | None = None) -> FitResult:
        summary = await self._store.summarize(run.run_id)
        await self._log_failures(run, summary)
        if best is None and run.best_resources_id is not None:
            best = await self._store.get_resources_by_id(run.best_resources_id)
        return FitResult(
            run_id=run.run_id,
            resources=self._settings.options.resources if best is None else best.resources,
            resources_id=None if best is None else best.resources_id,
            counts={status: summary.counts.get(status, 0) for status in sorted(TERMINAL_ROLLOUT)},
            mean_reward={"train": summary.mean_reward("train"), "val": summary.mean_reward("val")},
            history=run.history,
            usage=summary.usage,
            agent_seconds=summary.agent_seconds,
            duration=run.elapsed_seconds,
            ended_early=run.ended_early,
        )

    async def _log_failures(self, run: Run, summary: RunSummary) -> None:
        failed = summary.counts.get("failed", 0)
        if not failed:
            return
        first = await self._store.query_rollouts(status_in=["failed"], run_id_in=[run.run_id], limit=1)
        rollout = first[0] if first else None
        error = rollout.attempt.error if isinstance(rollout, AttemptedRollout) else None
        logger.warning(
            "%d of %d rollouts of %s failed%s; the store's query_rollouts(status_in=['failed'], run_id_in=['%s']) "
            "returns them all, and fit(…, resume=True, retry_failed=True) runs them again",
            failed,
            sum(summary.counts.values()),
            run.run_id,
            "" if error is None else f", the first with {error.type}: {without_surrogates(error.message)}",
            run.run_id,
        )

    async def _log_interrupted(self, run_id: str) -> None:
        counts = (await self._store.summarize(run_id)).counts
        done = sum(number for status, number in counts.items() if status in TERMINAL_ROLLOUT)
        logger.warning(
            "interrupted: %d rollouts of %s are done and kept, %d are not%s",
            done,
            run_id,
            sum(counts.values()) - done,
            "; fit(…, resume=True) continues the run" if self._store.persistent else "",
        )


async def _differ(before: ResourcesUpdate, now: ResourcesUpdate) -> bool:
    return await digest_of_resources(before.resources) != await digest_of_resources(now.resources)


async def _record_time(session: Session, elapsed: Callable[[], float]) -> None:
    while True:
        await trio.sleep(_RECORD_SECONDS)
        await session.record(elapsed_seconds=elapsed())


@trio.lowlevel.disable_ki_protection
async def _run_unprotected(algorithm: Algorithm, datasets: Datasets) -> Any:
    try:
        await algorithm.run(train_dataset=datasets.train, val_dataset=datasets.val)
    except WRONG_LOOP_ERRORS as exc:
        sign = find_asyncio_sign(exc)
        if sign is None:
            raise
        raise AsyncioAgentError.by_algorithm(algorithm.name, str(sign)) from exc
