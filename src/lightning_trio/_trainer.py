"""The trainer: Agent-lightning 0.3's synchronous face over a runner."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import trio

from ._agent import LitAgent, as_agent
from ._errors import NestedTrioRun, UsageError
from ._failures import check_max_failures
from ._hooks import Hook
from ._records import FitResult
from ._resources import NamedResources
from ._runner import Runner, check_run_name, default_store
from .algorithms import Algorithm, Baseline, FastAlgorithm
from .store import LightningStore
from .tracing import Tracer

T = TypeVar("T")


class Trainer:
    """Put an algorithm, a store and a tracer together and run an agent with them, from plain code.

    Components may be given as an instance, a class, a factory without arguments, an import path
    (``"package.module.Name"``), or a mapping with the path under ``"type"`` and keyword arguments.

    Args:
        algorithm: what decides which rollouts to run; `Baseline` by default.
        n_runners: how many rollouts to run at a time (a `Runner`'s `max_concurrency`).
        max_rollouts: how many rollouts to start at most; the rest count as cancelled.
        max_failures: how many rollouts may fail, or which share of them; see `Runner`.
        grace_seconds: how long attempts may run on after a first Ctrl-C or SIGTERM; see `Runner`.
        max_processes: how many worker processes an agent with ``runs_in="process"`` gets; see `Runner`.
        initial_resources: what the agent is given, by name.
        adapter: what the algorithm turns spans into data with.
        tracer: what records the attempts.
        hooks: one hook or several.
        store: where rollouts and spans are kept; by default in ``runs/{run_name}.db``, or in memory where the runs
            have no name.
        run_name: what to call the runs of `fit`, to tell them apart in a store.
        strategy, port, daemon: accepted for Agent-lightning 0.3 and ignored with a warning: everything runs in
            this process.

    >>> async def double(task: int) -> float:
    ...     return task * 2.0
    >>> Trainer(n_runners=2).fit(double, [1, 2, 3]).counts["succeeded"]
    3
    """

    def __init__(
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
    ) -> None:
        ignored = {"strategy": strategy, "port": port, "daemon": daemon}
        if given := [name for name, value in ignored.items() if value is not None]:
            warnings.warn(
                f"Trainer ignores {', '.join(given)}: rollouts run in this process, n_runners of them at a time",
                DeprecationWarning,
                stacklevel=2,
            )
        self.algorithm: Algorithm | None = None if algorithm is None else build("algorithm", algorithm, Algorithm)
        check_run_name(run_name)
        self.store: LightningStore = default_store(run_name) if store is None else build("store", store, LightningStore)
        self.tracer: Tracer = Tracer() if tracer is None else build("tracer", tracer, Tracer)
        self.adapter: Any = None if adapter is None else build("adapter", adapter, object)
        self.hooks: tuple[Hook, ...] = (hooks,) if isinstance(hooks, Hook) else tuple(hooks or ())
        self.n_runners = n_runners
        check_max_failures(max_failures)
        self.max_failures = max_failures
        self.grace_seconds = grace_seconds
        self.max_processes = max_processes
        self.max_rollouts = max_rollouts
        self.run_name = run_name
        self.initial_resources = initial_resources

    def fit(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Sequence[Any] | None = None,
        *,
        val_dataset: Sequence[Any] | None = None,
        resume: bool | str = False,
        force_resume: bool = False,
    ) -> FitResult:
        """Run the algorithm over the datasets and give what it came to.

        Works in a plain program and inside a running asyncio loop, such as a notebook's, which waits meanwhile.

        Args:
            agent: what `@rollout` made, a `LitAgent`, or a plain function.
            train_dataset: tasks, as a list or anything with ``len()`` and ``[index]``.
            val_dataset: the same, held out.
            resume: go on with an unfinished run of the store, see `Runner.fit`.
            force_resume: even with one of another agent or dataset.

        Raises:
            NestedTrioRun: Trio runs already; the message shows what to await instead.
            Exception: see `Runner.fit`.
        """
        resumption = {"resume": resume, "force_resume": force_resume}
        return self._fit(agent, train_dataset, val_dataset, self.algorithm, resumption)

    def dev(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Sequence[Any] | None = None,
        *,
        val_dataset: Sequence[Any] | None = None,
    ) -> FitResult:
        """Try an agent out: like `fit`, with a `FastAlgorithm` only.

        Raises:
            TypeError: the algorithm is none.
        """
        algorithm = Baseline() if self.algorithm is None else self.algorithm
        if not isinstance(algorithm, FastAlgorithm):
            raise TypeError(
                f"dev() takes a FastAlgorithm such as Baseline, not {type(algorithm).__name__}; use fit() for it"
            )
        return self._fit(agent, train_dataset, val_dataset, algorithm, {})

    def _fit(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Sequence[Any] | None,
        val_dataset: Sequence[Any] | None,
        algorithm: Algorithm | None,
        resumption: Mapping[str, Any],
    ) -> FitResult:
        if _in_trio():
            raise NestedTrioRun(
                "Trainer.fit starts Trio, which runs here already; await a runner instead: "
                "result = await agl.Runner(agent, …).fit(train_dataset, val_dataset)"
            )
        lit_agent = as_agent(agent)
        lit_agent.set_trainer(self)
        if algorithm is not None:
            algorithm.set_trainer(self)
        given = {"max_concurrency": self.n_runners, "grace_seconds": self.grace_seconds}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        runner = Runner(
            lit_agent,
            resources=self.initial_resources,
            store=self.store,
            algorithm=algorithm,
            hooks=self.hooks,
            tracer=self.tracer,
            adapter=self.adapter,
            max_rollouts=self.max_rollouts,
            max_failures=self.max_failures,
            max_processes=self.max_processes,
            run_name=self.run_name,
            **options,
        )
        return trio.run(functools.partial(runner.fit, train_dataset, val_dataset, **resumption))


def _in_trio() -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def build(name: str, spec: Any, kind: type[T]) -> T:
    """Make a component of an instance, class, factory, import path or mapping.

    Raises:
        UsageError: the specification is none of these.
        TypeError: what it gives is no `kind`.
    """
    if isinstance(spec, Mapping):
        options = dict(cast("Mapping[str, Any]", spec))
        path = options.pop("type", None)
        if not isinstance(path, str):
            raise UsageError(f'{name}={spec!r} has no "type"; write {{"type": "package.module.Name", …}}')
        made: object = _imported(name, path)(**options)
    elif isinstance(spec, str):
        made = _imported(name, spec)()
    elif isinstance(spec, kind) and not isinstance(spec, type):
        made = spec
    elif callable(spec):
        made = spec()
    else:
        raise TypeError(f"{name} takes a {kind.__name__}, not {spec!r}")
    if not isinstance(made, kind):
        raise TypeError(f"{name}={spec!r} gives {made!r}, which is no {kind.__name__}")
    return made


def _imported(name: str, path: str) -> Callable[..., object]:
    module, _, attribute = path.rpartition(".")
    try:
        return cast("Callable[..., object]", getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as exc:
        raise UsageError(f"{name}={path!r} cannot be imported: {exc}; write package.module.Name") from exc
