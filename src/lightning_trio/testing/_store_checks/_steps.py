"""The steps of the checks. They fail with the rule that is broken, with or without pytest."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, TypeAlias, TypeVar

import attrs
import trio

from ..._concurrency import FlatNursery
from ..._ids import new_span_id
from ..._records import (
    Attempt,
    AttemptedRollout,
    AttemptOutcome,
    AttemptStatus,
    EnqueueRolloutRequest,
    Rollout,
    RolloutConfig,
    RolloutMode,
)
from ..._resources import Resource
from ..._spans import Span
from ...store import LightningStore, Query, Table

T = TypeVar("T")

Check: TypeAlias = Callable[[LightningStore], Awaitable[None]]

NEVER = 3600.0
"""Seconds of a delay that must not end while a check runs."""

SOON = 0.05
"""Seconds after which a task that can proceed has surely done so."""

RETRY = RolloutConfig(max_attempts=2, retry_condition=["failed", "timeout"])


@attrs.frozen
class Marker(Resource, resource_type="store_check_marker"):
    """A resource of a user-defined class."""

    value: int


# Expectations.


def expect(condition: object, rule: str) -> None:
    """Fail with `rule` unless `condition` holds."""
    if not condition:
        raise AssertionError(rule)


def expect_equal(seen: object, wanted: object, rule: str) -> None:
    """Fail with `rule` and both values if they differ."""
    if seen != wanted:
        raise AssertionError(f"{rule}: expected {wanted!r}, got {seen!r}")


@contextmanager
def refused(kind: type[Exception], rule: str) -> Generator[None]:
    """Fail with `rule` unless the block raises `kind`."""
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{rule}: expected {kind.__name__} to be raised")


@asynccontextmanager
async def nothing_changes(store: LightningStore, rule: str) -> AsyncGenerator[None]:
    """Fail with `rule` if the block changes a rollout, attempt, span or snapshot."""
    before = await _contents(store)
    yield
    after = await _contents(store)
    for table, records in before.items():
        expect_equal(after[table], records, f"{rule} ({table})")


async def _contents(store: LightningStore) -> dict[str, list[Any]]:
    tables: tuple[Table, ...] = ("rollouts", "attempts", "spans", "resources")
    return {table: list(await store.find(Query(table))) for table in tables}


# Requests and reports.


def requests(*inputs: Any, config: RolloutConfig | None = None) -> list[EnqueueRolloutRequest]:
    """Return a request for each input."""
    return [EnqueueRolloutRequest(value, config=config) for value in inputs]


async def claim_one(
    store: LightningStore,
    *,
    config: RolloutConfig | None = None,
    mode: RolloutMode | None = None,
    run_id: str | None = None,
) -> AttemptedRollout:
    """Enqueue a rollout and claim it; nothing else may be in the queue."""
    await store.enqueue([EnqueueRolloutRequest("task", mode, config=config)], run_id=run_id)
    [claimed] = await store.claim(1, run_id=run_id)
    return claimed


def outcome_of(attempted: AttemptedRollout, status: AttemptStatus = "succeeded", **fields: Any) -> AttemptOutcome:
    """Return an outcome of an attempt."""
    return AttemptOutcome(attempted.rollout_id, attempted.attempt.attempt_id, status, time.time(), **fields)


async def finish(
    store: LightningStore, attempted: AttemptedRollout, status: AttemptStatus = "succeeded", **fields: Any
) -> str | None:
    """Commit the outcome of one attempt and return its rollout's new status."""
    [new] = await store.finish([outcome_of(attempted, status, **fields)])
    return new


def span_of(attempted: AttemptedRollout, name: str = "step", **fields: Any) -> Span:
    """Make a span of an attempt."""
    fields = {"attributes": {}, "start_time": 1.0, "end_time": 2.0, "span_id": new_span_id(), **fields}
    return Span.from_attributes(
        rollout_id=attempted.rollout_id, attempt_id=attempted.attempt.attempt_id, name=name, **fields
    )


# Reads.


async def rollout_of(store: LightningStore, rollout: Rollout | str) -> Rollout:
    """Read a rollout that must be there."""
    rollout_id = rollout if isinstance(rollout, str) else rollout.rollout_id
    found = await store.get_rollout_by_id(rollout_id)
    if found is None:
        raise AssertionError(f"a rollout that was enqueued or started is found by its id, {rollout_id}")
    return found


async def attempts_of(store: LightningStore, rollout: Rollout) -> Sequence[Attempt]:
    """Read a rollout's attempts, in order of their numbers."""
    return (await store.query_attempts(rollout.rollout_id)).items


def ids_of(rollouts: Sequence[Rollout]) -> list[str]:
    """Return the ids of rollouts."""
    return [rollout.rollout_id for rollout in rollouts]


# Waits.


@attrs.define(eq=False)
class Call(Generic[T]):
    """A call made by another task."""

    results: list[T] = attrs.field(factory=list[T])

    @property
    def waits(self) -> bool:
        """Whether the call has not returned yet."""
        return not self.results

    async def make(self, fn: Callable[[], Awaitable[T]]) -> None:
        self.results.append(await fn())


@asynccontextmanager
async def calling(fn: Callable[[], Awaitable[T]]) -> AsyncGenerator[Call[T]]:
    """Call `fn` in a task and wait until it blocks; leaving the block waits until it returns."""
    call = Call[T]()
    async with FlatNursery() as nursery:
        nursery.start_soon(call.make, fn)
        await trio.sleep(SOON)
        yield call
