"""Agent-lightning 0.3's trainer, over the one of lightning_trio."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final, cast

import trio

from .._agents import LitAgent
from .._errors import NestedTrioRun, UsageError
from .._public import public_in
from .._records import FitResult
from .._resources import NamedResources
from .._runner import Hook as NativeHook
from .._runner import RunnerOptions
from .._trainer import Trainer as NativeTrainer
from ..algorithms import Algorithm as NativeAlgorithm
from ..algorithms import Dataset
from ..store import LightningStore
from ..tracing import Tracer as NativeTracer
from ._agents import as_agent
from ._algorithms import Baseline, as_native
from ._asyncio_calls import in_trio
from ._components import ExecutionStrategyRegistry, build_component, instantiate_from_spec
from ._execution import ClientServerExecutionStrategy, ExecutionEvent, ExecutionStrategy, SharedMemoryExecutionStrategy
from ._overrides import overridden, warn_uncalled
from ._rollout_log import RolloutLog, is_logged
from ._runners import FitRunner, LitAgentRunner, Runner, logging_errors
from ._stores import InMemoryLightningStore, hosted, warn_of_store
from ._tracers import AgentOpsTracer, Tracer, prepared

_DEFAULTS: Final[Mapping[str, object]] = {"repeats": 1, "resume": False, "retry_failed": False, "force_resume": False}
_IGNORED: Final = (ClientServerExecutionStrategy, SharedMemoryExecutionStrategy)


@public_in("lightning_trio.compat")
class Trainer(NativeTrainer):
    """Combine an algorithm, a store and a tracer and run an agent with them, from synchronous code.

    A component may be an instance, a class, a factory without arguments, an import path, or a mapping with the path
    under ``"type"`` and keyword arguments.

    Args:
        algorithm: decides which rollouts to run; `Baseline` by default, which logs each.
        n_runners: the number of rollouts to run at a time; 1 by default, as in Agent-lightning 0.3.
        max_rollouts: the most rollouts that one `fit` starts.
        initial_resources: the agent's resources, by name.
        tracer: records the attempts.
        adapter: turns spans into the algorithm's data.
        store: keeps rollouts and spans; in memory by default.
        hooks: one hook or several, for asyncio.
        strategy: ``"shm"``, ``"cs"`` and their classes are ignored with a warning, because everything runs in this
            process; a class of the program's own is called.
        runner: a `LitAgentRunner`, whose tracer and `max_rollouts` count; none of its methods is called, except by a
            strategy of the program's own, to which it may be any `Runner`.
        llm_proxy: raises an error that shows what to write instead.
        port, daemon: accepted for Agent-lightning 0.3.
        options: see `lightning_trio.Trainer`.
    """

    def __init__(  # noqa: PLR0913  # Agent-lightning 0.3's
        self,
        *,
        algorithm: Any = None,
        n_runners: int | None = None,
        max_rollouts: int | None = None,
        initial_resources: NamedResources | None = None,
        tracer: Any = None,
        adapter: Any = None,
        store: Any = None,
        hooks: NativeHook | Sequence[NativeHook] | None = None,
        strategy: Any = None,
        runner: Any = None,
        llm_proxy: Any = None,
        port: int | None = None,
        daemon: bool = True,
        **options: Any,
    ) -> None:
        self.port = port
        self.daemon = daemon
        self.llm_proxy = llm_proxy
        n_runners, max_rollouts = _under_old_names(options, n_runners, max_rollouts)
        self.strategy: ExecutionStrategy = _strategy(strategy, n_runners, port)
        given_tracer: Any = build_component(
            tracer, expected_type=NativeTracer, spec_name="tracer", default_factory=AgentOpsTracer
        )
        made_runner = build_component(
            runner,
            expected_type=Runner,
            spec_name="runner",
            default_factory=functools.partial(LitAgentRunner[Any], given_tracer, max_rollouts),
            optional_defaults={"tracer": lambda: given_tracer, "max_rollouts": max_rollouts},
        )
        assert made_runner is not None
        self.runner: Runner[Any] = made_runner
        if isinstance(made_runner, LitAgentRunner):
            given_tracer = made_runner.tracer
            limit = made_runner._max_rollouts  # pyright: ignore[reportPrivateUsage]  # 0.3 has no other name for it
            max_rollouts = max_rollouts if limit is None else limit
        if store is None and options.get("run_name") is not None:
            store = RunnerOptions(run_name=options["run_name"]).store
        made_store = build_component(
            store, expected_type=LightningStore, spec_name="store", default_factory=InMemoryLightningStore
        )
        assert made_store is not None
        super().__init__(
            algorithm=build_component(
                algorithm, expected_type=NativeAlgorithm, spec_name="algorithm", default_factory=Baseline
            ),
            n_runners=getattr(self.strategy, "n_runners", n_runners) if strategy is not None else n_runners,
            max_rollouts=max_rollouts,
            initial_resources=initial_resources,
            tracer=given_tracer,
            adapter=_adapter(adapter),
            store=hosted(made_store),
            hooks=hooks,
            llm_proxy=llm_proxy,
            **options,
        )
        if isinstance(self.strategy, _IGNORED):
            _check_runner(made_runner)
            warn_of_store("Trainer.fit", made_store)

    def fit_v0(self, *args: Any, **options: Any) -> None:
        """Raise: the servers of versions 0.1 are gone."""
        raise UsageError.not_in_compat(
            "Trainer.fit_v0", "the servers of versions 0.1 are gone; write trainer.fit(agent, [task, …])"
        )

    def _fit(
        self,
        agent: Any,
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
        options: Mapping[str, Any],
    ) -> FitResult:
        if isinstance(self.strategy, ClientServerExecutionStrategy) and self.strategy.role != "both":
            raise UsageError.no_roles(str(self.strategy.role))
        self._check_options(options)
        lit_agent = as_agent(agent)
        lit_agent.set_trainer(self)
        self.algorithm.set_trainer(self)
        if not isinstance(self.strategy, _IGNORED):
            return cast("FitResult", self._execute(lit_agent, train_dataset, val_dataset))
        self._check_dataset(train_dataset, val_dataset)
        if trio.lowlevel.in_trio_run():
            raise NestedTrioRun.by_trainer()
        arguments: dict[str, Any] = {**self.options.arguments(), "algorithm": as_native(self.algorithm)}
        runner = FitRunner(lit_agent, hooks=(*in_trio(self.hooks), *_log_of(self.algorithm)), **arguments)
        tracer = self.tracer
        with prepared(tracer, self.store, logging_errors) if isinstance(tracer, Tracer) else nullcontext():
            return trio.run(functools.partial(runner.fit, train_dataset, val_dataset, **options))

    def _check_options(self, options: Mapping[str, Any]) -> None:
        given = {name: value for name, value in options.items() if value != _DEFAULTS[name]}
        if given and not isinstance(self.strategy, _IGNORED):
            name, value = next(iter(given.items()))
            who = f"the strategy {type(self.strategy).__name__}, which runs the algorithm itself"
            raise UsageError.not_for(name, value, who, "leave the strategy out")
        if "repeats" in given and as_native(self.algorithm) is not self.algorithm:
            who = f"{self.algorithm.name}, which enqueues its rollouts itself"
            raise UsageError.not_for("repeats", given["repeats"], who, "let the algorithm enqueue each task that often")

    def _execute(self, agent: LitAgent[Any], train_dataset: Any, val_dataset: Any) -> None:
        """Let the program's own strategy run the algorithm and the runners; there is no result then."""

        async def run_algorithm(store: LightningStore, event: ExecutionEvent) -> None:
            algorithm = self.algorithm
            algorithm.set_store(store)
            if self.initial_resources:
                algorithm.set_initial_resources(self.initial_resources)
            if self.adapter is not None:
                algorithm.set_adapter(self.adapter)
            made: Any = algorithm.run(train_dataset=train_dataset, val_dataset=val_dataset)
            if algorithm.is_async():
                await made

        async def run_runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
            # A strategy may run several at a time, and each has its own agent, store and number.
            runner = copy.copy(self.runner)
            with runner.run_context(agent=agent, store=store, hooks=self.hooks, worker_id=worker_id):
                await runner.iter(event=event)

        self.strategy.execute(run_algorithm, run_runner, self.store)


