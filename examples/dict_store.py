"""A store of one's own: records in dictionaries, every change made on a copy and published whole.

Copying everything for each change is slow; a store on a database has its transactions for that. The rest is what any
store does: checks ids, moves statuses with `rollout_status_after`, finds with `select`, wakes those who wait.
"""

from __future__ import annotations

import copy
import math
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, get_args

import attrs
import trio

from lightning_trio import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    EnqueueRolloutRequest,
    ErrorRecord,
    Expiry,
    LightningStore,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutStatus,
    Run,
    RunSummary,
    Span,
    StaleAttempt,
    StaleRun,
    StoreStatistics,
    UnknownId,
    Usage,
    Worker,
)
from lightning_trio.store import (
    QUEUED,
    TERMINAL_ATTEMPT,
    TERMINAL_ROLLOUT,
    AttemptChange,
    AttemptOutcome,
    Final,
    GiveBack,
    Query,
    Record,
    RetryIn,
    RolloutChange,
    RolloutRemoval,
    Unset,
    WorkerStatus,
    copy_containers,
    may_replace,
    rollout_status_after,
    rollout_status_after_loss,
    select,
)
from lightning_trio.testing import check_store


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def given(change: RolloutChange | AttemptChange) -> dict[str, Any]:
    """What `change` sets, but for the ids and the status."""
    fields = attrs.asdict(change, recurse=False)
    left_out = ("rollout_id", "attempt_id", "status")
    return {name: value for name, value in fields.items() if name not in left_out and not isinstance(value, Unset)}


