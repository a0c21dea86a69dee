"""Workers as a store in memory knows them: their records, their leases, and what each has at work."""

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
    """A worker whose lease has run out, and its rollouts by the attempts it has not reported."""

    worker_id: str
    at_work: Mapping[str, Entry]


class Workers:
    """Keep workers by id."""

    def __init__(self) -> None:
        self._records: dict[str, Worker] = {}
        self._leases: dict[str, float] = {}
        """When leases run out, on Trio's clock."""
        self._at_work: dict[str, dict[str, Entry]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def put(self, worker: Worker) -> None:
        """Store a worker's record, and let its lease begin anew."""
        self._records[worker.worker_id] = worker
        if worker.lease_seconds is None:
            self._leases.pop(worker.worker_id, None)
        else:
            self._leases[worker.worker_id] = trio.current_time() + worker.lease_seconds

    def records(self) -> Iterator[Worker]:
        """Yield the records, with what is left of the leases."""
        now = trio.current_time()
        for worker in self._records.values():
            until = self._leases.get(worker.worker_id)
            yield attrs.evolve(worker, lease_left_seconds=None if until is None else lease_left(until, now))

    def note(self, worker_id: str, status: WorkerStatus, attempt: Attempt | None = None) -> None:
        """Note what a worker does; an unknown one is created."""
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
        """Note what an attempt says of its worker that was changed by hand."""
        if attempt.worker_id is not None:
            status = worker_status(attempt.status)
            self.note(attempt.worker_id, status, attempt if status == "busy" else None)

    # What they have at work.

    def at_work(self, worker_id: str | None) -> dict[str, Entry]:
        """Return a worker's rollouts by attempt, to be added to; those of no worker are not kept."""
        return {} if worker_id is None else self._at_work.setdefault(worker_id, {})

    def reported(self, attempt: Attempt) -> None:
        """Take an attempt off its worker's hands."""
        at_work = self._at_work.get(attempt.worker_id or "")
        if at_work is not None:
            at_work.pop(attempt.attempt_id, None)

    def reported_evicted(self, attempt_id: str) -> None:
        """Take an attempt off whoever has it, for its record is no longer there to say who."""
        for at_work in self._at_work.values():
            at_work.pop(attempt_id, None)

    def note_idle(self) -> None:
        """Note those as idle that have nothing at work any more."""
        for worker_id in [worker_id for worker_id, at_work in self._at_work.items() if not at_work]:
            del self._at_work[worker_id]
            self.note(worker_id, "idle")

    # Leases.

    def end_leases(self) -> None:
        """Let every lease run out now."""
        self._leases = dict.fromkeys(self._leases, trio.current_time())

    def take_lost(self, now: float) -> list[LostWorker]:
        """Return the workers whose leases have run out, and note that what they do is not known."""
        over = [worker_id for worker_id, deadline in self._leases.items() if deadline <= now]
        for worker_id in over:
            del self._leases[worker_id]
            self.note(worker_id, "unknown")
        return [LostWorker(worker_id, self._at_work.pop(worker_id, {})) for worker_id in over]

    def next_lease_in(self, now: float) -> float | None:
        """Return in how many seconds the next lease runs out, None if there is none."""
        return min((deadline - now for deadline in self._leases.values()), default=None)
