"""The table of hostile agents: each row is one thing that an agent does once, among others that do their work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs

Right = Literal["succeeds", "fails", "either"]

LANES = ("trio", "thread", "asyncio", "process")
STORES = ("memory", "sqlite", "postgres")
IN_ONE_PROCESS = ("trio", "thread", "asyncio")


@attrs.frozen
class Row:
    """One row of the table.

    Args:
        name: its name.
        kind: what is hostile: an exception, a return value, an emit, a task, the use of a resource, a callback.
        act: what the agent does; for a task, what makes it.
        right: what the rollout's status must be in the end.
        error: the type that its error record must name, None if any will do.
        lanes: where it makes sense.
        timeout: the limit of the agents' time in seconds; None for no limit.
        is_async: whether `act` is awaited.
    """

    name: str
    kind: str
    act: Callable[[], Any]
    right: Right
    error: str | None
    lanes: Sequence[str]
    timeout: float | None
    is_async: bool


ROWS: dict[str, Row] = {}

UNDO: list[Callable[[], object]] = []
"""What rows leave to be put right, by the harness, once their runs are over."""


def undo() -> None:
    """Put right what rows have done to the process."""
    while UNDO:
        UNDO.pop()()


def row(
    kind: str,
    right: Right,
    *,
    error: str | None = None,
    lanes: Sequence[str] = LANES,
    timeout: float | None = None,
    is_async: bool = False,
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Add the decorated function to the table, under its name."""

    def add(act: Callable[[], Any]) -> Callable[[], Any]:
        assert act.__name__ not in ROWS, act.__name__
        ROWS[act.__name__] = Row(act.__name__, kind, act, right, error, lanes, timeout, is_async)
        return act

    return add