@attrs.define
class Tables:
    """All there is. Records are frozen: a change replaces them."""

    rollouts: dict[str, Rollout] = attrs.field(factory=dict[str, Rollout])
    attempts: dict[str, tuple[Attempt, ...]] = attrs.field(factory=dict[str, tuple[Attempt, ...]])
    """By rollout id, the latest last."""
    spans: dict[str, tuple[Span, ...]] = attrs.field(factory=dict[str, tuple[Span, ...]])
    """By attempt id."""
    snapshots: dict[str, ResourcesUpdate] = attrs.field(factory=dict[str, ResourcesUpdate])
    latest: str | None = None
    workers: dict[str, Worker] = attrs.field(factory=dict[str, Worker])
    leases: dict[str, float] = attrs.field(factory=dict[str, float])
    """When workers' leases run out, on Trio's clock."""
    lost: dict[str, int] = attrs.field(factory=dict[str, int])
    """How many attempts a rollout has lost with their worker."""
    runs: dict[str, Run] = attrs.field(factory=dict[str, Run])
    removed: tuple[tuple[Rollout, tuple[Attempt, ...]], ...] = ()
    queue: dict[str, float] = attrs.field(factory=dict[str, float])
    """When a rollout may be claimed, on Trio's clock; in order of arrival."""
    configured: set[str] = attrs.field(factory=set[str])
    """Rollouts that have a configuration of their own."""
    late_spans: int = 0

    def copied(self) -> Tables:
        return Tables(**{name: copy.copy(value) for name, value in attrs.asdict(self, recurse=False).items()})

    # Reading.

    def rollout(self, rollout_id: str) -> Rollout:
        """A rollout, with its latest attempt if it has any."""
        rollout = self.known(rollout_id)
        attempts = self.attempts[rollout_id]
        if not attempts:
            return rollout
        return AttemptedRollout(**attrs.asdict(rollout, recurse=False), attempt=attempts[-1])

    def known(self, rollout_id: str) -> Rollout:
        if rollout_id not in self.rollouts:
            raise UnknownId(f"Rollout {rollout_id} not found")
        return self.rollouts[rollout_id]

    def attempt(self, rollout_id: str, attempt_id: str) -> Attempt:
        self.known(rollout_id)
        for attempt in self.attempts[rollout_id]:
            if attempt.attempt_id == attempt_id:
                return attempt
        raise UnknownId(f"Attempt {attempt_id} not found for rollout {rollout_id}")

    def check_snapshot(self, resources_id: str | None) -> None:
        if resources_id is not None and resources_id not in self.snapshots:
            raise UnknownId(f"Resources {resources_id} not found; add_resources() gives an id")

    def ready(self, run_id: str | None) -> list[str]:
        now = trio.current_time()
        in_run = (r for r in self.queue if run_id is None or self.rollouts[r].run_id == run_id)
        return [rollout_id for rollout_id in in_run if self.queue[rollout_id] <= now]

    def table(self, name: str) -> Iterable[Any]:
        if name == "rollouts":
            return map(self.rollout, self.rollouts)
        if name == "attempts":
            return (attempt for attempts in self.attempts.values() for attempt in attempts)
        if name == "spans":
            return (span for spans in self.spans.values() for span in spans)
        if name == "runs":
            return self.runs.values()
        return self.snapshots.values() if name == "resources" else map(self.worker, self.workers.values())

    def worker(self, worker: Worker) -> Worker:
        """A worker, with what is left of its lease."""
        left = self.leases.get(worker.worker_id, -math.inf) - trio.current_time()
        return attrs.evolve(worker, lease_left_seconds=left if left > 0 else None)

    # Changing.

    def add(self, request: EnqueueRolloutRequest, run_id: str | None, status: RolloutStatus) -> str:
        self.check_snapshot(request.resources_id)
        for known in self.rollouts.values():
            if request.key is not None and (known.run_id, known.key) == (run_id, request.key):
                return known.rollout_id
        rollout = Rollout(
            new_id("ro"),
            copy_containers(request.input),
            time.time(),
            mode=request.mode,
            resources_id=request.resources_id or self.latest,
            config=request.config or RolloutConfig(),
            metadata=None if request.metadata is None else dict(request.metadata),
            run_id=run_id,
            key=request.key,
        )
        self.rollouts[rollout.rollout_id] = rollout
        self.attempts[rollout.rollout_id] = ()
        if request.config is not None:
            self.configured.add(rollout.rollout_id)
        self.become(rollout.rollout_id, status)
        return rollout.rollout_id

    def become(self, rollout_id: str, status: RolloutStatus, delay: float | None = 0.0) -> None:
        """Give a rollout its next status, and put it into the queue or take it out."""
        end_time = time.time() if status in TERMINAL_ROLLOUT else None
        self.rollouts[rollout_id] = attrs.evolve(self.rollouts[rollout_id], status=status, end_time=end_time)
        self.queue.pop(rollout_id, None)
        if status in QUEUED and delay is not None:
            self.queue[rollout_id] = trio.current_time() + delay if delay > 0 else -math.inf
        if status == "succeeded" or status == "failed" or status == "cancelled":
            self.end_latest(rollout_id, status)

    def end_latest(self, rollout_id: str, status: AttemptStatus) -> None:
        attempts = self.attempts[rollout_id]
        if attempts and attempts[-1].status not in TERMINAL_ATTEMPT:
            self.replace(attrs.evolve(attempts[-1], status=status, end_time=time.time()))

    def replace(self, attempt: Attempt) -> None:
        attempts = self.attempts[attempt.rollout_id]
        self.attempts[attempt.rollout_id] = tuple(
            attempt if a.attempt_id == attempt.attempt_id else a for a in attempts
        )

    def begin(self, rollout_id: str, worker_id: str | None, default: RolloutConfig | None) -> AttemptedRollout:
        """Start a rollout's next attempt."""
        rollout = self.known(rollout_id)
        if rollout.status in TERMINAL_ROLLOUT:
            raise StaleAttempt(f"rollout {rollout_id} is {rollout.status}; enqueue its task again instead")
        if default is not None and rollout_id not in self.configured:
            self.rollouts[rollout_id] = attrs.evolve(rollout, config=default)
        self.configured.add(rollout_id)
        self.end_latest(rollout_id, "unresponsive")
        number = len(self.attempts[rollout_id]) + 1
        attempt = Attempt(rollout_id, new_id("at"), number, time.time(), worker_id=worker_id)
        self.attempts[rollout_id] += (attempt,)
        self.become(rollout_id, "preparing")
        self.note_worker(worker_id, "busy", attempt)
        fields = attrs.asdict(self.rollouts[rollout_id], recurse=False)
        # The agent may change its task; the next attempt gets it as it was.
        return AttemptedRollout(**{**fields, "input": copy_containers(rollout.input)}, attempt=attempt)

    def put(self, record: Any) -> Any:
        """Store a snapshot, a worker or a run."""
        if isinstance(record, Run):
            known = self.runs.get(record.run_id)
            if known is not None and not may_replace(known, record):
                raise StaleRun(f"{record.run_id} has been taken up by {known.worker_id}")
            self.runs[record.run_id] = record
        elif isinstance(record, Worker):
            self.workers[record.worker_id] = record
            self.leases.pop(record.worker_id, None)
            if record.lease_seconds is not None:
                self.leases[record.worker_id] = trio.current_time() + record.lease_seconds
        else:
            before = self.snapshots.get(record.resources_id)
            if before is not None:
                record = attrs.evolve(record, create_time=before.create_time, version=before.version + 1)
            record = attrs.evolve(record, resources=dict(record.resources))
            self.snapshots[record.resources_id] = record
            self.latest = record.resources_id
        return record

    def note_worker(self, worker_id: str | None, status: WorkerStatus, attempt: Attempt | None) -> None:
        if worker_id is not None:
            worker = self.workers.get(worker_id) or Worker(worker_id)
            ids = (None, None) if attempt is None else (attempt.rollout_id, attempt.attempt_id)
            self.workers[worker_id] = attrs.evolve(
                worker, status=status, current_rollout_id=ids[0], current_attempt_id=ids[1]
            )

    def is_late(self, attempt: Attempt) -> bool:
        latest = self.attempts[attempt.rollout_id][-1]
        return attempt.status in TERMINAL_ATTEMPT or attempt.attempt_id != latest.attempt_id

    def finish(self, outcome: AttemptOutcome) -> RolloutStatus | None:
        attempt = self.attempt(outcome.rollout_id, outcome.attempt_id)
        if self.is_late(attempt):
            self.late_spans += len(outcome.spans)
            return None
        for span in outcome.spans:
            self.add_span(span)
        fields = ("status", "end_time", "error", "final_reward", "duration", "usage")
        self.replace(attrs.evolve(attempt, **{name: getattr(outcome, name) for name in fields}))
        self.note_worker(attempt.worker_id, "idle", None)
        if isinstance(outcome.next, GiveBack):
            self.become(outcome.rollout_id, "requeuing")
            return "requeuing"
        delay = outcome.next.seconds if isinstance(outcome.next, RetryIn) else None
        return self.after(outcome.rollout_id, outcome.status, delay, isinstance(outcome.next, Final))

    def after(self, rollout_id: str, status: AttemptStatus, delay: float | None, final: bool) -> RolloutStatus:
        """Move a rollout on from its latest attempt's status; attempts given back or lost do not count."""
        given_back = [attempt for attempt in self.attempts[rollout_id] if attempt.status == "cancelled"]
        counted = len(self.attempts[rollout_id]) - len(given_back) - self.lost.get(rollout_id, 0)
        new = rollout_status_after(status, counted, self.rollouts[rollout_id].config, final=final)
        self.become(rollout_id, new, delay)
        return new

    def lose(self, rollout_id: str) -> RolloutStatus:
        """End a rollout's running attempt, which was lost with its worker."""
        attempt = self.attempts[rollout_id][-1]
        error = ErrorRecord("LeaseExpired", f"worker {attempt.worker_id} was not heard of", "")
        self.replace(attrs.evolve(attempt, status="unresponsive", end_time=time.time(), error=error))
        self.lost[rollout_id] = self.lost.get(rollout_id, 0) + 1
        new = rollout_status_after_loss(self.lost[rollout_id], self.rollouts[rollout_id].config)
        self.become(rollout_id, new)
        return new

    def remove(self, rollout_id: str) -> None:
        rollout = self.known(rollout_id)
        if rollout.status not in TERMINAL_ROLLOUT:
            raise ValueError(f"rollout {rollout_id} is {rollout.status}; only finished rollouts can be removed")
        attempts = self.attempts.pop(rollout_id)
        self.removed += ((self.rollouts.pop(rollout_id), attempts),)
        for attempt in attempts:
            self.spans.pop(attempt.attempt_id, None)

    def add_span(self, span: Span) -> Span | None:
        stored = self.spans.get(span.attempt_id, ())
        if any(span.span_id == known.span_id for known in stored):
            return None
        if span.sequence_id == 0:
            span = attrs.evolve(span, sequence_id=1 + max((known.sequence_id for known in stored), default=0))
        self.spans[span.attempt_id] = (*stored, span)
        return span

    def hear(self, span: Span) -> Span | None:
        """Take in a span of a running attempt, which is a heartbeat as well."""
        attempt = self.attempt(span.rollout_id, span.attempt_id)
        if self.is_late(attempt):
            self.late_spans += 1
            return None
        self.replace(attrs.evolve(attempt, status="running", last_heartbeat_time=time.time()))
        self.become(span.rollout_id, "running")
        return self.add_span(span)

    def change(self, change: RolloutChange | AttemptChange | RolloutRemoval) -> None:
        if isinstance(change, RolloutRemoval):
            self.remove(change.rollout_id)
        elif isinstance(change, AttemptChange):
            self.change_attempt(change)
        else:
            self.change_rollout(change)

    def change_rollout(self, change: RolloutChange) -> None:
        rollout = self.known(change.rollout_id)
        if not isinstance(change.resources_id, Unset):
            self.check_snapshot(change.resources_id)
        self.rollouts[change.rollout_id] = attrs.evolve(rollout, **given(change))
        if isinstance(change.status, Unset) or change.status == rollout.status:
            return
        if change.status not in get_args(RolloutStatus):
            raise ValueError(f"status={change.status!r} is no rollout status")
        if rollout.status in TERMINAL_ROLLOUT:
            raise StaleAttempt(f"rollout {change.rollout_id} is {rollout.status} and stays so")
        self.become(change.rollout_id, change.status)

    def change_attempt(self, change: AttemptChange) -> None:
        attempt = self.attempt(change.rollout_id, change.attempt_id)
        changed = attrs.evolve(attempt, **given(change))
        self.replace(changed)
        if isinstance(change.status, Unset) or change.status == attempt.status:
            return
        if change.status not in get_args(AttemptStatus):
            raise ValueError(f"status={change.status!r} is no attempt status")
        if self.is_late(attempt):
            raise StaleAttempt(f"attempt {attempt.attempt_id} is {attempt.status} and stays so")
        end_time = time.time() if change.status in TERMINAL_ATTEMPT else None
        self.replace(attrs.evolve(changed, status=change.status, end_time=end_time))
        self.note_worker(changed.worker_id, "busy" if end_time is None else "idle", None)
        self.after(change.rollout_id, change.status, 0.0, final=False)


