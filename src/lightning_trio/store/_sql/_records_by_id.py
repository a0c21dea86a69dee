"""Records whose ids callers choose: resources snapshots, workers and runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from ..._lifecycle import check_run
from ..._records import ResourcesUpdate, Run, Worker
from ..._serialization import decode_run, encode_resources, encode_run
from .._rollout_ids import RolloutIdCipher
from ._parts import insert_parts, remove_parts
from ._texts import check_text
from ._transaction import Transaction
from ._workers import encode_stats, put_worker

Kept: TypeAlias = ResourcesUpdate | Worker | Run


@attrs.frozen
class EncodedRecord:
    """A record and its values encoded as text; of large resources the outline, and its parts."""

    record: Kept
    body: str | None
    parts: Sequence[str] = ()


def encode_records(records: Sequence[Kept], limit: int) -> list[EncodedRecord]:
    """Encode records.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`, `check_text`.
    """
    return [_encode_record(record, limit) for record in records]


def _encode_record(record: Kept, limit: int) -> EncodedRecord:
    if isinstance(record, Worker):
        check_text("worker_id", record.worker_id)
        return EncodedRecord(record, encode_stats(record, limit))
    if isinstance(record, ResourcesUpdate):
        check_text("resources_id", record.resources_id)
        return EncodedRecord(record, *encode_resources(record.resources, limit))
    for name in ("run_id", "name", "agent", "worker_id"):
        check_text(name, getattr(record, name))
    return EncodedRecord(record, encode_run(record, limit))


def put(transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Sequence[EncodedRecord]]) -> list[list[Any]]:
    """Store records by their id; see `LightningStore.put`."""
    return [[_put(transaction, each) for each in call] for call in calls]


def _put(transaction: Transaction, each: EncodedRecord) -> Kept:
    record = each.record
    if isinstance(record, Worker):
        put_worker(transaction, record, each.body)
        return record
    if isinstance(record, Run):
        _put_run(transaction, record, each.body)
        return record
    return _put_resources(transaction, record, each)


def _put_run(transaction: Transaction, run: Run, body: str | None) -> None:
    worker_id = run.worker_id or ""
    values = (run.name, run.agent, run.takeovers, worker_id, body, run.run_id)
    # The decision of `check_run`, in SQL: two fits that take over a run at once are serialized by the row's lock.
    replaced = transaction.execute(
        "UPDATE runs SET name = ?, agent = ?, takeovers = ?, worker_id = ?, body = ? "
        "WHERE run_id = ? AND (takeovers < ? OR (takeovers = ? AND worker_id = ?))",
        (*values, run.takeovers, run.takeovers, worker_id),
    )
    if replaced:
        return
    for [known] in transaction.select({"body": "text"}, "FROM runs WHERE run_id = ?", (run.run_id,)):
        check_run(decode_run(known), run)
    transaction.execute(
        "INSERT INTO runs (number, name, agent, takeovers, worker_id, body, run_id) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (transaction.take_numbers("runs", 1), *values),
    )


def _put_resources(transaction: Transaction, update: ResourcesUpdate, each: EncodedRecord) -> ResourcesUpdate:
    resources_id = update.resources_id
    known = transaction.select(
        {"number": "int", "create_time": "real", "version": "int"},
        "FROM resources WHERE resources_id = ?",
        (resources_id,),
    )
    new = 0 if known else transaction.take_numbers("resources", 1)
    number, create_time, version = known[0] if known else (new, update.create_time, 0)
    stored = transaction.take_numbers("stored", 1)
    values = (version + 1, create_time, update.update_time, stored, each.body, resources_id)
    if known:
        remove_parts(transaction, "resource_parts", number)
        transaction.execute(
            "UPDATE resources SET version = ?, create_time = ?, update_time = ?, stored = ?, body = ? "
            "WHERE resources_id = ?",
            values,
        )
    else:
        transaction.execute(
            "INSERT INTO resources (number, version, create_time, update_time, stored, body, resources_id) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (number, *values),
        )
    insert_parts(transaction, "resource_parts", number, each.parts)
    return attrs.evolve(update, create_time=create_time, version=version + 1, resources=dict(update.resources))
