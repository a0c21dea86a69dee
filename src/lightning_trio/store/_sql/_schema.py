"""The tables and their migrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ..._ids import random_bits
from ..._version import __version__
from ._transaction import Columns, Transaction

ATTEMPTS_PER_ROLLOUT: Final = 1 << 20
"""An attempt's number is its rollout's times this plus its `sequence_id`, so that either is found without an index."""

INLINE_BYTES: Final = 2000
"""The longest task that is kept in its rollout's row, which is rewritten at each change of status."""

ROLLOUT: Final[Columns] = {
    "number": "int",
    "run_id": "text",
    "key": "text",
    "mode": "text",
    "status": "text",
    "resources_id": "text",
    "available_at": "real",
    "start_time": "real",
    "end_time": "real",
    "attempts": "int",
    "not_counted": "int",
    "lost": "int",
    "config": "text",
    "metadata": "text",
    "input": "text",
}
"""`run_id` is empty for None, so that keys are unique outside runs as well. `available_at` is NULL outside the queue, 0
for a rollout that can be claimed at once, else the time from which it can be claimed."""

ATTEMPT: Final[Columns] = {
    "number": "int",
    "rollout_number": "int",
    "attempt_id": "text",
    "sequence_id": "int",
    "status": "text",
    "worker_id": "text",
    "start_time": "real",
    "end_time": "real",
    "last_heartbeat_time": "real",
    "duration": "real",
    "final_reward": "real",
    "input_tokens": "int",
    "output_tokens": "int",
    "cost": "real",
    "last_span": "int",
    "last_sequence_id": "int",
    "metadata": "text",
    "error": "text",
}
"""`last_span` is the number of the last span stored before the outcome, 0 without one."""

TRACE: Final[Columns] = {"number": "int", "spans": "text"}
"""The spans of an attempt's outcome, all in one text. They have a table of their own, to which rows are only added,
because a row that grows moves its neighbours."""

TRACE_PART: Final[Columns] = {"attempt_number": "int", "part": "int", "body": "text"}
"""The spans of an outcome that is large, in parts that are read one by one; it has no row in `traces`."""

PART: Final[Columns] = {"number": "int", "part": "int", "body": "text"}
"""A part of a large value; `number` is its owner's, which has the outline."""

SPAN: Final[Columns] = {
    "number": "int",
    "attempt_number": "int",
    "previous": "int",
    "span_id": "text",
    "sequence_id": "int",
    "body": "text",
}
"""Spans stored before the outcome. `previous` is the number of the attempt's previous span, 0 for its first: a chain
costs less than an index, see `KnownSpans`. `sequence_id` is the assigned number, which the body may lack."""

RESOURCES: Final[Columns] = {
    "number": "int",
    "resources_id": "text",
    "version": "int",
    "create_time": "real",
    "update_time": "real",
    "stored": "int",
    "body": "text",
}

WORKER: Final[Columns] = {
    "number": "int",
    "worker_id": "text",
    "status": "text",
    "last_heartbeat_time": "real",
    "last_dequeue_time": "real",
    "last_busy_time": "real",
    "last_idle_time": "real",
    "current_rollout_id": "text",
    "current_attempt_id": "text",
    "lease_seconds": "real",
    "lease_until": "real",
    "heartbeat_stats": "text",
}

RUN: Final[Columns] = {
    "number": "int",
    "run_id": "text",
    "name": "text",
    "agent": "text",
    "takeovers": "int",
    "worker_id": "text",
    "body": "text",
}

TABLES: Final = (
    "rollouts",
    "payloads",
    "payload_parts",
    "attempts",
    "traces",
    "trace_parts",
    "spans",
    "resources",
    "resource_parts",
    "workers",
    "runs",
    "tallies",
    "meta",
)

Migration: TypeAlias = Callable[[Transaction], None]


def _create(transaction: Transaction) -> None:
    kinds = transaction.dialect.types

    def table(name: str, columns: Columns) -> None:
        fields = [f"{column} {kinds[kind]}" for column, kind in columns.items()]
        fields[0] += " PRIMARY KEY"
        transaction.execute(f"CREATE TABLE {name} ({', '.join(fields)})")

    table("rollouts", ROLLOUT)
    table("payloads", {"number": "int", "input": "text"})
    table("attempts", ATTEMPT)
    table("traces", TRACE)
    table("spans", SPAN)
    table("resources", RESOURCES)
    table("workers", WORKER)
    table("runs", RUN)
    text, integer, real = kinds["text"], kinds["int"], kinds["real"]
    narrow = transaction.dialect.narrow
    for statement in (
        f"CREATE TABLE meta (name {text} PRIMARY KEY, value {text}){narrow}",
        # Several rows (shards) per count, so that several writers do not wait for one row.
        f"CREATE TABLE tallies (run_id {text}, name {text}, shard {integer}, number {integer}, amount {real}, "
        f"PRIMARY KEY (run_id, name, shard)){narrow}",
        "CREATE INDEX queue ON rollouts (run_id, available_at, number) WHERE available_at IS NOT NULL",
        "CREATE UNIQUE INDEX keys ON rollouts (run_id, key) WHERE key IS NOT NULL",
        "CREATE INDEX at_work ON attempts (worker_id) WHERE end_time IS NULL",
        "CREATE UNIQUE INDEX resources_by_id ON resources (resources_id)",
        "CREATE INDEX resources_stored ON resources (stored)",
        "CREATE UNIQUE INDEX workers_by_id ON workers (worker_id)",
        "CREATE INDEX leases ON workers (lease_until) WHERE lease_until IS NOT NULL",
        "CREATE UNIQUE INDEX runs_by_id ON runs (run_id)",
    ):
        transaction.execute(statement)
    transaction.create_counters(("rollouts", "spans", "resources", "workers", "runs", "stored"))
    meta = {
        "created_by": f"lightning_trio {__version__}",
        "id_factor": str(random_bits(48) | 1),
        "id_offset": str(random_bits(48)),
    }
    for name, value in meta.items():
        transaction.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (name, value))


def _add_trace_parts(transaction: Transaction) -> None:
    kinds = transaction.dialect.types
    fields = ", ".join(f"{column} {kinds[kind]}" for column, kind in TRACE_PART.items())
    transaction.execute(f"CREATE TABLE trace_parts ({fields}, PRIMARY KEY (attempt_number, part))")


def _add_parts_of_values(transaction: Transaction) -> None:
    kinds = transaction.dialect.types
    fields = ", ".join(f"{column} {kinds[kind]}" for column, kind in PART.items())
    for table in ("payload_parts", "resource_parts"):
        transaction.execute(f"CREATE TABLE {table} ({fields}, PRIMARY KEY (number, part))")


MIGRATIONS: Final[Sequence[Migration]] = (_create, _add_trace_parts, _add_parts_of_values)
"""Each migrates a store from the version that is its index to the next. Append; never change a released one."""


def migrate(transaction: Transaction, version: int, migrations: Sequence[Migration]) -> int:
    """Migrate the tables from `version` to the newest, and return that version."""
    for migration in migrations[version:]:
        migration(transaction)
    return len(migrations)
