"""The store in memory: the fastest, and gone with the process."""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self, cast

import attrs
import trio

from ..._containers import copy_containers
from ..._errors import Evicted, StaleAttempt, UnknownId
from ..._ids import new_attempt_id
from ..._lifecycle import QUEUED, TERMINAL_ATTEMPT, TERMINAL_ROLLOUT, rollout_status_after, rollout_status_after_loss
from ..._records import (
    DEFAULT_CONFIG,
    Attempt,
    AttemptChange,
    AttemptedRollout,
    AttemptOutcome,
    AttemptStatus,
    EnqueueRolloutRequest,
    Expiry,
    PaginatedResult,
    ResourcesUpdate,
    RolloutChange,
    RolloutConfig,
    RolloutRemoval,
    RolloutStatus,
    Run,
    RunSummary,
    StoreStatistics,
    Unset,
    Worker,
    WorkerStatus,
)
from ..._spans import Span
from .._query import Query, select
from .._rollout_ids import RolloutIds
from .._rules import check_run, lease_left, lost_error
from .._run_counts import RunCounts
from .._store import LightningStore, Record
from ._entry import Entry
from ._queue import Queues


@attrs.define(eq=False)
class _Watch:
    """Somebody waits for `remaining` more rollouts to end."""

    remaining: int
    done: trio.Event = attrs.field(factory=trio.Event)


class _Statuses:
    """Check changes of statuses one after another without making them."""

    def __init__(self) -> None:
        self._rollouts: dict[str, RolloutStatus] = {}
        self._attempts: dict[tuple[str, str], AttemptStatus] = {}

    def change_rollout(self, entry: Entry, change: RolloutChange) -> None:
        """Refuse a status that is none, and to change a terminal one."""
        status = self._rollouts.get(entry.rollout_id, entry.status)
        if isinstance(change.status, Unset) or change.status == status:
            return
        if change.status not in _ROLLOUT_STATUSES:
            raise ValueError(f"status={change.status!r} is no rollout status; there are {_ROLLOUT_STATUSES}")
        if status in TERMINAL_ROLLOUT:
            raise StaleAttempt(f"rollout {entry.rollout_id} is {status} and stays so; it cannot become {change.status}")
        self._rollouts[entry.rollout_id] = change.status

    def remove_rollout(self, entry: Entry) -> None:
        """Refuse to let go of a rollout that has not finished."""
        status = self._rollouts.get(entry.rollout_id, entry.status)
        if status not in TERMINAL_ROLLOUT:
            raise ValueError(f"rollout {entry.rollout_id} is {status}; only finished rollouts can be removed")

    def change_attempt(self, entry: Entry, attempt: Attempt, change: AttemptChange) -> None:
        """Refuse a status that is none, and to change one that is terminal or superseded."""
        key = (entry.rollout_id, attempt.attempt_id)
        status = self._attempts.get(key, attempt.status)
        rollout = self._rollouts.get(entry.rollout_id, entry.status)
        if isinstance(change.status, Unset) or change.status == status:
            return
        if change.status not in _ATTEMPT_STATUSES:
            raise ValueError(f"status={change.status!r} is no attempt status; there are {_ATTEMPT_STATUSES}")
        if status in TERMINAL_ATTEMPT or attempt is not entry.attempts[-1] or rollout in TERMINAL_ROLLOUT:
            raise StaleAttempt(
                f"attempt {attempt.attempt_id} of rollout {entry.rollout_id} is {status}, its rollout {rollout}: "
                f"it can no longer become {change.status}"
            )
        self._attempts[key] = change.status
        counted = len(entry.attempts) - entry.not_counted
        self._rollouts[entry.rollout_id] = rollout_status_after(change.status, counted, entry.config or DEFAULT_CONFIG)


_number = operator.attrgetter("number")


