"""Queries: the database filters, sorts and pages by columns; `select` does the rest on records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..._errors import Evicted
from ..._records import Attempt, ErrorRecord, PaginatedResult, ResourcesUpdate, Run, Worker
from ..._serialization import (
    UNREADABLE,
    Unreadable,
    decode,
    decode_error,
    decode_parts,
    decode_resources,
    decode_run,
    decode_spans,
    reason_of,
    unreadable,
)
from ..._spans import Span, Usage, with_number
from .._query import Condition, Query, select
from .._rollout_ids import RolloutIdCipher
from .._rules import lease_left
from ._claims import queued_runs
from ._known_spans import CHAIN
from ._parts import part_reader
from ._rollout_state import ROLLOUT_RECORD, make_rollout, missing_error, rollout_fields, unreadable_fields
from ._schema import ATTEMPTS_PER_ROLLOUT, WORKER
from ._transaction import Columns, Transaction

_ATTEMPT_RECORD: Final[Columns] = {
    "a.rollout_number": "int",
    "a.attempt_id": "text",
    "a.sequence_id": "int",
    "a.start_time": "real",
    "a.end_time": "real",
    "a.status": "text",
    "a.worker_id": "text",
    "a.last_heartbeat_time": "real",
    "a.metadata": "text",
    "a.error": "text",
    "a.final_reward": "real",
    "a.duration": "real",
    "a.input_tokens": "int",
    "a.output_tokens": "int",
    "a.cost": "real",
}
_SNAPSHOT: Final[Columns] = {
    "number": "int",
    "resources_id": "text",
    "create_time": "real",
    "update_time": "real",
    "version": "int",
    "body": "text",
}
_MOST_ROLLOUTS: Final = (1 << 63) // ATTEMPTS_PER_ROLLOUT - 1
_JOIN_LATEST: Final = f"LEFT JOIN attempts a ON a.number = r.number * {ATTEMPTS_PER_ROLLOUT} + r.attempts"

_FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "rollouts": {
        name: f"r.{name}" for name in ("mode", "resources_id", "status", "start_time", "end_time", "key", "run_id")
    },
    "attempts": {
        name: f"a.{name}"
        for name in (
            "attempt_id",
            "sequence_id",
            "status",
            "worker_id",
            "start_time",
            "end_time",
            "last_heartbeat_time",
            "final_reward",
            "duration",
        )
    },
}
"""The fields of records that are columns, for filters and sorting in SQL."""


class _Where(NamedTuple):
    """A condition in SQL and its parameters."""

    sql: str
    parameters: tuple[Any, ...]


def find(transaction: Transaction, ids: RolloutIdCipher, query: Query) -> PaginatedResult[Any]:
    """Run a query; see `LightningStore.find`."""
    if query.table in ("rollouts", "attempts"):
        return _find_rows(transaction, ids, query)
    if query.table == "spans":
        return select(_spans(transaction, ids, query), query)
    if query.table == "resources":
        return select(_resources(transaction, query), query)
    if query.table == "workers":
        return select(_workers(transaction), query)
    return select(_runs(transaction), query)


def _runs(transaction: Transaction) -> list[Run]:
    found: list[Run] = []
    for row in transaction.select(_RUN, "FROM runs ORDER BY number"):
        *known, body = row
        try:
            found.append(decode_run(body, known[0]))
        except UNREADABLE as exc:
            found.append(_unreadable_run(known, str(exc)))
    return found


def _unreadable_run(columns: Sequence[Any], reason: str) -> Run:
    """Return what the columns of a run say whose record cannot be read."""
    run_id, name, agent, takeovers, worker_id = columns
    return Run(run_id, name, agent, takeovers=takeovers, worker_id=worker_id or None, state=Unreadable(reason))


_RUN: Final[Columns] = {
    "run_id": "text",
    "name": "text",
    "agent": "text",
    "takeovers": "int",
    "worker_id": "text",
    "body": "text",
}


def _asked_for(transaction: Transaction, ids: RolloutIdCipher, query: Query) -> list[int] | None:
    """Return the numbers of the rollouts that a query names, None for all."""
    rollout_ids = query.required("rollout_id")
    if rollout_ids is None:
        return None
    numbers = sorted({number for each in rollout_ids if (number := ids.number(each)) is not None})
    if len(rollout_ids) == 1:
        # Callers may ask for many rollouts long after their end; only a query for a single id raises `Evicted`.
        [rollout_id] = rollout_ids
        if not numbers or transaction.value("number", "int", "FROM rollouts WHERE number = ?", numbers) is None:
            raise_if_evicted(transaction, ids, rollout_id)
    return numbers


def raise_if_evicted(transaction: Transaction, ids: RolloutIdCipher, rollout_id: str) -> None:
    """Raise an error if a rollout was removed.

    Raises:
        Evicted: it was.
    """
    error = missing_error(transaction, ids, rollout_id)
    if isinstance(error, Evicted):
        raise error


# Rollouts and attempts.


def _find_rows(transaction: Transaction, ids: RolloutIdCipher, query: Query) -> PaginatedResult[Any]:
    numbers = _asked_for(transaction, ids, query)
    where = _where(query, transaction.dialect.position)
    order = _order(query)
    if where is None or order is None or numbers is not None:
        # Rollouts named by id are few; a filter by a field without a column needs the records.
        records = _records(transaction, ids, query, numbers)
        return select(records, query)
    alias, table = ("r", "rollouts r") if query.table == "rollouts" else ("a", "attempts a")
    total: int = transaction.value("count(*)", "int", f"FROM {table} WHERE {where.sql}", where.parameters)
    limit = total if query.limit < 0 else query.limit
    tail = f"{order} LIMIT ? OFFSET ?"
    parameters = (*where.parameters, limit, query.offset)
    page = transaction.select({f"{alias}.number": "int"}, f"FROM {table} WHERE {where.sql} {tail}", parameters)
    wanted = [number for [number] in page]
    read = _rollouts if query.table == "rollouts" else _attempts
    found = read(transaction, ids, wanted)
    return PaginatedResult([found[number] for number in wanted], query.limit, query.offset, total)


def _records(
    transaction: Transaction, ids: RolloutIdCipher, query: Query, numbers: Sequence[int] | None
) -> Iterable[Any]:
    if query.table == "rollouts":
        if numbers is None:
            numbers = [number for [number] in transaction.select({"number": "int"}, "FROM rollouts ORDER BY number")]
        found = _rollouts(transaction, ids, numbers)
    elif numbers is None:
        every = [number for [number] in transaction.select({"number": "int"}, "FROM attempts ORDER BY number")]
        found = _attempts(transaction, ids, every)
    else:
        found = _attempts(transaction, ids, _attempts_of(transaction, numbers))
    return [found[number] for number in sorted(found)]


def _attempts_of(transaction: Transaction, rollouts: Sequence[int]) -> list[int]:
    rows = transaction.select_with_rows(
        {"number": "int"},
        # A foreign id may decode to a number so large that its attempts' numbers would overflow.
        [(number,) for number in rollouts if number < _MOST_ROLLOUTS],
        {"a.number": "int"},
        f"FROM v JOIN attempts a ON a.number > v.number * {ATTEMPTS_PER_ROLLOUT} "
        f"AND a.number < (v.number + 1) * {ATTEMPTS_PER_ROLLOUT}",
    )
    return [number for [number] in rows]


def _rollouts(transaction: Transaction, ids: RolloutIdCipher, numbers: Sequence[int]) -> dict[int, Any]:
    width = len(ROLLOUT_RECORD)
    rows = transaction.select_with_rows(
        {"number": "int"},
        [(number,) for number in numbers],
        {**ROLLOUT_RECORD, **_ATTEMPT_RECORD},
        f"FROM v JOIN rollouts r ON r.number = v.number {_JOIN_LATEST}",
    )
    found: dict[int, Any] = {}
    for row in rows:
        attempt = None if row[width] is None else _attempt(ids, row[width:])
        try:
            fields = rollout_fields(transaction, ids, row[:width])
        except UNREADABLE as exc:
            fields = unreadable_fields(transaction, ids, row[:width], reason_of(exc))
        found[row[0]] = make_rollout(fields, attempt)
    return found


def _attempts(transaction: Transaction, ids: RolloutIdCipher, numbers: Sequence[int]) -> dict[int, Any]:
    rows = transaction.select_with_rows(
        {"number": "int"},
        [(number,) for number in numbers],
        {"a.number": "int", **_ATTEMPT_RECORD},
        "FROM v JOIN attempts a ON a.number = v.number",
    )
    return {row[0]: _attempt(ids, row[1:]) for row in rows}


def _attempt(ids: RolloutIdCipher, row: Sequence[Any]) -> Attempt:
    number, attempt_id, sequence_id, start, end, status, worker_id, heartbeat, metadata, error, *rest = row
    reward, duration, input_tokens, output_tokens, cost = rest
    read: tuple[Mapping[str, Any] | None, ErrorRecord | None]
    try:
        read = None if metadata is None else decode(metadata), decode_error(error)
    except UNREADABLE as exc:
        unread = unreadable(f"attempt {attempt_id} of rollout {ids.rollout_id(number)}", exc)
        read = Unreadable(str(unread)), None
    return Attempt(
        rollout_id=ids.rollout_id(number),
        attempt_id=attempt_id,
        sequence_id=sequence_id,
        start_time=start,
        end_time=end,
        status=status,
        worker_id=worker_id,
        last_heartbeat_time=heartbeat,
        metadata=read[0],
        error=read[1],
        final_reward=reward,
        duration=duration,
        usage=Usage(input_tokens, output_tokens, cost),
    )


def _where(query: Query, position: str) -> _Where | None:
    """Return a query's conditions in SQL, None if a field is not a column."""
    fields = _FIELDS[query.table]
    parts: list[_Where] = []
    for condition in query.must:
        if condition.field not in fields:
            return None
        parts.append(_condition(condition, fields[condition.field], position))
    alternatives: list[_Where] = []
    for condition in query.conditions:
        if condition.field not in fields:
            return None
        alternatives.append(_condition(condition, fields[condition.field], position))
    if alternatives:
        joined = f" {query.logic} ".join(part.sql for part in alternatives)
        parts.append(_Where(f"({joined})", tuple(each for part in alternatives for each in part.parameters)))
    if not parts:
        return _Where("1 = 1", ())
    return _Where(" AND ".join(part.sql for part in parts), tuple(each for part in parts for each in part.parameters))


