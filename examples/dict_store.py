"""A user's own store: records in dictionaries; every change is made on a copy, which then replaces the original.

Copying everything for each change is slow; a store on a database uses transactions instead. The rest is what every
store does: it validates ids, applies the moves that `begin_attempt`, `end_attempt` and so on decide, runs queries with
`select`, and wakes waiting calls.
"""

from __future__ import annotations

import copy
import math
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import trio

import lightning_trio as agl
from lightning_trio import store
from lightning_trio.testing import check_store


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def given(change: store.RolloutChange | store.AttemptChange) -> dict[str, Any]:
    """Return the fields that `change` sets, except ids and status."""
    fields = attrs.asdict(change, recurse=False)
    left_out = ("rollout_id", "attempt_id", "status")
    return {
        name: store.copy_containers(value)
        for name, value in fields.items()
        if name not in left_out and not isinstance(value, store.Unset)
    }


@attrs.define
class Tables:
    """All records of the store. They are frozen: a change replaces them."""

    rollouts: dict[str, agl.Rollout] = attrs.field(factory=dict[str, agl.Rollout])
    attempts: dict[str, tuple[agl.Attempt, ...]] = attrs.field(factory=dict[str, tuple[agl.Attempt, ...]])
    """By rollout id, the latest last."""
    spans: dict[str, tuple[agl.Span, ...]] = attrs.field(factory=dict[str, tuple[agl.Span, ...]])
    """By attempt id."""
    snapshots: dict[str, agl.ResourcesUpdate] = attrs.field(factory=dict[str, agl.ResourcesUpdate])
    latest: str | None = None
    workers: dict[str, agl.Worker] = attrs.field(factory=dict[str, agl.Worker])
    leases: dict[str, float] = attrs.field(factory=dict[str, float])
    """When workers' leases run out, on Trio's clock."""
    not_counted: Counter[str] = attrs.field(factory=Counter[str])
    """The number of attempts of a rollout that do not count towards `max_attempts`."""
    lost: Counter[str] = attrs.field(factory=Counter[str])
    """The number of attempts of a rollout that were lost with their worker."""
    runs: dict[str, agl.Run] = attrs.field(factory=dict[str, agl.Run])
    removed: tuple[tuple[agl.Rollout, tuple[agl.Attempt, ...]], ...] = ()
    queue: dict[str, float] = attrs.field(factory=dict[str, float])
    """When a rollout can be claimed, on Trio's clock; in order of arrival."""
    configured: set[str] = attrs.field(factory=set[str])
    """The ids of rollouts whose configuration is set."""
    late_spans: int = 0

    def copied(self) -> Tables:
        return Tables(**{name: copy.copy(value) for name, value in attrs.asdict(self, recurse=False).items()})

    # Reading.

    def rollout(self, rollout_id: str) -> agl.Rollout:
        """Return a rollout, with its latest attempt if it has one."""
        rollout = self.known(rollout_id)
        attempts = self.attempts[rollout_id]
        if not attempts:
            return rollout
        return agl.AttemptedRollout(**attrs.asdict(rollout, recurse=False), attempt=attempts[-1])

    def known(self, rollout_id: str) -> agl.Rollout:
        if rollout_id not in self.rollouts:
            raise agl.UnknownId.rollout(rollout_id)
        return self.rollouts[rollout_id]

    def attempt(self, rollout_id: str, attempt_id: str) -> agl.Attempt:
        self.known(rollout_id)
        for attempt in self.attempts[rollout_id]:
            if attempt.attempt_id == attempt_id:
                return attempt
        raise agl.UnknownId.attempt(rollout_id, attempt_id)

    def check_snapshot(self, resources_id: str | None) -> None:
        if resources_id is not None and resources_id not in self.snapshots:
            raise agl.UnknownId.resources(resources_id)

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

    def worker(self, worker: agl.Worker) -> agl.Worker:
        """Return a worker, with the time left of its lease."""
        left = self.leases.get(worker.worker_id, -math.inf) - trio.current_time()
        return attrs.evolve(worker, lease_left_seconds=left if left > 0 else None)

    # Changing.

    def add(self, request: agl.EnqueueRolloutRequest, run_id: str | None, status: agl.RolloutStatus) -> str:
        self.check_snapshot(request.resources_id)
        for known in self.rollouts.values():
            if request.key is not None and (known.run_id, known.key) == (run_id, request.key):
                return known.rollout_id
        rollout = agl.Rollout(
            new_id("ro"),
            store.copy_containers(request.input),
            time.time(),
            mode=request.mode,
            resources_id=request.resources_id or self.latest,
            config=request.config or agl.RolloutConfig(),
            metadata=store.copy_containers(request.metadata),
            run_id=run_id,
            key=request.key,
        )
        self.rollouts[rollout.rollout_id] = rollout
        self.attempts[rollout.rollout_id] = ()
        if request.config is not None:
            self.configured.add(rollout.rollout_id)
        self.move(rollout.rollout_id, store.Move(status, queue_in=0.0 if status in store.QUEUED else None))
        return rollout.rollout_id

    def position(self, rollout_id: str) -> store.RolloutPosition:
        """Return a rollout's position in the state machine."""
        rollout, attempts = self.known(rollout_id), self.attempts[rollout_id]
        latest = attempts[-1] if attempts else None
        return store.RolloutPosition(
            rollout_id,
            rollout.status,
            queued=rollout_id in self.queue,
            attempt_id=None if latest is None else latest.attempt_id,
            attempt_status=None if latest is None else latest.status,
            counted=len(attempts) - self.not_counted[rollout_id],
            lost=self.lost[rollout_id],
            config=rollout.config,
        )

    def move(self, rollout_id: str, move: store.Move, **fields: Any) -> agl.RolloutStatus:
        """Apply a move; `fields` are set on the latest attempt."""
        if move.attempt_status is not None:
            ends = {"end_time": time.time()} if move.attempt_status in store.TERMINAL_ATTEMPT else {}
            latest = self.attempts[rollout_id][-1]
            self.replace(attrs.evolve(latest, **{**ends, "status": move.attempt_status, **fields}))
        self.not_counted[rollout_id] += not move.counts
        self.lost[rollout_id] += move.lost
        if move.anew:
            self.not_counted[rollout_id], self.lost[rollout_id] = len(self.attempts[rollout_id]), 0
        end_time = time.time() if move.status in store.TERMINAL_ROLLOUT else None
        self.rollouts[rollout_id] = attrs.evolve(self.rollouts[rollout_id], status=move.status, end_time=end_time)
        self.queue.pop(rollout_id, None)
        if move.queue_in is not None:
            self.queue[rollout_id] = trio.current_time() + move.queue_in if move.queue_in > 0 else -math.inf
        return move.status

    def replace(self, attempt: agl.Attempt) -> None:
        attempts = self.attempts[attempt.rollout_id]
        self.attempts[attempt.rollout_id] = tuple(
            attempt if a.attempt_id == attempt.attempt_id else a for a in attempts
        )

    def begin(self, rollout_id: str, worker_id: str | None, default: agl.RolloutConfig | None) -> agl.AttemptedRollout:
        """Start a rollout's next attempt."""
        self.move(rollout_id, store.begin_attempt(self.position(rollout_id)))
        rollout = self.rollouts[rollout_id]
        if default is not None and rollout_id not in self.configured:
            rollout = self.rollouts[rollout_id] = attrs.evolve(rollout, config=default)
        self.configured.add(rollout_id)
        number = len(self.attempts[rollout_id]) + 1
        attempt = agl.Attempt(rollout_id, new_id("at"), number, time.time(), worker_id=worker_id)
        self.attempts[rollout_id] += (attempt,)
        self.note_worker(worker_id, "busy", attempt)
        # The agent may change its task; the next attempt gets the original.
        fields = {**attrs.asdict(rollout, recurse=False), "input": store.copy_containers(rollout.input)}
        return agl.AttemptedRollout(**fields, attempt=attempt)

    def put(self, record: Any) -> Any:
        """Store a snapshot, a worker or a run."""
        if isinstance(record, agl.Run):
            store.check_run(self.runs.get(record.run_id), record)
            self.runs[record.run_id] = store.copy_fields(record)
        elif isinstance(record, agl.Worker):
            self.workers[record.worker_id] = store.copy_fields(record)
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

    def note_worker(self, worker_id: str | None, status: store.WorkerStatus, attempt: agl.Attempt | None) -> None:
        if worker_id is not None:
            worker = self.workers.get(worker_id) or agl.Worker(worker_id)
            ids = (None, None) if attempt is None else (attempt.rollout_id, attempt.attempt_id)
            self.workers[worker_id] = attrs.evolve(
                worker, status=status, current_rollout_id=ids[0], current_attempt_id=ids[1]
            )

    def finish(self, outcome: store.AttemptOutcome) -> agl.RolloutStatus | None:
        rollout_id = outcome.rollout_id
        attempt = self.attempt(rollout_id, outcome.attempt_id)
        move = store.end_attempt(self.position(rollout_id), outcome.attempt_id, outcome.status, outcome.next)
        if move is None:
            self.late_spans += len(outcome.spans)
            return None
        for span in outcome.spans:
            self.add_span(span)
        self.note_worker(attempt.worker_id, "idle", None)
        names = ("end_time", "error", "final_reward", "duration", "usage")
        return self.move(rollout_id, move, **{name: getattr(outcome, name) for name in names})

    def lose(self, worker_id: str) -> dict[str, agl.RolloutStatus]:
        """End the attempts that were lost with a worker, and return the new statuses of their rollouts."""
        statuses: dict[str, agl.RolloutStatus] = {}
        error = agl.ErrorRecord("LeaseExpired", f"worker {worker_id} sent no heartbeat", "")
        for rollout_id, attempts in list(self.attempts.items()):
            if attempts and attempts[-1].worker_id == worker_id:
                move = store.lose_attempt(self.position(rollout_id), attempts[-1].attempt_id)
                if move is not None:
                    statuses[rollout_id] = self.move(rollout_id, move, error=error)
        del self.leases[worker_id]
        self.note_worker(worker_id, "unknown", None)
        return statuses

    def remove(self, rollout_id: str) -> None:
        store.check_removal(self.position(rollout_id))
        attempts = self.attempts.pop(rollout_id)
        self.removed += ((self.rollouts.pop(rollout_id), attempts),)
        for attempt in attempts:
            self.spans.pop(attempt.attempt_id, None)

    def add_span(self, span: agl.Span) -> agl.Span | None:
        stored = self.spans.get(span.attempt_id, ())
        if any(span.span_id == known.span_id for known in stored):
            return None
        last = max((known.sequence_id for known in stored), default=0)
        span = attrs.evolve(span, sequence_id=store.span_number(span.sequence_id, last))
        self.spans[span.attempt_id] = (*stored, span)
        return span

    def hear(self, span: agl.Span) -> agl.Span | None:
        """Store a span of a running attempt, which is also a heartbeat."""
        self.attempt(span.rollout_id, span.attempt_id)
        move = store.note_heartbeat(self.position(span.rollout_id), span.attempt_id)
        if move is None:
            self.late_spans += 1
            return None
        self.move(span.rollout_id, move, last_heartbeat_time=time.time())
        return self.add_span(span)

    def change(self, change: store.Change) -> None:
        if isinstance(change, store.RolloutRemoval):
            self.remove(change.rollout_id)
        elif isinstance(change, store.RolloutReopening):
            move = store.reopen_rollout(self.position(change.rollout_id))
            if move is not None:
                self.move(change.rollout_id, move)
        elif isinstance(change, store.AttemptChange):
            self.change_attempt(change)
        else:
            self.change_rollout(change)

    def change_rollout(self, change: store.RolloutChange) -> None:
        rollout = self.known(change.rollout_id)
        if not isinstance(change.resources_id, store.Unset):
            self.check_snapshot(change.resources_id)
        self.rollouts[change.rollout_id] = attrs.evolve(rollout, **given(change))
        if not isinstance(change.status, store.Unset):
            move = store.change_rollout(self.position(change.rollout_id), change.status)
            if move is not None:
                self.move(change.rollout_id, move)

    def change_attempt(self, change: store.AttemptChange) -> None:
        attempt = self.attempt(change.rollout_id, change.attempt_id)
        self.replace(attrs.evolve(attempt, **given(change)))
        if not isinstance(change.status, store.Unset):
            position = self.position(change.rollout_id)
            move = store.change_attempt(position, change.attempt_id, attempt.status, change.status)
            if move is not None:
                self.move(change.rollout_id, move)
                worker_id = self.attempt(change.rollout_id, change.attempt_id).worker_id
                self.note_worker(worker_id, store.worker_status(change.status), None)


