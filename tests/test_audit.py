"""The audit names what is wrong with a store, and finds nothing where nothing is."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from lightning_trio import (
    InMemoryLightningStore,
    PaginatedResult,
    RolloutConfig,
    Runner,
    RunSummary,
    audit,
)
from lightning_trio.store import Query

RETRIES = RolloutConfig(max_attempts=2, retry_condition=["failed"], backoff_seconds=0.0)


async def agent(task: int) -> float:
    if task == 1:
        raise ValueError(task)
    await trio.lowlevel.checkpoint()
    return 1.0


async def test_a_run_with_failures_and_retries_is_clean(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await Runner(agent, store=store, config=RETRIES).fit(range(5))

        found = await audit(store)

    assert (found.rollouts, list(found.problems), found.clean) == (5, [], True)


async def test_what_has_not_ended_is_a_problem_only_if_all_should_have() -> None:
    store = InMemoryLightningStore()
    rollout = await store.enqueue_rollout("task")

    assert list((await audit(store)).problems) == [f"rollout {rollout.rollout_id} is queuing and has not ended"]
    assert (await audit(store, finished=False)).clean


async def test_one_run_is_audited_by_itself() -> None:
    store = InMemoryLightningStore()
    await store.enqueue_rollout("of no run")
    await Runner(agent, store=store).fit([0])
    [run] = await store.query_runs()

    found = await audit(store, run_id=run.run_id)

    assert (found.rollouts, found.clean) == (1, True)


async def test_evicted_rollouts_are_no_problem(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore(retain=2) as store:
        await Runner(agent, store=store).fit(range(2, 12))

        assert await audit(store) == await audit(store, finished=True)
        assert (await audit(store)).clean


class Cooked(InMemoryLightningStore):
    """Tells tales: records are changed on their way out."""

    def __init__(self, table: str, summary: RunSummary | None = None, /, **changes: Any) -> None:
        super().__init__()
        self._table = table
        self._changes = changes
        self._summary = summary

    async def find(self, query: Query) -> PaginatedResult[Any]:
        found = await super().find(query)
        if query.table != self._table:
            return found
        return attrs.evolve(found, items=[attrs.evolve(record, **self._changes) for record in found])

    async def summarize(self, run_id: str | None = None) -> RunSummary:
        return await super().summarize(run_id) if self._summary is None else self._summary


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        (Cooked("rollouts", status="failed"), "is failed, and its last attempt is succeeded"),
        (Cooked("rollouts", end_time=None), "is succeeded without a time of its end"),
        (Cooked("attempts", sequence_id=2), "has attempts numbered [2]"),
        (Cooked("attempts", attempt_id="at-other"), "there are spans and no such attempt"),
        (Cooked("spans", span_id="1" * 16), "a span is there twice"),
        (Cooked("-", RunSummary({"succeeded": 0}, {})), "1 rollouts are succeeded, and the store counts 0"),
        (
            Cooked("-", RunSummary({"succeeded": 1, "running": 2}, {})),
            "the store counts 2 rollouts as running, and 0 are",
        ),
    ],
    ids=["status", "end", "numbers", "attempts", "spans", "too_few", "too_many"],
)
async def test_what_does_not_agree_is_named(store: Cooked, problem: str) -> None:
    async with Runner(agent, store=store) as runner:
        await runner.step(0)

    found = await audit(store)

    assert any(problem in each for each in found.problems), found.problems
