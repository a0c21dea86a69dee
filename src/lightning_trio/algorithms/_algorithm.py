"""The base of algorithms, and the decorator that makes one from a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from .._checks import checked
from .._public import public
from .._repr import one_line
from .._resources import NamedResources
from ..adapters import Adapter, check_adapter
from ..store import LightningStore
from ._session import Session

if TYPE_CHECKING:
    from .._trainer import Trainer


# Not an attribute, because one algorithm may run in several fits at once, each with its own session.
_session: ContextVar[Session | None] = ContextVar("lightning_trio_session", default=None)

P = ParamSpec("P")
R = TypeVar("R")


@public
class Algorithm:
    """The base of algorithms: override `run`, which a runner calls once per `fit`.

    `run` may be async and runs in Trio, or plain and runs in a worker thread. Inside it, `session` is the current run.

    >>> class OneRound(Algorithm):
    ...     async def run(self, train_dataset=None, val_dataset=None):
    ...         for done in await self.session.run(train_dataset, mode="train"):
    ...             self.session.note(reward=done.final_reward)
    """

    # A `Trainer`. Annotations of a public class are evaluated here, and the trainer is in a module above.
    _trainer: Any = None
    _adapter: Adapter[Any] | None = None
    _store: LightningStore | None = None
    _initial_resources: NamedResources | None = None
    _llm_proxy: Any = None

    @one_line
    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        """Run rollouts and learn from them."""
        raise NotImplementedError(
            f"{type(self).__name__} has no `run`; write: async def run(self, train_dataset=None, …)"
        )

    def is_async(self) -> bool:
        """Whether `run` is async."""
        return inspect.iscoroutinefunction(self.run)

    @property
    def name(self) -> str:
        """The algorithm's name in the record of a run."""
        return type(self).__name__

    @property
    def session(self) -> Session:
        """The session of the current run.

        Raises:
            ValueError: there is no current run.
        """
        session = _session.get()
        if session is None:
            raise ValueError(
                f"{type(self).__name__} has no session; use it inside run(), which Runner.fit and Trainer.fit call. "
                "To call run() by hand, first write set_store(…) and set_initial_resources(…), and use get_store()"
            )
        return session

    def enter_session(self, session: Session) -> Token[Session | None]:
        """Make `session` current in the calling context; for runners."""
        return _session.set(session)

    def leave_session(self, token: Token[Session | None]) -> None:
        """Undo `enter_session`."""
        _session.reset(token)

    # A runner supplies the store and the resources; a caller that runs the algorithm by hand sets them.

    def set_store(self, store: LightningStore) -> None:
        """Store what `get_store` returns where no runner runs the algorithm.

        Raises:
            ComponentError: `store` is not a store.

        >>> from lightning_trio import InMemoryLightningStore
        >>> import trio
        >>> class EnqueueOne(Algorithm):
        ...     async def run(self, train_dataset=None, val_dataset=None):
        ...         await self.get_store().enqueue_rollout(train_dataset[0])
        >>> async def main():
        ...     algorithm = EnqueueOne()
        ...     async with InMemoryLightningStore() as store:
        ...         algorithm.set_store(store)
        ...         await algorithm.run(["tea"])
        ...         return await store.query_rollouts()
        >>> [rollout.input for rollout in trio.run(main)]
        ['tea']
        """
        self._store = checked("store", store, LightningStore)

    def get_store(self) -> LightningStore:
        """Return the run's store: rollouts enqueued through it belong to the run. Outside of runs, see `set_store`.

        Raises:
            ValueError: there is neither.
        """
        if _session.get() is None and self._store is not None:
            return self._store
        return self.session.store

    def set_initial_resources(self, resources: NamedResources) -> None:
        """Store what `get_initial_resources` returns where no runner runs the algorithm."""
        self._initial_resources = resources

    def get_initial_resources(self) -> NamedResources:
        """Return the resources that the run started with. Outside of runs, see `set_initial_resources`.

        Raises:
            ValueError: there are neither.
        """
        if _session.get() is None and self._initial_resources is not None:
            return self._initial_resources
        return self.session.initial_resources

    def set_llm_proxy(self, llm_proxy: object) -> None:
        """Store a proxy for `get_llm_proxy`; this package does not use it."""
        self._llm_proxy = llm_proxy

    def get_llm_proxy(self) -> Any:
        """Return what `set_llm_proxy` stored, None by default."""
        return self._llm_proxy

    def set_trainer(self, trainer: Trainer) -> None:
        """Store the trainer; for trainers."""
        self._trainer = trainer

    def get_trainer(self) -> Trainer:
        """Return the trainer.

        Raises:
            ValueError: the algorithm runs without one.
        """
        trainer: Trainer | None = self._trainer
        if trainer is None:
            raise ValueError(f"{type(self).__name__} has no trainer; it was not started by Trainer.fit")
        return trainer

    def set_adapter(self, adapter: Adapter[Any] | None) -> None:
        """Store an adapter, which turns spans into training data.

        Runs use it if their runner has no adapter of its own.

        Raises:
            ComponentError: `adapter` is not an adapter.
        """
        self._adapter = None if adapter is None else check_adapter(adapter)

    def get_adapter(self) -> Adapter[Any]:
        """Return the adapter.

        Raises:
            ValueError: there is none.
        """
        adapter = self._find_adapter()
        if adapter is None:
            raise ValueError(f"{type(self).__name__} has no adapter; pass adapter=… to Runner or Trainer")
        return adapter

    def _find_adapter(self) -> Adapter[Any] | None:
        session = _session.get()
        return self._adapter if session is None or session.adapter is None else session.adapter


