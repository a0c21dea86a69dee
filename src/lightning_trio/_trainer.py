"""The trainer: Agent-lightning 0.3's synchronous interface to a runner."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from ._agents import LitAgent, as_agent
from ._checks import build, check_count
from ._errors import NestedTrioRun, UsageError
from ._public import public
from ._records import FitResult
from ._repr import one_line
from ._resources import NamedResources, check_resources
from ._runner import Hook, Runner, RunnerOptions, check_hooks
from .adapters import Adapter
from .algorithms import Algorithm, Dataset, FastAlgorithm, check_given
from .store import LightningStore
from .tracing import Tracer


@public
class Trainer:
    """Combine an algorithm, a store and a tracer and run an agent with them, from synchronous code.

    A component may be an instance, a class, a factory without arguments, an import path
    (``"package.module.Name"``), or a mapping with the path under ``"type"`` and keyword arguments.

    Args:
        algorithm: decides which rollouts to run; `Baseline` by default.
        n_runners: the number of rollouts to run at a time (a `Runner`'s `max_concurrency`).
        max_rollouts: the most rollouts that one `fit` starts; the rest count as cancelled.
        max_failures: the number, or the share, of rollouts that may fail; see `Runner`.
        grace_seconds: how long attempts may continue after a first Ctrl-C or SIGTERM; see `Runner`.
        max_processes: the number of worker processes for an agent with ``runs_in="process"``; see `Runner`.
        initial_resources: the agent's resources, by name.
        adapter: turns spans into the algorithm's data.
        tracer: records the attempts.
        hooks: one hook or several.
        store: keeps rollouts and spans; by default in ``runs/{run_name}.db``, or in memory if there is no
            `run_name`.
        run_name: the name of `fit`'s runs, which identifies them in a store.
        strategy, port, daemon, dev: accepted for Agent-lightning 0.3 and ignored with a warning: everything runs in
            this process, and `dev` is a method.
        n_workers, max_tasks, triplet_exporter: older names of `n_runners`, `max_rollouts` and `adapter`, accepted
            with a warning.
        llm_proxy, runner: raise an error that shows what to write instead.

    >>> async def double(task: int) -> float:
    ...     return task * 2.0
    >>> Trainer(n_runners=2).fit(double, [1, 2, 3]).counts["succeeded"]
    3
    """

    def __init__(  # noqa: PLR0913  # Agent-lightning 0.3's
        self,
        *,
        algorithm: Any = None,
        n_runners: int | None = None,
        max_rollouts: int | None = None,
        max_failures: float | None = None,
        grace_seconds: float | None = None,
        max_processes: int | None = None,
        initial_resources: NamedResources | None = None,
        adapter: Any = None,
        tracer: Any = None,
        hooks: Hook | Sequence[Hook] | None = None,
        store: Any = None,
        run_name: str | None = None,
        strategy: object = None,
        port: int | None = None,
        daemon: bool | None = None,
        dev: bool | None = None,
        n_workers: int | None = None,
        max_tasks: int | None = None,
        triplet_exporter: Any = None,
        llm_proxy: object = None,
        runner: object = None,
    ) -> None:
        _check_unsupported(llm_proxy, runner)
        _warn_ignored(strategy=strategy, port=port, daemon=daemon, dev=dev or None)
        n_runners = _renamed("n_workers", n_workers, "n_runners", n_runners)
        max_rollouts = _renamed("max_tasks", max_tasks, "max_rollouts", max_rollouts)
        adapter = _renamed("triplet_exporter", triplet_exporter, "adapter", adapter)
        # Two options have another name in a runner, which its messages would show.
        if n_runners is not None:
            check_count("n_runners", n_runners)
        if initial_resources is not None:
            check_resources(initial_resources, "Trainer(initial_resources=…)")
        given: dict[str, Any] = {
            "max_concurrency": n_runners,
            "max_rollouts": max_rollouts,
            "max_failures": max_failures,
            "grace_seconds": grace_seconds,
            "max_processes": max_processes,
            "resources": initial_resources,
            "run_name": run_name,
            "algorithm": None if algorithm is None else build("algorithm", algorithm, Algorithm),
            "store": None if store is None else build("store", store, LightningStore),
            "tracer": None if tracer is None else build("tracer", tracer, Tracer),
            "adapter": None if adapter is None else build("adapter", adapter, object),
        }
        self._n_runners = n_runners
        self._hooks = () if hooks is None else check_hooks(hooks)
        self.options: RunnerOptions = RunnerOptions(
            **{name: value for name, value in given.items() if value is not None}
        )

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm that `fit` runs."""
        return self.options.algorithm

    @property
    def store(self) -> LightningStore:
        """The store of rollouts and spans."""
        return self.options.store

    @property
    def tracer(self) -> Tracer:
        """The tracer that records the attempts."""
        return self.options.tracer

    @property
    def adapter(self) -> Adapter[Any] | None:
        """What turns spans into the algorithm's data."""
        return self.options.adapter

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The hooks, in order of their calls."""
        return self._hooks

    @property
    def n_runners(self) -> int | None:
        """The number of rollouts to run at a time, None for a runner's default."""
        return self._n_runners

    @property
    def max_rollouts(self) -> int | None:
        """The number of rollouts to start at most."""
        return self.options.max_rollouts

    @property
    def max_failures(self) -> float | None:
        """The number, or the share, of rollouts that may fail."""
        return self.options.max_failures

    @property
    def grace_seconds(self) -> float:
        """How long attempts may continue after a first Ctrl-C or SIGTERM."""
        return self.options.grace_seconds

    @property
    def max_processes(self) -> int | None:
        """The number of worker processes."""
        return self.options.max_processes

    @property
    def run_name(self) -> str | None:
        """The name of the runs of `fit`."""
        return self.options.run_name

    @property
    def initial_resources(self) -> NamedResources:
        """The agent's resources, by name."""
        return self.options.resources

    @one_line
    def __repr__(self) -> str:
        at_a_time = "" if self.n_runners is None else f", {self.n_runners:,} rollouts at a time"
        return f"<{type(self).__name__} with {self.algorithm.name}{at_a_time}, in {self.store!r}>"

    def fit(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
        repeats: int = 1,
        resume: bool | str = False,
        retry_failed: bool | Sequence[type[BaseException] | str] = False,
        force_resume: bool = False,
    ) -> FitResult:
        """Run the algorithm over the datasets and return its result.

        Works in a plain program and inside a running asyncio loop, such as a notebook's, which waits meanwhile.

        Args:
            agent: an agent made by `@rollout`, a `LitAgent`, or a plain function.
            train_dataset: tasks, as a list or anything with ``len()`` and ``[index]``.
            val_dataset: held-out tasks, likewise.
            repeats: how often to run each task.
            resume: continue an unfinished run of the store, see `Runner.fit`.
            retry_failed: with `resume`, run its failed rollouts again, see `Runner.fit`.
            force_resume: continue it even if it has another dataset.

        Raises:
            NestedTrioRun: Trio runs in this thread already; the message shows what to await instead.
            Exception: see `Runner.fit`.
        """
        options = {
            "repeats": repeats,
            "resume": resume,
            "retry_failed": retry_failed,
            "force_resume": force_resume,
        }
        return self._fit(agent, train_dataset, val_dataset, options)

    def dev(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
        repeats: int = 1,
    ) -> FitResult:
        """Run the algorithm like `fit`, for trying out an agent: it must be a `FastAlgorithm`.

        Raises:
            TypeError: the algorithm is not a `FastAlgorithm`.
        """
        if not isinstance(self.algorithm, FastAlgorithm):
            raise TypeError(
                f"dev() takes a FastAlgorithm such as Baseline, not {type(self.algorithm).__name__}; use fit() for it"
            )
        return self._fit(agent, train_dataset, val_dataset, {"repeats": repeats})

    def _fit(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
        options: Mapping[str, Any],
    ) -> FitResult:
        self._check_dataset(train_dataset, val_dataset)
        if trio.lowlevel.in_trio_run():
            raise NestedTrioRun.by_trainer()
        lit_agent = as_agent(agent)
        lit_agent.set_trainer(self)
        self.algorithm.set_trainer(self)
        runner = Runner(lit_agent, hooks=self.hooks, **self.options.arguments())
        return trio.run(functools.partial(runner.fit, train_dataset, val_dataset, **options))

    def _check_dataset(self, train_dataset: Dataset[Any] | None, val_dataset: Dataset[Any] | None) -> None:
        check_given(self.algorithm, train_dataset, val_dataset, write="trainer.fit(agent, [task, …])")


def _check_unsupported(llm_proxy: object, runner: object) -> None:
    if llm_proxy is not None:
        raise UsageError.no_llm_proxy()
    if runner is not None:
        raise UsageError.no_runner()


def _warn_ignored(**options: object) -> None:
    given = [name for name, value in options.items() if value is not None]
    if not given:
        return
    instead = "; to try out an agent call trainer.dev(agent, …)" if "dev" in given else ""
    warnings.warn(
        f"Trainer ignores {', '.join(given)}: rollouts run in this process, n_runners of them at a time{instead}",
        DeprecationWarning,
        stacklevel=3,
    )


def _renamed(old_name: str, old: Any, name: str, value: Any) -> Any:
    if old is None:
        return value
    warnings.warn(f"Trainer({old_name}=…) has been renamed: write {name}=…", DeprecationWarning, stacklevel=3)
    return old if value is None else value
