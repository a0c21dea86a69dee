"""The table of hostile agents: each row is one thing that an agent does once, among others that do their work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs

Right = Literal["succeeds", "fails", "refused", "either"]
"""How a rollout ends. A task that its store refuses keeps its `fit` from starting. Either end is right only for
generated agents, of which nothing more is known; what an agent of the table does has one end in each place."""

LANES = ("trio", "thread", "asyncio", "process")
STORES = ("memory", "sqlite", "postgres")
IN_ONE_PROCESS = ("trio", "thread", "asyncio")


@attrs.frozen
class End:
    """How a rollout ends in one lane or on one store.

    Args:
        right: how.
        error: the type that its error record, or the refusal, must name, None if any will do.
    """

    right: Right
    error: str | None = None


SUCCEEDS = End("succeeds")


def fails(error: str) -> End:
    """Return the end of an attempt with an error of this type."""
    return End("fails", error)


@attrs.frozen
class Row:
    """One row of the table.

    Args:
        name: its name.
        kind: what is hostile: an exception, a return value, an emit, a task, the use of a resource, a callback.
        act: what the agent does; for a task, what makes it.
        right: see `End`.
        error: see `End`.
        lanes: where it makes sense.
        timeout: the limit of the agents' time in seconds; None for no limit.
        is_async: whether `act` is awaited.
        but: the lanes and stores in which it ends otherwise.
    """

    name: str
    kind: str
    act: Callable[[], Any]
    right: Right
    error: str | None
    lanes: Sequence[str]
    timeout: float | None
    is_async: bool
    but: Mapping[str, End] = attrs.field(factory=dict[str, End])

    def at(self, lane: str, store: str) -> Row:
        """Return the row with its end in a lane and on a store."""
        end = self.but.get(store) or self.but.get(lane)
        return self if end is None else attrs.evolve(self, right=end.right, error=end.error)


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
    but: Mapping[str, End] | None = None,
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Add the decorated function to the table, under its name."""

    def add(act: Callable[[], Any]) -> Callable[[], Any]:
        assert act.__name__ not in ROWS, act.__name__
        ROWS[act.__name__] = Row(act.__name__, kind, act, right, error, lanes, timeout, is_async, but or {})
        return act

    return add
