"""Sums of rewards, costs, seconds and tokens stay in range, and no sum makes a store call itself damaged."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from postgres_server import postgres

import lightning_trio as agl
from lightning_trio import (
    FitResult,
    InMemoryLightningStore,
    LightningStore,
    PostgresLightningStore,
    Runner,
    SqliteLightningStore,
    Usage,
    audit,
)
from lightning_trio._spans import MOST, MOST_INT, bounded, bounded_int, sum_usage

WORST = -sys.float_info.max


__all__ = ["postgres"]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LightningStore:
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        server.psql("DROP SCHEMA IF EXISTS lightning_trio CASCADE")
        # Each connection adds up its own commits.
        return PostgresLightningStore(server.dsn, connections=1)
    return InMemoryLightningStore() if request.param == "memory" else SqliteLightningStore(tmp_path / "run.db")


@agl.rollout
async def agent(task: float) -> float:
    return task


async def fit(store: LightningStore, tasks: Sequence[float], **how: Any) -> FitResult:
    return await Runner(agent, store=store, max_concurrency=1).fit(tasks, **how)


async def test_the_worst_of_rewards_breaks_no_later_fit_resume_or_audit(store: LightningStore) -> None:
    async with store:
        first = await fit(store, [WORST, WORST, 1.0])
        again = await fit(store, [WORST, WORST, 1.0], resume=True)
        second = await fit(store, [1.0])

        assert first.mean_reward["train"] == pytest.approx(WORST / 3)
        assert again == first
        assert second.mean_reward["train"] == 1.0
        assert (await store.summarize()).counts == {"succeeded": 4}
        assert (await audit(store)).clean


async def test_a_single_worst_reward_is_its_own_mean(store: LightningStore) -> None:
    async with store:
        result = await fit(store, [WORST])

        assert result.mean_reward["train"] == WORST
        [rollout] = await store.query_rollouts()
        assert isinstance(rollout, agl.AttemptedRollout)
        assert rollout.attempt.final_reward == WORST


@pytest.mark.parametrize("amount", [-9e999, 9e999, None])
async def test_a_file_with_an_infinite_sum_is_read_and_written_on(amount: float | None, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    async with SqliteLightningStore(path) as store:
        first = await fit(store, [WORST, WORST])
    with sqlite3.connect(path) as connection:
        # As sums were before they had bounds: infinite, or NULL for the sum of two infinities.
        connection.execute("UPDATE tallies SET amount = ? WHERE name = 'reward:train'", (amount,))
    connection.close()

    async with SqliteLightningStore(path) as store:
        resumed = await fit(store, [WORST, WORST], resume=True)
        longer = await fit(store, [WORST, WORST, 1.0], resume=True)

        assert resumed.run_id == longer.run_id == first.run_id
        assert resumed.mean_reward["train"] == (0.0 if amount is None else bounded(amount) / 2)
        assert (await audit(store)).clean


async def test_sums_that_return_from_their_bounds_are_the_same_in_every_store(store: LightningStore) -> None:
    @agl.rollout
    async def extreme(task: float) -> float:
        agl.emit_annotation({"gen_ai.usage.cost": task, "gen_ai.usage.input_tokens": int(task)})
        return task

    async with store:
        result = await Runner(extreme, store=store, max_concurrency=1).fit([MOST, MOST, WORST / 2, 1.0])

        # Each sum as it was reached, one rollout after the other.
        assert result.mean_reward["train"] == MOST / 8
        assert result.usage == Usage(1, 0, MOST / 2)
        assert (await audit(store)).clean


async def test_rewards_that_are_summed_up_again_reach_no_bound_on_the_way(store: LightningStore) -> None:
    failing = True

    @agl.rollout
    async def extreme(task: float) -> float | None:
        agl.emit_reward(task)
        if failing and task == 1.0:
            raise ValueError("for now")
        return None

    tasks = [MOST, MOST, 1.0, WORST, WORST]
    async with store:
        await Runner(extreme, store=store, max_concurrency=1).fit(tasks)
        failing = False
        result = await Runner(extreme, store=store, max_concurrency=1).fit(tasks, resume=True, retry_failed=True)

        assert result.mean_reward["train"] == 1.0 / 5
        assert (await audit(store)).clean


async def test_opposite_sums_of_several_runs_cancel_out(store: LightningStore) -> None:
    async with store:
        for reward in (MOST, MOST, WORST, WORST):
            await fit(store, [reward])

        assert (await store.summarize()).rewards["train"] == (4, 0.0)


async def test_sums_of_all_runs_stay_in_range(store: LightningStore) -> None:
    async with store:
        for _ in range(3):
            await fit(store, [MOST])

        assert (await store.summarize()).rewards["train"] == (3, MOST)


async def test_what_an_agent_calls_tokens_and_cost_may_be_any_number(store: LightningStore) -> None:
    @agl.rollout
    async def spender(task: int) -> float:
        agl.emit_annotation({"gen_ai.usage.input_tokens": 10**30, "gen_ai.usage.output_tokens": 1e300})
        agl.emit_annotation({"gen_ai.usage.cost": 10**400})
        agl.emit_annotation({"gen_ai.usage.cost": 1e308})
        return 1.0

    async with store:
        result = await Runner(spender, store=store).fit(range(3))

        assert result.counts["succeeded"] == 3
        assert result.usage == Usage(MOST_INT, MOST_INT, MOST)
        assert (await audit(store)).clean


async def test_numbers_of_spans_stay_in_range(store: LightningStore) -> None:
    async with store:
        rollout = await store.start_rollout("task")
        for number in (MOST_INT, 0, 10**30):
            span = agl.Span.from_attributes(
                attributes={},
                rollout_id=rollout.rollout_id,
                attempt_id=rollout.attempt.attempt_id,
                sequence_id=number,
            )
            added = await store.add_span(span)

            assert added is not None
            assert added.sequence_id == MOST_INT


@pytest.mark.parametrize(
    ("value", "bound"),
    [
        (1.5, 1.5),
        (float("inf"), MOST),
        (float("-inf"), -MOST),
        (float("nan"), 0.0),
        (10**400, MOST),
        (-(10**400), -MOST),
    ],
)
def test_a_number_out_of_range_becomes_the_nearest_float(value: float, bound: float) -> None:
    assert bounded(value) == bound


@pytest.mark.parametrize(
    ("value", "bound"),
    [(7, 7), (10**30, MOST_INT), (-(10**30), -MOST_INT), (float("inf"), MOST_INT), (float("nan"), 0)],
)
def test_a_number_out_of_range_becomes_the_nearest_integer(value: float, bound: int) -> None:
    assert bounded_int(value) == bound


def test_usage_is_summed_up_within_its_range() -> None:
    span = agl.Span.from_attributes(attributes={"gen_ai.usage.input_tokens": MOST_INT, "gen_ai.usage.cost": MOST})

    assert sum_usage([span, span]) == Usage(MOST_INT, 0, MOST)