class DictStore(LightningStore):
    """Keep records in dictionaries."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._changed = trio.Event()

    @asynccontextmanager
    async def _changing(self) -> AsyncGenerator[Tables]:
        """Give a copy to change, which is published unless something is refused."""
        await trio.lowlevel.checkpoint()
        tables = self._tables.copied()
        yield tables
        self._tables = tables
        self._changed.set()
        self._changed = trio.Event()

    async def _wait_until(self, holds: Callable[[], bool], due: Callable[[], float] = lambda: math.inf) -> None:
        await trio.lowlevel.checkpoint()
        while not holds():
            with trio.CancelScope(deadline=due()):
                await self._changed.wait()

    async def enqueue(
        self,
        requests: Sequence[EnqueueRolloutRequest],
        *,
        run_id: str | None = None,
        status: Literal["queuing", "cancelled"] = "queuing",
    ) -> list[str]:
        async with self._changing() as tables:
            return [tables.add(request, run_id, status) for request in requests]

    async def start(
        self,
        rollouts: Sequence[EnqueueRolloutRequest | str],
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        async with self._changing() as tables:
            ids = [r if isinstance(r, str) else tables.add(r, run_id, "preparing") for r in rollouts]
            return [tables.begin(rollout_id, worker_id, default_config) for rollout_id in ids]

    async def claim(
        self,
        limit: int,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        async with self._changing() as tables:
            ready = tables.ready(run_id)[: max(limit, 0)]
            return [tables.begin(rollout_id, worker_id, default_config) for rollout_id in ready]

    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        await self._wait_until(
            lambda: bool(self._tables.ready(run_id)),
            lambda: min((due for due in self._tables.queue.values() if due > trio.current_time()), default=math.inf),
        )

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        async with self._changing() as tables:
            return [stored for span in spans if (stored := tables.hear(span)) is not None]

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
        async with self._changing() as tables:
            return [tables.finish(outcome) for outcome in outcomes]

    async def update(self, changes: Sequence[RolloutChange | AttemptChange | RolloutRemoval]) -> None:
        async with self._changing() as tables:
            for change in changes:
                tables.change(change)

    async def expire(self) -> Expiry:
        async with self._changing() as tables:
            now = trio.current_time()
            over = {worker_id for worker_id, deadline in tables.leases.items() if deadline <= now}
            statuses: dict[str, RolloutStatus] = {}
            for rollout_id, attempts in list(tables.attempts.items()):
                if attempts and attempts[-1].worker_id in over and not tables.is_late(attempts[-1]):
                    statuses[rollout_id] = tables.lose(rollout_id)
            for worker_id in over:
                del tables.leases[worker_id]
                tables.note_worker(worker_id, "unknown", None)
            return Expiry(
                [rollout_id for rollout_id, status in statuses.items() if status == "requeuing"],
                [rollout_id for rollout_id, status in statuses.items() if status == "failed"],
                min((deadline - now for deadline in tables.leases.values()), default=None),
            )

    async def put(self, records: Sequence[Record]) -> list[Record]:
        async with self._changing() as tables:
            return [tables.put(record) for record in records]

    async def find(self, query: Query) -> PaginatedResult[Any]:
        await trio.lowlevel.checkpoint()
        return select(self._tables.table(query.table), query)

    async def wait_finished(self, rollout_ids: Collection[str], *, count: int | None = None) -> list[str]:
        def unfinished() -> list[str]:
            rollouts = self._tables.rollouts
            return [r for r in rollout_ids if r in rollouts and rollouts[r].status not in TERMINAL_ROLLOUT]

        wanted = len(rollout_ids) if count is None else min(count, len(rollout_ids))
        await self._wait_until(lambda: len(rollout_ids) - len(unfinished()) >= wanted)
        return unfinished()

    async def summarize(self, run_id: str | None = None) -> RunSummary:
        await trio.lowlevel.checkpoint()
        tables = self._tables
        kept = ((rollout, tables.attempts[rollout_id]) for rollout_id, rollout in tables.rollouts.items())
        found = [(r, attempts) for r, attempts in (*kept, *tables.removed) if run_id in (None, r.run_id)]
        rewards: dict[Any, tuple[int, float]] = {}
        for rollout, attempts in found:
            reward = attempts[-1].final_reward if attempts else None
            if rollout.status in TERMINAL_ROLLOUT and reward is not None:
                count, total = rewards.get(rollout.mode, (0, 0.0))
                rewards[rollout.mode] = (count + 1, total + reward)
        every = [attempt for _, attempts in found for attempt in attempts]
        return RunSummary(
            Counter(rollout.status for rollout, _ in found),
            rewards,
            sum((attempt.usage for attempt in every), Usage()),
            sum(attempt.duration or 0.0 for attempt in every),
            sum(run_id in (None, rollout.run_id) for rollout, _ in tables.removed),
        )

    async def statistics(self) -> StoreStatistics:
        return attrs.evolve(await super().statistics(), late_spans=self._tables.late_spans)


if __name__ == "__main__":
    trio.run(check_store, DictStore)
    print("DictStore keeps the contract")