def _condition(condition: Condition, column: str, position: str) -> _Where:
    if condition.within is None:
        # Not LIKE, which ignores case in SQLite.
        return _Where(f"coalesce({position}({column}, ?), 0) > 0", (condition.contains,))
    values = _stored(condition.within, column)
    known = tuple(value for value in values if value is not None)
    parts: list[str] = []
    if known:
        parts.append(f"{column} IN ({', '.join('?' for _ in known)})")
    if len(known) < len(values):
        parts.append(f"{column} IS NULL")
    return _Where(f"({' OR '.join(parts)})" if parts else "1 = 0", known)


def _stored(values: Collection[Any], column: str) -> list[Any]:
    if column == "r.run_id":
        return sorted("" if value is None else value for value in values)
    return sorted(values, key=lambda value: (value is not None, value))


def _order(query: Query) -> str | None:
    """Return a query's order in SQL, None if the field is not a column."""
    alias = "r" if query.table == "rollouts" else "a"
    direction = "DESC" if query.sort_order == "desc" else "ASC"
    creation = f"{alias}.number {direction}"
    if query.sort_by is None:
        return f"ORDER BY {creation}"
    column = _FIELDS[query.table].get(query.sort_by)
    if column is None:
        return None
    # As in `select`: a missing time sorts last, other missing values first.
    missing_last = "1" if query.sort_by.endswith("_time") else "0"
    there = "0" if missing_last == "1" else "1"
    empty = f"{column} = ''" if column == "r.run_id" else f"{column} IS NULL"
    rank = f"CASE WHEN {empty} THEN {missing_last} ELSE {there} END"
    return f"ORDER BY {rank} {direction}, {column} {direction}, {creation}"


