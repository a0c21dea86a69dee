"""The workers of a store in memory: their records, leases and running attempts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import attrs
import trio

from ..._lifecycle import worker_status
from ..._records import Attempt, Worker, WorkerStatus
from .._rules import lease_left
from ._entry import Entry


class LostWorker(NamedTuple):
    """A worker whose lease has run out, and its rollouts by unreported attempt."""

    worker_id: str
    at_work: Mapping[str, Entry]


class Workers:
    """Keep workers by id."""

    def __init__(self) -> None:
        self._records: dict[str, Worker] = {}
        self._leases: dict[str, float] = {}
        """The ends of leases by worker id, on Trio's clock."""
        self._at_work: dict[str, dict[str, Entry]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def put(self, worker: Worker) -> None:
        """Store a worker's record and restart its lease."""
        self._records[worker.worker_id] = worker
        if worker.lease_seconds is None:
            self._leases.pop(worker.worker_id, None)
        else:
            self._leases[worker.worker_id] = trio.current_time() + worker.lease_seconds

    def records(self) -> Iterator[Worker]:
        """Yield the records, with the time left of each lease."""
        now = trio.current_time()
        for worker in self._records.values():
            until = self._leases.get(worker.worker_id)
            yield attrs.evolve(worker, lease_left_seconds=None if until is None else lease_left(until, now))

    def note(self, worker_id: str, status: WorkerStatus, attempt: Attempt | None = None) -> None:
        """Record what a worker does; an unknown worker is created."""
        now = time.time()
        worker = self._records.get(worker_id) or Worker(worker_id)
        self._records[worker_id] = attrs.evolve(
            worker,
            status=status,
            last_dequeue_time=now if status == "busy" else worker.last_dequeue_time,
            last_busy_time=now if status == "busy" else worker.last_busy_time,
            last_idle_time=now if status == "idle" else worker.last_idle_time,
            current_rollout_id=None if attempt is None else attempt.rollout_id,
            current_attempt_id=None if attempt is None else attempt.attempt_id,
        )

    def note_changed(self, attempt: Attempt) -> None:
        """Record what a caller's change of an attempt means for its worker."""
        if attempt.worker_id is not None:
            status = worker_status(attempt.status)
            self.note(attempt.worker_id, status, attempt if status == "busy" else None)

    # Running attempts.

    def at_work(self, worker_id: str | None) -> dict[str, Entry]:
        """Return a worker's rollouts by attempt, for callers to add to; without a worker, an unused dict."""
        return {} if worker_id is None else self._at_work.setdefault(worker_id, {})

    def reported(self, attempt: Attempt) -> None:
        """Remove a reported attempt from its worker."""
        at_work = self._at_work.get(attempt.worker_id or "")
        if at_work is not None:
            at_work.pop(attempt.attempt_id, None)

    def reported_evicted(self, attempt_id: str) -> None:
        """Remove a reported attempt from any worker, because its evicted record no longer names one."""
        for at_work in self._at_work.values():
            at_work.pop(attempt_id, None)

    def note_idle(self) -> None:
        """Record workers without running attempts as idle."""
        for worker_id in [worker_id for worker_id, at_work in self._at_work.items() if not at_work]:
            del self._at_work[worker_id]
            self.note(worker_id, "idle")

    # Leases.

    def end_leases(self) -> None:
        """End every lease now."""
        self._leases = dict.fromkeys(self._leases, trio.current_time())

    def take_lost(self, now: float) -> list[LostWorker]:
        """Remove and return the workers whose leases have run out, and record their status as unknown."""
        over = [worker_id for worker_id, deadline in self._leases.items() if deadline <= now]
        for worker_id in over:
            del self._leases[worker_id]
            self.note(worker_id, "unknown")
        return [LostWorker(worker_id, self._at_work.pop(worker_id, {})) for worker_id in over]

    def next_lease_in(self, now: float) -> float | None:
        """Return the seconds until the next lease runs out, None without leases."""
        return min((deadline - now for deadline in self._leases.values()), default=None)
