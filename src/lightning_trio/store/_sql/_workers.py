"""Workers: their records, and the attempts that are lost with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..._lifecycle import lose_attempt
from ..._records import Attempt, Expiry, Worker
from ..._serialization import UNREADABLE, decode, encode_error, encode_mapping
from .._rollout_ids import RolloutIdCipher
from .._rules import keeps_attempts, lost_error
from ._rollout_state import end_attempts, load_states, write_states
from ._schema import WORKER
from ._transaction import Transaction

_OTHERS_SECONDS: Final = 0.2
"""When to check again an expired lease that another writer has locked."""

_KEPT_SHARE: Final = 1 / 3
"""When to check again a silent worker that keeps its attempts, as a share of its lease."""

_RECORDED: Final = (
    "status",
    "last_heartbeat_time",
    "last_dequeue_time",
    "last_busy_time",
    "last_idle_time",
    "current_rollout_id",
    "current_attempt_id",
    "lease_seconds",
    "lease_until",
    "heartbeat_stats",
)


def encode_stats(worker: Worker, limit: int) -> str | None:
    """Encode a worker's heartbeat statistics.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`.
    """
    stats = worker.heartbeat_stats
    return None if stats is None else encode_mapping(stats, "heartbeat_stats", limit)


def put_worker(transaction: Transaction, worker: Worker, stats: str | None) -> None:
    """Store a worker's record and restart its lease."""
    lease = worker.lease_seconds
    values = (
        worker.status,
        worker.last_heartbeat_time,
        worker.last_dequeue_time,
        worker.last_busy_time,
        worker.last_idle_time,
        worker.current_rollout_id,
        worker.current_attempt_id,
        lease,
        None if lease is None else transaction.steady_now() + lease,
        stats,
    )
    fields = ", ".join(f"{name} = ?" for name in _RECORDED)
    if not transaction.execute(f"UPDATE workers SET {fields} WHERE worker_id = ?", (*values, worker.worker_id)):
        columns = ", ".join(WORKER)
        transaction.execute(
            f"INSERT INTO workers ({columns}) VALUES ({', '.join('?' for _ in WORKER)})",
            (transaction.take_numbers("workers", 1), worker.worker_id, *values),
        )


def note_busy(transaction: Transaction, worker_id: str, attempt: Attempt) -> None:
    """Record in the summary that a worker runs an attempt."""
    transaction.summary.busy[worker_id] = attempt


def note_idle(transaction: Transaction, worker_ids: Iterable[str]) -> None:
    """Record in the summary that workers are idle, unless they run another attempt."""
    for worker_id in worker_ids:
        transaction.summary.idle[worker_id] = None


def write_notes(transaction: Transaction) -> None:
    """Write the summary's workers; to be called once, before the commit.

    Last, so that locks on workers are held only for a moment, and in one order for all writers, so that two cannot
    wait for each other.
    """
    busy, idle = transaction.summary.busy, transaction.summary.idle
    names = [(worker_id,) for worker_id in sorted(busy.keys() | idle)]
    if not names:
        return
    known = transaction.select_with_rows(
        {"worker_id": "text"},
        names,
        {"w.worker_id": "text"},
        # Locked by a separate statement: the next one sees what the previous holders of the lock wrote.
        f"FROM v JOIN workers w ON w.worker_id = v.worker_id ORDER BY w.worker_id{transaction.dialect.lock('w')}",
    )
    if len(known) < len(names):
        for worker_id in sorted({name for [name] in names} - {name for [name] in known}):
            idle_time = transaction.now() if worker_id in idle else None
            put_worker(transaction, Worker(worker_id, "idle", last_idle_time=idle_time), None)
    if busy:
        _write_busy(transaction, busy)
    if idle:
        transaction.with_rows(
            {"worker_id": "text", "now": "real"},
            [(worker_id, transaction.now()) for worker_id in sorted(idle)],
            "UPDATE workers SET status = 'idle', last_idle_time = v.now, current_rollout_id = NULL, "
            "current_attempt_id = NULL FROM v WHERE workers.worker_id = v.worker_id AND NOT EXISTS "
            "(SELECT 1 FROM attempts a WHERE a.worker_id = workers.worker_id AND a.end_time IS NULL)",
        )


