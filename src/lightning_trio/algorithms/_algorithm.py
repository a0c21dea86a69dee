"""The base of algorithms, and the decorator that makes one of a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from .._public import public
from .._resources import NamedResources
from ..adapters import Adapter, check_adapter
from ..store import LightningStore
from ._session import Session

if TYPE_CHECKING:
    from .._trainer import Trainer


# Not an attribute: one algorithm may run in several fits at once, each with a session of its own.
_session: ContextVar[Session | None] = ContextVar("lightning_trio_session", default=None)

P = ParamSpec("P")
R = TypeVar("R")


@public
class Algorithm:
    """Derive from this and write `run`; a runner calls it once per `fit`.

    `run` may be async, in Trio, or plain, in a worker thread. Inside it, `session` is the hold on the run.

    >>> class OneRound(Algorithm):
    ...     async def run(self, train_dataset=None, val_dataset=None):
    ...         for done in await self.session.run(train_dataset, mode="train"):
    ...             self.session.note(reward=done.final_reward)
    """

    # A `Trainer`: the annotations of a class are read where it runs, and there is no trainer below it.
    _trainer: Any = None
    _adapter: Adapter[Any] | None = None

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        """Decide what to run and learn from it."""
        raise NotImplementedError(
            f"{type(self).__name__} has no `run`; write: async def run(self, train_dataset=None, …)"
        )

    def is_async(self) -> bool:
        """Tell whether `run` is async."""
        return inspect.iscoroutinefunction(self.run)

    @property
    def name(self) -> str:
        """What the algorithm is called in the record of a run."""
        return type(self).__name__

    @property
    def session(self) -> Session:
        """The run that is going on.

        Raises:
            ValueError: none is.
        """
        session = _session.get()
        if session is None:
            raise ValueError(f"{type(self).__name__} has no session: it is there while `fit` runs the algorithm")
        return session

    def enter_session(self, session: Session) -> Token[Session | None]:
        """Give the calling context its run; for runners."""
        return _session.set(session)

    def leave_session(self, token: Token[Session | None]) -> None:
        """Undo `enter_session`."""
        _session.reset(token)

    def get_store(self) -> LightningStore:
        """Give the store, bound to the run: what is enqueued here belongs to it."""
        return self.session.store

    def get_initial_resources(self) -> NamedResources:
        """Give the resources the run began with."""
        return self.session.initial_resources

    def set_trainer(self, trainer: Trainer) -> None:
        """Note the trainer; for trainers."""
        self._trainer = trainer

    def get_trainer(self) -> Trainer:
        """Give the trainer.

        Raises:
            ValueError: the algorithm runs without one.
        """
        trainer: Trainer | None = self._trainer
        if trainer is None:
            raise ValueError(f"{type(self).__name__} has no trainer; it was not started by Trainer.fit")
        return trainer

    def set_adapter(self, adapter: Adapter[Any] | None) -> None:
        """Give the algorithm an adapter, which turns spans into data to learn from.

        It is for runs whose runner has none; a runner's own wins.

        Raises:
            ComponentError: `adapter` is not one.
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
    """Mark an algorithm as quick enough for `Trainer.dev`."""


@public
class FunctionalAlgorithm(Algorithm, Generic[P, R]):
    """An algorithm made of a function; calling it calls the function."""

    def __init__(self, fn: Callable[P, R]) -> None:
        self._fn = fn
        functools.update_wrapper(cast("Callable[..., Any]", self), fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._fn(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self._fn, "__name__", type(self._fn).__name__))

    def is_async(self) -> bool:
        """Tell whether the function is async."""
        return inspect.iscoroutinefunction(self._fn)

    # Sync or async like the function, which is what `is_async` says.
    def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> Any:
        """Call the function with what it asks for by name."""
        parameters = inspect.signature(self._fn).parameters
        arguments: dict[str, Callable[[], Any]] = {
            "session": lambda: self.session,
            "store": self.get_store,
            "adapter": self.get_adapter,
            "initial_resources": self.get_initial_resources,
            "train_dataset": lambda: train_dataset,
            "val_dataset": lambda: val_dataset,
        }
        for name, dataset in (("train_dataset", train_dataset), ("val_dataset", val_dataset)):
            if dataset is not None and name not in parameters:
                raise TypeError(f"the algorithm {self._fn.__name__} got a {name} and has no parameter of that name")
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
                    f"the algorithm {self._fn.__name__} asks for {name!r}; there are {', '.join(arguments)}"
                )
        adapter = parameters.get("adapter")
        if adapter is not None and adapter.default is not inspect.Parameter.empty and self._find_adapter() is None:
            del arguments["adapter"]
        supplied = {name: arguments[name]() for name in parameters if name in arguments}
        return cast("Callable[..., Any]", self._fn)(**supplied)


@public
def algo(fn: Callable[P, R]) -> FunctionalAlgorithm[P, R]:
    """Make an algorithm of a sync or async function.

    It is called with those it has parameters for: ``session``, ``store``, ``adapter``, ``initial_resources``,
    ``train_dataset``, ``val_dataset``. An ``adapter`` with a default keeps it where the runner has none.

    >>> @algo
    ... async def once(session, train_dataset):
    ...     await session.work_off(train_dataset, mode="train")
    """
    return FunctionalAlgorithm(fn)
