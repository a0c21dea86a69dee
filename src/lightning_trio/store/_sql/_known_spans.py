"""The span ids of running attempts, kept in memory so that the table of spans needs no index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ._transaction import Transaction


_ATTEMPTS_AT_MOST: Final = 1024

CHAIN: Final = (
    "chain(number) AS (SELECT a.last_span FROM v JOIN attempts a ON a.number = v.number WHERE a.last_span > 0 "
    "UNION ALL SELECT s.previous FROM chain JOIN spans s ON s.number = chain.number WHERE s.previous > 0)"
)
"""The numbers of all spans of the attempts in ``v``: each span stores the number of the one before."""


class _Known(NamedTuple):
    last_span: int
    span_ids: set[str]


class KnownSpans:
    """Cache the span ids of running attempts; valid while no other connection adds spans to them.

    With an index by attempt, every commit would write a page for each attempt in it. The cache belongs to one
    connection, which clears it at every rollback.
    """

    def __init__(self) -> None:
        self._attempts: dict[int, _Known] = {}

    def of(self, transaction: Transaction, attempts: Mapping[int, int]) -> dict[int, set[str]]:
        """Return span ids by attempt, given the number of each attempt's last span; callers add to the sets."""
        known: dict[int, set[str]] = {}
        unknown: list[tuple[int]] = []
        for number, last_span in attempts.items():
            each = self._attempts.get(number)
            if each is not None and each.last_span == last_span:
                known[number] = each.span_ids
                continue
            known[number] = set()
            if last_span:
                unknown.append((number,))
        if unknown:
            rows = transaction.select_with_rows(
                {"number": "int"},
                unknown,
                {"s.attempt_number": "int", "s.span_id": "text"},
                "FROM chain JOIN spans s ON s.number = chain.number",
                CHAIN,
            )
            for number, span_id in rows:
                known[number].add(span_id)
        return known

    def keep(self, attempt_number: int, last_span: int, span_ids: set[str]) -> None:
        """Cache the span ids of an attempt."""
        if attempt_number not in self._attempts and len(self._attempts) >= _ATTEMPTS_AT_MOST:
            # The oldest, which has most likely ended.
            del self._attempts[next(iter(self._attempts))]
        self._attempts[attempt_number] = _Known(last_span, span_ids)

    def forget(self, attempt_number: int) -> None:
        """Remove an attempt that has ended."""
        self._attempts.pop(attempt_number, None)

    def clear(self) -> None:
        """Remove all attempts."""
        self._attempts.clear()
