"""The interface that operations use: statements in a transaction, and a summary of what it changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from ..._records import Attempt
from ..._spans import bounded
from .._rollout_ids import RolloutIdCipher
from ._dialect import Dialect, Kind
from ._known_spans import KnownSpans

Columns = Mapping[str, Kind]
"""Names and kinds of columns, in order."""

_AT_ONCE: Final = 512
"""The most rows in one statement. SQLite allows 32,766 parameters."""


@attrs.define(eq=False)
class CommitSummary:
    """The effects of a transaction beyond its rows: counts to add, and waits to wake after the commit."""

    numbers: dict[tuple[str, str], int] = attrs.field(factory=dict[tuple[str, str], int])
    """Increments of integer counts, by run and name."""
    amounts: dict[tuple[str, str], float] = attrs.field(factory=dict[tuple[str, str], float])
    """Increments of sums, by run and name."""
    uncounted: set[tuple[str, str]] = attrs.field(factory=set[tuple[str, str]])
    """Sums of rewards from which some were taken away, by run and name."""
    ended: list[str] = attrs.field(factory=list[str])
    """Rollouts that have reached a terminal status."""
    queued: bool = False
    """Whether a rollout was queued, to be claimed now or later."""
    busy: dict[str, Attempt] = attrs.field(factory=dict[str, Attempt])
    """Workers that started attempts, each with its last."""
    idle: dict[str, None] = attrs.field(factory=dict[str, None])
    """Workers that ended an attempt and are idle unless they run another."""
    after_others: bool = False
    """Whether another process has committed since this connection's last commit."""

    def count(self, run_id: str, name: str, number: int) -> None:
        """Add to a count of a run."""
        key = (run_id, name)
        self.numbers[key] = self.numbers.get(key, 0) + number

    def sum_up(self, run_id: str, name: str, amount: float) -> None:
        """Add to a sum of a run."""
        key = (run_id, name)
        self.amounts[key] = bounded(self.amounts.get(key, 0.0) + amount)

    def copy(self) -> CommitSummary:
        """Return a copy to restore after a failed call."""
        return attrs.evolve(
            self,
            numbers=dict(self.numbers),
            amounts=dict(self.amounts),
            uncounted=set(self.uncounted),
            ended=list(self.ended),
            busy=dict(self.busy),
            idle=dict(self.idle),
        )


class Transaction(ABC):
    """Run statements; placeholders are ``?`` in every dialect."""

    dialect: Dialect

    def __init__(self) -> None:
        self.summary = CommitSummary()
        self.known_spans = KnownSpans()
        self.ids = RolloutIdCipher()

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement without a result; return how many rows it changed."""

    @abstractmethod
    def select_with(self, tables: str, columns: Columns, rest: str, parameters: Sequence[Any]) -> list[list[Any]]:
        """Return the rows of ``tables SELECT columns rest``, where `tables` is empty or starts with ``WITH``."""

    @abstractmethod
    def now(self) -> float:
        """Return the database's time in Unix seconds, constant within a transaction."""

    def steady_now(self) -> float:
        """Return the time by which leases and waits end, in seconds, alike for all processes; see `now`."""
        return self.now()

    # Built on these.

    def select(self, columns: Columns, rest: str, parameters: Sequence[Any] = ()) -> list[list[Any]]:
        """Return the rows of ``SELECT columns rest``."""
        return self.select_with("", columns, rest, parameters)

    def create_counters(self, names: Iterable[str]) -> None:
        """Create counters at 0, and the tables that only this database needs."""
        text, integer = self.dialect.types["text"], self.dialect.types["int"]
        self.execute(f"CREATE TABLE counters (name {text} PRIMARY KEY, value {integer}){self.dialect.narrow}")
        for name in names:
            self.execute("INSERT INTO counters (name, value) VALUES (?, 0)", (name,))

    def take_numbers(self, name: str, count: int) -> int:
        """Advance a counter by `count` and return the first number taken."""
        self.execute("UPDATE counters SET value = value + ? WHERE name = ?", (count, name))
        return self.last_number(name) - count + 1

    def last_number(self, name: str) -> int:
        """Return the last number taken."""
        last: int = self.value("value", "int", "FROM counters WHERE name = ?", (name,))
        return last

    def value(self, column: str, kind: Kind, rest: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the only column of the first row, None without rows."""
        rows = self.select({column: kind}, rest, parameters)
        return rows[0][0] if rows else None

    def with_rows(
        self, columns: Columns, rows: Sequence[Sequence[Any]], statement: str, parameters: Sequence[Any] = ()
    ) -> None:
        """Run a statement that reads `rows` as the table ``v``; rows of NULLs in ``v`` are padding.

        One statement for all rows, not one per row: see `SqliteConnection`.
        """
        for chunk, values in self._as_tables(columns, rows):
            self.execute(f"WITH v({', '.join(columns)}) AS ({values}) {statement}", [*chunk, *parameters])

    def select_with_rows(
        self, given: Columns, rows: Sequence[Sequence[Any]], columns: Columns, rest: str, more: str = ""
    ) -> list[list[Any]]:
        """Return the rows of ``SELECT columns rest``, where ``v`` is a table of `rows`; `more` defines other tables."""
        found: list[list[Any]] = []
        for chunk, values in self._as_tables(given, rows):
            tables = f"WITH RECURSIVE v({', '.join(given)}) AS ({values})"
            found += self.select_with(f"{tables}, {more}" if more else tables, columns, rest, chunk)
        return found

    def _as_tables(self, columns: Columns, rows: Sequence[Sequence[Any]]) -> Iterable[tuple[list[Any], str]]:
        # Padded to a power of two, so that few different statements are prepared.
        nothing = [None] * len(columns)
        for start in range(0, len(rows), _AT_ONCE):
            chunk = rows[start : start + _AT_ONCE]
            size = 1 << (len(chunk) - 1).bit_length()
            parameters = [value for row in chunk for value in row]
            parameters += nothing * (size - len(chunk))
            row = f"({', '.join('?' for _ in columns)})"
            yield parameters, f"VALUES {', '.join([row] * size)}"


class Connection(Transaction):
    """A connection whose transactions are begun and ended explicitly; used by one thread at a time."""

    shard: int = 0
    """The row of each count that this connection adds to."""

    unwanted: Callable[[], bool] = staticmethod(lambda: False)
    """Whether every caller has been cancelled, so that the connection need not wait for a server that is away."""

    @abstractmethod
    def begin(self, *, write: bool) -> None:
        """Begin a transaction; SQLite runs one writing transaction at a time.

        After `TryAgain`, this call pauses before the next try, or raises when no further try is due.
        """

    @abstractmethod
    def commit(self) -> None:
        """Commit."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo the transaction, if there is one."""

    def on_idle(self) -> None:
        """Run what was deferred while calls were pending."""
        return

    def others_committed(self) -> bool:
        """Whether other connections have committed since the last call, where that is known without delay."""
        return False

    @abstractmethod
    def interrupt(self) -> None:
        """Make the running statement fail; may be called from another thread."""

    @abstractmethod
    def close(self) -> None:
        """Close."""
