"""Agent-lightning 0.3's runner, over the one of lightning_trio.

A `LitAgentRunner` is opened by `init` and `init_worker` or by `run_context`, in blocking code; `step` and `iter` are
awaited on asyncio. Its rollouts run in Trio, in a thread of its own.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import trio

from .._agents import LitAgent
from .._concurrency import FlatNursery
from .._log import Log
from .._public import public_in
from .._records import (
    AttemptedRollout,
    AttemptOutcome,
    EnqueueRolloutRequest,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Worker,
)
from .._resources import NamedResources
from .._runner import Hook as NativeHook
from .._runner import Runner as NativeRunner
from ..embed import HostedManager
from ..store import ForwardingStore, LightningStore, Record
from ._agents import as_agent
from ._asyncio_calls import in_trio
from ._overrides import overridden, warn_uncalled
from ._shapes import ParallelWorkerBase
from ._stores import hosted, warn_of_store
from ._tracers import Tracer

logger = Log("lightning_trio.compat")

T = TypeVar("T")

_EVENT_SECONDS = 0.1
"""How often `iter` looks at its event, which may be of another process."""


class Stoppable(Protocol):
    """An event that stops `Runner.iter`."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


@public_in("lightning_trio.compat")
class Runner(ParallelWorkerBase, Generic[T]):
    """The base of runners: `init`, `init_worker`, then `step` and `iter`, then `teardown_worker`, `teardown`."""

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Raise: runners have `iter` and `step` instead."""
        raise RuntimeError(
            f"{type(self).__name__} has no run(); write: await runner.iter(), or await runner.step(task)"
        )

    async def iter(self, *, event: Stoppable | None = None) -> None:
        """Run the rollouts of the store's queue until the event is set."""
        raise NotImplementedError(f"{type(self).__name__} has no `iter`")

    async def step(
        self,
        input: T,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: Stoppable | None = None,
    ) -> Rollout:
        """Run one task."""
        raise NotImplementedError(f"{type(self).__name__} has no `step`")

    @contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T],
        store: LightningStore,
        hooks: Sequence[NativeHook] | None = None,
        worker_id: int | None = None,
    ) -> Generator[Self]:
        """Prepare the runner for an agent and a store, and clean up at the end of the block."""
        self.init(agent=agent, hooks=hooks)
        try:
            number = worker_id or 0
            self.init_worker(worker_id=number, store=store)
            try:
                yield self
            finally:
                with logging_errors("Error during runner worker teardown"):
                    self.teardown_worker(worker_id=number)
        finally:
            with logging_errors("Error during runner teardown"):
                self.teardown()


@contextmanager
def logging_errors(what: str) -> Generator[None]:
    try:
        yield
    except Exception:
        logger.exception(what)


@public_in("lightning_trio.compat")
class LitAgentRunner(Runner[T], Generic[T]):
    """Run an agent on the rollouts of a store, one at a time.

    Args:
        tracer: records the attempts.
        max_rollouts: how many rollouts one `iter` runs; None for no limit.
        poll_interval: how often `iter` looks at the store's queue, in seconds; it is woken as well.
        interval_jitter: how much that varies, in seconds.
        heartbeat_interval, heartbeat_launch_mode, heartbeat_include_gpu: accepted and ignored: the runner renews a
            lease in the store instead.
    """

    def __init__(
        self,
        tracer: Tracer,
        max_rollouts: int | None = None,
        poll_interval: float = 5.0,
        heartbeat_interval: float = 10.0,
        interval_jitter: float = 0.5,
        heartbeat_launch_mode: Literal["asyncio", "thread"] = "thread",
        heartbeat_include_gpu: bool = False,
    ) -> None:
        warn_uncalled(
            "a runner",
            tracer,
            overridden(tracer, ("trace_context", "get_last_trace")),
            "it records each rollout itself; to change or skip spans override create_span and operation_context, and "
            "to act before or after a rollout write an agl.Hook with on_trace_start or on_trace_end",
        )
        self._tracer = tracer
        self._max_rollouts = max_rollouts
        self._poll_interval = poll_interval
        self._jitter = interval_jitter
        self._agent: LitAgent[Any] | None = None
        self._store: LightningStore | None = None
        self._hooks: Sequence[NativeHook] = ()
        self._opened: HostedManager[_FacedRunner] | None = None
        self._queue: _WorkerStore | None = None

    # Opening and closing.

    def init(self, agent: LitAgent[T], *, hooks: Sequence[NativeHook] | None = None, **kwargs: Any) -> None:
        """Take an agent and its hooks."""
        self._agent = as_agent(agent)
        self._agent.set_runner(self)  # type: ignore[arg-type]
        self._hooks = [] if hooks is None else list(hooks)
        self._tracer.init()

    def init_worker(self, worker_id: int, store: LightningStore, **kwargs: Any) -> None:
        """Take the number of this worker and the store of its rollouts."""
        self.worker_id = worker_id
        self._store = store
        warn_of_store("a runner", store, {"add_span", "add_many_spans", "add_otel_span", "update_attempt"})
        self._tracer.init_worker(worker_id, store)

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Stop what runs."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
        self._store = None
        self.worker_id = None
        self._tracer.teardown_worker(worker_id)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Forget the agent and the hooks."""
        self._agent = None
        self._hooks = ()
        self._tracer.teardown()

    def _open(self) -> HostedManager[_FacedRunner]:
        if self._opened is None:
            self._queue = _WorkerStore(hosted(self.get_store()), self.get_worker_id(), self._next_poll_seconds)
            native = _FacedRunner(
                self.get_agent(),
                store=self._queue,
                tracer=self._tracer,
                hooks=in_trio(self._hooks),
                max_concurrency=1,
            )
            native.face = self
            self._opened = HostedManager(native)
        return self._opened

    def _next_poll_seconds(self) -> float:
        return max(self._poll_interval + random.uniform(-self._jitter, self._jitter), 0.0)

    # Reading.

    @property
    def tracer(self) -> Tracer:
        """The tracer that records the attempts."""
        return self._tracer

    def get_agent(self) -> LitAgent[T]:
        """Return the agent.

        Raises:
            ValueError: `init` has not been called.
        """
        if self._agent is None:
            raise ValueError("Agent not initialized. Call init() first.")
        return self._agent

    def get_store(self) -> LightningStore:
        """Return the store.

        Raises:
            ValueError: `init_worker` has not been called.
        """
        if self._store is None:
            raise ValueError("Store not initialized. Call init_worker() first.")
        return self._store

    def get_worker_id(self) -> str:
        """Return the worker's name in the store."""
        return "Worker-Unknown" if self.worker_id is None else f"Worker-{self.worker_id}"

    # Running.

    async def step(
        self,
        input: T,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: Stoppable | None = None,
    ) -> Rollout:
        """Run one task and return its rollout.

        Raises:
            Exception: what the agent raised.
            RuntimeError: the store no longer has the rollout.
        """
        opened, store = self._open(), self.get_store()
        rollout_id = await opened.call(functools.partial(_step, opened.manager, input, resources, mode))
        rollout = await store.get_rollout_by_id(rollout_id)
        if rollout is None:
            raise RuntimeError(f"Failed to fetch completed rollout by id after step: {rollout_id}")
        return rollout

    async def iter(self, *, event: Stoppable | None = None) -> None:
        """Run the rollouts of the store's queue until the event is set or `max_rollouts` have run.

        What runs then is run to its end.
        """
        opened, queue = self._open(), self._queue
        assert queue is not None
        await opened.call(functools.partial(_iterate, opened.manager, queue, self._max_rollouts, event))


