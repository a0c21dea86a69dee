"""The runner, which turns tasks into attempts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Self, overload

import trio

from .._agents import AgentCopies, LitAgent, as_agent, needs_copies
from .._checks import check_count
from .._concurrency import note
from .._errors import NotInTrio, RunnerClosed, UsageError
from .._host import STATUS_SIGNAL, STOP_SIGNALS, Interruptions, relaxed_gc
from .._ids import random_bits
from .._public import public
from .._records import (
    DEFAULT_CONFIG,
    UNSET,
    CompletedRollout,
    EnqueueRolloutRequest,
    FitResult,
    ResourcesUpdate,
    RolloutConfig,
    RolloutMode,
    RunnerStatistics,
    Unset,
    exception_names,
    missing_name,
)
from .._repr import one_line
from .._resources import NamedResources, check_resources
from .._spans import finding_traces
from ..adapters import Adapter
from ..algorithms import Algorithm, Dataset, Datasets, check_dataset, check_given
from ..lanes import DEFAULT_LANES, LaneOptions, OpenLane, lane_named, open_lanes
from ..store import LightningStore
from ..tracing import Tracer, find_recorder
from ._attempt import AttemptParts
from ._bindings import Bindings
from ._engine import Engine, EngineSettings
from ._fit import Fit
from ._hooks import Hook, HookCalls, check_hooks
from ._inspection import RunningAttempt
from ._lease import LEASE_SECONDS, open_lease
from ._loop_watch import current_watch
from ._options import GRACE_SECONDS, MAX_CONCURRENCY, RunnerOptions, check_config
from ._report import summary
from ._run_start import FitSettings, Resumption
from ._stream import RolloutStream, Tasks
from ._workers import LocalWorkers, Workers

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")


@public
class Runner(Generic[T]):
    """Run an agent on tasks, many at a time. Creating a runner starts nothing.

    Args:
        agent: what `@rollout` returned, a `LitAgent`, or a plain function.
        resources: the agent's resources, by name.
        store: where rollouts and spans are kept; by default in ``runs/{run_name}.db``, or in memory where the runs
            have no name.
        algorithm: the algorithm that `fit` runs; `Baseline` by default.
        max_concurrency: how many attempts may run at a time.
        config: default deadlines and retries; a rollout's or an agent's own config takes precedence.
        hooks: user code around every attempt, called in this order.
        tracer: records the attempts.
        adapter: turns spans into data for the algorithm.
        max_rollouts: the most rollouts that one `fit` starts; the rest count as cancelled.
        max_failures: how many rollouts of one `fit` may fail, as an int, or which share of its tasks, as a float
            between 0 and 1; with one more it ends early, and the remaining rollouts count as cancelled.
        grace_seconds: how long attempts may continue after a first Ctrl-C or SIGTERM.
        run_name: the name of `fit`'s runs in the store.
        lease_seconds: how long the runner may be silent before other runners of the store take over its rollouts.
        max_processes: how many worker processes an agent with ``runs_in="process"`` gets, and so how many of its
            attempts run at a time; None for as many as there are processors.

    >>> import trio
    >>> async def double(task: int) -> float:
    ...     return task * 2.0
    >>> result = trio.run(Runner(double).fit, [1, 2, 3])
    >>> result.mean_reward["train"]
    4.0
    """

    def __init__(  # noqa: PLR0913  # options, each by its name
        self,
        agent: Callable[[T], Any] | Callable[Concatenate[T, ...], Any] | LitAgent[T],
        *,
        resources: NamedResources | None = None,
        store: LightningStore | None = None,
        algorithm: Algorithm | None = None,
        max_concurrency: int = MAX_CONCURRENCY,
        config: RolloutConfig = DEFAULT_CONFIG,
        hooks: Hook | Sequence[Hook] = (),
        tracer: Tracer | None = None,
        adapter: Adapter[Any] | None = None,
        max_rollouts: int | None = None,
        max_failures: float | None = None,
        grace_seconds: float = GRACE_SECONDS,
        run_name: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        max_processes: int | None = None,
    ) -> None:
        self.agent: LitAgent[T] = as_agent(agent)
        for name, each in (("config", config), ("the agent's config", self.agent.config)):
            if each is not None:
                check_config(name, each)
        self.options: RunnerOptions = RunnerOptions(
            resources=resources,
            algorithm=algorithm,
            max_concurrency=max_concurrency,
            config=config,
            tracer=tracer,
            adapter=adapter,
            max_rollouts=max_rollouts,
            max_failures=max_failures,
            grace_seconds=grace_seconds,
            run_name=run_name,
            lease_seconds=lease_seconds,
            max_processes=max_processes,
            **({} if store is None else {"store": store}),
        )
        self.hooks: tuple[Hook, ...] = check_hooks(hooks)
        self._lane_options = LaneOptions(max_processes, self.options.tracer.leave_out)
        self._max_concurrency = max_concurrency
        if self.agent.runs_in is not None:
            # A slot is taken before a rollout is claimed, so that no rollout waits for its lane on the agent's time.
            lane = lane_named(self.agent.runs_in, self.agent.name)
            self._max_concurrency = lane.capacity(max_concurrency, self._lane_options)
        self._worker_id = f"runner-{random_bits(48):012x}"
        self._engine: Engine | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        """Of the Trio run that the runner is open in."""
        self._own_snapshot: ResourcesUpdate | None = None
        self._last_published: ResourcesUpdate | None = None
        self._stack: AsyncExitStack | None = None
        self._opener: trio.lowlevel.Task | None = None
        """The task that opened it, in which alone it can be closed."""
        self._statistics = RunnerStatistics(
            running=0,
            retrying=0,
            succeeded=0,
            failed=0,
            timed_out=0,
            cancelled=0,
            attempts=0,
            abandoned_threads=0,
            max_concurrency=self._max_concurrency,
        )

    @property
    def store(self) -> LightningStore:
        """The store of rollouts and spans."""
        return self.options.store

    @property
    def tracer(self) -> Tracer:
        """The tracer that records the attempts."""
        return self.options.tracer

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm that `fit` runs."""
        return self.options.algorithm

    @property
    def config(self) -> RolloutConfig:
        """Default deadlines and retries; a rollout's or an agent's own config takes precedence."""
        return self.options.config

    @property
    def max_concurrency(self) -> int:
        """How many attempts may run at a time: as many as requested, or fewer if its lane's capacity is smaller."""
        return self._max_concurrency

    @one_line
    def __repr__(self) -> str:
        lane = self.agent.runs_in or ("trio" if self.agent.is_async() else "thread")
        numbers = self.statistics()
        state = "closed" if self._engine is None else f"open, {numbers.running:,} running, {numbers.done:,} done"
        return f"<{type(self).__name__} of {self.agent.name} ({lane}, {self.max_concurrency:,} at a time): {state}>"

    def statistics(self) -> RunnerStatistics:
        """Return the counts of attempts since the runner was opened last; zeros before."""
        return self._statistics if self._engine is None else self._engine.statistics()

    def running(self, limit: int | None = None) -> list[RunningAttempt]:
        """Return the running attempts, the oldest first: their ages, last spans, and the current lines of their tasks.

        May be called from any thread.

        Args:
            limit: the most to return; None for all.
        """
        _check_limit(limit)
        return [] if self._engine is None else self._engine.running(limit)

    def describe(self, *, limit: int = 20) -> str:
        """Return a report for a terminal: numbers, then the running attempts, the oldest first.

        ``kill -USR1`` prints it for all open runners of a program, also while an agent keeps Trio from running.
        May be called from any thread.

        Args:
            limit: the most attempts to show.
        """
        _check_limit(limit)
        if self._engine is None:
            return f"{summary(self.agent.name, self._statistics, None)}; it is closed"
        return self._engine.describe(limit)

    # Opening and closing.

    # Protected: a Ctrl-C is raised in the agent's code or at a checkpoint, never halfway through the runner's code.
    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        if not trio.lowlevel.in_trio_task():
            raise NotInTrio.runner()
        if self._stack is not None:
            raise UsageError.open_already("async with runner")
        self._opener = trio.lowlevel.current_task()
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
        if self._stack is None:
            raise RunnerClosed.not_open("async with runner: …")
        # An attempt that closed its own runner would wait for its own end.
        recorder = find_recorder()
        own = recorder if recorder is not None and self._engine is not None and self._engine.runs(recorder) else None
        if own is not None or trio.lowlevel.current_task() is not self._opener:
            raise UsageError.left_elsewhere(None if own is None else own.rollout.rollout_id)
        stack, self._stack, self._opener = self._stack, None, None
        return await stack.__aexit__(kind, exc, tb)

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[Engine]:
        options = self.options
        names = DEFAULT_LANES if self.agent.runs_in is None else (self.agent.runs_in,)
        # Before the agent is copied, so that the copies know the runner, too.
        self.agent.set_runner(self)
        with relaxed_gc(), self._open_copies() as copies:
            async with _ensure_open(self.store), self.tracer.open(), open_lanes(names, self._lane_options) as lanes:
                bindings = Bindings(self.agent, options.resources, self.store, copies)
                workers = self._make_workers(lanes, bindings)
                engine = self._make_engine(bindings, workers)
                async with open_lease(self.store, self._worker_id, engine.is_busy, seconds=options.lease_seconds):
                    try:
                        with finding_traces(workers.recorder_of):
                            async with engine.open(), self._serving(engine):
                                yield engine
                    finally:
                        workers.log_abandoned()
                        self._statistics = engine.statistics()

    @asynccontextmanager
    async def _serving(self, engine: Engine) -> AsyncGenerator[None]:
        """Accept calls and signals for the engine until the block ends."""
        if self.options.resources:
            self._own_snapshot = await self.store.add_resources(self.options.resources)
        self._engine, self._token = engine, trio.lowlevel.current_trio_token()
        try:
            with STATUS_SIGNAL.joined(self.describe), STOP_SIGNALS.joined(engine.shutdown):
                yield
        finally:
            self._engine = self._token = None
            self._own_snapshot = self._last_published = None

    @contextmanager
    def _open_copies(self) -> Generator[AgentCopies | None]:
        """Yield the agent's copies for attempts that run at the same time; None if they share the agent."""
        agent = self.agent
        in_processes = agent.runs_in is not None and not lane_named(agent.runs_in, agent.name).copies_agents
        if in_processes or not needs_copies(agent):
            yield None
            return
        copies = AgentCopies(agent)
        try:
            yield copies
        finally:
            copies.close()

    def _make_workers(self, lanes: Mapping[str, OpenLane], bindings: Bindings) -> Workers:
        tracer = self.tracer
        interruptions = Interruptions()
        calls = HookCalls(self.hooks, self.agent, self, tracer, interruptions) if self.hooks else None
        clock, watch, limit = trio.lowlevel.current_clock(), current_watch(), self.store.max_payload_bytes
        parts = AttemptParts(self.agent.name, tracer, lanes, calls, clock, watch, interruptions, limit)
        return LocalWorkers(parts, bindings, self._max_concurrency)

    def _make_engine(self, bindings: Bindings, workers: Workers) -> Engine:
        settings = EngineSettings(
            self.agent.name,
            self.agent.config or self.options.config,
            self._max_concurrency,
            self.options.grace_seconds,
            self._worker_id,
        )
        return Engine(settings, self.store, self.tracer, bindings, workers)

    def _require_engine(self, call: str, write: str) -> Engine:
        """Return the engine of the open runner, for `call`; `write` is how to write it."""
        if self._engine is None:
            raise RunnerClosed.not_open(write)
        if not trio.lowlevel.in_trio_task():
            raise NotInTrio.runner()
        if self._token is not trio.lowlevel.current_trio_token():
            raise NotInTrio.in_its_own(call)
        return self._engine

    # One rollout, many rollouts, a queue.

    @overload
    async def step(
        self, task: T, *, resources: NamedResources | None = None, mode: RolloutMode | None = None
    ) -> CompletedRollout: ...
    @overload
    async def step(
        self, *, input: T, resources: NamedResources | None = None, mode: RolloutMode | None = None
    ) -> CompletedRollout: ...
    async def step(
        self,
        task: T | Unset = UNSET,
        *,
        input: T | Unset = UNSET,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
    ) -> CompletedRollout:
        """Run one task and return the completed rollout.

        Args:
            task: the input.
            input: the same, under the name that it had in Agent-lightning 0.3.
            resources: what to run with instead of the runner's own.
            mode: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            Exception: the agent's exception in its last attempt (`AttemptTimedOut` at its deadline), once it is
                recorded.
            RunnerClosed: outside ``async with runner``.
            AgentSignatureError: a parameter of the agent cannot be supplied.

        When the caller is cancelled, the rollout is stopped and ends as cancelled.
        """
        if (task is UNSET) is (input is UNSET):
            raise TypeError("Runner.step() takes one task; write: await runner.step(task)")
        if task is UNSET:
            task = input
        engine = self._require_engine("step", "async with runner: await runner.step(task)")
        request = await self._request(engine, task, resources, mode)
        admission = await engine.acquire_slot()
        completed = await engine.run_new(request, admission)
        if completed.error is not None:
            exception = completed.error.exception
            assert exception is not None
            note(exception, f"In rollout {completed.rollout.rollout_id}.")
            raise exception
        return completed

    async def _request(
        self, engine: Engine, task: Any, resources: NamedResources | None, mode: RolloutMode | None
    ) -> EnqueueRolloutRequest:
        if resources is None:
            snapshot = self._own_snapshot or await self.store.get_latest_resources()
        else:
            checked = check_resources(resources, "resources=…")
            engine.bindings.bind(mode, checked)
            snapshot = self._last_published
            if snapshot is None or snapshot.resources != checked:
                # The same resources again, as in a loop of steps, are the same snapshot.
                snapshot = self._last_published = await self.store.add_resources(checked)
        engine.bindings.bind(mode, self.options.resources if snapshot is None else snapshot.resources)
        return EnqueueRolloutRequest(task, mode, None if snapshot is None else snapshot.resources_id)

    def stream(
        self,
        tasks: Tasks,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
    ) -> RolloutStream:
        """Run the tasks of a sync or async iterable, as ``async with runner.stream(tasks) as results:``.

        ``async for done in results:`` yields each `CompletedRollout` as it finishes; failures are data as well.
        The source is read no further ahead than `max_concurrency` rollouts that run or wait to be read. Leaving
        the block cancels running rollouts.

        Args:
            tasks: the inputs; may be endless.
            resources: what to run with instead of the runner's own.
            mode: ``"train"``, ``"val"`` or ``"test"``.
        """
        engine = self._require_engine("stream", "async with runner, runner.stream(tasks) as results: …")

        async def prepare() -> str | None:
            return (await self._request(engine, None, resources, mode)).resources_id

        def request(task: Any, resources_id: str | None) -> EnqueueRolloutRequest:
            return EnqueueRolloutRequest(task, mode, resources_id)

        return RolloutStream(engine, tasks, prepare, request, self._max_concurrency)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the rollouts of the store's queue, from any source, until cancelled.

        Rollouts that run when it is cancelled go back to the queue.

        Raises:
            RunnerClosed: outside ``async with runner``.
            AsyncioAgentError: the agent uses asyncio and has no `runs_in`.
        """
        engine = self._require_engine("serve", "async with runner: await runner.serve()")
        engine.bindings.check_written_for_trio()
        task_status.started()
        await engine.work(None)

    # A whole run.

    @trio.lowlevel.enable_ki_protection
    async def fit(
        self,
        train_dataset: Dataset[Any] | None = None,
        val_dataset: Dataset[Any] | None = None,
        *,
        repeats: int = 1,
        resume: bool | str = False,
        retry_failed: bool | Sequence[type[BaseException] | str] = False,
        force_resume: bool = False,
    ) -> FitResult:
        """Run the algorithm over the datasets and return the result, as ``trio.run(runner.fit, train, val)``.

        A closed runner is opened for the call. When the call is cancelled or interrupted, finished rollouts are kept
        and those that run go back to the queue.

        Args:
            train_dataset: tasks, as a list or anything with ``len()`` and ``[index]``.
            val_dataset: the same, held out.
            repeats: how often to run each task; ``metadata["repeat"]`` counts from 0 where it is more than once.
            resume: True to resume the store's latest unfinished run of this agent and these datasets: finished
                rollouts are kept, interrupted ones run again, counts and times cover the whole run. If that run has
                finished, its result is returned; if there is no such run, a new one starts. Tasks may be appended to
                the datasets, and `repeats` may be larger: only what is new is run. A run's id to resume that run.
            retry_failed: with `resume`, also run the run's failed rollouts again, and those that a limit cancelled;
                only those with certain errors, if it is a list of exception classes or their names. All attempts are
                kept.
            force_resume: resume even a run of another dataset, or, by its id, of another agent.

        Raises:
            DatasetError: a dataset is empty, or a generator (see `stream`).
            AgentSignatureError: a parameter of the agent cannot be supplied; nothing has run then.
            AsyncioAgentError: the agent uses asyncio and has no `runs_in`; nothing has run then, either.
            NotInTrio: Trio does not run here, but perhaps asyncio; the message shows what to write instead.
            ResumeError: the run to resume is unknown, has another agent or dataset, or is being worked on.
        """
        check_given(self.options.algorithm, train_dataset, val_dataset, write="trio.run(runner.fit, [task, …])")
        check_dataset("train_dataset", train_dataset)
        check_dataset("val_dataset", val_dataset)
        if not isinstance(resume, bool | str):
            raise UsageError.argument("resume", resume, "True, False, or the id of a run, such as 'run-0123456789ab'")
        if force_resume and resume is False:
            raise UsageError.force_without_resume()
        check_count("repeats", repeats)
        datasets = Datasets.of(train_dataset, val_dataset, repeats)
        resumption = Resumption(resume, force_resume, _to_retry(resume, retry_failed))
        if self._engine is not None:
            return await self._fit(datasets, resumption)
        async with self:
            return await self._fit(datasets, resumption)

    async def _fit(self, datasets: Datasets, resumption: Resumption) -> FitResult:
        engine = self._require_engine("fit", "await runner.fit(train_dataset)")
        settings = FitSettings(
            self.options, self.agent.name, self._max_concurrency, self._own_snapshot, self._worker_id
        )
        return await Fit(engine, self.store, settings, datasets).run(resumption)


@asynccontextmanager
async def _ensure_open(store: LightningStore) -> AsyncGenerator[None]:
    """Open a store until the block ends, unless it is open."""
    if store.is_open:
        yield
        return
    async with store:
        yield


def _to_retry(resume: bool | str, retry_failed: bool | Sequence[type[BaseException] | str]) -> bool | tuple[str, ...]:
    """Return whether to run failed rollouts again: True, or the names of their errors."""
    if retry_failed is False:
        return False
    if resume is False:
        raise UsageError.retry_without_resume()
    if retry_failed is True:
        return True
    if not isinstance(retry_failed, Sequence | type):
        raise UsageError.argument("retry_failed", retry_failed, "True, or a list of exception classes or their names")
    names = exception_names(retry_failed, "retry_failed")
    if not names:
        raise UsageError.argument("retry_failed", retry_failed, "True, or a list of at least one exception class")
    if (missing := missing_name(names)) is not None:
        raise UsageError.unknown_error_class(missing)
    return names


def _check_limit(limit: int | None) -> None:
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise UsageError.argument("limit", limit, "the number of attempts to look at, 0 or more")
