"""One run of an algorithm over datasets, on an open runner."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import trio

from ._datasets import Datasets
from ._engine import Engine
from ._groups import FlatNursery
from ._ids import new_run_id
from ._lifecycle import TERMINAL_ROLLOUT
from ._records import (
    AttemptedRollout,
    FitResult,
    ResourcesUpdate,
    RolloutMode,
    RunSummary,
    Unset,
)
from ._resources import NamedResources
from .algorithms import Algorithm, Baseline, Session
from .store import LightningStore
from .store._run import RunStore

logger = logging.getLogger("lightning_trio.runner")


@attrs.frozen
class FitSettings:
    """What a runner's fits have in common.

    `own` is the snapshot of the runner's own resources, None where it has none.
    """

    algorithm: Algorithm
    adapter: object | None
    resources: NamedResources
    own: ResourcesUpdate | None
    max_concurrency: int
    max_rollouts: int | None


class Fit:
    """Run the algorithm, with its store bound to a run of its own, and work off what it asks for."""

    def __init__(self, engine: Engine, store: LightningStore, settings: FitSettings, datasets: Datasets) -> None:
        self._engine = engine
        self._store = store
        self._settings = settings
        self._datasets = datasets

    async def run(self) -> FitResult:
        """Run to the end and give what it came to."""
        settings = self._settings
        await self._check_resources()
        run_id = new_run_id()
        store = RunStore(self._store, run_id, self._check, settings.max_rollouts)
        session = Session(run_id, store, settings.own, settings.max_concurrency)
        try:
            async with FlatNursery() as nursery:
                nursery.start_soon(self._engine.work, run_id)
                await self._run_algorithm(session)
                await session.wait_all()
                nursery.cancel_scope.cancel()
        except KeyboardInterrupt:
            await self._say_interrupted(run_id)
            raise
        return await self._result(session)

    async def _check_resources(self) -> None:
        # Baseline runs both datasets with what there is; another algorithm may publish what the agent needs.
        own = self._settings.own
        if own is not None or isinstance(self._settings.algorithm, Baseline):
            snapshot = own or await self._store.get_latest_resources()
            resources = {} if snapshot is None else snapshot.resources
            for mode in self._datasets.modes:
                self._engine.bind(mode, resources)

    def _check(self, mode: RolloutMode | None | Unset, resources: NamedResources) -> None:
        for each in self._datasets.modes if isinstance(mode, Unset) else (mode,):
            self._engine.bind(each, resources)

    async def _run_algorithm(self, session: Session) -> None:
        algorithm = self._settings.algorithm
        datasets = self._datasets
        token = algorithm.enter_session(session)
        if self._settings.adapter is not None:
            algorithm.set_adapter(self._settings.adapter)
        try:
            if algorithm.is_async():
                await _run_unprotected(algorithm, datasets)
            else:

                def run_in_thread() -> object:
                    return algorithm.run(train_dataset=datasets.train, val_dataset=datasets.val)

                await trio.to_thread.run_sync(run_in_thread, abandon_on_cancel=True)
        finally:
            algorithm.leave_session(token)

    async def _result(self, session: Session) -> FitResult:
        summary = await session.store.summarize()
        await self._say_failures(session, summary)
        best = session.best
        return FitResult(
            run_id=session.run_id,
            resources=self._settings.resources if best is None else best.resources,
            resources_id=None if best is None else best.resources_id,
            counts={status: summary.counts.get(status, 0) for status in sorted(TERMINAL_ROLLOUT)},
            mean_reward={"train": summary.mean_reward("train"), "val": summary.mean_reward("val")},
            history=session.history,
        )

    async def _say_failures(self, session: Session, summary: RunSummary) -> None:
        failed = summary.counts.get("failed", 0)
        if not failed:
            return
        first = await session.store.query_rollouts(status_in=["failed"], run_id_in=[session.run_id], limit=1)
        rollout = first[0] if first else None
        error = rollout.attempt.error if isinstance(rollout, AttemptedRollout) else None
        logger.warning(
            "%d of %d rollouts of %s failed%s; store.query_rollouts(status_in=['failed']) gives them all",
            failed,
            sum(summary.counts.values()),
            session.run_id,
            "" if error is None else f", the first with {error.type}: {error.message}",
        )

    async def _say_interrupted(self, run_id: str) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
            counts = (await self._store.summarize(run_id)).counts
            done = sum(number for status, number in counts.items() if status in TERMINAL_ROLLOUT)
            logger.warning(
                "interrupted: %d rollouts of %s are done and kept, %d are not",
                done,
                run_id,
                sum(counts.values()) - done,
            )


@trio.lowlevel.disable_ki_protection
async def _run_unprotected(algorithm: Algorithm, datasets: Datasets) -> Any:
    await algorithm.run(train_dataset=datasets.train, val_dataset=datasets.val)
