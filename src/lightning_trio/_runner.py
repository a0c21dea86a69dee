"""The runner: turns tasks into attempts."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence, Sized
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from ._agent import LitAgent, as_agent
from ._attempt import Surroundings
from ._collector import calm_collector
from ._describe import summary
from ._engine import Engine
from ._errors import DatasetError, RunnerClosed, UsageError
from ._groups import FlatNursery
from ._hooks import Hook
from ._ids import new_run_id, random_bits
from ._lifecycle import TERMINAL_ROLLOUT
from ._records import (
    DEFAULT_CONFIG,
    UNSET,
    AttemptedRollout,
    CompletedRollout,
    EnqueueRolloutRequest,
    FitResult,
    ResourcesUpdate,
    RolloutConfig,
    RolloutMode,
    RunnerStatistics,
    RunSummary,
    Unset,
)
from ._resources import NamedResources, check_resources
from ._running import RunningAttempt
from ._signals import DESCRIBING
from ._stream import RolloutStream, Tasks
from .algorithms import Algorithm, Baseline, Session
from .lanes import AsyncioLane
from .store import InMemoryLightningStore, LightningStore
from .store._run import RunStore
from .tracing import Tracer

logger = logging.getLogger("lightning_trio.runner")

T = TypeVar("T")


class Runner:
    """Run an agent on tasks, many at a time. Making one starts nothing.

    Args:
        agent: what `@rollout` made, a `LitAgent`, or a plain function.
        resources: what the agent is given, by name.
        store: where rollouts and spans are kept; in memory by default.
        algorithm: what `fit` runs; `Baseline` by default.
        max_concurrency: how many attempts may run at a time.
        config: deadlines and retries of rollouts that have none of their own (the agent's win over these).
        hooks: code of yours around every attempt, in this order.
        tracer: what records the attempts.
        adapter: what the algorithm turns spans into data with.
        max_rollouts: how many rollouts one `fit` starts at most; the rest count as cancelled.

    >>> import trio
    >>> async def double(task: int) -> float:
    ...     return task * 2.0
    >>> result = trio.run(Runner(double).fit, [1, 2, 3])
    >>> result.mean_reward["train"]
    4.0
    """

    def __init__(
        self,
        agent: LitAgent[Any] | Any,
        *,
        resources: NamedResources | None = None,
        store: LightningStore | None = None,
        algorithm: Algorithm | None = None,
        max_concurrency: int = 100,
        config: RolloutConfig = DEFAULT_CONFIG,
        hooks: Sequence[Hook] = (),
        tracer: Tracer | None = None,
        adapter: object | None = None,
        max_rollouts: int | None = None,
    ) -> None:
        if not isinstance(max_concurrency, int) or max_concurrency < 1:
            raise UsageError(f"max_concurrency={max_concurrency!r}; give how many rollouts may run at a time, from 1")
        if max_rollouts is not None and (not isinstance(max_rollouts, int) or max_rollouts < 0):
            raise UsageError(f"max_rollouts={max_rollouts!r}; give how many rollouts to start, None for all")
        self.agent: LitAgent[Any] = as_agent(agent)
        self.store: LightningStore = (
            InMemoryLightningStore() if store is None else _checked("store", store, LightningStore)
        )
        self.algorithm: Algorithm = Baseline() if algorithm is None else _checked("algorithm", algorithm, Algorithm)
        self.tracer: Tracer = Tracer() if tracer is None else _checked("tracer", tracer, Tracer)
        self.hooks: tuple[Hook, ...] = tuple(
            _checked("hooks", hook, Hook) for hook in ([hooks] if isinstance(hooks, Hook) else hooks)
        )
        self.adapter = adapter
        self.max_concurrency = max_concurrency
        self.max_rollouts = max_rollouts
        self.config: RolloutConfig = _checked("config", config, RolloutConfig)
        self._resources = check_resources({} if resources is None else resources, "Runner(resources=…)")
        self._worker_id = f"runner-{random_bits(48):012x}"
        self._engine: Engine | None = None
        self._own_snapshot: ResourcesUpdate | None = None
        self._last_published: ResourcesUpdate | None = None
        self._stack: AsyncExitStack | None = None
        self._statistics = RunnerStatistics(0, 0, 0, 0, 0, 0, 0, 0, max_concurrency)

    def statistics(self) -> RunnerStatistics:
        """Count what runs, waits and is done since the runner was opened last; zeros before."""
        return self._statistics if self._engine is None else self._engine.statistics()

    def running(self, limit: int | None = None) -> list[RunningAttempt]:
        """Look at the attempts that run, the oldest first: their ages, last spans, and where their tasks stand.

        May be called from any thread.

        Args:
            limit: how many to look at; None for all.
        """
        return [] if self._engine is None else self._engine.running(limit)

    def describe(self, *, limit: int = 20) -> str:
        """Say what the runner does, in lines for a terminal: numbers, then the attempts that run, the oldest first.

        ``kill -USR1`` prints this for all open runners of a program, also while an agent keeps Trio from running.
        May be called from any thread.

        Args:
            limit: how many attempts to show.
        """
        if self._engine is None:
            return f"{summary(self.agent.name, self._statistics, None)}; it is closed"
        return self._engine.describe(limit)

    # Opening and closing.

    # Protected: a Ctrl-C is raised in the agent's code or where we wait, never halfway through our own.
    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise UsageError("this runner is open already; one `async with runner:` is enough")
        self._stack = AsyncExitStack()
        try:
            await self._stack.enter_async_context(self._open())
        except BaseException:
            self._stack = None
            raise
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        assert self._stack is not None
        stack, self._stack = self._stack, None
        return await stack.__aexit__(kind, exc, tb)

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[Engine]:
        asyncio_lane = AsyncioLane()
        engine = Engine(
            Surroundings(self.agent, self, self.tracer, self.hooks, asyncio_lane),
            self.store,
            self._resources,
            self.agent.config or self.config,
            self.max_concurrency,
            self._worker_id,
        )
        async with AsyncExitStack() as stack:
            stack.enter_context(calm_collector())
            if not self.store.is_open:
                await stack.enter_async_context(self.store)
            await stack.enter_async_context(self.tracer.open())
            stack.push_async_callback(asyncio_lane.aclose)
            stack.callback(self._keep_statistics, engine)
            stack.callback(engine.say_abandoned)
            nursery = await stack.enter_async_context(FlatNursery())
            nursery.start_soon(engine.commit_all)
            stack.callback(engine.close)
            if self._resources:
                self._own_snapshot = await self.store.add_resources(self._resources)
            self.agent.set_runner(self)
            self._engine = engine
            stack.enter_context(DESCRIBING.joined(self.describe))
            try:
                yield engine
            finally:
                self._engine = None
                self._own_snapshot = self._last_published = None

    def _keep_statistics(self, engine: Engine) -> None:
        self._statistics = engine.statistics()

    def _opened(self, call: str) -> Engine:
        if self._engine is None:
            raise RunnerClosed(f"the runner is not open; write: {call}")
        return self._engine

    # One rollout, many rollouts, a queue.

    async def step(
        self, task: Any, *, resources: NamedResources | None = None, mode: RolloutMode | None = None
    ) -> CompletedRollout:
        """Run one task and give what came of it.

        Args:
            task: the input.
            resources: what to run with instead of the runner's own.
            mode: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            Exception: what the agent raised in its last attempt (`AttemptTimedOut` at its deadline), after it is
                recorded.
            RunnerClosed: outside ``async with runner``.
            AgentSignatureError: a parameter of the agent cannot be supplied.

        When the caller is cancelled, the rollout is stopped and ends as cancelled.
        """
        engine = self._opened("async with runner: await runner.step(task)")
        request = await self._request(engine, task, resources, mode)
        await engine.acquire_slot()
        completed = await engine.run_new(request)
        if completed.error is not None:
            exception = completed.error.exception
            assert exception is not None
            exception.add_note(f"In rollout {completed.rollout.rollout_id}.")
            raise exception
        return completed

    async def _request(
        self, engine: Engine, task: Any, resources: NamedResources | None, mode: RolloutMode | None
    ) -> EnqueueRolloutRequest:
        if resources is None:
            snapshot = self._own_snapshot or await self.store.get_latest_resources()
        else:
            checked = check_resources(resources, "resources=…")
            engine.bind(mode, checked)
            snapshot = self._last_published
            if snapshot is None or snapshot.resources != checked:
                # The same resources again, as in a loop of steps, are the same snapshot.
                snapshot = self._last_published = await self.store.add_resources(checked)
        engine.bind(mode, self._resources if snapshot is None else snapshot.resources)
        return EnqueueRolloutRequest(task, mode, None if snapshot is None else snapshot.resources_id)

    def stream(
        self,
        tasks: Tasks,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
    ) -> RolloutStream:
        """Run the tasks of a sync or async iterable, as ``async with runner.stream(tasks) as results:``.

        ``async for done in results:`` gives each `CompletedRollout` as it finishes; failures come as data, too.
        The source is read no further ahead than `max_concurrency` rollouts that run or wait to be read. Leaving
        the block cancels what runs.

        Args:
            tasks: the inputs; may be endless.
            resources: what to run with instead of the runner's own.
            mode: ``"train"``, ``"val"`` or ``"test"``.
        """
        engine = self._opened("async with runner, runner.stream(tasks) as results: …")

        async def prepare() -> str | None:
            return (await self._request(engine, None, resources, mode)).resources_id

        def request(task: Any, resources_id: str | None) -> EnqueueRolloutRequest:
            return EnqueueRolloutRequest(task, mode, resources_id)

        return RolloutStream(engine, tasks, prepare, request, self.max_concurrency)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work off the store's queue, whoever fills it, until cancelled.

        Rollouts that run when it is cancelled go back to the queue.

        Raises:
            RunnerClosed: outside ``async with runner``.
        """
        engine = self._opened("async with runner: await runner.serve()")
        task_status.started()
        await engine.work(None)

    # A whole run.

    @trio.lowlevel.enable_ki_protection
    async def fit(
        self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None
    ) -> FitResult:
        """Run the algorithm over the datasets and give what it came to, as ``trio.run(runner.fit, train, val)``.

        Works on an open and on a closed runner; a closed one is open while it runs. When it is cancelled or
        interrupted, finished rollouts are kept and those that run go back to the queue.

        Args:
            train_dataset: tasks, as a list or anything with ``len()`` and ``[index]``.
            val_dataset: the same, held out.

        Raises:
            DatasetError: a dataset is empty, or a generator (see `stream`).
            AgentSignatureError: a parameter of the agent cannot be supplied; nothing has run then.
        """
        if train_dataset is None and val_dataset is None and isinstance(self.algorithm, Baseline):
            raise DatasetError("fit() got no dataset; write: trio.run(runner.fit, [task, …])")
        check_dataset("train_dataset", train_dataset)
        check_dataset("val_dataset", val_dataset)
        if self._engine is not None:
            return await self._fit(self._engine, train_dataset, val_dataset)
        async with self:
            return await self._fit(self._opened("await runner.fit(train_dataset)"), train_dataset, val_dataset)

    async def _fit(
        self, engine: Engine, train_dataset: Sequence[Any] | None, val_dataset: Sequence[Any] | None
    ) -> FitResult:
        modes: list[RolloutMode] = []
        if train_dataset is not None:
            modes.append("train")
        if val_dataset is not None:
            modes.append("val")

        def check(mode: RolloutMode | None | Unset, resources: NamedResources) -> None:
            if not isinstance(mode, Unset):
                engine.bind(mode, resources)
                return
            for each in modes:
                engine.bind(each, resources)

        # Baseline runs both datasets with what there is; another algorithm may publish what the agent needs.
        if self._own_snapshot is not None or isinstance(self.algorithm, Baseline):
            snapshot = self._own_snapshot or await self.store.get_latest_resources()
            check(UNSET, {} if snapshot is None else snapshot.resources)
        run_id = new_run_id()
        store = RunStore(self.store, run_id, check, self.max_rollouts)
        session = Session(run_id, store, self._own_snapshot, self.max_concurrency)
        try:
            async with FlatNursery() as nursery:
                nursery.start_soon(engine.work, run_id)
                await self._run_algorithm(session, train_dataset, val_dataset)
                await session.wait_all()
                nursery.cancel_scope.cancel()
        except KeyboardInterrupt:
            await self._say_interrupted(run_id)
            raise
        return await self._result(session)

    async def _run_algorithm(
        self, session: Session, train_dataset: Sequence[Any] | None, val_dataset: Sequence[Any] | None
    ) -> None:
        algorithm = self.algorithm
        token = algorithm.enter_session(session)
        if self.adapter is not None:
            algorithm.set_adapter(self.adapter)
        try:
            if algorithm.is_async():
                await _run_unprotected(algorithm, train_dataset, val_dataset)
            else:

                def run_in_thread() -> object:
                    return algorithm.run(train_dataset=train_dataset, val_dataset=val_dataset)

                await trio.to_thread.run_sync(run_in_thread, abandon_on_cancel=True)
        finally:
            algorithm.leave_session(token)

    async def _result(self, session: Session) -> FitResult:
        summary = await session.store.summarize()
        await self._say_failures(session, summary)
        best = session.best
        return FitResult(
            run_id=session.run_id,
            resources=self._resources if best is None else best.resources,
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
            counts = (await self.store.summarize(run_id)).counts
            done = sum(number for status, number in counts.items() if status in TERMINAL_ROLLOUT)
            logger.warning(
                "interrupted: %d rollouts of %s are done and kept, %d are not",
                done,
                run_id,
                sum(counts.values()) - done,
            )


@trio.lowlevel.disable_ki_protection
async def _run_unprotected(
    algorithm: Algorithm, train_dataset: Sequence[Any] | None, val_dataset: Sequence[Any] | None
) -> None:
    await algorithm.run(train_dataset=train_dataset, val_dataset=val_dataset)


def _checked(name: str, value: object, kind: type[T]) -> T:
    if isinstance(value, kind):
        return value
    hint = f"; did you mean {value.__name__}()?" if isinstance(value, type) and issubclass(value, kind) else ""
    raise UsageError(f"{name} takes a {kind.__name__}, not {value!r}{hint}")


def check_dataset(name: str, dataset: object) -> None:
    """Refuse what cannot be gone through by index, and what is empty.

    Raises:
        DatasetError: showing what to write instead.
    """
    if dataset is None:
        return
    if isinstance(dataset, str | bytes | Mapping | set | frozenset):
        raise DatasetError(f"{name} is a {type(dataset).__name__}; a dataset is a list of tasks: [task, …]")
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise DatasetError(
            f"{name} is a {type(dataset).__name__}, which has no length; make it a list, or, for tasks that come as "
            "they go: async with runner, runner.stream(tasks) as results: async for done in results: …"
        )
    if len(dataset) == 0:
        raise DatasetError(f"{name} is empty; give at least one task, or None to leave it out")