def _check_runner(runner: Runner[Any]) -> None:
    """Warn about what `Trainer.fit` does not use of a runner.

    Raises:
        UsageError: it uses nothing of it.
    """
    if not isinstance(runner, LitAgentRunner):
        raise UsageError.not_a_lit_agent_runner(type(runner).__name__)
    called_in_03 = ("init", "init_worker", "iter", "step", "run_context", "teardown_worker", "teardown")
    warn_uncalled(
        "Trainer.fit",
        runner,
        overridden(runner, called_in_03),
        "it uses the runner's tracer and max_rollouts; to act before or after a rollout write an agl.Hook, and to have "
        "the runner called an agl.ExecutionStrategy whose execute(algorithm, runner, store) awaits runner",
    )


def _under_old_names(
    options: Mapping[str, Any], n_runners: int | None, max_rollouts: int | None
) -> tuple[int, int | None]:
    """Return the numbers of runners and of rollouts, which may be given under the names of older versions."""
    wanted = options.get("n_workers") if n_runners is None else n_runners
    # One, as in 0.3: agents that keep a task in their module would read each other's.
    return 1 if wanted is None else wanted, options.get("max_tasks") if max_rollouts is None else max_rollouts


def _log_of(algorithm: NativeAlgorithm) -> Sequence[NativeHook]:
    return [RolloutLog(algorithm.span_verbosity)] if isinstance(algorithm, Baseline) and is_logged() else []


def _adapter(spec: Any) -> Any:
    if isinstance(spec, str | Mapping):
        return instantiate_from_spec(spec, spec_name="adapter")
    return spec() if isinstance(spec, type) else spec


def _strategy(spec: Any, n_runners: int, port: int | None) -> ExecutionStrategy:
    optional: dict[str, Any] = {"n_runners": n_runners, **({} if port is None else {"server_port": port})}
    made = build_component(
        spec,
        expected_type=ExecutionStrategy,
        spec_name="strategy",
        default_factory=lambda: ClientServerExecutionStrategy(**optional),
        optional_defaults=optional,
        dict_requires_type=False,
        registry=ExecutionStrategyRegistry,
    )
    assert made is not None
    if isinstance(made, ClientServerExecutionStrategy) and port is not None:
        made.server_port = port
    if spec is not None and isinstance(made, _IGNORED):
        warnings.warn(
            f"Trainer ignores strategy={spec!r}: rollouts run in this process, n_runners of them at a time",
            DeprecationWarning,
            stacklevel=3,
        )
    return made
