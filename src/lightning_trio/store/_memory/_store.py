"""The store in memory: the fastest, lost with its process."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Final, Literal, TypeVar, cast

import attrs
import trio

from ..._containers import copy_containers, copy_fields, copy_in_steps, is_long_to_copy
from ..._errors import Evicted, NotInTrio, UnknownId
from ..._ids import new_attempt_id
from ..._lifecycle import (
    TERMINAL_ATTEMPT,
    TERMINAL_ROLLOUT,
    Move,
    RolloutPosition,
    begin_attempt,
    change_attempt,
    change_rollout,
    check_removal,
    check_run,
    end_attempt,
    lose_attempt,
    note_heartbeat,
    reopen_rollout,
)
from ..._public import public
from ..._records import (
    DEFAULT_CONFIG,
    Attempt,
    AttemptChange,
    AttemptedRollout,
    AttemptOutcome,
    Change,
    EnqueueRolloutRequest,
    Expiry,
    PaginatedResult,
    ResourcesUpdate,
    RolloutChange,
    RolloutConfig,
    RolloutMode,
    RolloutRemoval,
    RolloutReopening,
    RolloutStatus,
    Run,
    RunSummary,
    StoreStatistics,
    Unset,
    Worker,
)
from ..._repr import counted, one_line
from ..._resources import spans_without_keys
from ..._spans import Span, bounded_sum
from .._primitives import Record
from .._query import Query, select
from .._rollout_ids import RolloutIds
from .._rules import lost_error
from .._run_counts import RunCounts
from .._store import LightningStore
from ._entry import Entry, check_spans
from ._queue import Queues
from ._retention import Retention
from ._waits import Waits
from ._workers import Workers

_number = operator.attrgetter("number")

WithTask = TypeVar("WithTask", EnqueueRolloutRequest, AttemptedRollout)


@public
class InMemoryLightningStore(LightningStore):
    """Keep everything in this process's memory.

    Args:
        retain: how many finished rollouts to keep, the newest; a query for an older one raises `Evicted`. The counts
            and rewards of `summarize` also cover evicted rollouts.

    Only the Trio program that has opened it, or has tasks that wait in it, may change it and wait in it, in one thread;
    in another it raises `NotInTrio` there. A task may be any object. Lists and dicts are copied when
    a task is enqueued and for each attempt (see `copy_containers`); other objects are shared.
    """

    def __init__(self, *, retain: int = 100_000) -> None:
        self._ids = RolloutIds()
        self._entries: dict[str, Entry] = {}
        self._retention = Retention(retain, self._entries, self._forget)
        self._queues = Queues[Entry]()
        self._waits = Waits()
        self._resources: dict[str, ResourcesUpdate] = {}
        self._latest_resources: str | None = None
        self._workers = Workers()
        self._runs: dict[str, Run] = {}
        self._keys: dict[tuple[str | None, str], str] = {}
        """Rollout ids by run and key."""
        self._counts: dict[str | None, RunCounts] = {}
        self._total_attempts = 0
        self._total_spans = 0
        self._total_rollouts = 0
        self._late_spans = 0
        self._thread: int | None = None
        """The id of the thread whose Trio has opened it, or has tasks that wait in it."""
        self._opened = False
        self._waiting = 0

    @one_line
    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<{type(self).__name__}: {state}, {counted(len(self._entries), 'rollout')} kept>"

    async def on_open(self) -> None:
        self._check_thread()
        self._thread, self._opened = threading.get_ident(), True
        # Each `trio.run` has its own clock: times on an earlier one are meaningless, so everything is due now.
        self._queues.release_delayed()
        self._workers.end_leases()

    async def on_close(self) -> None:
        self._opened = False
        self._free_thread()

    def _check_thread(self) -> None:
        """Raise if the store is in use in another thread, whose Trio wakes those that wait in it.

        After the checkpoint of a call, because tasks of another thread may begin to wait during it.
        """
        if self._thread is not None and self._thread != threading.get_ident():
            raise NotInTrio.in_another_thread(type(self).__name__)

    def _begin_wait(self) -> None:
        """Keep the store to this thread while a task waits in it, also if nobody has opened it."""
        self._thread = threading.get_ident()
        self._waiting += 1

    def _end_wait(self) -> None:
        self._waiting -= 1
        self._free_thread()

    def _free_thread(self) -> None:
        if not self._opened and not self._waiting:
            self._thread = None

    # Queue.

    async def enqueue(
        self,
        requests: Sequence[EnqueueRolloutRequest],
        *,
        run_id: str | None = None,
        status: Literal["queuing", "cancelled"] = "queuing",
    ) -> list[str]:
        await trio.lowlevel.checkpoint()
        # Once, because a caller's sequence may raise, and must do so before anything has changed.
        requests = list(requests)
        is_copied = any(is_long_to_copy(request.input) for request in requests)
        if is_copied:
            requests = await _with_own_tasks(requests)
        self._check_thread()
        entries = self._new_entries(self._unknown(requests, run_id), run_id, status, is_copied)
        if status == "cancelled":
            for entry in entries:
                self._set_ended(entry)
        else:
            for entry in entries:
                entry.place = self._queues.put(run_id, entry)
        made = (entry.rollout_id for entry in entries if entry.key is None)
        return [next(made) if request.key is None else self._keys[run_id, request.key] for request in requests]

    def _unknown(
        self, requests: Sequence[EnqueueRolloutRequest], run_id: str | None
    ) -> Sequence[EnqueueRolloutRequest]:
        """Return the requests without those whose key the run has already, or an earlier request has."""
        keys = [(run_id, request.key) for request in requests if request.key is not None]
        if len(set(keys)) == len(keys) and self._keys.keys().isdisjoint(keys):
            return requests
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
        rollouts = list(rollouts)
        requests = [request for request in rollouts if not isinstance(request, str)]
        is_copied = any(is_long_to_copy(request.input) for request in requests)
        if is_copied:
            requests = await _with_own_tasks(requests)
        self._check_thread()
        # Raises before any rollout is created.
        for known in rollouts:
            if isinstance(known, str):
                begin_attempt(self._known(known))
        new = iter(self._new_entries(requests, run_id, "preparing", is_copied))
        entries = [self._known(r) if isinstance(r, str) else next(new) for r in rollouts]
        return await self._begin(entries, worker_id, default_config)

    async def claim(
        self,
        limit: int,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        await trio.lowlevel.checkpoint()
        self._check_thread()
        entries = list(self._queues.take(limit, run_id))
        for entry in entries:
            entry.place = None
        return await self._begin(entries, worker_id, default_config)

    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        await trio.lowlevel.checkpoint()
        self._check_thread()
        self._begin_wait()
        try:
            await self._queues.wait_ready(run_id)
        finally:
            self._end_wait()

    def _new_entries(
        self,
        requests: Sequence[EnqueueRolloutRequest],
        run_id: str | None,
        status: RolloutStatus,
        is_copied: bool,  # whether the tasks are the store's own already
    ) -> list[Entry]:
        for request in requests:
            if request.resources_id is not None:
                self._check_resources_id(request.resources_id)
        now = time.time()
        entries = [
            # Positional, in the order of the fields: keywords take 0.4 µs more for each rollout, a tenth of `enqueue`.
            Entry(
                number,
                self._ids.new(),
                request.input if is_copied else copy_containers(request.input),
                request.mode,
                request.resources_id or self._latest_resources,
                request.config,
                copy_containers(request.metadata),
                run_id,
                request.key,
                status,
                now,
            )
            for number, request in enumerate(requests, self._total_rollouts)
        ]
        if is_copied:
            for entry in entries:
                entry.large = is_long_to_copy(entry.input)
        for entry in entries:
            self._entries[entry.rollout_id] = entry
            if entry.key is not None:
                self._keys[run_id, entry.key] = entry.rollout_id
        self._counts_of(run_id).move(None, status, len(entries))
        self._total_rollouts += len(entries)
        return entries

    def _check_resources_id(self, resources_id: str) -> None:
        if resources_id not in self._resources:
            raise UnknownId.resources(resources_id)

    def _counts_of(self, run_id: str | None) -> RunCounts:
        counts = self._counts.get(run_id)
        if counts is None:
            counts = self._counts[run_id] = RunCounts()
        return counts

    async def _begin(
        self, entries: Sequence[Entry], worker_id: str | None, default_config: RolloutConfig | None
    ) -> list[AttemptedRollout]:
        """Begin attempts; without large tasks, this is no checkpoint, as its callers have made one."""
        started = self._new_attempts(entries, worker_id, default_config)
        return await _with_own_tasks(started) if any(entry.large for entry in entries) else started

    def _new_attempts(
        self, entries: Iterable[Entry], worker_id: str | None, default_config: RolloutConfig | None
    ) -> list[AttemptedRollout]:
        started: list[AttemptedRollout] = []
        at_work = self._workers.at_work(worker_id)
        for entry in entries:
            attempted = self._new_attempt(entry, worker_id, default_config)
            at_work[attempted.attempt.attempt_id] = entry
            started.append(attempted)
        if worker_id is not None:
            if started:
                self._workers.note(worker_id, "busy", started[-1].attempt)
            elif not at_work:
                self._workers.note(worker_id, "idle")
        return started

    def _new_attempt(
        self, entry: Entry, worker_id: str | None, default_config: RolloutConfig | None
    ) -> AttemptedRollout:
        if entry.config is None:
            entry.config = default_config or DEFAULT_CONFIG
        move = begin_attempt(entry)
        if move.attempt_status is not None:
            self._set_attempt_status(entry, move)
        # Positional, in the order of the fields: keywords take 0.3 µs more for each attempt, a twelfth of `claim`.
        attempt = Attempt(
            entry.rollout_id,
            new_attempt_id(),
            len(entry.attempts) + 1,
            time.time(),
            None,  # end_time
            "preparing",
            worker_id,
        )
        entry.attempts.append(attempt)
        self._total_attempts += 1
        self._move_on(entry, move)
        return entry.attempted()

    # Outcomes and changes.

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
        await trio.lowlevel.checkpoint()
        self._check_thread()
        entries = [self._reported(outcome) for outcome in outcomes]
        statuses: list[RolloutStatus | None] = [
            self._finish(entry, outcome) for entry, outcome in zip(entries, outcomes, strict=True)
        ]
        self._workers.note_idle()
        return statuses

    def _reported(self, report: AttemptOutcome | Span) -> Entry | None:
        """Return the rollout of a report, None if it ended without the report and has been evicted.

        All that can be wrong with a report is raised here, before anything is changed.
        """
        try:
            entry = self._known(report.rollout_id)
        except Evicted:
            return None
        entry.attempt(report.attempt_id)
        if entry.spans and isinstance(report, AttemptOutcome):
            # They are added to those that were reported one by one.
            check_spans(report.spans)
        return entry

    def _finish(self, entry: Entry | None, outcome: AttemptOutcome) -> RolloutStatus | None:
        if entry is None:
            self._late_spans += len(outcome.spans)
            self._workers.reported_evicted(outcome.attempt_id)
            return None
        move = end_attempt(entry, outcome.attempt_id, outcome.status, outcome.next)
        attempt = entry.attempts[-1] if move is not None else entry.attempt(outcome.attempt_id)
        self._workers.reported(attempt)
        if move is None:
            self._late_spans += len(outcome.spans)
            return None
        # Positional, in the order of the fields: keywords take 0.4 µs more for each attempt.
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
        self._counts[entry.run_id].attempt(outcome.duration or 0.0, outcome.usage)
        if entry.spans:
            self._total_spans += len(entry.add_spans(attempt.attempt_id, outcome.spans))
            entry.close_spans()
        else:
            entry.spans = tuple(outcome.spans)
            self._total_spans += len(outcome.spans)
        self._move_on(entry, move)
        return move.status

    def _move_on(self, entry: Entry, move: Move) -> None:
        """Apply a move to a rollout, except for the status of its attempt."""
        if move.anew:
            entry.not_counted, entry.lost = len(entry.attempts), 0
        elif not move.counts:
            entry.not_counted += 1
            entry.lost += move.lost
        self._set_status(entry, move.status)
        if move.queue_in is not None:
            entry.place = self._queues.put(entry.run_id, entry, move.queue_in)

    def _set_attempt_status(self, entry: Entry, move: Move, **fields: Any) -> None:
        """Set the latest attempt to the status of a move, if it has one."""
        status = move.attempt_status
        if status is not None:
            if status in TERMINAL_ATTEMPT:
                fields["end_time"] = time.time()
            entry.attempts[-1] = attrs.evolve(entry.attempts[-1], status=status, **fields)

    def _set_status(self, entry: Entry, status: RolloutStatus) -> None:
        """Set a rollout's status and remove it from the queue, whatever the status is."""
        if entry.place is not None:
            self._queues.give_up(entry.place)
            entry.place = None
        if entry.status == status:
            return
        self._counts[entry.run_id].move(entry.status, status)
        entry.status = status
        if status in TERMINAL_ROLLOUT:
            self._set_ended(entry)

    def _set_ended(self, entry: Entry) -> None:
        entry.end_time = time.time()
        reward = entry.attempts[-1].final_reward if entry.attempts else None
        if reward is not None:
            self._counts[entry.run_id].reward(entry.mode, reward)
        self._waits.ended(entry.rollout_id)
        self._retention.ended(entry.rollout_id)

    def _forget(self, rollout_id: str) -> None:
        entry = self._entries.pop(rollout_id)
        self._counts[entry.run_id].removed += 1
        if entry.key is not None:
            del self._keys[entry.run_id, entry.key]

    def queued_nowait(self) -> int | None:
        return len(self._queues)

    def holding(self, run_id: str | None = None) -> AbstractContextManager[None]:
        return self._retention.holding(run_id)

    async def expire(self) -> Expiry:
        await trio.lowlevel.checkpoint()
        self._check_thread()
        now = trio.current_time()
        requeued: list[str] = []
        failed: list[str] = []
        for _, at_work in self._workers.take_lost(now):
            for attempt_id, entry in at_work.items():
                status = self._lose(entry, attempt_id)
                if status is not None:
                    (requeued if status == "requeuing" else failed).append(entry.rollout_id)
        return Expiry(requeued, failed, self._workers.next_lease_in(now))

    def _lose(self, entry: Entry, attempt_id: str) -> RolloutStatus | None:
        """End an attempt that was lost with its worker, if it is still the rollout's running one."""
        move = lose_attempt(entry, attempt_id)
        if move is None:
            return None
        self._set_attempt_status(entry, move, error=lost_error(entry.attempts[-1].worker_id))
        entry.close_spans()
        self._move_on(entry, move)
        return move.status

    async def update(self, changes: Sequence[Change]) -> None:
        await trio.lowlevel.checkpoint()
        self._check_thread()
        entries = [self._known(change.rollout_id) for change in changes]
        # All moves are decided before any is made, each as if the previous ones had been: all are made or none.
        positions: dict[str, RolloutPosition] = {}
        moves = [self._decide(entry, change, positions) for entry, change in zip(entries, changes, strict=True)]
        uncounted: set[tuple[str | None, RolloutMode | None]] = set()
        # By entry, not by id: an earlier change may have evicted the rollout.
        for entry, change, move in zip(entries, changes, moves, strict=True):
            if isinstance(change, RolloutRemoval):
                # An earlier change may have evicted it.
                if entry.rollout_id in self._entries:
                    self._forget(entry.rollout_id)
            elif isinstance(change, RolloutReopening):
                if move is not None and self._reopen(entry, move):
                    uncounted.add((entry.run_id, entry.mode))
            elif isinstance(change, RolloutChange):
                self._change_rollout(entry, change, move)
            else:
                self._change_attempt(entry, change, move)
        for run_id, mode in uncounted:
            self._sum_up_again(run_id, mode)

    def _reopen(self, entry: Entry, move: Move) -> bool:
        """Put an ended rollout back into the queue, and return whether its reward counted."""
        entry.end_time = None
        self._retention.reopened(entry.rollout_id)
        reward = entry.attempts[-1].final_reward if entry.attempts else None
        if reward is not None:
            self._counts[entry.run_id].reward(entry.mode, -reward, -1)
        self._move_on(entry, move)
        return reward is not None

    def _sum_up_again(self, run_id: str | None, mode: RolloutMode | None) -> None:
        """Sum up rewards from the records: a difference of floats would keep the rounding error of the larger sum."""
        counts = self._counts[run_id]
        if not counts.removed:
            rewards = [
                reward
                for entry in self._entries.values()
                if entry.run_id == run_id and entry.mode == mode and entry.status in TERMINAL_ROLLOUT and entry.attempts
                if (reward := entry.attempts[-1].final_reward) is not None
            ]
            counts.rewards.pop(mode, None)
            if rewards:
                counts.reward(mode, bounded_sum(rewards), len(rewards))

    def _decide(
        self,
        entry: Entry,
        change: RolloutChange | AttemptChange | RolloutRemoval | RolloutReopening,
        positions: dict[str, RolloutPosition],
    ) -> Move | None:
        """Return the move of a change, and record the resulting position in `positions`."""
        position = positions.get(entry.rollout_id) or RolloutPosition.of(entry)
        move: Move | None = None
        if isinstance(change, RolloutRemoval):
            check_removal(position)
        elif isinstance(change, RolloutReopening):
            move = reopen_rollout(position)
        elif isinstance(change, RolloutChange):
            if not isinstance(change.resources_id, Unset) and change.resources_id is not None:
                self._check_resources_id(change.resources_id)
            if not isinstance(change.config, Unset):
                position = attrs.evolve(position, config=change.config)
            if not isinstance(change.status, Unset):
                move = change_rollout(position, change.status)
        else:
            before = entry.attempt(change.attempt_id).status
            if position.attempt_id == change.attempt_id:
                before = position.attempt_status or before
            if not isinstance(change.status, Unset):
                move = change_attempt(position, change.attempt_id, before, change.status)
        positions[entry.rollout_id] = position if move is None else position.after(move)
        return move

    def _change_rollout(self, entry: Entry, change: RolloutChange, move: Move | None) -> None:
        for name in ("input", "mode", "resources_id", "config", "metadata"):
            value = getattr(change, name)
            if not isinstance(value, Unset):
                setattr(entry, name, copy_containers(value))
        if not isinstance(change.input, Unset):
            entry.large = is_long_to_copy(entry.input)
        if move is not None:
            self._set_attempt_status(entry, move)
            self._move_on(entry, move)

    def _change_attempt(self, entry: Entry, change: AttemptChange, move: Move | None) -> None:
        index, attempt = next((i, a) for i, a in enumerate(entry.attempts) if a.attempt_id == change.attempt_id)
        fields: dict[str, Any] = {
            name: copy_containers(value)
            for name in ("worker_id", "last_heartbeat_time", "metadata")
            if not isinstance(value := getattr(change, name), Unset)
        }
        entry.attempts[index] = attrs.evolve(attempt, **fields)
        if move is not None:
            self._set_attempt_status(entry, move)
        if "worker_id" in fields or move is not None:
            self._workers.note_changed(entry.attempts[index])
        if move is not None:
            self._move_on(entry, move)

    def _known(self, rollout_id: str) -> Entry:
        entry = self._entries.get(rollout_id)
        if entry is None:
            self._raise_if_evicted(rollout_id)
            raise UnknownId.rollout(rollout_id)
        return entry

    def _raise_if_evicted(self, rollout_id: str) -> None:
        if rollout_id not in self._entries and self._ids.minted(rollout_id):
            raise Evicted.beyond(rollout_id, self._retention.retain)

    # Spans.

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        await trio.lowlevel.checkpoint()
        self._check_thread()
        entries = [self._reported(span) for span in spans]
        check_spans(spans)
        spans = spans_without_keys(spans)
        added: list[Span] = []
        for entry, span in zip(entries, spans, strict=True):
            move = None if entry is None else note_heartbeat(entry, span.attempt_id)
            if entry is None or move is None:
                self._late_spans += 1
                continue
            new = entry.add_spans(span.attempt_id, [span])
            self._total_spans += len(new)
            added += new
            # A span is also a heartbeat.
            self._set_attempt_status(entry, move, last_heartbeat_time=time.time())
            self._move_on(entry, move)
        return added

    # Resources, workers, queries.

    async def put(self, records: Sequence[Record]) -> list[Record]:
        await trio.lowlevel.checkpoint()
        self._check_thread()
        for record in records:
            if isinstance(record, Run):
                check_run(self._runs.get(record.run_id), record)
        # `_put` returns the class that it is given, which the type checker cannot see.
        return [cast("Any", self._put(record)) for record in records]

    def _put(self, record: ResourcesUpdate | Worker | Run) -> ResourcesUpdate | Worker | Run:
        if isinstance(record, Worker):
            self._workers.put(copy_fields(record))
        elif isinstance(record, Run):
            self._runs[record.run_id] = copy_fields(record)
        else:
            record = self._put_snapshot(record)
        return record

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

    async def find(self, query: Query) -> PaginatedResult[Any]:
        await trio.lowlevel.checkpoint()
        if query == Query("rollouts", limit=query.limit, offset=query.offset):
            # A page of all rollouts: records are made for this page only.
            end = None if query.limit < 0 else query.offset + query.limit
            page = [entry.rollout() for entry in islice(self._entries.values(), query.offset, end)]
            return PaginatedResult(page, query.limit, query.offset, len(self._entries))
        return select(self._records(query), query)

    def _records(self, query: Query) -> Iterable[Any]:
        if query.table == "resources":
            return self._resources.values()
        if query.table == "workers":
            return self._workers.records()
        if query.table == "runs":
            return self._runs.values()
        entries = self._entries_for(query)
        if query.table == "rollouts":
            return (entry.rollout() for entry in entries)
        if query.table == "attempts":
            if query.required("end_time") == {None}:
                # Only the latest attempt can still run, and few do.
                return (e.attempts[-1] for e in entries if e.attempts and e.attempts[-1].end_time is None)
            return (attempt for entry in entries for attempt in entry.attempts)
        return (span for entry in entries for span in entry.spans)

    def _entries_for(self, query: Query) -> Iterable[Entry]:
        rollout_ids = query.required("rollout_id")
        if rollout_ids is None:
            return self._entries.values()
        if len(rollout_ids) == 1:
            # A query for several may come long after their end; only a query for a single one raises `Evicted`.
            self._raise_if_evicted(next(iter(rollout_ids)))
        known = [entry for rollout_id in set(rollout_ids) if (entry := self._entries.get(rollout_id)) is not None]
        return sorted(known, key=_number)

    async def wait_finished(self, rollout_ids: Collection[str], *, count: int | None = None) -> list[str]:
        await trio.lowlevel.checkpoint()
        self._check_thread()
        pending = self._unfinished(rollout_ids)
        wanted = len(rollout_ids) if count is None else min(count, len(rollout_ids))
        remaining = wanted - (len(rollout_ids) - len(pending))
        if remaining <= 0:
            return pending
        self._begin_wait()
        try:
            await self._waits.wait(pending, remaining)
        finally:
            self._end_wait()
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
            return self._counts.get(run_id, RunCounts()).summary()
        return RunCounts.total(self._counts.values()).summary()

    async def statistics(self) -> StoreStatistics:
        await trio.lowlevel.checkpoint()
        counts = RunCounts.total(self._counts.values()).counts
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


async def _with_own_tasks(records: Sequence[WithTask]) -> list[WithTask]:
    """Return requests or rollouts with copies of their tasks, some of which are large."""
    return [attrs.evolve(record, input=await _copy_in_slices(record.input)) for record in records]


async def _copy_in_slices(task: Any) -> Any:
    """Return a copy, and let other tasks run meanwhile; a claim that is cancelled still returns what it has taken.

    In Trio's thread, because `trio.testing.MockClock` jumps while all tasks wait for another one.
    """
    copying = copy_in_steps(task)
    items = 0
    while True:
        try:
            items += next(copying)
        except StopIteration as stop:
            return stop.value
        if items >= _ITEMS_AT_ONCE:
            items = 0
            await trio.lowlevel.cancel_shielded_checkpoint()


_ITEMS_AT_ONCE: Final = 20_000
"""How many items are copied before others run: a few milliseconds' worth."""