@public
class FastAlgorithm(Algorithm):
    """The base of algorithms that are quick enough for `Trainer.dev`."""


@public
class FunctionalAlgorithm(Algorithm, Generic[P, R]):
    """An algorithm made from a function; calling it calls the function."""

    def __init__(self, fn: Callable[P, R]) -> None:
        self._fn = fn
        functools.update_wrapper(cast("Callable[..., Any]", self), fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._fn(*args, **kwargs)

    @one_line
    def __repr__(self) -> str:
        return f"<algorithm {self.name}>"

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self._fn, "__name__", type(self._fn).__name__))

    def is_async(self) -> bool:
        """Whether the function is async."""
        return inspect.iscoroutinefunction(self._fn)

    # Sync or async like the function, which is what `is_async` says.
    def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> Any:
        """Call the function with the arguments that its parameters name."""
        parameters = inspect.signature(self._fn).parameters
        arguments: dict[str, Callable[[], Any]] = {
            "session": lambda: self.session,
            "store": self.get_store,
            "adapter": self.get_adapter,
            "initial_resources": self.get_initial_resources,
            "train_dataset": lambda: train_dataset,
            "val_dataset": lambda: val_dataset,
        }
        if self._llm_proxy is not None:
            arguments["llm_proxy"] = self.get_llm_proxy
        for name, dataset in (("train_dataset", train_dataset), ("val_dataset", val_dataset)):
            if dataset is not None and name not in parameters:
                raise TypeError(f"the algorithm {self._fn.__name__} got a {name} but has no parameter of that name")
        for name, parameter in parameters.items():
            if (
                name not in arguments
                and parameter.default is inspect.Parameter.empty
                and parameter.kind
                not in (
                    inspect.Parameter.VAR_POSITIONAL,
                    inspect.Parameter.VAR_KEYWORD,
                )
            ):
                raise TypeError(
                    f"the algorithm {self._fn.__name__} asks for {name!r}; it can ask for {', '.join(arguments)}"
                )
        adapter = parameters.get("adapter")
        if adapter is not None and adapter.default is not inspect.Parameter.empty and self._find_adapter() is None:
            del arguments["adapter"]
        supplied = {name: arguments[name]() for name in parameters if name in arguments}
        return cast("Callable[..., Any]", self._fn)(**supplied)


@public
def algo(func: Callable[P, R]) -> FunctionalAlgorithm[P, R]:
    """Make an algorithm from a sync or async function.

    The function gets those of these arguments that it has parameters for: ``session``, ``store``, ``adapter``,
    ``initial_resources``, ``train_dataset``, ``val_dataset``, and ``llm_proxy`` if one was set. An ``adapter``
    parameter with a default keeps it if the runner has no adapter.

    >>> @algo
    ... async def once(session, train_dataset):
    ...     await session.work_off(train_dataset, mode="train")
    """
    return FunctionalAlgorithm(func)
