"""A runner's lease on its attempts: one task renews it, and ends the leases of dead runners."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from .._concurrency import FlatNursery
from .._host import WALL_CLOCK, is_dead, own_process, process_here
from .._log import Log
from .._records import GIVE_BACK, Attempt, AttemptOutcome, ErrorRecord, Expiry, Worker
from ..store import Condition, LightningStore, Query
from ..tracing import as_runner

logger = Log("lightning_trio.runner")

_left_behind: Final[set[str]] = set()
"""Closed runners of this process that may not have ended their leases: with its process, an attempt seems alive."""

LEASE_SECONDS = 30.0
"""How long a runner may be silent before its rollouts go to other runners."""

_RENEWALS = 3
"""How often a lease is renewed in its duration, so that two renewals may fail or be late."""

_LAST_SECONDS = 5.0
"""How long ending the lease may take when the runner is cancelled."""


@asynccontextmanager
async def open_lease(
    store: LightningStore, worker_id: str, is_busy: Callable[[], bool], *, seconds: float = LEASE_SECONDS
) -> AsyncGenerator[None]:
    """Hold a lease on the attempts of `worker_id` until the block ends.

    One task renews it, whatever the number of attempts, and calls `LightningStore.expire` when a lease, its own or
    another runner's, may have expired.

    Args:
        store: the attempts' store.
        worker_id: the runner's id as a worker.
        is_busy: returns whether the runner has attempts.
        seconds: how long the lease lasts without being renewed.
    """
    await store.put([_heartbeat(Worker(worker_id), seconds, busy=False)])
    if _left_behind:
        await _end_left_behind(store)
    try:
        async with FlatNursery() as nursery:
            nursery.start_soon(_renew, store, worker_id, is_busy, seconds)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
    finally:
        # Until it is ended; the next runner that opens the store ends it otherwise.
        _left_behind.add(worker_id)
        with trio.move_on_after(_LAST_SECONDS, shield=True), as_runner():
            await _end_lease(store, worker_id)


async def _end_left_behind(store: LightningStore) -> None:
    """End the leases that closed runners of this process could not end in the store."""
    left = [worker for worker in await store.query_workers() if worker.worker_id in _left_behind]
    await end_leases(store, left)
    _left_behind.difference_update(worker.worker_id for worker in left)


async def _end_lease(store: LightningStore, worker_id: str) -> None:
    """End the lease, and requeue the rollouts of attempts whose outcomes could not be committed.

    If the store fails, the lease is left to expire: without a lease, the attempts would stay the worker's for ever.
    """
    try:
        held = await store.find(Query("attempts", (Condition("worker_id", {worker_id}), Condition("end_time", {None}))))
        if held:
            # Requeued, not lost: the store failed, the rollout did not kill its runner.
            await store.finish([_cancelled(attempt) for attempt in held])
            logger.warning("%d rollouts whose outcomes could not be committed go back to the queue", len(held))
        worker = Worker(worker_id, last_idle_time=time.time())
        await store.put([_heartbeat(worker, None, busy=False)])
        _left_behind.discard(worker_id)
    except Exception as exc:
        logger.warning(
            "runner %s could not end its lease (%s: %s); its rollouts go to other runners when the lease expires",
            worker_id,
            type(exc).__name__,
            exc,
        )


def _cancelled(attempt: Attempt) -> AttemptOutcome:
    error = ErrorRecord("RolloutCancelled", "its runner closed before its outcome was committed", "")
    return AttemptOutcome(attempt.rollout_id, attempt.attempt_id, "cancelled", time.time(), error=error, next=GIVE_BACK)


async def _renew(store: LightningStore, worker_id: str, is_busy: Callable[[], bool], seconds: float) -> None:
    interval = seconds / _RENEWALS
    renewed, steady = trio.current_time(), True
    with as_runner():
        while True:
            due = renewed + interval
            if steady:
                expiry = await store.expire()
                _log_lost(expiry)
                if expiry.next_in is not None:
                    due = min(due, trio.current_time() + expiry.next_in)
            await trio.sleep_until(due)
            WALL_CLOCK.note()
            known = await store.get_worker_by_id(worker_id) or Worker(worker_id)
            steady = _is_as_expected(known, renewed + seconds - trio.current_time(), interval)
            # The store may record a claim between the two calls, so the runner's own knowledge decides.
            await store.put([_heartbeat(known, seconds, busy=is_busy())])
            late = trio.current_time() - renewed - interval
            # Leases that have run out meanwhile may be those of living runners: they first have the time to renew them.
            steady = steady and late < interval
            renewed = trio.current_time()


def _is_as_expected(own: Worker, left: float, tolerance: float) -> bool:
    """Whether the runner's own lease lasts as long as it should; if not, the store's clock was set."""
    return abs((own.lease_left_seconds or 0.0) - max(left, 0.0)) <= tolerance


def _log_lost(expiry: Expiry) -> None:
    if expiry.requeued or expiry.failed:
        logger.warning(
            "a runner has died or lost contact: %d of its rollouts go back to the queue, %d have failed because "
            "they lost too many runners",
            len(expiry.requeued),
            len(expiry.failed),
        )


def _heartbeat(worker: Worker, seconds: float | None, *, busy: bool) -> Worker:
    return attrs.evolve(
        worker,
        status="busy" if busy else "idle",
        heartbeat_stats=own_process(),
        last_heartbeat_time=time.time(),
        lease_seconds=seconds,
    )


def is_alive(worker: Worker) -> bool:
    """Whether a worker's lease is valid and its process, if it is on this machine, is alive.

    Args:
        worker: as the store returns it, by whose clock leases expire.
    """
    left = worker.lease_left_seconds
    return left is not None and left > 0 and not is_of_dead_process(worker)


def is_of_dead_process(worker: Worker) -> bool:
    """Whether a worker's process ran on this machine and has ended."""
    stats = worker.heartbeat_stats or {}
    process = process_here(stats)
    return process is not None and is_dead(process, stats.get("started"))


def describe_worker(worker: Worker) -> str:
    """Return a worker's id, process and the time of its last heartbeat, for a message."""
    stats = worker.heartbeat_stats or {}
    lease, left = worker.lease_seconds, worker.lease_left_seconds
    state = "lease expired" if lease is None or left is None else f"last heartbeat {max(lease - left, 0.0):.0f} s ago"
    return f"{worker.worker_id} (process {stats.get('process')} on {stats.get('host')}, {state})"


async def end_leases(store: LightningStore, workers: Iterable[Worker]) -> None:
    """Requeue the rollouts of workers that are known to be dead."""
    over = [attrs.evolve(worker, lease_seconds=0.0) for worker in workers]
    if over:
        await store.put(over)
        await store.expire()
