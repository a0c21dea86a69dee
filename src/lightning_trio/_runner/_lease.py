"""A runner's lease on its attempts: renewed by one task, which also ends those of runners that have died."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

import attrs
import trio

from .._concurrency import FlatNursery
from .._host import is_dead, own_process
from .._records import GIVE_BACK, Attempt, AttemptOutcome, ErrorRecord, Worker
from ..store import Condition, LightningStore, Query

logger = logging.getLogger("lightning_trio.runner")

LEASE_SECONDS = 30.0
"""How long a runner may be silent before its rollouts go to another."""

_RENEWALS = 3
"""How often a lease is renewed in its time: two renewals may fail or come late."""

_LAST_SECONDS = 5.0
"""How long ending the lease may take when the runner is cancelled."""


@asynccontextmanager
async def open_lease(
    store: LightningStore, worker_id: str, is_busy: Callable[[], bool], *, seconds: float = LEASE_SECONDS
) -> AsyncGenerator[None]:
    """Hold `worker_id`'s attempts on a lease until the block ends.

    One task renews it, whatever the number of attempts, and calls `LightningStore.expire` when a lease, its own or
    another runner's, may have run out.

    Args:
        store: where the attempts are.
        worker_id: the runner's id as a worker.
        is_busy: tells whether it has attempts.
        seconds: how long the lease lasts without being renewed.
    """
    await store.put([_heartbeat(Worker(worker_id), seconds, busy=False)])
    try:
        async with FlatNursery() as nursery:
            nursery.start_soon(_renew, store, worker_id, is_busy, seconds)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(_LAST_SECONDS, shield=True):
            await _end_lease(store, worker_id)


async def _end_lease(store: LightningStore, worker_id: str) -> None:
    """End the lease and give back what the worker still holds, as it does where an outcome could not be committed.

    Where the store fails, the lease is left to run out: without one, the attempts would be the worker's for ever.
    """
    try:
        held = await store.find(Query("attempts", (Condition("worker_id", {worker_id}), Condition("end_time", {None}))))
        if held:
            # Given back, not lost: it was the store that failed, not the rollout that killed its runner.
            await store.finish([_cancelled(attempt) for attempt in held])
            logger.warning("%d rollouts whose attempts came to nothing go back to the queue", len(held))
        worker = Worker(worker_id, last_idle_time=time.time())
        await store.put([_heartbeat(worker, None, busy=False)])
    except Exception as exc:
        logger.warning(
            "runner %s could not give its lease back (%s: %s); what it holds goes to others when the lease runs out",
            worker_id,
            type(exc).__name__,
            exc,
        )


def _cancelled(attempt: Attempt) -> AttemptOutcome:
    error = ErrorRecord("RolloutCancelled", "its runner closed before what came of it was committed", "")
    return AttemptOutcome(attempt.rollout_id, attempt.attempt_id, "cancelled", time.time(), error=error, next=GIVE_BACK)


async def _renew(store: LightningStore, worker_id: str, is_busy: Callable[[], bool], seconds: float) -> None:
    due = trio.current_time() + seconds / _RENEWALS
    while True:
        if trio.current_time() >= due:
            known = await store.get_worker_by_id(worker_id) or Worker(worker_id)
            # The store may note a claim between the two calls, hence what the runner knows itself.
            await store.put([_heartbeat(known, seconds, busy=is_busy())])
            due = trio.current_time() + seconds / _RENEWALS
        expiry = await store.expire()
        if expiry.requeued or expiry.failed:
            logger.warning(
                "a runner has died or been cut off: %d of its rollouts go back to the queue, %d have failed for losing "
                "too many runners",
                len(expiry.requeued),
                len(expiry.failed),
            )
        wait = due - trio.current_time()
        await trio.sleep(max(0.0, wait if expiry.next_in is None else min(wait, expiry.next_in)))


def _heartbeat(worker: Worker, seconds: float | None, *, busy: bool) -> Worker:
    return attrs.evolve(
        worker,
        status="busy" if busy else "idle",
        heartbeat_stats=own_process(),
        last_heartbeat_time=time.time(),
        lease_seconds=seconds,
    )


def is_alive(worker: Worker) -> bool:
    """Tell whether a worker's lease lasts and, if it is of this machine, its process does.

    Args:
        worker: as the store gives it, by whose clock leases run out.
    """
    left = worker.lease_left_seconds
    return left is not None and left > 0 and not is_of_dead_process(worker)


def is_of_dead_process(worker: Worker) -> bool:
    """Tell whether a worker's process ran on this machine and is gone."""
    stats = worker.heartbeat_stats or {}
    own = own_process()
    process = stats.get("process")
    # A number of another machine's, or of another container's, says nothing here.
    if not isinstance(process, int) or any(stats.get(name) != own.get(name) for name in ("host", "boot", "namespace")):
        return False
    return is_dead(process, stats.get("started"))


def describe_worker(worker: Worker) -> str:
    """Say who a worker is and when it was heard of."""
    stats = worker.heartbeat_stats or {}
    lease, left = worker.lease_seconds, worker.lease_left_seconds
    age = "long ago" if lease is None or left is None else f"{max(lease - left, 0.0):.0f} s ago"
    return f"{worker.worker_id} (process {stats.get('process')} on {stats.get('host')}, heard of {age})"


async def end_leases(store: LightningStore, workers: Iterable[Worker]) -> None:
    """Give the rollouts of workers that are known to be dead back to the queue at once."""
    over = [attrs.evolve(worker, lease_seconds=0.0) for worker in workers]
    if over:
        await store.put(over)
        await store.expire()
