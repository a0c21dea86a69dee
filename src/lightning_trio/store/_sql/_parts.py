"""The parts of large values, whose outlines are in the rows of their owners: rollouts or snapshots of resources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from ..._serialization import ReadPart
from ._transaction import Transaction

PartsTable: TypeAlias = Literal["payload_parts", "resource_parts"]


def insert_parts(transaction: Transaction, table: PartsTable, number: int, parts: Sequence[str]) -> None:
    """Store the parts of the owner with a number."""
    for part, body in enumerate(parts):
        # One by one: the lock of the interpreter is held while parameters are copied.
        transaction.execute(f"INSERT INTO {table} (number, part, body) VALUES (?, ?, ?)", (number, part, body))


def remove_parts(transaction: Transaction, table: PartsTable, number: int) -> None:
    """Remove the parts of an owner, which may have none."""
    transaction.execute(f"DELETE FROM {table} WHERE number = ?", (number,))


def part_reader(transaction: Transaction, table: PartsTable, number: int) -> ReadPart:
    """Return a function that reads a part of an owner."""

    def read_part(part: int) -> str:
        body: str | None = transaction.value(
            "body", "text", f"FROM {table} WHERE number = ? AND part = ?", (number, part)
        )
        if body is None:
            raise LookupError(f"part {part} of number {number} is missing in {table}")
        return body

    return read_part
