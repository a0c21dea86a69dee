"""The base of all stores: the familiar calls, written once over the primitives."""

from __future__ import annotations

import time
import warnings
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from .._concurrency import announced_wait
from .._errors import UnknownId
from .._ids import new_resources_id
from .._lifecycle import TERMINAL_ROLLOUT
from .._public import public
from .._records import (
    UNSET,
    Attempt,
    AttemptChange,
    AttemptedRollout,
    AttemptStatus,
    EnqueueRolloutRequest,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    RolloutChange,
    RolloutConfig,
    RolloutMode,
    RolloutRemoval,
    RolloutStatus,
    Run,
    Unset,
    Worker,
    WorkerStatus,
)
from .._repr import one_line
from .._resources import NamedResources, check_resources, mapping_without_keys, spans_without_keys
from .._spans import LiveTrace, Span, find_live_trace, with_number
from ._primitives import StorePrimitives
from ._query import Condition, FilterLogic, Query, SortOrder
from ._requests import check_fields, check_requests

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


T = TypeVar("T")

_PRUNE_AT_ONCE = 1000

_READ_BACK_SECONDS = 5.0
"""How long reading back a commit may take once the caller is cancelled."""


@public
class LightningStore(StorePrimitives):
    """Keep rollouts, attempts, spans, resources snapshots and workers.

    Rules for every store: waits end by wake-up, never by polling; terminal statuses are final; an attempt's outcome and
    spans are committed together or not at all; a late report of a superseded attempt is refused; returned records never
    change, nor do stored ones when the caller changes a list or mapping that it passed in; each attempt gets its own
    copies of the lists and dicts in its task, because its agent may change them (`copy_containers`); queries for
    unknown ids return nothing, changes of unknown ids raise.

    To write a store, implement the abstract methods, open what they need in `on_open`, close it in `on_close`, and run
    `lightning_trio.testing.check_store` on it. To change one thing about another store, derive from `ForwardingStore`.
    """

    @one_line
    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'open' if self.is_open else 'closed'}>"

    async def enqueue_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Rollout:
        """Put one rollout into the queue.

        Raises:
            ComponentError: the configuration is not a `RolloutConfig`, or the metadata is not a mapping.
        """
        [rollout] = await self.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input, mode, resources_id, config, metadata)]
        )
        return rollout

    async def enqueue_many_rollouts(self, rollouts: Iterable[EnqueueRolloutRequest]) -> list[Rollout]:
        """Put rollouts into the queue, in order; all of them, or none if this raises.

        Raises:
            ComponentError: one is not a request, or has a field of the wrong kind, see `enqueue_rollout`.
        """
        requests = list(rollouts)
        check_requests(requests)
        ids = await self.enqueue(requests)

        async def read() -> list[Rollout]:
            found = {each.rollout_id: each for each in await self.query_rollouts(rollout_id_in=set(ids))}
            return [found[rollout_id] for rollout_id in ids]

        return await _read_back(read)

    async def dequeue_rollout(self, worker_id: str | None = None) -> AttemptedRollout | None:
        """Take the oldest rollout off the queue, None if there is none."""
        return next(iter(await self.claim(1, worker_id=worker_id)), None)

    async def dequeue_many_rollouts(self, *, limit: int = 1, worker_id: str | None = None) -> list[AttemptedRollout]:
        """Take up to `limit` rollouts off the queue."""
        return await self.claim(limit, worker_id=worker_id)

    async def start_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        """Start a new rollout outside the queue, with its first attempt; for errors see `enqueue_rollout`."""
        request = EnqueueRolloutRequest(input, mode, resources_id, config, metadata)
        check_requests([request])
        [rollout] = await self.start([request], worker_id=worker_id)
        return rollout

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        """Start another attempt of a rollout."""
        [rollout] = await self.start([rollout_id], worker_id=worker_id)
        return rollout

    async def add_span(self, span: Span) -> Span | None:
        """Store one span and return it; None if it is already stored or came too late.

        A span with the `sequence_id` 0 gets the next number of its attempt. In a process that runs the attempt, that is
        the number after all spans recorded so far, and the span counts as recorded, also for the final reward.
        """
        return next(iter(await self.add_many_spans([span])), None)

    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Store spans and return those that are new; they are numbered as by `add_span`."""
        traces: dict[str, LiveTrace] = {}
        numbered: list[Span] = []
        for span in spans:
            trace = find_live_trace(span.attempt_id)
            if trace is not None:
                traces[span.attempt_id] = trace
                if span.sequence_id <= 0:
                    span = with_number(span, trace.next_sequence_id())
            numbered.append(span)
        stored = await self.add_spans(spans_without_keys(numbered))
        for span in stored:
            if span.attempt_id in traces:
                traces[span.attempt_id].note_stored(span)
        return stored

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span | None:
        """Store a span of the OpenTelemetry SDK."""
        return await self.add_span(
            Span.from_opentelemetry(
                readable_span, rollout_id=rollout_id, attempt_id=attempt_id, sequence_id=sequence_id or 0
            )
        )

    async def query_rollouts(  # noqa: PLR0913  # filters, each by its name
        self,
        *,
        status_in: Collection[RolloutStatus] | None = None,
        rollout_id_in: Collection[str] | None = None,
        rollout_id_contains: str | None = None,
        mode_in: Collection[RolloutMode | None] | None = None,
        run_id_in: Collection[str | None] | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Collection[RolloutStatus] | None = None,
        rollout_ids: Collection[str] | None = None,
    ) -> PaginatedResult[Rollout]:
        """Return rollouts; those that have attempts include the latest.

        `status` and `rollout_ids` are the older names of `status_in` and `rollout_id_in`.
        """
        status_in = _renamed("status", status, "status_in", status_in)
        rollout_id_in = _renamed("rollout_ids", rollout_ids, "rollout_id_in", rollout_id_in)
        conditions = _conditions(
            status=status_in,
            rollout_id=rollout_id_in,
            rollout_id_contains=rollout_id_contains,
            mode=mode_in,
            run_id=run_id_in,
        )
        return await self.find(Query("rollouts", (), conditions, filter_logic, sort_by, sort_order, limit, offset))

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        """Return a rollout, None if the store never had it.

        Raises:
            Evicted: the rollout finished long ago and is no longer kept.
        """
        found = await self.find(Query("rollouts", (Condition("rollout_id", {rollout_id}),)))
        return found[0] if found else None

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Attempt]:
        """Return a rollout's attempts."""
        must = (Condition("rollout_id", {rollout_id}),)
        return await self.find(Query("attempts", must, (), "and", sort_by, sort_order, limit, offset))

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return a rollout's latest attempt, None without one."""
        found = await self.query_attempts(rollout_id, sort_order="desc", limit=1)
        return found[0] if found else None

    async def query_spans(  # noqa: PLR0913  # filters, each by its name
        self,
        rollout_id: str,
        attempt_id: str | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Span]:
        """Return a rollout's spans: of one attempt, of the ``"latest"``, or (None) of all."""
        must = [Condition("rollout_id", {rollout_id})]
        if attempt_id == "latest":
            latest = await self.get_latest_attempt(rollout_id)
            attempt_id = "" if latest is None else latest.attempt_id
        if attempt_id is not None:
            must.append(Condition("attempt_id", {attempt_id}))
        conditions = _conditions(
            trace_id=_only(trace_id),
            trace_id_contains=trace_id_contains,
            span_id=_only(span_id),
            span_id_contains=span_id_contains,
            parent_id=_only(parent_id),
            parent_id_contains=parent_id_contains,
            name=_only(name),
            name_contains=name_contains,
        )
        return await self.find(Query("spans", must, conditions, filter_logic, sort_by, sort_order, limit, offset))

    async def wait_for_rollouts(self, rollout_ids: Collection[str], timeout: float | None = None) -> list[Rollout]:
        """Wait for rollouts to end, for at most `timeout` seconds (None: without limit; 0: do not wait).

        Returns the rollouts that have ended, in the order of `rollout_ids`; unknown ids are left out.
        """
        with trio.move_on_after(float("inf") if timeout is None else timeout), announced_wait():
            await self.wait_finished(rollout_ids)
        found = await self.query_rollouts(rollout_id_in=set(rollout_ids), status_in=TERMINAL_ROLLOUT)
        by_id = {rollout.rollout_id: rollout for rollout in found}
        return [by_id[rollout_id] for rollout_id in rollout_ids if rollout_id in by_id]

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        """Store a new snapshot, which becomes the latest."""
        return await self._put_resources(new_resources_id(), check_resources(resources, "add_resources()"))

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Store the next version of a snapshot (the first, if it is new), which becomes the latest."""
        return await self._put_resources(resources_id, check_resources(resources, "update_resources()"))

    async def _put_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        now = time.time()
        [snapshot] = await self.put([ResourcesUpdate(resources_id, now, now, 1, resources)])
        return snapshot

    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[ResourcesUpdate]:
        """Return resources snapshots."""
        conditions = _conditions(resources_id=_only(resources_id), resources_id_contains=resources_id_contains)
        return await self.find(Query("resources", (), conditions, "and", sort_by, sort_order, limit, offset))

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Return a snapshot, None if the store does not have it."""
        found = await self.query_resources(resources_id=resources_id)
        return found[0] if found else None

    async def update_rollout(
        self,
        rollout_id: str,
        input: Any = UNSET,
        mode: RolloutMode | None | Unset = UNSET,
        resources_id: str | None | Unset = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: Mapping[str, Any] | None | Unset = UNSET,
    ) -> Rollout:
        """Change the given fields of a rollout; for errors see `enqueue_rollout`."""
        check_fields(config, metadata)
        metadata = _without_keys(metadata)
        await self.update([RolloutChange(rollout_id, input, mode, resources_id, status, config, metadata)])
        return await _read_back(lambda: self._rollout(rollout_id))

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | None | Unset = UNSET,
        last_heartbeat_time: float | None | Unset = UNSET,
        metadata: Mapping[str, Any] | None | Unset = UNSET,
    ) -> Attempt:
        """Change the given fields of an attempt, or of the ``"latest"``; its metadata is a mapping or None."""
        check_fields(None, metadata)
        metadata = _without_keys(metadata)
        if attempt_id == "latest":
            latest = await self.get_latest_attempt(rollout_id)
            if latest is None:
                await self._rollout(rollout_id)
                raise UnknownId.attempts(rollout_id)
            attempt_id = latest.attempt_id
        await self.update([AttemptChange(rollout_id, attempt_id, status, worker_id, last_heartbeat_time, metadata)])
        attempts = await _read_back(lambda: self.query_attempts(rollout_id))
        return next(attempt for attempt in attempts if attempt.attempt_id == attempt_id)

    async def prune(
        self, *, run_id: str | None = None, older_than_seconds: float = 0.0, unfinished_runs: bool = False
    ) -> int:
        """Remove finished rollouts with their attempts and spans, and return how many were removed.

        Counts, rewards and usage stay. `vacuum` frees the space.

        Args:
            run_id: remove only this run's; None for all.
            older_than_seconds: remove only rollouts that finished at least this many seconds ago.
            unfinished_runs: also remove rollouts of unfinished runs, which run these tasks again if resumed.
        """
        before = time.time() - older_than_seconds
        unfinished = {run.run_id for run in await self.query_runs() if run.status != "finished"}
        keep = set[str]() if unfinished_runs else unfinished
        must = [Condition("status", TERMINAL_ROLLOUT)]
        if run_id is not None:
            must.append(Condition("run_id", {run_id}))
        removed = kept = 0
        while found := await self.find(Query("rollouts", must, limit=_PRUNE_AT_ONCE, offset=kept)):
            old = [each for each in found if (each.end_time or 0.0) <= before and each.run_id not in keep]
            await self.update([RolloutRemoval(rollout.rollout_id) for rollout in old])
            removed += len(old)
            kept += len(found) - len(old)
        return removed

    async def query_workers(
        self,
        *,
        status_in: Collection[WorkerStatus] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Worker]:
        """Return workers."""
        conditions = _conditions(status=status_in, worker_id_contains=worker_id_contains)
        return await self.find(Query("workers", (), conditions, filter_logic, sort_by, sort_order, limit, offset))

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        """Return a worker, None if the store does not have it."""
        found = await self.find(Query("workers", (Condition("worker_id", {worker_id}),)))
        return found[0] if found else None

    async def update_worker(self, worker_id: str, heartbeat_stats: Mapping[str, Any] | Unset = UNSET) -> Worker:
        """Record a worker's heartbeat; an unknown worker is created."""
        worker = await self.get_worker_by_id(worker_id) or Worker(worker_id)
        worker = attrs.evolve(worker, last_heartbeat_time=time.time())
        if not isinstance(heartbeat_stats, Unset):
            worker = attrs.evolve(worker, heartbeat_stats=dict(heartbeat_stats))
        await self.put([worker])
        return worker

    async def query_runs(self, *, name: str | None = None, agent: str | None = None) -> PaginatedResult[Run]:
        """Return runs, in order of their start."""
        conditions = _conditions(name=_only(name), agent=_only(agent))
        return await self.find(Query("runs", conditions, sort_by="start_time"))

    async def get_run_by_id(self, run_id: str) -> Run | None:
        """Return a run, None if the store does not have it."""
        found = await self.find(Query("runs", (Condition("run_id", {run_id}),)))
        return found[0] if found else None

    async def _rollout(self, rollout_id: str) -> Rollout:
        rollout = await self.get_rollout_by_id(rollout_id)
        if rollout is None:
            raise UnknownId.rollout(rollout_id)
        return rollout