# Spans, resources, workers.


def _spans(transaction: Transaction, ids: RolloutIdCipher, query: Query) -> list[Span]:
    rollouts = _asked_for(transaction, ids, query)
    if rollouts is None:
        attempts = [n for [n] in transaction.select({"number": "int"}, "FROM attempts ORDER BY number")]
    else:
        attempts = _attempts_of(transaction, rollouts)
    wanted = query.required("attempt_id")
    kept = transaction.select_with_rows(
        {"number": "int"},
        [(number,) for number in sorted(attempts)],
        {
            "a.number": "int",
            "a.rollout_number": "int",
            "a.attempt_id": "text",
            "a.last_span": "int",
            "t.spans": "text",
        },
        "FROM v JOIN attempts a ON a.number = v.number LEFT JOIN traces t ON t.number = v.number",
    )
    streamed: dict[int, list[tuple[int, str]]] = {}
    for number, _, sequence_id, body in sorted(
        transaction.select_with_rows(
            {"number": "int"},
            [(row[0],) for row in kept if row[3]],
            {"s.attempt_number": "int", "s.number": "int", "s.sequence_id": "int", "s.body": "text"},
            "FROM chain JOIN spans s ON s.number = chain.number",
            CHAIN,
        )
    ):
        streamed.setdefault(number, []).append((sequence_id, body))
    parts = _count_parts(transaction, [row[0] for row in kept if row[4] is None])
    found: list[Span] = []
    for number, rollout_number, attempt_id, _, text in sorted(kept):
        if wanted is not None and attempt_id not in wanted:
            continue
        rollout_id = ids.rollout_id(rollout_number)
        for sequence_id, body in streamed.get(number, ()):
            [span] = decode_spans(body, rollout_id, attempt_id)
            found.append(span if span.sequence_id == sequence_id else with_number(span, sequence_id))
        if text is not None:
            found += decode_spans(text, rollout_id, attempt_id)
        elif number in parts:
            found += decode_parts(_parts(transaction, number, parts[number]), rollout_id, attempt_id)
    return found


