"""What operations are written against: statements in a transaction, and what a commit means to others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from ..._records import Attempt
from .._rollout_ids import RolloutIdCipher
from ._dialect import Dialect, Kind
from ._known_spans import KnownSpans

Columns = Mapping[str, Kind]
"""Names and kinds of columns, in order."""

_AT_ONCE: Final = 512
"""The most rows in one statement. SQLite takes 32,766 values."""


@attrs.define(eq=False)
class CommitSummary:
    """What a transaction means beyond its own rows: counts to add up, and whom to wake once it is committed."""

    numbers: dict[tuple[str, str], int] = attrs.field(factory=dict[tuple[str, str], int])
    """By how much counts of runs have grown, by run and name."""
    amounts: dict[tuple[str, str], float] = attrs.field(factory=dict[tuple[str, str], float])
    """By how much their sums have."""
    ended: list[str] = attrs.field(factory=list[str])
    """Rollouts that are in a terminal status now."""
    queued: bool = False
    """Whether something can be claimed now, or at a time that was not known before."""
    busy: dict[str, Attempt] = attrs.field(factory=dict[str, Attempt])
    """Workers that got an attempt, and the last they got."""
    idle: dict[str, None] = attrs.field(factory=dict[str, None])
    """Workers that do nothing now, unless they have something else at work."""
    after_others: bool = False
    """Whether others have committed something since this connection did last."""

    def count(self, run_id: str, name: str, number: int) -> None:
        """Let a count of a run grow."""
        key = (run_id, name)
        self.numbers[key] = self.numbers.get(key, 0) + number

    def sum_up(self, run_id: str, name: str, amount: float) -> None:
        """Let a sum of a run grow."""
        key = (run_id, name)
        self.amounts[key] = self.amounts.get(key, 0.0) + amount

    def copy(self) -> CommitSummary:
        """Give a copy, to go back to."""
        return attrs.evolve(
            self,
            numbers=dict(self.numbers),
            amounts=dict(self.amounts),
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
        """Run a statement that gives no rows; tell how many rows it changed."""

    @abstractmethod
    def select_with(self, tables: str, columns: Columns, rest: str, parameters: Sequence[Any]) -> list[list[Any]]:
        """Give the rows of ``tables SELECT columns rest``, where `tables` is empty or begins with ``WITH``."""

    @abstractmethod
    def now(self) -> float:
        """Give the database's time in Unix seconds, the same throughout a transaction."""

    # Built on these.

    def select(self, columns: Columns, rest: str, parameters: Sequence[Any] = ()) -> list[list[Any]]:
        """Give the rows of ``SELECT columns rest``."""
        return self.select_with("", columns, rest, parameters)

    def create_counters(self, names: Iterable[str]) -> None:
        """Make counters that stand at 0, and whatever else only this database needs."""
        text, integer = self.dialect.types["text"], self.dialect.types["int"]
        self.execute(f"CREATE TABLE counters (name {text} PRIMARY KEY, value {integer}){self.dialect.narrow}")
        for name in names:
            self.execute("INSERT INTO counters (name, value) VALUES (?, 0)", (name,))

    def take_numbers(self, name: str, count: int) -> int:
        """Raise a counter by `count` and give the first of the numbers taken."""
        self.execute("UPDATE counters SET value = value + ? WHERE name = ?", (count, name))
        return self.last_number(name) - count + 1

    def last_number(self, name: str) -> int:
        """Give the last number that was taken."""
        last: int = self.value("value", "int", "FROM counters WHERE name = ?", (name,))
        return last

    def value(self, column: str, kind: Kind, rest: str, parameters: Sequence[Any] = ()) -> Any:
        """Give the only column of the first row, None if there is none."""
        rows = self.select({column: kind}, rest, parameters)
        return rows[0][0] if rows else None

    def with_rows(self, columns: Columns, rows: Sequence[Sequence[Any]], statement: str) -> None:
        """Run a statement that reads `rows` as the table ``v``; rows of NULLs in it stand for nothing.

        One statement for all instead of one a row: see `_SqliteConnection`.
        """
        for chunk, values in self._as_tables(columns, rows):
            self.execute(f"WITH v({', '.join(columns)}) AS ({values}) {statement}", chunk)

    def select_with_rows(
        self, given: Columns, rows: Sequence[Sequence[Any]], columns: Columns, rest: str, more: str = ""
    ) -> list[list[Any]]:
        """Give the rows of ``SELECT columns rest``, where ``v`` is a table of `rows`, and `more` defines others."""
        found: list[list[Any]] = []
        for chunk, values in self._as_tables(given, rows):
            tables = f"WITH RECURSIVE v({', '.join(given)}) AS ({values})"
            found += self.select_with(f"{tables}, {more}" if more else tables, columns, rest, chunk)
        return found

    def _as_tables(self, columns: Columns, rows: Sequence[Sequence[Any]]) -> Iterable[tuple[list[Any], str]]:
        # Filled up to a power of two, so that few different statements are ever prepared.
        nothing = [None] * len(columns)
        for start in range(0, len(rows), _AT_ONCE):
            chunk = rows[start : start + _AT_ONCE]
            size = 1 << (len(chunk) - 1).bit_length()
            parameters = [value for row in chunk for value in row]
            parameters += nothing * (size - len(chunk))
            row = f"({', '.join('?' for _ in columns)})"
            yield parameters, f"VALUES {', '.join([row] * size)}"


class Connection(Transaction):
    """A connection whose transactions begin and end by hand; used by one thread at a time."""

    shard: int = 0
    """Which of the rows of each count it adds to."""

    unwanted: Callable[[], bool] = staticmethod(lambda: False)
    """Tells whether nobody waits any more for what it does, so that it need not wait for a server to come back."""

    @abstractmethod
    def begin(self, *, write: bool) -> None:
        """Begin a transaction; of those that write, SQLite runs one at a time.

        After `TryAgain`, this is where time passes before the next try, and where tries come to an end.
        """

    @abstractmethod
    def commit(self) -> None:
        """Commit."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo the transaction, if there is one."""

    def rest(self) -> None:
        """Do what can be done while nothing waits."""
        return

    def others_committed(self) -> bool:
        """Tell whether others have committed something since this was asked last, where that is known without delay."""
        return False

    @abstractmethod
    def interrupt(self) -> None:
        """Make the statement that runs fail; may be called from another thread."""

    @abstractmethod
    def close(self) -> None:
        """Close."""
