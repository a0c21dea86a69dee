"""Agent-lightning 0.3's algorithms, which are written for asyncio and ask a store.

`Trainer.fit` runs one on an event loop of its own; it may also be run by hand, after `set_store`.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from .. import algorithms as native
from .._concurrency import run_in_thread
from .._public import public_in
from .._records import RolloutMode
from ..adapters import Adapter
from ..algorithms import Dataset
from ..store import LightningStore
from ._asyncio_calls import call_asyncio
from ._rollout_log import SpanVerbosity, is_logged, log_rollout
from ._stores import HostedStore

_LOG_SECONDS = 1.0
"""How soon `Baseline`, run by hand, logs a rollout that has ended."""


@public_in("lightning_trio.compat")
class Algorithm(native.Algorithm):
    """The base of algorithms: override `run`, async for asyncio or plain, and use `get_store`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call `run`."""
        return self.run(*args, **kwargs)

    # What a program sets is taken as it is; programs' tests set stand-ins.

    def set_store(self, store: LightningStore) -> None:
        """Store what `get_store` returns."""
        self._store = store

    def get_store(self) -> LightningStore:
        """Return the store.

        Raises:
            ValueError: there is none.
        """
        if self._store is None:
            raise ValueError("Store has not been set for this algorithm.")
        return self._store

    def set_adapter(self, adapter: Adapter[Any] | None) -> None:
        """Store what `get_adapter` returns."""
        self._adapter = adapter

    # None in 0.3 where there are none.
    def get_initial_resources(self) -> Any:
        """Return the initial resources, None without any."""
        return self._initial_resources


@public_in("lightning_trio.compat")
class FastAlgorithm(Algorithm, native.FastAlgorithm):
    """The base of algorithms that are quick enough for `Trainer.dev`."""


@public_in("lightning_trio.compat")
class Baseline(FastAlgorithm, native.Baseline):
    """Runs every training task once, then every validation task once, and logs each rollout with its spans.

    It may also be run by hand, with runners of the store.

    Args:
        n_epochs: how many times to run both datasets.
        train_split, polling_interval, max_queue_length: accepted for Agent-lightning 0.3; nothing is polled here.
        span_verbosity: what to log of each span: the ``"keys"`` of its attributes, ``"key_values"``, or ``"none"``.
    """

    def __init__(
        self,
        *,
        n_epochs: int = 1,
        train_split: float = 0.5,
        polling_interval: float = 5.0,
        max_queue_length: int = 4,
        span_verbosity: SpanVerbosity = "keys",
    ) -> None:
        super().__init__(n_epochs=n_epochs)
        self.span_verbosity: SpanVerbosity = span_verbosity

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        """Run both datasets, epoch by epoch."""
        if self._store is None:
            await native.Baseline.run(self, train_dataset, val_dataset)
            return
        store = self._store
        if self._initial_resources is not None:
            await store.update_resources("default", self._initial_resources)
        for _ in range(self.n_epochs):
            datasets: Sequence[tuple[RolloutMode, Sequence[Any]]] = (
                ("train", () if train_dataset is None else train_dataset),
                ("val", () if val_dataset is None else val_dataset),
            )
            enqueued = [
                await store.enqueue_rollout(dataset[index], mode=mode)
                for mode, dataset in datasets
                for index in range(len(dataset))
            ]
            await self._await_end(store, [rollout.rollout_id for rollout in enqueued])

    async def _await_end(self, store: LightningStore, rollout_ids: list[str]) -> None:
        """Wait for rollouts, and log those that have ended."""
        while rollout_ids:
            ended = await store.wait_for_rollouts(rollout_ids=rollout_ids, timeout=_LOG_SECONDS)
            rollout_ids = [each for each in rollout_ids if each not in {rollout.rollout_id for rollout in ended}]
            for rollout in ended if is_logged() else ():
                await log_rollout(rollout, store, self._adapter, self.span_verbosity)


@public_in("lightning_trio.compat")
class FunctionalAlgorithm(Algorithm, native.FunctionalAlgorithm[..., Any]):
    """An algorithm made from a function; calling it calls the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return native.FunctionalAlgorithm.__call__(self, *args, **kwargs)

    def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> Any:
        """Call the function with the arguments that its parameters name."""
        parameters = inspect.signature(self).parameters
        for name, dataset in (("train_dataset", train_dataset), ("val_dataset", val_dataset)):
            if dataset is not None and name not in parameters:
                raise TypeError(f"{name} is provided but not supported by the algorithm {self.name}")
        arguments: dict[str, Callable[[], Any]] = {
            "store": self.get_store,
            "adapter": self.get_adapter,
            "llm_proxy": self.get_llm_proxy,
            "initial_resources": self.get_initial_resources,
            "train_dataset": lambda: train_dataset,
            "val_dataset": lambda: val_dataset,
        }
        return self(**{name: supply() for name, supply in arguments.items() if name in parameters})


