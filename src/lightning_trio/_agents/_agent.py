"""Agents: the base class, and the class of agents made from a function."""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, cast

from .._checks import checked
from .._errors import AgentSignatureError
from .._public import public
from .._records import LaneName, Rollout, RolloutConfig, RolloutMode
from .._repr import one_line
from .._resources import NamedResources
from ..lanes import is_async_function, resolve_lane
from ._injection import bind_function
from ._signature import check_function

if TYPE_CHECKING:
    from .._runner import Runner
    from .._trainer import Trainer
    from ..tracing import Tracer


T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

TRAIN_METHODS = ("training_rollout_async", "training_rollout", "rollout_async", "rollout")
VALIDATION_METHODS = ("validation_rollout_async", "validation_rollout", "rollout_async", "rollout")


@public
class LitAgent(Generic[T]):
    """The base of agents that are classes; `T` is the type of their tasks.

    Override `rollout` or `rollout_async`, or, to train and validate differently, `training_rollout` and
    `validation_rollout` (or their async forms). Rollouts with the mode ``"train"`` use the training method, all
    others the validation method; the more specific method wins, async before sync.

    A method gets the task, the resources and the attempted rollout; other parameters are supplied as for
    `lightning_trio.rollout`. Set `runs_in` on the class to choose a lane; if there is none of that name, making a
    runner raises `UnsupportedLane`.

    >>> class Echo(LitAgent[str]):
    ...     async def rollout_async(self, task, resources, rollout):
    ...         return float(len(task))
    >>> Echo().is_async()
    True
    """

    runs_in: LaneName | str | None = None
    config: RolloutConfig | None = None

    trained_agents: str | None = None
    """Kept for Agent-lightning 0.3; nothing reads it."""

    # To a `Trainer` and a `Runner`. Annotations of a public class are evaluated here, and both are in packages above.
    _trainer_ref: weakref.ref[Any] | None = None
    _runner_ref: weakref.ref[Any] | None = None

    def __init__(self, *, trained_agents: str | None = None) -> None:
        if trained_agents is not None:
            warnings.warn(
                f"{type(self).__name__} ignores trained_agents={trained_agents!r}; spans name their agent, so select "
                "them by that name where you read them",
                DeprecationWarning,
                stacklevel=2,
            )
            self.trained_agents = trained_agents

    def __getstate__(self) -> dict[str, Any]:
        # A worker process gets the agent alone; the runner and the trainer stay in this process.
        return {name: value for name, value in vars(self).items() if name not in ("_trainer_ref", "_runner_ref")}

    @one_line
    def __repr__(self) -> str:
        return f"<agent {self.name}>"

    @property
    def name(self) -> str:
        """The agent's name in spans."""
        return type(self).__name__

    def is_async(self) -> bool:
        """Whether one of the async methods is overridden."""
        return any(overrides(self, name) for name in (*TRAIN_METHODS, *VALIDATION_METHODS) if "async" in name)

    def method_names(self, mode: RolloutMode | None) -> tuple[str, ...]:
        """Return the names of the methods that may run a rollout of `mode`; of those overridden, the first runs it."""
        return TRAIN_METHODS if mode == "train" else VALIDATION_METHODS

    # Overriding methods name the parameters that they need; with these signatures type checkers accept any.

    def rollout(self, task: T, *args: Any, **kwargs: Any) -> Any:
        """Run one rollout in a worker thread and return a reward, None or a list of spans."""
        _not_implemented(self, "rollout")

    async def rollout_async(self, task: T, *args: Any, **kwargs: Any) -> Any:
        """Run one rollout in Trio and return a reward, None or a list of spans."""
        _not_implemented(self, "rollout_async")

    def training_rollout(self, task: T, *args: Any, **kwargs: Any) -> Any:
        """Run a training rollout; by default `rollout`."""
        return self.rollout(task, *args, **kwargs)

    def validation_rollout(self, task: T, *args: Any, **kwargs: Any) -> Any:
        """Run a validation rollout; by default `rollout`."""
        return self.rollout(task, *args, **kwargs)

    async def training_rollout_async(self, task: T, *args: Any, **kwargs: Any) -> Any:
        """Run a training rollout; by default `rollout_async`."""
        return await self.rollout_async(task, *args, **kwargs)

    async def validation_rollout_async(self, task: T, *args: Any, **kwargs: Any) -> Any:
        """Run a validation rollout; by default `rollout_async`."""
        return await self.rollout_async(task, *args, **kwargs)

    def set_trainer(self, trainer: Trainer) -> None:
        """Store a weak reference to the trainer that runs this agent."""
        self._trainer_ref = weakref.ref(trainer)

    def get_trainer(self) -> Trainer:
        """Return the trainer that runs this agent."""
        trainer: Trainer = _referent(self._trainer_ref, "Trainer")
        return trainer

    def set_runner(self, runner: Runner[T]) -> None:
        """Store a weak reference to the runner that runs this agent."""
        self._runner_ref = weakref.ref(runner)

    def get_runner(self) -> Runner[T]:
        """Return the runner that runs this agent; of several, the one opened last."""
        runner: Runner[T] = _referent(self._runner_ref, "Runner")
        return runner

    def get_tracer(self) -> Tracer:
        """Return the tracer of the runner."""
        return self.get_runner().tracer

    @property
    def trainer(self) -> Trainer:
        """The trainer, see `get_trainer`."""
        return self.get_trainer()

    @property
    def runner(self) -> Runner[T]:
        """The runner, see `get_runner`."""
        return self.get_runner()

    @property
    def tracer(self) -> Tracer:
        """The tracer, see `get_tracer`."""
        return self.get_tracer()


