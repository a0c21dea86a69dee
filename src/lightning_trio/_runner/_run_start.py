"""The start of a run: a new record, or a stored run that is continued."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import attrs

from .._errors import ResumeError, StaleRun
from .._ids import new_run_id
from .._lifecycle import TERMINAL_ROLLOUT, RunComparison, rank_runs
from .._log import Log
from .._records import (
    AttemptedRollout,
    DatasetFingerprint,
    ResourcesUpdate,
    RolloutReopening,
    Run,
    bare_names,
)
from .._repr import counted, shortened
from ..algorithms import Baseline, Datasets, index_of_key, is_other_task, keys_of_other_task
from ..store import Condition, LightningStore, Query, Unreadable
from ._lease import describe_worker, end_leases, is_alive, is_of_dead_process
from ._options import RunnerOptions

logger = Log("lightning_trio.runner")

_READ_IN_MEMORY = 64
"""How many tasks are compared of a dataset in memory, where reading all of them may take longer than running some."""

_PAGE = 5000
"""How many rollouts are read in one query."""

_REOPENED_AT_ONCE = 10_000
"""How many rollouts are reopened in one call: each sums up the rewards of the others again."""


@attrs.frozen
class FitSettings:
    """The settings that a runner's fits share.

    `own` is the snapshot of the runner's own resources, None if it has none.
    """

    options: RunnerOptions
    agent_name: str
    max_concurrency: int
    own: ResourcesUpdate | None
    worker_id: str


@attrs.frozen
class Resumption:
    """Whether to resume a stored run: any, one by its id, or even one that differs.

    `retry` is whether its failed rollouts run again: True, or those with one of these errors.
    """

    resume: bool | str = False
    force: bool = False
    retry: bool | tuple[str, ...] = False


class RunStart:
    """Begin a run in a store, or continue one."""

    def __init__(self, store: LightningStore, settings: FitSettings, datasets: Datasets) -> None:
        self._store = store
        self._settings = settings
        self._datasets = datasets

    async def begin(self, resumption: Resumption) -> Run:
        """Return a new run or one to resume, recorded as running, or a finished one in which nothing is left to run."""
        runs = () if resumption.resume is False else _readable(await self._store.query_runs(), resumption.resume)
        wanted = await self._new_run(runs)
        if resumption.resume is False:
            await self._store.put([wanted])
            return wanted
        found = await self._find(runs, wanted, resumption.resume)
        if found is None:
            logger.info("there is no run to resume; starting %s", wanted.run_id)
            await self._store.put([wanted])
            return wanted
        if found.differences and not resumption.force:
            raise ResumeError.differs(found.run.run_id, list(found.differences.values()))
        to_retry = await self._to_retry(found.run, resumption.retry)
        if found.run.status == "finished" and not (found.adds or found.differences or to_retry):
            return found.run
        if not resumption.force:
            await self._check_complete(found.run)
        run = await self._take_over(found, wanted, ended_early=None if to_retry else found.run.ended_early)
        await self._reopen(run.run_id, to_retry)
        return run

    async def _new_run(self, runs: Sequence[Run]) -> Run:
        """Return the record of a new run; `runs` are those that it may continue."""
        settings = self._settings
        return Run(
            new_run_id(),
            settings.options.run_name,
            settings.agent_name,
            settings.options.algorithm.name,
            await self._fingerprints(runs),
            start_time=time.time(),
            resources_id=None if settings.own is None else settings.own.resources_id,
            config={"max_concurrency": settings.max_concurrency, "max_rollouts": settings.options.max_rollouts},
            worker_id=settings.worker_id,
            repeats=self._datasets.repeats,
        )

    async def _fingerprints(self, runs: Sequence[Run]) -> Mapping[str, DatasetFingerprint]:
        if self._store.persistent:
            return await self._datasets.fingerprints(before=runs)
        # In memory, the rollouts of `Baseline` show which tasks it ran; those of another algorithm need not.
        read = 0 if isinstance(self._settings.options.algorithm, Baseline) else _READ_IN_MEMORY
        return await self._datasets.first_fingerprints(read, before=runs)

    async def _find(self, runs: Sequence[Run], wanted: Run, resume: bool | str) -> RunComparison | None:
        """Return the first run that does not differ, else the first of all; None without any."""
        first: RunComparison | None = None
        for ranked in rank_runs(runs, wanted, resume):
            if first is not None and ranked.differences:
                break
            found = await self._with_tasks(ranked)
            if not found.differences:
                return found
            first = first or found
        return first

    async def _with_tasks(self, found: RunComparison) -> RunComparison:
        """Return a comparison that also has the first task that differs, if it is known."""
        differences = dict(found.differences)
        if not differences.keys() - {"train", "val"} and isinstance(self._settings.options.algorithm, Baseline):
            # A run in memory has no digests, so its rollouts decide.
            for mode in found.run.datasets if not self._store.persistent else list(differences):
                changed = await self._changed_task(found.run.run_id, mode)
                if changed is not None:
                    dataset = self._datasets.of_mode(mode)
                    shorter = dataset is None or len(dataset) < found.run.datasets[mode].tasks
                    differences[mode] = f"{differences[mode]}; {changed}" if shorter else changed
        return attrs.evolve(found, differences=differences)

    async def _changed_task(self, run_id: str, mode: str) -> str | None:
        """Return how the first task differs that a run of `Baseline` has run and the dataset has not; None without."""
        dataset = self._datasets.of_mode(mode)
        if dataset is None:
            return None
        must = (Condition("run_id", {run_id}), Condition("mode", {mode}))
        offset = 0
        while page := await self._store.find(Query("rollouts", must, limit=_PAGE, offset=offset)):
            offset += len(page)
            for rollout in page:
                index = index_of_key(rollout.key)
                if index is None or index >= len(dataset) or type(rollout.input) is Unreadable:
                    continue
                if not await is_other_task(rollout.input, dataset[index]):
                    continue
                # An earlier fit may have been forced to run the dataset's task as well.
                keys = await keys_of_other_task(rollout.key, dataset[index])
                if await self._store.find(Query("rollouts", (must[0], Condition("key", keys)), limit=1)):
                    continue
                before, now = shortened(rollout.input), shortened(dataset[index])
                return f"task {index} of its {mode} dataset was {before}, and is now {now}"
        return None

    async def _check_complete(self, run: Run) -> None:
        """Raise if a run of `Baseline` has lost rollouts; other algorithms may remove their own."""
        removed = (await self._store.summarize(run.run_id)).removed
        if removed and isinstance(self._settings.options.algorithm, Baseline):
            raise ResumeError.removed(run.run_id, removed)

    async def _to_retry(self, run: Run, retry: bool | tuple[str, ...]) -> list[str]:
        """Return the ids of rollouts to run again: failed ones, and those that a limit cancelled."""
        if retry is False:
            return []
        kinds = None if retry is True else bare_names(retry)
        failed: list[str] = []
        cancelled: list[str] = []
        must = (Condition("run_id", {run.run_id}), Condition("status", {"failed", "cancelled"}))
        offset = 0
        while page := await self._store.find(Query("rollouts", must, limit=_PAGE, offset=offset)):
            offset += len(page)
            for rollout in page:
                error = rollout.attempt.error if isinstance(rollout, AttemptedRollout) else None
                if rollout.status == "cancelled":
                    # Those of a run that did not end early are beyond `max_rollouts`, or were cancelled on purpose.
                    if run.ended_early is not None or not isinstance(rollout, AttemptedRollout):
                        cancelled.append(rollout.rollout_id)
                elif kinds is None or (error is not None and error.type in kinds):
                    failed.append(rollout.rollout_id)
        left = await rollouts_left(self._store, run, self._settings.options.max_rollouts)
        cancelled = cancelled if left is None else cancelled[:left]
        if failed or cancelled:
            logger.info(
                "%s: %s run again, and %d that were cancelled",
                run.run_id,
                counted(len(failed), "failed rollout"),
                len(cancelled),
            )
        else:
            logger.info("%s has no failed rollouts to run again", run.run_id)
        return failed + cancelled

    async def _reopen(self, run_id: str, rollout_ids: Sequence[str]) -> None:
        for start in range(0, len(rollout_ids), _REOPENED_AT_ONCE):
            await self._store.update(
                [RolloutReopening(each) for each in rollout_ids[start : start + _REOPENED_AT_ONCE]]
            )

    async def _take_over(self, found: RunComparison, wanted: Run, *, ended_early: str | None) -> Run:
        run = found.run
        workers = await self._store.query_workers()
        driver = next((worker for worker in workers if worker.worker_id == run.worker_id), None)
        mine = self._settings.worker_id
        if run.status != "finished" and driver is not None and driver.worker_id != mine and is_alive(driver):
            raise ResumeError.driven(run.run_id, describe_worker(driver), driver.lease_seconds or 0.0)
        # Whether runners on other machines are alive is unknown until their leases expire.
        await end_leases(
            self._store, [worker for worker in workers if worker.worker_id != mine and is_of_dead_process(worker)]
        )
        counts = (await self._store.summarize(run.run_id)).counts
        done = sum(number for status, number in counts.items() if status in TERMINAL_ROLLOUT)
        logger.info(
            "resuming %s: %d rollouts are done, %d started ones are not", run.run_id, done, sum(counts.values()) - done
        )
        for what, number in found.appended.items():
            if what == "repeats":
                logger.info("%s: each task runs %d times, and not only %d", run.run_id, wanted.repeats, run.repeats)
            else:
                logger.info(
                    "%s: %s appended to the %d of its %s dataset; what was done before is not run again",
                    run.run_id,
                    counted(number, "task was", several="tasks were"),
                    run.datasets[what].tasks,
                    what,
                )
        taken = attrs.evolve(
            run,
            datasets=wanted.datasets,
            repeats=wanted.repeats,
            status="running",
            end_time=None,
            ended_early=ended_early,
            worker_id=mine,
            takeovers=run.takeovers + 1,
        )
        try:
            await self._store.put([taken])
        except StaleRun as exc:
            raise ResumeError.just_taken(run.run_id) from exc
        return taken


def _readable(runs: Sequence[Run], resume: bool | str) -> Sequence[Run]:
    """Return the runs whose records can be read.

    Raises:
        ResumeError: the run to resume cannot be.
    """
    readable: list[Run] = []
    for run in runs:
        if type(run.state) is not Unreadable:
            readable.append(run)
        elif run.run_id == resume:
            raise ResumeError.unreadable(run.run_id, run.state.reason)
        else:
            logger.warning("%s; it is not resumed", run.state.reason)
    return readable


async def rollouts_left(store: LightningStore, run: Run, max_rollouts: int | None) -> int | None:
    """Return how many rollouts of a run may still be started, None for no limit."""
    if max_rollouts is None:
        return None
    counts = (await store.summarize(run.run_id)).counts
    started = sum(number for status, number in counts.items() if status != "cancelled")
    return max(max_rollouts - started, 0)
