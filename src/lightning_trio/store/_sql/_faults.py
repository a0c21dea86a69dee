"""Faults in the tables that no operation causes: from a damaged disk, or from writes by another program."""

from __future__ import annotations

from collections.abc import Sequence

from .._rollout_ids import RolloutIdCipher
from ._transaction import Columns, Transaction

_SHOWN = 100
"""The most faults of a kind that are reported."""

_IN_QUEUE = "('queuing', 'requeuing')"


def find_faults(transaction: Transaction, ids: RolloutIdCipher, run_id: str | None) -> list[str]:
    """Return a sentence for each fault; see `LightningStore.find_faults`."""
    found = _queue_faults(transaction, ids, run_id)
    # Orphans belong to no run.
    return found if run_id is not None else [*found, *_orphans(transaction, ids)]


def _queue_faults(transaction: Transaction, ids: RolloutIdCipher, run_id: str | None) -> list[str]:
    of_run, parameters = ("", ()) if run_id is None else (" AND run_id = ?", (run_id,))
    columns: Columns = {"number": "int", "status": "text"}
    claimable = transaction.select(
        columns,
        f"FROM rollouts WHERE available_at IS NOT NULL AND status NOT IN {_IN_QUEUE}{of_run} LIMIT {_SHOWN}",
        parameters,
    )
    # A requeued rollout may be outside the queue, waiting for the runner that retries it.
    stuck = transaction.select(
        columns, f"FROM rollouts WHERE available_at IS NULL AND status = 'queuing'{of_run} LIMIT {_SHOWN}", parameters
    )
    return [
        *(f"rollout {ids.rollout_id(number)} is {status} and still in the queue" for number, status in claimable),
        *(f"rollout {ids.rollout_id(number)} is {status} and not in the queue" for number, status in stuck),
    ]


def _orphans(transaction: Transaction, ids: RolloutIdCipher) -> Sequence[str]:
    attempts = transaction.select(
        {"a.attempt_id": "text", "a.rollout_number": "int"},
        "FROM attempts a LEFT JOIN rollouts r ON r.number = a.rollout_number WHERE r.number IS NULL "
        f"ORDER BY a.number LIMIT {_SHOWN}",
    )
    found = [
        f"attempt {attempt_id} belongs to the rollout {ids.rollout_id(number)}, which does not exist"
        for attempt_id, number in attempts
    ]
    for table, key, owners, what in (
        ("traces", "number", "attempts", "spans"),
        ("trace_parts", "attempt_number", "attempts", "spans"),
        ("spans", "attempt_number", "attempts", "a span"),
        ("payloads", "number", "rollouts", "a task"),
        ("payload_parts", "number", "rollouts", "a part of a task"),
        ("resource_parts", "number", "resources", "a part of resources"),
    ):
        number = key if table == "trace_parts" else "number"
        rows = transaction.select(
            {f"t.{number}": "int"},
            f"FROM {table} t LEFT JOIN {owners} o ON o.number = t.{key} WHERE o.number IS NULL "
            f"ORDER BY t.{number} LIMIT {_SHOWN}",
        )
        owner = "snapshot" if owners == "resources" else owners.removesuffix("s")
        found += [f"{what} (number {number} of {table}) without an existing {owner}" for [number] in rows]
    return found