def _count_parts(transaction: Transaction, attempts: Sequence[int]) -> dict[int, int]:
    """Return the number of parts of the attempts whose spans are stored in parts."""
    rows = transaction.select_with_rows(
        {"number": "int"},
        [(number,) for number in attempts],
        {"p.attempt_number": "int", "count(*)": "int"},
        "FROM v JOIN trace_parts p ON p.attempt_number = v.number GROUP BY p.attempt_number",
    )
    counts: dict[int, int] = {row[0]: row[1] for row in rows}
    return counts


def _parts(transaction: Transaction, attempt: int, count: int) -> Iterable[str]:
    for part in range(count):
        yield transaction.value(
            "body", "text", "FROM trace_parts WHERE attempt_number = ? AND part = ?", (attempt, part)
        )


def _resources(transaction: Transaction, query: Query) -> list[ResourcesUpdate]:
    wanted = query.required("resources_id")
    if wanted is not None and len(wanted) == 1:
        rows = transaction.select(_SNAPSHOT, "FROM resources WHERE resources_id = ?", list(wanted))
    else:
        rows = transaction.select(_SNAPSHOT, "FROM resources ORDER BY number")
    return [_make_resources(transaction, row) for row in rows]


def _make_resources(transaction: Transaction, row: Sequence[Any]) -> ResourcesUpdate:
    number, resources_id, create_time, update_time, version, body = row
    try:
        resources = decode_resources(body, part_reader(transaction, "resource_parts", number))
        return ResourcesUpdate(resources_id, create_time, update_time, version, resources)
    except UNREADABLE as exc:
        raise unreadable(f"the resources {resources_id}", exc) from exc


def latest_resources(transaction: Transaction) -> ResourcesUpdate | None:
    """Return the snapshot stored last; see `LightningStore.get_latest_resources`."""
    rows = transaction.select(
        _SNAPSHOT,
        "FROM resources ORDER BY stored DESC LIMIT 1",
    )
    return _make_resources(transaction, rows[0]) if rows else None


def _workers(transaction: Transaction) -> list[Worker]:
    found: list[Worker] = []
    for row in transaction.select(WORKER, "FROM workers ORDER BY number"):
        fields = dict(zip(WORKER, row, strict=True))
        stats = fields["heartbeat_stats"]
        try:
            fields["heartbeat_stats"] = None if stats is None else decode(stats)
        except UNREADABLE as exc:
            fields["heartbeat_stats"] = Unreadable(reason_of(exc))
        del fields["number"]
        until = fields.pop("lease_until")
        fields["lease_left_seconds"] = None if until is None else lease_left(until, transaction.steady_now())
        found.append(Worker(**fields))
    return found


# Queries for waits.


def unfinished(transaction: Transaction, ids: RolloutIdCipher, rollout_ids: Collection[str]) -> set[str]:
    """Return those of the rollouts that exist and have not ended."""
    numbers = [(number,) for each in rollout_ids if (number := ids.number(each)) is not None]
    rows = transaction.select_with_rows(
        {"number": "int"},
        numbers,
        {"r.number": "int"},
        "FROM v JOIN rollouts r ON r.number = v.number WHERE r.status NOT IN ('succeeded', 'failed', 'cancelled')",
    )
    return {ids.rollout_id(number) for [number] in rows}


class QueueState(NamedTuple):
    """Whether a rollout can be claimed, and in how many seconds the next one can; None if none is queued."""

    ready: bool
    due_in: float | None


def queue_state(transaction: Transaction, run_id: str | None) -> QueueState:
    """Return whether a rollout can be claimed, and when the next one can."""
    soonest: float | None = None
    for each in queued_runs(transaction) if run_id is None else [run_id]:
        first: float | None = transaction.value(
            "available_at",
            "real",
            "FROM rollouts WHERE available_at IS NOT NULL AND run_id = ? ORDER BY available_at LIMIT 1",
            (each,),
        )
        if first is not None:
            soonest = first if soonest is None else min(first, soonest)
    if soonest is None:
        return QueueState(False, None)
    wait = soonest - transaction.steady_now() if soonest > 0 else 0.0
    return QueueState(wait <= 0, max(wait, 0.0))