class InMemoryLightningStore(LightningStore):
    """Keep everything in this process's memory.

    Args:
        retain: how many finished rollouts to keep, the newest; asking for an older one raises `Evicted`. The
            counts and rewards of `summarize` cover all of them.

    To be used from the thread of one Trio program at a time. A task may be any object. Lists and dicts are copied,
    when they come and for each attempt (see `copy_containers`); other objects are kept and handed out as they are.
    """

    def __init__(self, *, retain: int = 100_000) -> None:
        if retain < 0:
            raise ValueError(f"retain={retain!r}; give how many finished rollouts to keep, 0 or more")
        self._retain = retain
        self._ids = RolloutIds()
        self._entries: dict[str, Entry] = {}
        self._finished: deque[str] = deque()
        self._queues = Queues[Entry]()
        self._watches: dict[str, list[_Watch]] = {}
        self._holds: dict[str | None, int] = {}
        self._held: dict[str | None, list[str]] = {}
        self._resources: dict[str, ResourcesUpdate] = {}
        self._latest_resources: str | None = None
        self._workers: dict[str, Worker] = {}
        self._runs: dict[str, Run] = {}
        self._at_work: dict[str, dict[str, Entry]] = {}
        """The rollouts whose attempts each worker has not reported yet, by attempt."""
        self._leases: dict[str, float] = {}
        """When the workers' leases run out, on Trio's clock."""
        self._keys: dict[tuple[str | None, str], str] = {}
        """Rollout ids by run and key."""
        self._tallies: dict[str | None, RunCounts] = {}
        self._total_attempts = 0
        self._total_spans = 0
        self._total_rollouts = 0
        self._late_spans = 0
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether the store is inside ``async with``; this one works outside as well."""
        return self._is_open

    async def __aenter__(self) -> Self:
        """Open the store, as any store; nothing needs opening here."""
        # The clock of another `trio.run` has another origin: what waited for it is due now.
        self._queues.release_delayed()
        self._leases = dict.fromkeys(self._leases, trio.current_time())
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the store; what it holds stays."""
        self._is_open = False

    # Queue.

    async def enqueue(
        self,
        requests: Sequence[EnqueueRolloutRequest],
        *,
        run_id: str | None = None,
        status: Literal["queuing", "cancelled"] = "queuing",
    ) -> list[str]:
        await trio.lowlevel.checkpoint()
        entries = self._new_entries(self._unknown(requests, run_id), run_id, status)
        if status == "cancelled":
            for entry in entries:
                self._set_ended(entry)
        else:
            for entry in entries:
                entry.place = self._queues.put(run_id, entry)
        made = (entry.rollout_id for entry in entries if entry.key is None)
        return [next(made) if request.key is None else self._keys[run_id, request.key] for request in requests]

    def _unknown(self, requests: Sequence[EnqueueRolloutRequest], run_id: str | None) -> list[EnqueueRolloutRequest]:
        """Leave out the requests whose key the run has, or that come a second time."""
        seen: set[str] = set()
        unknown: list[EnqueueRolloutRequest] = []
        for request in requests:
            key = request.key
            if key is not None:
                if key in seen or (run_id, key) in self._keys:
                    continue
                seen.add(key)
            unknown.append(request)
        return unknown

    async def start(
        self,
        rollouts: Sequence[EnqueueRolloutRequest | str],
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        await trio.lowlevel.checkpoint()
        for known in rollouts:
            if isinstance(known, str) and (entry := self._known(known)).status in TERMINAL_ROLLOUT:
                raise StaleAttempt(f"rollout {known} is {entry.status}; enqueue its task again instead")
        requests = [request for request in rollouts if not isinstance(request, str)]
        new = iter(self._new_entries(requests, run_id, "preparing"))
        entries = [self._known(r) if isinstance(r, str) else next(new) for r in rollouts]
        return self._new_attempts(entries, worker_id, default_config)

    async def claim(
        self,
        limit: int,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        await trio.lowlevel.checkpoint()
        return self._new_attempts(self._queues.take(limit, run_id), worker_id, default_config)

    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        await trio.lowlevel.checkpoint()
        await self._queues.wait_ready(run_id)

    def _new_entries(
        self, requests: Sequence[EnqueueRolloutRequest], run_id: str | None, status: RolloutStatus
    ) -> list[Entry]:
        for request in requests:
            self._check_resources_id(request.resources_id)
        now = time.time()
        entries = [
            Entry(
                number,
                self._ids.new(),
                copy_containers(request.input),
                request.mode,
                request.resources_id or self._latest_resources,
                request.config,
                None if request.metadata is None else dict(request.metadata),
                run_id,
                request.key,
                status,
                now,
            )
            for number, request in enumerate(requests, self._total_rollouts)
        ]
        for entry in entries:
            self._entries[entry.rollout_id] = entry
            if entry.key is not None:
                self._keys[run_id, entry.key] = entry.rollout_id
        self._tally(run_id).move(None, status, len(entries))
        self._total_rollouts += len(entries)
        return entries

    def _check_resources_id(self, resources_id: str | None) -> None:
        if resources_id is not None and resources_id not in self._resources:
            raise UnknownId(f"Resources {resources_id} not found; add_resources() gives an id")

    def _tally(self, run_id: str | None) -> RunCounts:
        tally = self._tallies.get(run_id)
        if tally is None:
            tally = self._tallies[run_id] = RunCounts()
        return tally

    def _new_attempts(
        self, entries: Iterable[Entry], worker_id: str | None, default_config: RolloutConfig | None
    ) -> list[AttemptedRollout]:
        started: list[AttemptedRollout] = []
        at_work = {} if worker_id is None else self._at_work.setdefault(worker_id, {})
        for entry in entries:
            attempted = self._new_attempt(entry, worker_id, default_config)
            at_work[attempted.attempt.attempt_id] = entry
            started.append(attempted)
        if worker_id is not None:
            if started:
                self._note_worker(worker_id, "busy", started[-1].attempt)
            elif not at_work:
                self._note_worker(worker_id, "idle", None)
        return started

    def _new_attempt(
        self, entry: Entry, worker_id: str | None, default_config: RolloutConfig | None
    ) -> AttemptedRollout:
        if entry.config is None:
            entry.config = default_config or DEFAULT_CONFIG
        # Superseded while it ran, an attempt can no longer report.
        self._end_attempt(entry, "unresponsive")
        attempt = Attempt(
            entry.rollout_id,
            new_attempt_id(),
            len(entry.attempts) + 1,
            time.time(),
            None,
            "preparing",
            worker_id,
        )
        entry.attempts.append(attempt)
        self._total_attempts += 1
        self._set_status(entry, "preparing")
        return entry.attempted()

    # Outcomes and changes.

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
        await trio.lowlevel.checkpoint()
        entries = [self._reported(outcome) for outcome in outcomes]
        statuses: list[RolloutStatus | None] = [
            self._finish(entry, outcome) for entry, outcome in zip(entries, outcomes, strict=True)
        ]
        for worker_id in [worker_id for worker_id, at_work in self._at_work.items() if not at_work]:
            del self._at_work[worker_id]
            self._note_worker(worker_id, "idle", None)
        return statuses

    def _reported(self, report: AttemptOutcome | Span) -> Entry | None:
        """Give the rollout of a report, None if it ended so long ago, by other hands, that it is evicted."""
        try:
            entry = self._known(report.rollout_id)
        except Evicted:
            return None
        entry.attempt(report.attempt_id)
        return entry

    def _finish(self, entry: Entry | None, outcome: AttemptOutcome) -> RolloutStatus | None:
        if entry is None:
            self._late_spans += len(outcome.spans)
            for at_work in self._at_work.values():
                at_work.pop(outcome.attempt_id, None)
            return None
        attempt = entry.attempt(outcome.attempt_id)
        if attempt.worker_id in self._at_work:
            self._at_work[attempt.worker_id].pop(attempt.attempt_id, None)
        refused = entry.status in TERMINAL_ROLLOUT or attempt.status in TERMINAL_ATTEMPT
        if refused or attempt is not entry.attempts[-1]:
            self._late_spans += len(outcome.spans)
            return None
        entry.attempts[-1] = Attempt(
            attempt.rollout_id,
            attempt.attempt_id,
            attempt.sequence_id,
            attempt.start_time,
            outcome.end_time,
            outcome.status,
            attempt.worker_id,
            attempt.last_heartbeat_time,
            attempt.metadata,
            None if outcome.error is None else outcome.error.without_exception(),
            outcome.final_reward,
            outcome.duration,
            outcome.usage,
        )
        self._tallies[entry.run_id].attempt(outcome.duration or 0.0, outcome.usage)
        if entry.spans:
            self._total_spans += len(entry.add_spans(attempt.attempt_id, outcome.spans))
            entry.close_spans()
        else:
            entry.spans = tuple(outcome.spans)
            self._total_spans += len(outcome.spans)
        if outcome.requeue:
            entry.not_counted += 1
            return self._move_on(entry, "requeuing", 0.0)
        return self._after_attempt(entry, outcome.status, outcome.retry_delay, outcome.final)

    def _after_attempt(self, entry: Entry, status: AttemptStatus, delay: float | None, final: bool) -> RolloutStatus:
        counted = len(entry.attempts) - entry.not_counted
        return self._move_on(
            entry, rollout_status_after(status, counted, entry.config or DEFAULT_CONFIG, final=final), delay
        )

    def _move_on(self, entry: Entry, new: RolloutStatus, delay: float | None) -> RolloutStatus:
        self._set_status(entry, new)
        if new == "requeuing" and delay is not None:
            entry.place = self._queues.put(entry.run_id, entry, delay)
        return new

    def _end_attempt(self, entry: Entry, status: AttemptStatus) -> None:
        """End the latest attempt if it has not ended."""
        if entry.attempts and (last := entry.attempts[-1]).status not in TERMINAL_ATTEMPT:
            entry.attempts[-1] = attrs.evolve(last, status=status, end_time=time.time())

    def _set_status(self, entry: Entry, status: RolloutStatus) -> None:
        """Move a rollout on; whatever the new status is, its place in the queue is not valid any more."""
        if entry.place is not None:
            self._queues.give_up(entry.place)
            entry.place = None
        if entry.status == status:
            return
        self._tallies[entry.run_id].move(entry.status, status)
        entry.status = status
        if status in TERMINAL_ROLLOUT:
            self._set_ended(entry)

    def _set_ended(self, entry: Entry) -> None:
        entry.end_time = time.time()
        reward = entry.attempts[-1].final_reward if entry.attempts else None
        if reward is not None:
            self._tallies[entry.run_id].reward(entry.mode, reward)
        for watch in self._watches.pop(entry.rollout_id, ()):
            watch.remaining -= 1
            if watch.remaining <= 0:
                watch.done.set()
        self._finished.append(entry.rollout_id)
        while len(self._finished) > self._retain:
            rollout_id = self._finished.popleft()
            if rollout_id in self._entries:
                self._evict(rollout_id)

    def _evict(self, rollout_id: str) -> None:
        run_id = self._entries[rollout_id].run_id
        if run_id in self._holds:
            self._held.setdefault(run_id, []).append(rollout_id)
        else:
            self._forget(rollout_id)

    def _forget(self, rollout_id: str) -> None:
        entry = self._entries.pop(rollout_id)
        self._tallies[entry.run_id].removed += 1
        if entry.key is not None:
            del self._keys[entry.run_id, entry.key]

    def queued_nowait(self) -> int | None:
        return len(self._queues)

    @contextmanager
    def holding(self, run_id: str | None = None) -> Generator[None]:
        self._holds[run_id] = self._holds.get(run_id, 0) + 1
        try:
            yield
        finally:
            self._holds[run_id] -= 1
            if not self._holds[run_id]:
                del self._holds[run_id]
                for rollout_id in self._held.pop(run_id, ()):
                    if rollout_id in self._entries:
                        self._forget(rollout_id)

    async def expire(self) -> Expiry:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        requeued: list[str] = []
        failed: list[str] = []
        for worker_id in [worker_id for worker_id, deadline in self._leases.items() if deadline <= now]:
            del self._leases[worker_id]
            for attempt_id, entry in self._at_work.pop(worker_id, {}).items():
                status = self._lose(entry, attempt_id)
                if status is not None:
                    (requeued if status == "requeuing" else failed).append(entry.rollout_id)
            self._note_worker(worker_id, "unknown", None)
        return Expiry(requeued, failed, min((deadline - now for deadline in self._leases.values()), default=None))

    def _lose(self, entry: Entry, attempt_id: str) -> RolloutStatus | None:
        """End an attempt that was lost with its worker, unless it is not the rollout's running one any more."""
        attempt = entry.attempts[-1]
        if attempt.attempt_id != attempt_id or attempt.status in TERMINAL_ATTEMPT or entry.status in TERMINAL_ROLLOUT:
            return None
        entry.attempts[-1] = attrs.evolve(
            attempt, status="unresponsive", end_time=time.time(), error=lost_error(attempt.worker_id)
        )
        entry.close_spans()
        entry.not_counted += 1
        entry.lost += 1
        return self._move_on(entry, rollout_status_after_loss(entry.lost, entry.config or DEFAULT_CONFIG), 0.0)

    async def update(self, changes: Sequence[RolloutChange | AttemptChange | RolloutRemoval]) -> None:
        await trio.lowlevel.checkpoint()
        # Checked first, each as if those before it had been made, so that all are made or none.
        checking = _Statuses()
        entries = [self._known(change.rollout_id) for change in changes]
        for entry, change in zip(entries, changes, strict=True):
            if isinstance(change, RolloutRemoval):
                checking.remove_rollout(entry)
            elif isinstance(change, RolloutChange):
                if not isinstance(change.resources_id, Unset):
                    self._check_resources_id(change.resources_id)
                checking.change_rollout(entry, change)
            else:
                checking.change_attempt(entry, entry.attempt(change.attempt_id), change)
        # By entry, not by id: the change before may have evicted it.
        for entry, change in zip(entries, changes, strict=True):
            if isinstance(change, RolloutRemoval):
                # Not there where it was evicted meanwhile.
                if entry.rollout_id in self._entries:
                    self._forget(entry.rollout_id)
            elif isinstance(change, RolloutChange):
                self._change_rollout(entry, change)
            else:
                self._change_attempt(entry, change)

    def _change_rollout(self, entry: Entry, change: RolloutChange) -> None:
        for name in ("input", "mode", "resources_id", "config", "metadata"):
            value = getattr(change, name)
            if isinstance(value, Unset):
                continue
            if name == "input":
                value = copy_containers(value)
            elif isinstance(value, Mapping):
                value = dict(value)
            setattr(entry, name, value)
        status = change.status
        if isinstance(status, Unset):
            return
        if status in TERMINAL_ROLLOUT:
            self._end_attempt(entry, cast("AttemptStatus", status))
        if status == entry.status and (entry.place is not None or status not in QUEUED):
            return
        self._set_status(entry, status)
        if status in QUEUED:
            entry.place = self._queues.put(entry.run_id, entry)

    def _change_attempt(self, entry: Entry, change: AttemptChange) -> None:
        index, attempt = next((i, a) for i, a in enumerate(entry.attempts) if a.attempt_id == change.attempt_id)
        fields: dict[str, Any] = {
            name: value
            for name in ("status", "worker_id", "last_heartbeat_time", "metadata")
            if not isinstance(value := getattr(change, name), Unset)
        }
        moved = fields.get("status", attempt.status) != attempt.status
        if moved and fields["status"] in TERMINAL_ATTEMPT:
            fields["end_time"] = time.time()
        attempt = entry.attempts[index] = attrs.evolve(attempt, **fields)
        if "worker_id" in fields or moved:
            self._note_worker_of(attempt)
        if moved:
            self._after_attempt(entry, attempt.status, 0.0, final=False)

    def _note_worker_of(self, attempt: Attempt) -> None:
        if attempt.worker_id is None:
            return
        if attempt.status in ("timeout", "unresponsive"):
            self._note_worker(attempt.worker_id, "unknown", None)
        elif attempt.status in TERMINAL_ATTEMPT:
            self._note_worker(attempt.worker_id, "idle", None)
        else:
            self._note_worker(attempt.worker_id, "busy", attempt)

    def _known(self, rollout_id: str) -> Entry:
        entry = self._entries.get(rollout_id)
        if entry is None:
            self._say_if_evicted(rollout_id)
            raise UnknownId(f"Rollout {rollout_id} not found")
        return entry

    def _say_if_evicted(self, rollout_id: str) -> None:
        if rollout_id not in self._entries and self._ids.minted(rollout_id):
            raise Evicted(
                f"rollout {rollout_id} has finished and is no longer kept; this store keeps the newest "
                f"{self._retain} finished ones, InMemoryLightningStore(retain=…) sets how many"
            )

    # Spans.

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        await trio.lowlevel.checkpoint()
        entries = [self._reported(span) for span in spans]
        added: list[Span] = []
        for entry, span in zip(entries, spans, strict=True):
            # Compared by id: the record of the attempt changes with each span it gets.
            if (
                entry is None
                or entry.attempt(span.attempt_id).status in TERMINAL_ATTEMPT
                or span.attempt_id != entry.attempts[-1].attempt_id
            ):
                self._late_spans += 1
                continue
            new = entry.add_spans(span.attempt_id, [span])
            self._total_spans += len(new)
            added += new
            self._alive(entry)
        return added

    def _alive(self, entry: Entry) -> None:
        """Note the heartbeat that a span of the latest attempt is; the first one makes it running."""
        attempt = entry.attempts[-1]
        entry.attempts[-1] = attrs.evolve(attempt, status="running", last_heartbeat_time=time.time())
        if entry.status not in TERMINAL_ROLLOUT:
            self._set_status(entry, "running")

    # Resources, workers, queries.

    async def put(self, records: Sequence[Record]) -> list[Record]:
        await trio.lowlevel.checkpoint()
        for record in records:
            if isinstance(record, Run):
                check_run(self._runs.get(record.run_id), record)
        # One class in, the same class out, which the type checker cannot see.
        return [cast("Any", self._put(record)) for record in records]

    def _put(self, record: ResourcesUpdate | Worker | Run) -> ResourcesUpdate | Worker | Run:
        if isinstance(record, Worker):
            self._put_worker(record)
        elif isinstance(record, Run):
            self._runs[record.run_id] = record
        else:
            record = self._put_snapshot(record)
        return record

    def _put_worker(self, worker: Worker) -> None:
        self._workers[worker.worker_id] = worker
        if worker.lease_seconds is None:
            self._leases.pop(worker.worker_id, None)
        else:
            self._leases[worker.worker_id] = trio.current_time() + worker.lease_seconds

    def _put_snapshot(self, update: ResourcesUpdate) -> ResourcesUpdate:
        before = self._resources.get(update.resources_id)
        snapshot = attrs.evolve(
            update,
            create_time=update.create_time if before is None else before.create_time,
            version=1 if before is None else before.version + 1,
            resources=dict(update.resources),
        )
        self._resources[update.resources_id] = snapshot
        self._latest_resources = update.resources_id
        return snapshot

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        await trio.lowlevel.checkpoint()
        return None if self._latest_resources is None else self._resources[self._latest_resources]

    def _note_worker(self, worker_id: str, status: WorkerStatus, attempt: Attempt | None) -> None:
        now = time.time()
        worker = self._workers.get(worker_id) or Worker(worker_id)
        self._workers[worker_id] = attrs.evolve(
            worker,
            status=status,
            last_dequeue_time=now if status == "busy" else worker.last_dequeue_time,
            last_busy_time=now if status == "busy" else worker.last_busy_time,
            last_idle_time=now if status == "idle" else worker.last_idle_time,
            current_rollout_id=None if attempt is None else attempt.rollout_id,
            current_attempt_id=None if attempt is None else attempt.attempt_id,
        )

    async def find(self, query: Query) -> PaginatedResult[Any]:
        await trio.lowlevel.checkpoint()
        if query == Query("rollouts", limit=query.limit, offset=query.offset):
            # A page of all: the records of the others need not be made.
            end = None if query.limit < 0 else query.offset + query.limit
            page = [entry.rollout() for entry in islice(self._entries.values(), query.offset, end)]
            return PaginatedResult(page, query.limit, query.offset, len(self._entries))
        return select(self._records(query), query)

    def _records(self, query: Query) -> Iterable[Any]:
        if query.table == "resources":
            return self._resources.values()
        if query.table == "workers":
            return map(self._worker, self._workers.values())
        if query.table == "runs":
            return self._runs.values()
        entries = self._entries_for(query)
        if query.table == "rollouts":
            return (entry.rollout() for entry in entries)
        if query.table == "attempts":
            if query.required("end_time") == {None}:
                # Only the latest can be unended, and hardly any are.
                return (e.attempts[-1] for e in entries if e.attempts and e.attempts[-1].end_time is None)
            return (attempt for entry in entries for attempt in entry.attempts)
        return (span for entry in entries for span in entry.spans)

    def _worker(self, worker: Worker) -> Worker:
        until = self._leases.get(worker.worker_id)
        return attrs.evolve(
            worker, lease_left_seconds=None if until is None else lease_left(until, trio.current_time())
        )

    def _entries_for(self, query: Query) -> Iterable[Entry]:
        rollout_ids = query.required("rollout_id")
        if rollout_ids is None:
            return self._entries.values()
        if len(rollout_ids) == 1:
            # Many may be asked for after the fact; only the one who asks for one by name is told it is gone.
            self._say_if_evicted(next(iter(rollout_ids)))
        known = [entry for rollout_id in set(rollout_ids) if (entry := self._entries.get(rollout_id)) is not None]
        return sorted(known, key=_number)

    async def wait_finished(self, rollout_ids: Collection[str], *, count: int | None = None) -> list[str]:
        await trio.lowlevel.checkpoint()
        pending = self._unfinished(rollout_ids)
        wanted = len(rollout_ids) if count is None else min(count, len(rollout_ids))
        remaining = wanted - (len(rollout_ids) - len(pending))
        if remaining <= 0:
            return pending
        watch = _Watch(remaining)
        for rollout_id in pending:
            self._watches.setdefault(rollout_id, []).append(watch)
        try:
            await watch.done.wait()
        finally:
            for rollout_id in pending:
                if watchers := self._watches.get(rollout_id):
                    watchers.remove(watch)
                    if not watchers:
                        del self._watches[rollout_id]
        return self._unfinished(pending)

    def _unfinished(self, rollout_ids: Iterable[str]) -> list[str]:
        entries = self._entries
        return [
            rollout_id
            for rollout_id in rollout_ids
            if (entry := entries.get(rollout_id)) is not None and entry.status not in TERMINAL_ROLLOUT
        ]

    async def summarize(self, run_id: str | None = None) -> RunSummary:
        await trio.lowlevel.checkpoint()
        if run_id is not None:
            return self._tallies.get(run_id, RunCounts()).summary()
        return RunCounts.total(self._tallies.values()).summary()

    async def statistics(self) -> StoreStatistics:
        await trio.lowlevel.checkpoint()
        counts = RunCounts.total(self._tallies.values()).counts
        return StoreStatistics(
            type(self).__name__,
            self._total_rollouts,
            self._total_attempts,
            self._total_spans,
            len(self._resources),
            len(self._workers),
            counts.get("queuing", 0) + counts.get("requeuing", 0),
            self._late_spans,
        )


_ROLLOUT_STATUSES: tuple[RolloutStatus, ...] = (
    "queuing",
    "preparing",
    "running",
    "requeuing",
    "succeeded",
    "failed",
    "cancelled",
)
_ATTEMPT_STATUSES: tuple[AttemptStatus, ...] = (
    "preparing",
    "running",
    "succeeded",
    "failed",
    "timeout",
    "unresponsive",
    "cancelled",
)
