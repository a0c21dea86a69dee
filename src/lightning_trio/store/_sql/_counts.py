"""Counts, updated by every transaction, so that reading them takes the same time for any number of rollouts."""

from __future__ import annotations

from typing import Final

from ..._records import RolloutMode, RunSummary, StoreStatistics
from ..._spans import MOST, MOST_INT, Usage, bounded, bounded_int
from .._run_counts import RunCounts
from ._schema import ATTEMPTS_PER_ROLLOUT
from ._transaction import Columns, Transaction

_TALLY: Final[Columns] = {"run_id": "text", "name": "text", "shard": "int", "number": "int", "amount": "real"}


_ADD_NUMBERS: Final = (
    f"CASE WHEN excluded.number > 0 THEN CASE WHEN tallies.number > {MOST_INT} - excluded.number THEN {MOST_INT} "
    "ELSE tallies.number + excluded.number END "
    f"ELSE CASE WHEN tallies.number < -{MOST_INT} - excluded.number THEN -{MOST_INT} "
    "ELSE tallies.number + excluded.number END END"
)
# A sum that was infinite before sums had bounds is NULL in SQLite once it met its opposite.
_ADD_AMOUNTS: Final = (
    "CASE WHEN excluded.amount > 0 THEN CASE WHEN coalesce(tallies.amount, 0) >= ? - excluded.amount THEN ? "
    "ELSE coalesce(tallies.amount, 0) + excluded.amount END "
    "ELSE CASE WHEN coalesce(tallies.amount, 0) <= ? - excluded.amount THEN ? "
    "ELSE coalesce(tallies.amount, 0) + excluded.amount END END"
)
"""Sums that stay in range: a sum out of range is an error in PostgreSQL, and infinite or a float in SQLite."""

_PART: Final = 1 << 32
_SCALE: Final = 2.0**704
_SCALED: Final = f" / {_PART}" * 22
"""Divides by `_SCALE`, exactly."""


def _number_parts(column: str) -> Columns:
    """Return columns that sum up an integer column in two parts, which stay in range."""
    return {f"sum({column} / {_PART})": "int", f"sum({column} - {column} / {_PART} * {_PART})": "int"}


def _amount_parts(column: str) -> Columns:
    """Return columns that sum up a float column in two parts, which stay in range."""
    # Only large floats are divided, because PostgreSQL refuses to make a small one 0; and by as much as makes SQLite
    # return them exactly.
    return {
        f"sum(CASE WHEN abs({column}) < 1e300 THEN {column} ELSE 0 END)": "real",
        f"sum(CASE WHEN abs({column}) >= 1e300 THEN {column}{_SCALED} ELSE 0 END)": "real",
    }


def _number(high: float, low: float) -> int:
    return bounded_int(int(high) * _PART + int(low))


def _amount(small: float | None, large: float | None) -> float:
    return bounded((small or 0.0) + (large or 0.0) * _SCALE)


def add_counts(transaction: Transaction, shard: int) -> None:
    """Add a transaction's counts to the stored ones; to be called once, last before the commit."""
    for run_id, name in sorted(transaction.summary.uncounted):
        _sum_up_again(transaction, run_id, name)
    numbers, amounts = transaction.summary.numbers, transaction.summary.amounts
    # In one order for all writers, so that two cannot wait for each other.
    rows = [
        (*key, shard, bounded_int(numbers.get(key, 0)), amounts.get(key, 0.0))
        for key in sorted(numbers.keys() | amounts)
    ]
    if rows:
        columns = ", ".join(_TALLY)
        transaction.with_rows(
            _TALLY,
            rows,
            # SQLite's parser also needs `WHERE`, or it reads ON as part of a join.
            f"INSERT INTO tallies ({columns}) SELECT {columns} FROM v WHERE run_id IS NOT NULL "
            f"ON CONFLICT (run_id, name, shard) DO UPDATE SET number = {_ADD_NUMBERS}, amount = {_ADD_AMOUNTS}",
            (MOST, MOST, -MOST, -MOST),
        )


def _sum_up_again(transaction: Transaction, run_id: str, name: str) -> None:
    """Sum up rewards from the records: a difference of floats would keep the rounding error of the larger sum."""
    summary = transaction.summary
    removed = transaction.value("sum(number)", "int", "FROM tallies WHERE run_id = ? AND name = 'removed'", (run_id,))
    if removed or summary.numbers.get((run_id, "removed")):
        return
    # Locked first: another writer that has counted a reward has committed its record by then, or adds it later.
    transaction.select(
        {"shard": "int"},
        f"FROM tallies WHERE run_id = ? AND name = ? ORDER BY shard{transaction.dialect.lock('tallies')}",
        (run_id, name),
    )
    [[number, small, large]] = transaction.select(
        {"count(*)": "int", **_amount_parts("a.final_reward")},
        f"FROM rollouts r JOIN attempts a ON a.number = r.number * {ATTEMPTS_PER_ROLLOUT} + r.attempts "
        "WHERE r.run_id = ? AND coalesce(r.mode, '') = ? AND r.status IN ('succeeded', 'failed', 'cancelled') "
        "AND a.final_reward IS NOT NULL",
        (run_id, name.removeprefix("reward:")),
    )
    transaction.execute("UPDATE tallies SET number = 0, amount = 0 WHERE run_id = ? AND name = ?", (run_id, name))
    summary.numbers[run_id, name] = int(number)
    summary.amounts[run_id, name] = _amount(small, large)


def summarize(transaction: Transaction, run_id: str | None) -> RunSummary:
    """Return the counts of a run, or of all; see `LightningStore.summarize`."""
    condition, parameters = ("", ()) if run_id is None else ("WHERE run_id = ? ", (run_id,))
    rows = transaction.select(
        {"name": "text", **_number_parts("number"), **_amount_parts("amount")},
        f"FROM tallies {condition}GROUP BY name ORDER BY name",
        parameters,
    )
    counts = RunCounts()
    numbers: dict[str, int] = {}
    amounts: dict[str, float] = {}
    for name, high, low, small, large in rows:
        number, amount = _number(high, low), _amount(small, large)
        numbers[name], amounts[name] = number, amount
        kind, _, rest = name.partition(":")
        if kind == "status":
            counts.move(None, rest, number)
        elif kind == "reward" and number:
            mode: RolloutMode | None = rest or None
            counts.reward(mode, amount, number)
    usage = Usage(numbers.get("input_tokens", 0), numbers.get("output_tokens", 0), amounts.get("cost", 0.0))
    counts.attempt(amounts.get("seconds", 0.0), usage)
    counts.removed = numbers.get("removed", 0)
    return counts.summary()


def statistics(transaction: Transaction, name: str) -> StoreStatistics:
    """Count what the store holds; see `LightningStore.statistics`."""
    counts = summarize(transaction, None).counts
    rows = transaction.select(
        {"name": "text", "sum(number)": "int"},
        "FROM tallies WHERE name IN ('attempts', 'spans', 'late_spans') GROUP BY name",
    )
    totals = {each: int(number) for each, number in rows}
    return StoreStatistics(
        name,
        sum(counts.values()),
        totals.get("attempts", 0),
        totals.get("spans", 0),
        transaction.value("count(*)", "int", "FROM resources"),
        transaction.value("count(*)", "int", "FROM workers"),
        counts.get("queuing", 0) + counts.get("requeuing", 0),
        totals.get("late_spans", 0),
    )