def _write_busy(transaction: Transaction, busy: Mapping[str, Attempt]) -> None:
    now, steady = transaction.now(), transaction.steady_now()
    transaction.with_rows(
        {"worker_id": "text", "now": "real", "steady": "real", "rollout_id": "text", "attempt_id": "text"},
        [(name, now, steady, busy[name].rollout_id, busy[name].attempt_id) for name in sorted(busy)],
        # New work restarts a lease that has run out, as a heartbeat does: a busy worker must not be without one.
        "UPDATE workers SET status = 'busy', last_dequeue_time = v.now, last_busy_time = v.now, "
        "current_rollout_id = v.rollout_id, current_attempt_id = v.attempt_id, "
        "lease_until = coalesce(lease_until, v.steady + nullif(lease_seconds, 0)) FROM v "
        "WHERE workers.worker_id = v.worker_id",
    )


def set_idle(transaction: Transaction, worker_id: str) -> None:
    """Record that a worker is idle."""
    _set(transaction, worker_id, "idle")


def set_unknown(transaction: Transaction, worker_id: str) -> None:
    """Record that it is unknown what a worker does."""
    _set(transaction, worker_id, "unknown")


def _set(transaction: Transaction, worker_id: str, status: str) -> None:
    if not _known(transaction, worker_id):
        put_worker(transaction, Worker(worker_id), None)
    idle = transaction.now() if status == "idle" else None
    transaction.execute(
        "UPDATE workers SET status = ?, last_idle_time = coalesce(?, last_idle_time), current_rollout_id = NULL, "
        "current_attempt_id = NULL WHERE worker_id = ?",
        (status, idle, worker_id),
    )


def _known(transaction: Transaction, worker_id: str) -> bool:
    return transaction.value("number", "int", "FROM workers WHERE worker_id = ?", (worker_id,)) is not None


def expire(transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[None]) -> list[Expiry]:
    """End the attempts of workers whose lease has run out; see `LightningStore.expire`."""
    return [_expire(transaction, ids) for _ in calls]


def _identity(stats: str | None) -> Mapping[str, Any] | None:
    """Return a worker's heartbeat statistics, None if it has none or they cannot be read."""
    try:
        found = None if stats is None else decode(stats)
    except UNREADABLE:
        return None
    return found if isinstance(found, dict) else None


def _expire(transaction: Transaction, ids: RolloutIdCipher) -> Expiry:
    now = transaction.steady_now()
    # Only a clock set back leaves a lease longer than it was granted.
    transaction.execute(
        "UPDATE workers SET lease_until = ? + lease_seconds WHERE lease_until > ? + lease_seconds + 1", (now, now)
    )
    requeued: list[str] = []
    failed: list[str] = []
    silent = transaction.select(
        {"worker_id": "text", "lease_until": "real", "lease_seconds": "real", "heartbeat_stats": "text"},
        "FROM workers WHERE lease_until IS NOT NULL AND lease_until <= ? ORDER BY number"
        f"{transaction.dialect.skip_locked('workers')}",
        (now,),
    )
    waits: list[float] = []
    for worker_id, until, lease, stats in silent:
        if lease and keeps_attempts(_identity(stats), now - until):
            waits.append(lease * _KEPT_SHARE)
        else:
            _lose_worker(transaction, ids, worker_id, requeued, failed)
    kept = f" AND lease_until > {now!r}" if waits else ""
    next_at = transaction.value("min(lease_until)", "real", f"FROM workers WHERE lease_until IS NOT NULL{kept}")
    if next_at is not None:
        # An expired lease that is still stored is being handled by another writer.
        waits.append(next_at - now if next_at > now else _OTHERS_SECONDS)
    return Expiry(requeued, failed, min(waits, default=None))


def _lose_worker(
    transaction: Transaction, ids: RolloutIdCipher, worker_id: str, requeued: list[str], failed: list[str]
) -> None:
    """End the attempts of a worker, and add their rollouts to the lists."""
    numbers = transaction.select(
        {"rollout_number": "int"},
        "FROM attempts WHERE worker_id = ? AND end_time IS NULL ORDER BY number",
        (worker_id,),
    )
    states = load_states(transaction, ids, [number for [number] in numbers])
    lost = [
        (state, move)
        for state in states.values()
        if state.worker_id == worker_id and state.attempt_id is not None
        if (move := lose_attempt(state, state.attempt_id)) is not None
    ]
    error = encode_error(lost_error(worker_id))
    end_attempts(transaction, [(state, move.attempt_status, error) for state, move in lost])
    for state, move in lost:
        state.move_on(transaction, move)
        (requeued if move.status == "requeuing" else failed).append(state.rollout_id)
    write_states(transaction, [state for state, _ in lost])
    transaction.execute("UPDATE workers SET lease_until = NULL WHERE worker_id = ?", (worker_id,))
    set_unknown(transaction, worker_id)
