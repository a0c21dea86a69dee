"""A call with something that a store cannot keep changes nothing, and fails alone, in every store."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from postgres_server import postgres

from lightning_trio import (
    AttemptedRollout,
    EnqueueRolloutRequest,
    InMemoryLightningStore,
    LightningStore,
    NotStorable,
    PostgresLightningStore,
    ResourcesUpdate,
    Run,
    Span,
    SqliteLightningStore,
    StoreFormatError,
    Worker,
    audit,
)
from lightning_trio.store import AttemptChange, RolloutChange
from lightning_trio.testing._store_checks._steps import claim_one, finish, outcome_of, span_of

__all__ = ["postgres"]

Call = Callable[[LightningStore, AttemptedRollout, Any], Awaitable[object]]
BOTH = ["sqlite", "postgres"]


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LightningStore:
    if request.param == "memory":
        return InMemoryLightningStore()
    if request.param == "sqlite":
        return SqliteLightningStore(tmp_path / "run.db")
    server = request.getfixturevalue("postgres")
    server.psql("DROP SCHEMA IF EXISTS lightning_trio CASCADE")
    return PostgresLightningStore(server.dsn, connections=1)


async def is_sound(store: LightningStore, rollout: AttemptedRollout) -> bool:
    """Whether a store still works after a call for the rollout has failed."""
    assert await finish(store, rollout) == "succeeded"
    assert await finish(store, await claim_one(store)) == "succeeded"
    return (await audit(store)).clean


# Names, keys and ids.


@pytest.mark.parametrize("value", [b"bytes", 5], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda store, rollout, value: store.enqueue([EnqueueRolloutRequest("task", key=value)]),
        lambda store, rollout, value: store.enqueue([EnqueueRolloutRequest("task")], run_id=value),
        lambda store, rollout, value: store.start([EnqueueRolloutRequest("task")], worker_id=value),
        lambda store, rollout, value: store.claim(1, worker_id=value),
        lambda store, rollout, value: store.claim(1, run_id=value),
        lambda store, rollout, value: store.add_spans([attrs.evolve(span_of(rollout), span_id=value)]),
        lambda store, rollout, value: store.update([RolloutChange(rollout.rollout_id, resources_id=value)]),
        lambda store, rollout, value: store.update(
            [AttemptChange(rollout.rollout_id, rollout.attempt.attempt_id, worker_id=value)]
        ),
        lambda store, rollout, value: store.put([Worker(value)]),
        lambda store, rollout, value: store.put([ResourcesUpdate(value, 0.0, 0.0, 1, {})]),
        lambda store, rollout, value: store.put([Run("run-1", name=value)]),
    ],
    ids=["key", "run", "started by", "claimed by", "claimed", "span", "resources", "moved to", "worker", "new", "name"],
)
@pytest.mark.parametrize("store", BOTH, indirect=True)
async def test_what_is_no_text_is_refused_and_damages_nothing(store: LightningStore, call: Call, value: object) -> None:
    async with store:
        rollout = await claim_one(store)
        with pytest.raises(NotStorable, match=f"is of type {type(value).__name__}, and names, keys and ids"):
            await call(store, rollout, value)

        assert await is_sound(store, rollout)


@pytest.mark.parametrize("store", ["memory", *BOTH], indirect=True)
@pytest.mark.parametrize("field", [{"span_id": ["a list"]}, {"sequence_id": "one"}], ids=["span_id", "sequence_id"])
async def test_spans_with_one_that_is_malformed_are_refused_together(
    store: LightningStore, field: dict[str, Any]
) -> None:
    async with store:
        rollout = await claim_one(store)
        good = span_of(rollout, sequence_id=1)
        malformed = attrs.evolve(span_of(rollout), **field)
        with pytest.raises(NotStorable, match="is of type"):
            await store.add_spans([good, malformed])

        assert await store.add_spans([good]) == [good]
        assert await is_sound(store, rollout)


async def test_an_outcome_whose_spans_do_not_fit_those_stored_before_changes_nothing() -> None:
    async with InMemoryLightningStore() as store:
        first, second = await claim_one(store), await claim_one(store)
        await store.add_span(span_of(second, sequence_id=1))
        malformed: Span = attrs.evolve(span_of(second), span_id=["a list"])  # type: ignore[arg-type]
        with pytest.raises(NotStorable, match="span_id is of type list"):
            await store.finish([outcome_of(first), attrs.evolve(outcome_of(second), spans=[malformed])])

        assert await finish(store, first) == "succeeded"
        assert await is_sound(store, second)


# Calls that are committed together.


@pytest.mark.parametrize("store", BOTH, indirect=True)
async def test_a_call_that_fails_when_all_changes_are_added_up_fails_alone(store: LightningStore) -> None:
    async with store:
        ids: list[str] = []

        async def enqueue() -> None:
            ids.extend(await store.enqueue([EnqueueRolloutRequest("task")]))

        async def claim_nothing() -> None:
            # That the worker is idle is written last.
            with pytest.raises(NotStorable, match="lone surrogate"):
                await store.claim(1, run_id="run-0", worker_id="worker \ud835")

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(claim_nothing if number == 7 else enqueue)

        assert len(ids) == 19
        assert (await store.summarize()).counts == {"queuing": 19}
        assert await store.find_faults() == []


async def test_a_damaged_record_fails_only_calls_about_it(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    async with SqliteLightningStore(path) as store:
        rollouts = [await claim_one(store) for _ in range(5)]
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE rollouts SET mode = x'00' WHERE number = (SELECT min(number) FROM rollouts)")
        connection.close()
        failed: list[str] = []

        async def end(rollout: AttemptedRollout) -> None:
            try:
                await finish(store, rollout)
            except StoreFormatError:
                failed.append(rollout.rollout_id)

        async with trio.open_nursery() as nursery:
            for rollout in rollouts:
                nursery.start_soon(end, rollout)

    assert failed == [rollouts[0].rollout_id]
