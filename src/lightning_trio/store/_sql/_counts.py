"""Counts, updated by every transaction, so that reading them takes the same time for any number of rollouts."""

from __future__ import annotations

from typing import Final

from ..._records import RolloutMode, RunSummary, StoreStatistics
from ..._spans import Usage
from .._run_counts import RunCounts
from ._transaction import Columns, Transaction

_TALLY: Final[Columns] = {"run_id": "text", "name": "text", "shard": "int", "number": "int", "amount": "real"}


def add_counts(transaction: Transaction, shard: int) -> None:
    """Add a transaction's counts to the stored ones; to be called once, last before the commit."""
    numbers, amounts = transaction.summary.numbers, transaction.summary.amounts
    # In one order for all writers, so that two cannot wait for each other.
    rows = [(*key, shard, numbers.get(key, 0), amounts.get(key, 0.0)) for key in sorted(numbers.keys() | amounts)]
    if rows:
        columns = ", ".join(_TALLY)
        transaction.with_rows(
            _TALLY,
            rows,
            # SQLite's parser also needs `WHERE`, or it reads ON as part of a join.
            f"INSERT INTO tallies ({columns}) SELECT {columns} FROM v WHERE run_id IS NOT NULL "
            "ON CONFLICT (run_id, name, shard) DO UPDATE SET number = tallies.number + excluded.number, "
            "amount = tallies.amount + excluded.amount",
        )


def summarize(transaction: Transaction, run_id: str | None) -> RunSummary:
    """Return the counts of a run, or of all; see `LightningStore.summarize`."""
    condition, parameters = ("", ()) if run_id is None else ("WHERE run_id = ? ", (run_id,))
    rows = transaction.select(
        {"name": "text", "sum(number)": "int", "sum(amount)": "real"},
        f"FROM tallies {condition}GROUP BY name ORDER BY name",
        parameters,
    )
    counts = RunCounts()
    numbers: dict[str, int] = {}
    amounts: dict[str, float] = {}
    for name, number, amount in rows:
        numbers[name], amounts[name] = int(number), amount
        kind, _, rest = name.partition(":")
        if kind == "status":
            counts.move(None, rest, int(number))
        elif kind == "reward":
            mode: RolloutMode | None = rest or None
            counts.reward(mode, amount, int(number))
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
