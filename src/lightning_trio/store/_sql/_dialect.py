"""What SQLite and PostgreSQL do differently, as far as the text of statements goes."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

Kind: TypeAlias = Literal["int", "real", "text"]


@attrs.frozen
class Dialect:
    """The words of one database.

    Args:
        types: column types by kind.
        narrow: what ends the definition of a small table without wide columns.
        position: the function that gives where a text stands in another, 0 if it does not.
        locks: whether several writers are at work at a time, so that each must lock the rows it is about to change.
    """

    types: dict[Kind, str]
    narrow: str
    position: str
    locks: bool

    def lock(self, table: str) -> str:
        """Write what ends a query that keeps its rows of `table` from other writers."""
        return f" FOR UPDATE OF {table}" if self.locks else ""

    def skip_locked(self, table: str) -> str:
        """Write the same for one that leaves out the rows that another writer keeps."""
        return f" FOR UPDATE OF {table} SKIP LOCKED" if self.locks else ""


SQLITE = Dialect({"int": "INTEGER", "real": "REAL", "text": "TEXT"}, " WITHOUT ROWID", "instr", locks=False)
POSTGRES = Dialect(
    # Sorted as Python sorts it, whatever the language of the database.
    {"int": "BIGINT", "real": "DOUBLE PRECISION", "text": 'TEXT COLLATE "C"'},
    "",
    "strpos",
    locks=True,
)