class DictStore(agl.LightningStore):
    """Keep records in dictionaries."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._changed = trio.Event()

    @asynccontextmanager
    async def _changing(self) -> AsyncGenerator[Tables]:
        """Yield a copy to change, which replaces the original unless the change raises."""
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
        requests: Sequence[agl.EnqueueRolloutRequest],
        *,
        run_id: str | None = None,
        status: Literal["queuing", "cancelled"] = "queuing",
    ) -> list[str]:
        async with self._changing() as tables:
            return [tables.add(request, run_id, status) for request in requests]

    async def start(
        self,
        rollouts: Sequence[agl.EnqueueRolloutRequest | str],
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: agl.RolloutConfig | None = None,
    ) -> list[agl.AttemptedRollout]:
        async with self._changing() as tables:
            ids = [r if isinstance(r, str) else tables.add(r, run_id, "preparing") for r in rollouts]
            return [tables.begin(rollout_id, worker_id, default_config) for rollout_id in ids]

    async def claim(
        self,
        limit: int,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: agl.RolloutConfig | None = None,
    ) -> list[agl.AttemptedRollout]:
        async with self._changing() as tables:
            ready = tables.ready(run_id)[: max(limit, 0)]
            return [tables.begin(rollout_id, worker_id, default_config) for rollout_id in ready]

    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        await self._wait_until(
            lambda: bool(self._tables.ready(run_id)),
            lambda: min((due for due in self._tables.queue.values() if due > trio.current_time()), default=math.inf),
        )

    async def add_spans(self, spans: Sequence[agl.Span]) -> list[agl.Span]:
        async with self._changing() as tables:
            return [stored for span in spans if (stored := tables.hear(span)) is not None]

    async def finish(self, outcomes: Sequence[store.AttemptOutcome]) -> list[agl.RolloutStatus | None]:
        async with self._changing() as tables:
            return [tables.finish(outcome) for outcome in outcomes]

    async def update(self, changes: Sequence[store.Change]) -> None:
        async with self._changing() as tables:
            for change in changes:
                tables.change(change)

    async def expire(self) -> agl.Expiry:
        async with self._changing() as tables:
            now = trio.current_time()
            over = [worker_id for worker_id, deadline in tables.leases.items() if deadline <= now]
            statuses = {rollout_id: status for each in over for rollout_id, status in tables.lose(each).items()}
            return agl.Expiry(
                [rollout_id for rollout_id, status in statuses.items() if status == "requeuing"],
                [rollout_id for rollout_id, status in statuses.items() if status == "failed"],
                min((deadline - now for deadline in tables.leases.values()), default=None),
            )

    async def put(self, records: Sequence[store.Record]) -> list[store.Record]:
        async with self._changing() as tables:
            return [tables.put(record) for record in records]

    async def find(self, query: store.Query) -> agl.PaginatedResult[Any]:
        await trio.lowlevel.checkpoint()
        return store.select(self._tables.table(query.table), query)

    async def wait_finished(self, rollout_ids: Collection[str], *, count: int | None = None) -> list[str]:
        def unfinished() -> list[str]:
            rollouts = self._tables.rollouts
            return [r for r in rollout_ids if r in rollouts and rollouts[r].status not in store.TERMINAL_ROLLOUT]

        wanted = len(rollout_ids) if count is None else min(count, len(rollout_ids))
        await self._wait_until(lambda: len(rollout_ids) - len(unfinished()) >= wanted)
        return unfinished()

    async def summarize(self, run_id: str | None = None) -> agl.RunSummary:
        await trio.lowlevel.checkpoint()
        tables = self._tables
        kept = ((rollout, tables.attempts[rollout_id]) for rollout_id, rollout in tables.rollouts.items())
        found = [(r, attempts) for r, attempts in (*kept, *tables.removed) if run_id in (None, r.run_id)]
        rewards: dict[Any, tuple[int, float]] = {}
        for rollout, attempts in found:
            reward = attempts[-1].final_reward if attempts else None
            if rollout.status in store.TERMINAL_ROLLOUT and reward is not None:
                count, total = rewards.get(rollout.mode, (0, 0.0))
                rewards[rollout.mode] = (count + 1, total + reward)
        every = [attempt for _, attempts in found for attempt in attempts]
        return agl.RunSummary(
            Counter(rollout.status for rollout, _ in found),
            rewards,
            sum((attempt.usage for attempt in every), agl.Usage()),
            sum(attempt.duration or 0.0 for attempt in every),
            sum(run_id in (None, rollout.run_id) for rollout, _ in tables.removed),
        )

    async def statistics(self) -> agl.StoreStatistics:
        return attrs.evolve(await super().statistics(), late_spans=self._tables.late_spans)


if __name__ == "__main__":
    trio.run(check_store, DictStore)
    print("DictStore keeps the contract")
