"""The differences between SQLite and PostgreSQL in the text of statements."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

Kind: TypeAlias = Literal["int", "real", "text"]


@attrs.frozen
class Dialect:
    """The SQL of one database.

    Args:
        types: column types by kind.
        narrow: the suffix of the definition of a table without wide columns.
        position: the function that returns the position of a text in another, 0 if it is not in it.
        locks: whether several writers run at a time, so that each must lock the rows that it is about to change.
    """

    types: dict[Kind, str]
    narrow: str
    position: str
    locks: bool

    def lock(self, table: str) -> str:
        """Return the suffix of a query that locks its rows of `table`."""
        return f" FOR UPDATE OF {table}" if self.locks else ""

    def skip_locked(self, table: str) -> str:
        """Return the suffix of a query that locks its rows and skips those that another writer has locked."""
        return f" FOR UPDATE OF {table} SKIP LOCKED" if self.locks else ""


SQLITE = Dialect({"int": "INTEGER", "real": "REAL", "text": "TEXT"}, " WITHOUT ROWID", "instr", locks=False)
POSTGRES = Dialect(
    # Sorts as Python does, whatever the locale of the database.
    {"int": "BIGINT", "real": "DOUBLE PRECISION", "text": 'TEXT COLLATE "C"'},
    "",
    "strpos",
    locks=True,
)