def algo(fn: Callable[..., Any]) -> FunctionalAlgorithm:
    """Make an algorithm from a function, which gets those arguments that it has parameters for.

    They are ``store``, ``adapter``, ``llm_proxy``, ``initial_resources``, ``train_dataset`` and ``val_dataset``.
    """
    return FunctionalAlgorithm(fn)


class _InTrio(native.Algorithm):
    """An algorithm of Agent-lightning 0.3, as a runner takes it: one whose `run` is awaited in Trio."""

    def __init__(self, algorithm: native.Algorithm) -> None:
        self._algorithm = algorithm

    @property
    def name(self) -> str:
        """The algorithm's name in the record of a run."""
        return self._algorithm.name

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        """Run the algorithm with the store of the run: on asyncio, or in a worker thread."""
        algorithm, session = self._algorithm, self.session
        # Not `hosted`: the store of a run forwards to one that is.
        algorithm.set_store(HostedStore(session.store))
        if session.initial_resources:
            algorithm.set_initial_resources(session.initial_resources)
        if session.adapter is not None:
            algorithm.set_adapter(session.adapter)
        run: Any = functools.partial(algorithm.run, train_dataset=train_dataset, val_dataset=val_dataset)
        if algorithm.is_async():
            await call_asyncio(run)
        else:
            await run_in_thread(run, abandon_on_cancel=True)


def as_native(algorithm: native.Algorithm) -> native.Algorithm:
    """Return an algorithm as a runner takes it: one of lightning_trio as it is, one of 0.3 with its `run` for Trio."""
    own = isinstance(algorithm, Algorithm) and type(algorithm).run is not Baseline.run
    return _InTrio(algorithm) if own else algorithm


# Helpers for writing algorithms.


def batch_iter_over_dataset(dataset: Dataset[Any], batch_size: int) -> Iterator[Sequence[Any]]:
    """Yield batches of shuffled tasks for ever; the whole dataset each time if it is no larger than a batch."""
    while True:
        tasks = [dataset[index] for index in range(len(dataset))]
        random.shuffle(tasks)
        if batch_size >= len(tasks):
            yield tasks
            continue
        for start in range(0, len(tasks) - batch_size + 1, batch_size):
            yield tasks[start : start + batch_size]


def with_store(fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Pass the algorithm's store to a method, after ``self``."""

    @functools.wraps(fn)
    async def call(self: Algorithm, *args: Any, **kwargs: Any) -> Any:
        return await fn(self, self.get_store(), *args, **kwargs)

    return call


def with_llm_proxy(
    required: bool = False, auto_start: bool = True
) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]:
    """Pass the algorithm's proxy, or None, to a method, after ``self``.

    Args:
        required: raise `ValueError` if there is none.
        auto_start: start one that does not run, and stop it afterwards.
    """

    def decorate(fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(fn)
        async def call(self: Algorithm, *args: Any, **kwargs: Any) -> Any:
            proxy = self.get_llm_proxy()
            if proxy is None and required:
                raise ValueError(f"{type(self).__name__} has no LLM proxy; write: algorithm.set_llm_proxy(proxy)")
            async with _started(proxy if auto_start else None):
                return await fn(self, proxy, *args, **kwargs)

        return call

    return decorate


@asynccontextmanager
async def _started(proxy: Any) -> AsyncGenerator[None]:
    if proxy is None or proxy.is_running():
        yield
        return
    await proxy.start()
    try:
        yield
    finally:
        await proxy.stop()
