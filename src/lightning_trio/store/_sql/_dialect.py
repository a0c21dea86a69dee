"""What SQLite and PostgreSQL do differently, as far as the text of statements goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import attrs

Kind: TypeAlias = Literal["int", "real", "text"]


@attrs.frozen
class Dialect:
    """The words of one database.

    Args:
        types: column types by kind.
        narrow: what ends the definition of a small table without wide columns.
        casts: whether the kinds of `VALUES` must be said.
        position: the function that gives where a text stands in another, 0 if it does not.
        for_update: what locks the rows a write is about to change; empty where a writer is alone.
        skip_locked: the same, passing over rows that another writer has locked.
    """

    types: dict[Kind, str]
    narrow: str
    casts: bool
    position: str
    for_update: str
    skip_locked: str

    def values(self, rows: int, kinds: Sequence[Kind]) -> str:
        """Write ``VALUES`` with placeholders for `rows` rows."""
        row = f"({', '.join('?' for _ in kinds)})"
        if not self.casts:
            return f"VALUES {', '.join([row] * rows)}"
        # The first row decides.
        first = f"({', '.join(f'CAST(? AS {self.types[kind]})' for kind in kinds)})"
        return f"VALUES {', '.join([first, *[row] * (rows - 1)])}"


SQLITE = Dialect({"int": "INTEGER", "real": "REAL", "text": "TEXT"}, " WITHOUT ROWID", False, "instr", "", "")
POSTGRES = Dialect(
    {"int": "BIGINT", "real": "DOUBLE PRECISION", "text": "TEXT"},
    "",
    True,
    "strpos",
    " FOR UPDATE",
    " FOR UPDATE SKIP LOCKED",
)
