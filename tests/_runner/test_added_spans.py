"""Spans that are added through the store while their attempt runs have their place among the recorded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import process_agents
import pytest
import trio
from opentelemetry.sdk.trace import TracerProvider

import lightning_trio as agl
from lightning_trio import (
    AttemptedRollout,
    InMemoryLightningStore,
    LightningStore,
    Runner,
    Span,
    SqliteLightningStore,
    audit,
    find_final_reward,
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LightningStore:
    return InMemoryLightningStore() if request.param == "memory" else SqliteLightningStore(tmp_path / "run.db")


def reward_span(rollout: AttemptedRollout, reward: float) -> Span:
    return Span.from_attributes(
        name="agentlightning.annotation",
        attributes={"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": reward},
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
    )


async def test_an_added_span_is_numbered_after_the_recorded_ones(store: LightningStore) -> None:
    added: list[Span | None] = []

    @agl.rollout
    async def agent(task: str, rollout: AttemptedRollout) -> None:
        agl.emit_reward(0.25)
        added.append(await store.add_span(reward_span(rollout, 0.75)))
        agl.emit_message("done")

    async with store, Runner(agent, store=store) as runner:
        done = await runner.step("task")

        spans = await store.query_spans(done.rollout.rollout_id)
        assert [span.sequence_id for span in spans] == [1, 2, 3, 4]
        assert spans[2] == added[0]
        assert find_final_reward(spans) == 0.75
        assert (done.final_reward, len(done.spans)) == (0.75, 4)
        assert (await audit(store)).clean


async def test_a_returned_reward_comes_after_an_added_one(store: LightningStore) -> None:
    @agl.rollout
    async def agent(task: str, rollout: AttemptedRollout) -> float:
        await store.add_many_spans([reward_span(rollout, 0.5), reward_span(rollout, 0.75)])
        return 1.0

    async with store:
        result = await Runner(agent, store=store).fit(["task"])

        assert result.mean_reward["train"] == 1.0
        [rollout] = await store.query_rollouts()
        spans = await store.query_spans(rollout.rollout_id)
        assert [agl.get_reward_value(span) for span in spans] == [None, 0.5, 0.75, 1.0]


async def test_a_span_of_the_opentelemetry_sdk_is_numbered_likewise(store: LightningStore) -> None:
    @agl.rollout
    async def agent(task: str, rollout: AttemptedRollout) -> None:
        agl.emit_message("first")
        span = TracerProvider().get_tracer("library").start_span("second")
        span.end()
        await store.add_otel_span(rollout.rollout_id, rollout.attempt.attempt_id, span)  # type: ignore[arg-type]
        agl.emit_message("third")

    async with store, Runner(agent, store=store) as runner:
        done = await runner.step("task")

        names = [span.name for span in await store.query_spans(done.rollout.rollout_id)]
        assert names == ["invoke_agent agent", "agentlightning.message", "second", "agentlightning.message"]
        assert [span.name for span in done.spans] == names


async def test_a_thread_adds_spans_in_their_order(store: LightningStore) -> None:
    @agl.rollout
    def agent(task: str, rollout: AttemptedRollout) -> None:
        agl.emit_reward(0.25)
        trio.from_thread.run(store.add_span, reward_span(rollout, 0.75))

    async with store, Runner(agent, store=store) as runner:
        done = await runner.step("task")

        assert done.final_reward == 0.75


async def test_a_known_span_is_neither_stored_nor_counted_again(store: LightningStore) -> None:
    @agl.rollout
    async def agent(task: str, rollout: AttemptedRollout) -> None:
        span = reward_span(rollout, 0.75)
        await store.add_many_spans([span, span])

        assert await store.add_span(span) is None

    async with store, Runner(agent, store=store) as runner:
        done = await runner.step("task")

        assert len(done.spans) == 2
        assert len(await store.query_spans(done.rollout.rollout_id)) == 2


async def test_a_hook_at_the_end_adds_the_last_span(store: LightningStore) -> None:
    class Judge(agl.Hook):
        async def on_rollout_end(self, *, rollout: Any, **others: Any) -> None:
            await store.add_span(reward_span(rollout, 0.75))

    @agl.rollout
    async def agent(task: str) -> float:
        return 0.25

    async with store, Runner(agent, store=store, hooks=Judge()) as runner:
        done = await runner.step("task")

        assert find_final_reward(await store.query_spans(done.rollout.rollout_id)) == 0.75


async def test_an_agent_in_a_worker_process_adds_spans_in_their_order(tmp_path: Path) -> None:
    pytest.importorskip("trio_parallel")
    path = tmp_path / "run.db"

    async with SqliteLightningStore(path) as store, Runner(process_agents.adds_a_span, store=store) as runner:
        done = await runner.step(str(path))

        spans = await store.query_spans(done.rollout.rollout_id)
        assert [agl.get_reward_value(span) for span in spans] == [None, 0.25, 0.75]
        assert done.final_reward == 0.75


async def test_without_a_running_attempt_the_store_numbers_spans_by_itself(store: LightningStore) -> None:
    async with store:
        rollout = await store.start_rollout("task")

        added = [await store.add_span(reward_span(rollout, value)) for value in (0.25, 0.75)]

        assert [span and span.sequence_id for span in added] == [1, 2]
