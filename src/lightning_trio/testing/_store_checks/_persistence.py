"""Persistence: a store that is opened again has all that was committed, as has another store on the same place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..._records import EnqueueRolloutRequest, Run, Worker
from ..._spans import Usage
from ...store import LightningStore, Query, Table
from ._steps import Check, Marker, expect_equal, finish, ids_of, outcome_of, span_of

_KEYS = ("done", "running", "queued")


async def a_store_opened_again_has_everything(store: LightningStore) -> None:
    ids = await _fill(store)
    before = await _contents(store)
    await store.__aexit__(None, None, None)
    await store.__aenter__()
    await _expect_all(store, ids, before, "a store that was closed and is opened again has everything")


async def check_reopened(
    store: LightningStore, reopen: Callable[[LightningStore], AbstractAsyncContextManager[LightningStore]]
) -> None:
    """Check that a later store on the same place has all that an earlier one kept."""
    async with reopen(store) as earlier:
        ids = await _fill(earlier)
        before = await _contents(earlier)
    async with reopen(store) as later:
        await _expect_all(later, ids, before, "a store on the place of one that was closed has everything")


async def _fill(store: LightningStore) -> list[str]:
    await store.add_resources({"marker": Marker(1)})
    await store.put([Run("run-1", "first", start_time=1.0)])
    await store.put([Worker("worker-1", heartbeat_stats={"cpu": 0.5})])
    ids = await store.enqueue([EnqueueRolloutRequest(key, key=key) for key in _KEYS], run_id="run-1")
    done, running = await store.claim(2, run_id="run-1")
    await store.add_spans([span_of(running)])
    await store.finish(
        [outcome_of(done, spans=[span_of(done)], final_reward=2.0, usage=Usage(3, 1, 0.5), duration=1.5)]
    )
    return ids


async def _contents(store: LightningStore) -> Mapping[str, Any]:
    tables: tuple[Table, ...] = ("rollouts", "attempts", "spans", "resources", "workers", "runs")
    found: dict[str, Any] = {table: list(await store.find(Query(table))) for table in tables}
    return {**found, "summary": await store.summarize("run-1")}


async def _expect_all(store: LightningStore, ids: list[str], before: Mapping[str, Any], rule: str) -> None:
    for name, wanted in before.items():
        expect_equal((await _contents(store))[name], wanted, f"{rule} ({name})")
    again = await store.enqueue([EnqueueRolloutRequest(key, key=key) for key in _KEYS], run_id="run-1")
    expect_equal(again, ids, f"{rule} (keys)")
    claimed = await store.claim(5, run_id="run-1")
    expect_equal(ids_of(claimed), ids[2:], f"{rule} (the queue)")
    expect_equal(await finish(store, claimed[0]), "succeeded", f"{rule} (attempts can be made)")


CHECKS: tuple[Check, ...] = (a_store_opened_again_has_everything,)