def _without_keys(metadata: Mapping[str, Any] | None | Unset) -> Mapping[str, Any] | None | Unset:
    # An agent may set it.
    return mapping_without_keys(metadata) if isinstance(metadata, Mapping) else metadata


async def _read_back(read: Callable[[], Awaitable[T]]) -> T:
    """Read back a commit even if the caller is cancelled, which must not take the change for undone.

    The cancellation is then raised at the caller's next checkpoint.
    """
    try:
        return await read()
    except trio.Cancelled:
        with trio.move_on_after(_READ_BACK_SECONDS, shield=True):
            return await read()
        # The store does not respond.
        raise


def _renamed(old_name: str, old: Collection[T] | None, name: str, new: Collection[T] | None) -> Collection[T] | None:
    """Return the argument of a renamed parameter; with both names, that of the new one. The old one warns."""
    if old is None:
        return new
    warnings.warn(
        f"query_rollouts({old_name}=…) has been renamed: write {name}={old!r}", DeprecationWarning, stacklevel=3
    )
    return old if new is None else new


def _only(value: str | None) -> set[str] | None:
    return None if value is None else {value}


def _conditions(**filters: Collection[Any] | str | None) -> list[Condition]:
    conditions: list[Condition] = []
    for name, value in filters.items():
        if value is None:
            continue
        if name.endswith("_contains"):
            conditions.append(Condition(name.removesuffix("_contains"), contains=str(value)))
        else:
            conditions.append(Condition(name, within=value))
    return conditions
