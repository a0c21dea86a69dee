"""The session: an algorithm's hold on one run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from .._errors import UsageError
from .._lifecycle import TERMINAL_ROLLOUT
from .._records import (
    Attempt,
    AttemptedRollout,
    CompletedRollout,
    EnqueueRolloutRequest,
    ResourcesUpdate,
    Rollout,
    RolloutMode,
    RolloutStatus,
)
from .._resources import NamedResources
from .._span import Span
from ..store import Condition, LightningStore, Query

_WINDOW_AT_LEAST = 1024
"""How many rollouts to keep enqueued and unfinished, so that a runner always finds a batch to claim."""


class Session:
    """Ask for rollouts with candidate resources, read what came of them, publish better resources.

    Attributes:
        run_id: the run.
        store: the store, bound to the run.
        initial_resources: the resources the run began with.
    """

    def __init__(
        self, run_id: str, store: LightningStore, initial: ResourcesUpdate | None, max_concurrency: int
    ) -> None:
        self.run_id = run_id
        self.store = store
        self.initial_resources: NamedResources = {} if initial is None else initial.resources
        self._best = initial
        self._history: list[Mapping[str, Any]] = []
        self._window = max(_WINDOW_AT_LEAST, 4 * max_concurrency)

    @property
    def best(self) -> ResourcesUpdate | None:
        """The best resources so far: those declared last, else the initial ones."""
        return self._best

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """What was noted so far."""
        return tuple(self._history)

    async def publish(self, resources: NamedResources) -> ResourcesUpdate:
        """Store a snapshot to run rollouts with.

        Raises:
            ResourceError: a value is no resource.
            AgentSignatureError: the run's agent cannot be supplied from it.
        """
        return await self.store.add_resources(resources)

    def declare_best(self, snapshot: ResourcesUpdate) -> None:
        """Make `snapshot` the outcome of the run so far."""
        self._best = snapshot

    def note(self, **values: Any) -> None:
        """Add an entry to the run's history, such as a round's number and score."""
        self._history.append(values)

    async def run(
        self,
        tasks: Sequence[Any],
        *,
        mode: RolloutMode | None = None,
        resources: ResourcesUpdate | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[CompletedRollout]:
        """Run every task once and give what came of each, in the order of the tasks.

        A rollout that never ran (see `max_rollouts`) is ``"cancelled"``, its attempt has the `sequence_id` 0.

        Args:
            tasks: the inputs.
            mode: ``"train"``, ``"val"`` or ``"test"``.
            resources: the snapshot to run with, as `publish` gave it; None for the best so far.
            metadata: noted on every rollout.
        """
        order: dict[str, int] = {}
        completed: list[CompletedRollout] = []
        with self.store.holding():
            async with aclosing(self._finished(tasks, mode, resources, metadata)) as batches:
                async for enqueued, finished in batches:
                    order.update({rollout_id: len(order) + index for index, rollout_id in enumerate(enqueued)})
                    completed += await self._completed(finished)
        return sorted(completed, key=lambda done: order[done.rollout.rollout_id])

    async def work_off(
        self,
        tasks: Sequence[Any],
        *,
        mode: RolloutMode | None = None,
        resources: ResourcesUpdate | None = None,
    ) -> None:
        """Run every task once like `run`, without reading what came of it; memory stays flat."""
        async with aclosing(self._finished(tasks, mode, resources, None)) as batches:
            async for _ in batches:
                pass

    async def _finished(
        self,
        tasks: Sequence[Any],
        mode: RolloutMode | None,
        resources: ResourcesUpdate | None,
        metadata: Mapping[str, Any] | None,
    ) -> AsyncGenerator[tuple[list[str], list[str]], None]:
        """Enqueue as earlier ones end; give, step by step, the ids newly enqueued and those newly ended."""
        if resources is not None and not isinstance(resources, ResourcesUpdate):
            raise UsageError(
                f"resources={type(resources).__name__} is no snapshot; write: "
                "snapshot = await session.publish({…}), then session.run(tasks, resources=snapshot)"
            )
        snapshot = resources or self._best
        resources_id = None if snapshot is None else snapshot.resources_id
        step = self._window // 2
        unfinished: list[str] = []
        for chunk in _chunks(tasks, step):
            requests = [EnqueueRolloutRequest(task, mode, resources_id, None, metadata) for task in chunk]
            enqueued = await self.store.enqueue(requests)
            before = unfinished + enqueued
            unfinished = await self.store.wait_finished(before, count=len(before) - step)
            yield enqueued, _without(before, unfinished)
        yield [], _without(unfinished, await self.store.wait_finished(unfinished))

    async def _completed(self, rollout_ids: Collection[str]) -> list[CompletedRollout]:
        rollouts = await self.store.query_rollouts(rollout_id_in=rollout_ids)
        found = await self.store.find(Query("spans", (Condition("rollout_id", rollout_ids),)))
        spans: dict[tuple[str, str], list[Span]] = {}
        for span in found:
            spans.setdefault((span.rollout_id, span.attempt_id), []).append(span)
        return [_as_completed(rollout, spans) for rollout in rollouts]

    async def wait_all(self) -> None:
        """Wait until everything enqueued in this run has ended."""
        unfinished: list[RolloutStatus] = ["queuing", "preparing", "running", "requeuing"]
        while True:
            counts = (await self.store.summarize()).counts
            if all(status in TERMINAL_ROLLOUT for status in counts):
                return
            rollouts = await self.store.query_rollouts(status_in=unfinished, run_id_in={self.run_id})
            await self.store.wait_finished([rollout.rollout_id for rollout in rollouts])


def _without(ids: Sequence[str], left_out: Collection[str]) -> list[str]:
    skip = set(left_out)
    return [rollout_id for rollout_id in ids if rollout_id not in skip]


def _as_completed(rollout: Rollout, spans: Mapping[tuple[str, str], Sequence[Span]]) -> CompletedRollout:
    if isinstance(rollout, AttemptedRollout):
        attempt = rollout.attempt
    else:
        # Cancelled before it was ever claimed.
        attempt = Attempt(rollout.rollout_id, "", 0, rollout.start_time, rollout.end_time, "cancelled")
    return CompletedRollout(rollout, attempt, tuple(spans.get((rollout.rollout_id, attempt.attempt_id), ())))


def _chunks(tasks: Sequence[Any], size: int) -> Iterator[list[Any]]:
    # By index and not by slice: 0.3's datasets have __len__ and __getitem__ for integers.
    for start in range(0, len(tasks), size):
        yield [tasks[index] for index in range(start, min(start + size, len(tasks)))]