async def _step(runner: _FacedRunner, input: Any, resources: NamedResources | None, mode: RolloutMode | None) -> str:
    return (await runner.step(input, resources=resources, mode=mode)).rollout.rollout_id


async def _iterate(runner: _FacedRunner, queue: _WorkerStore, limit: int | None, event: Stoppable | None) -> None:
    with queue.serving(limit, event):
        async with FlatNursery() as nursery:
            nursery.start_soon(runner.serve)
            await queue.wait_drained()
            nursery.cancel_scope.cancel()


class FitRunner(NativeRunner):
    """The runner of `Trainer.fit`, which agents and hooks ask as one of Agent-lightning 0.3."""

    worker_id = 0

    def get_agent(self) -> LitAgent[Any]:
        """Return the agent."""
        return self.agent

    def get_store(self) -> LightningStore:
        """Return the store."""
        return self.store

    def get_worker_id(self) -> str:
        """Return the worker's name in the store."""
        return self._worker_id


class _FacedRunner(FitRunner):
    """The runner behind a `LitAgentRunner`."""

    face: LitAgentRunner[Any]


class _WorkerStore(ForwardingStore):
    """The store as a worker of Agent-lightning 0.3 uses it: by `start_rollout` and `dequeue_rollout`, under its name.

    Programs replace these calls, and read the worker's name in the store.
    """

    def __init__(self, store: LightningStore, worker_id: str, poll_seconds: Any) -> None:
        super().__init__(store)
        self._worker_id = worker_id
        self._poll_seconds = poll_seconds
        self._left: int | None = 0
        self._event: Stoppable | None = None
        self._running: set[str] = set()
        self._changed = trio.Event()

    @contextmanager
    def serving(self, limit: int | None, event: Stoppable | None) -> Generator[None]:
        """Let rollouts be claimed until the block ends."""
        self._left, self._event = limit, event
        try:
            yield
        finally:
            self._left, self._event = 0, None

    def _may_claim(self) -> bool:
        return self._left != 0 and (self._event is None or not self._event.is_set())

    async def wait_drained(self) -> None:
        """Wait until nothing may be claimed and nothing runs."""
        while self._may_claim() or self._running:
            self._changed = trio.Event()
            # The event may be of another process, which wakes nothing here.
            with trio.move_on_after(math.inf if self._event is None else _EVENT_SECONDS):
                await self._changed.wait()

    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        if not self._may_claim():
            await trio.sleep_forever()
        with trio.move_on_after(self._poll_seconds()):
            await self._store.wait_claimable(run_id=run_id)

    async def claim(
        self,
        limit: int,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        if limit < 1 or not self._may_claim():
            return []
        rollout = await self._store.dequeue_rollout(worker_id=self._worker_id)
        if rollout is None:
            return []
        if self._left is not None:
            self._left -= 1
        self._running.add(rollout.rollout_id)
        return [rollout]

    async def start(
        self,
        rollouts: Sequence[EnqueueRolloutRequest | str],
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        return [
            await self._store.start_attempt(each, worker_id=self._worker_id)
            if isinstance(each, str)
            else await self._store.start_rollout(
                input=each.input,
                mode=each.mode,
                resources_id=each.resources_id,
                config=each.config,
                metadata=each.metadata,
                worker_id=self._worker_id,
            )
            for each in rollouts
        ]

    async def put(self, records: Sequence[Record]) -> list[Record]:
        # Without the lease of the native runner, which claims nothing under its own name, and would be one more worker.
        others = [record for record in records if not isinstance(record, Worker)]
        return await super().put(others)

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
        try:
            return await super().finish(outcomes)
        finally:
            self._running.difference_update(outcome.rollout_id for outcome in outcomes)
            self._changed.set()