def _referent(ref: weakref.ref[R] | None, what: str) -> R:
    if ref is None:
        raise ValueError(f"{what} has not been set for this agent.")
    referent = ref()
    if referent is None:
        raise ValueError(f"{what} reference is no longer valid: it was set and has been deleted since.")
    return referent


def _not_implemented(agent: LitAgent[Any], method: str) -> NoReturn:
    raise NotImplementedError(f"Agents must implement the `rollout` method: {agent.name} does not have `{method}`.")


def overrides(agent: LitAgent[Any], name: str) -> bool:
    return getattr(type(agent), name) is not getattr(LitAgent, name)


@public
class FunctionalLitAgent(LitAgent[Any], Generic[P, R]):
    """An agent made from a function; calling it calls the function."""

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        runs_in: LaneName | str | None = None,
        name: str | None = None,
        config: RolloutConfig | None = None,
        strip_proxy: bool = True,
    ) -> None:
        check_function(fn)
        if config is not None:
            checked("config", config, RolloutConfig)
        self._fn = fn
        self._name = name or str(getattr(fn, "__name__", type(fn).__name__))
        self.strip_proxy = strip_proxy
        self.runs_in: LaneName | str | None = runs_in
        self.config: RolloutConfig | None = config
        functools.update_wrapper(cast("Callable[..., Any]", self), fn)
        resolve_lane(self._name, fn, runs_in)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._fn(*args, **kwargs)

    def __reduce__(self) -> str:
        # By name, like the function it was made from.
        return str(getattr(self, "__qualname__", self._name))

    @property
    def name(self) -> str:
        """The agent's name in spans."""
        return self._name

    @property
    def function(self) -> Callable[P, R]:
        """The function that the agent was made from."""
        return self._fn

    def is_async(self) -> bool:
        """Whether the function is async."""
        return is_async_function(self._fn)

    def rollout(self, task: Any, resources: NamedResources, rollout: Rollout) -> Any:
        """Run a sync function with the arguments that a runner would supply, outside a runner."""
        if self.is_async():
            raise RuntimeError(f"{self._name} is asynchronous. Use rollout_async instead.")
        return self._call_directly(task, resources, rollout)

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: Rollout) -> Any:
        """Run an async function with the arguments that a runner would supply, outside a runner."""
        if not self.is_async():
            raise RuntimeError(f"{self._name} is synchronous. Use rollout instead.")
        return await self._call_directly(task, resources, rollout)

    def _call_directly(self, task: Any, resources: NamedResources, rollout: Rollout) -> Any:
        return bind_function(self._name, self._fn, resources, self.strip_proxy).call_with(task, rollout)


def as_agent(agent: object) -> LitAgent[Any]:
    """Return an agent as it is, and a plain function as an agent.

    Raises:
        AgentSignatureError: it is neither.
    """
    if isinstance(agent, LitAgent):
        return agent
    if inspect.isclass(agent) and issubclass(agent, LitAgent):
        raise AgentSignatureError.agent_class(agent)
    if not callable(agent):
        raise AgentSignatureError.not_an_agent(agent)
    return cast("LitAgent[Any]", FunctionalLitAgent(agent))
