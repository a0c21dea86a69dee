"""An attempt that records more than its store takes ends at that moment, not when it is committed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import lightning_trio as agl
from lightning_trio import AttemptedRollout, LightningStore, PayloadTooLarge, RolloutConfig, Runner, Span
from lightning_trio import SqliteLightningStore as Store

LIMIT = 10_000
DEFAULT_CONFIG = RolloutConfig()


async def failure_of(
    agent: Any, path: Path, config: RolloutConfig = DEFAULT_CONFIG
) -> tuple[LightningStore, PayloadTooLarge, list[Span]]:
    """Run one attempt, and return the error that ended it, with the spans that are kept."""
    store = Store(path / "s.db", max_payload_bytes=LIMIT)
    async with Runner(agent, store=store, config=config, max_processes=1) as runner:
        with pytest.raises(PayloadTooLarge) as caught:
            await runner.step(1)
        [rollout] = await store.query_rollouts(status_in=["failed"])
        assert len(await store.query_attempts(rollout.rollout_id)) == 1
        spans = list(await store.query_spans(rollout.rollout_id))
    return store, caught.value, spans


def messages(spans: Sequence[Span]) -> list[str | None]:
    return [agl.get_message_value(span) for span in spans if span.name == "agentlightning.message"]


async def test_the_emit_that_goes_beyond_the_limit_raises_the_error(tmp_path: Path) -> None:
    after: list[str] = []

    async def agent(task: int) -> None:
        agl.emit_message("kept")
        agl.emit_message("x" * LIMIT)
        after.append("not reached")

    _, error, spans = await failure_of(agent, tmp_path)

    assert re.search(
        r"take at least 10,\d+ bytes with this one, the store's limit is 10,000; .* max_payload_bytes=", str(error)
    )
    assert (error.limit, messages(spans), after) == (LIMIT, ["kept"], [])


async def test_many_small_spans_are_counted_together(tmp_path: Path) -> None:
    emitted = 0

    async def agent(task: int) -> None:
        nonlocal emitted
        while True:
            agl.emit_message("x" * 100)
            emitted += 1

    await failure_of(agent, tmp_path)

    assert emitted < LIMIT / 100


async def test_an_agent_that_catches_the_error_fails_all_the_same(tmp_path: Path) -> None:
    async def agent(task: int) -> float:
        try:
            agl.emit_message("x" * LIMIT)
        except ValueError:
            return 1.0
        return 0.0

    _, error, spans = await failure_of(agent, tmp_path)

    assert (error.limit, len(spans)) == (LIMIT, 1)


async def test_an_operation_ends_with_the_error(tmp_path: Path) -> None:
    async def agent(task: int) -> None:
        with agl.operation(name="search") as op:
            op.set_output("x" * LIMIT)

    _, error, _ = await failure_of(agent, tmp_path)

    assert error.limit == LIMIT


async def test_returned_spans_are_counted(tmp_path: Path) -> None:
    async def agent(task: int, rollout: AttemptedRollout) -> list[Span]:
        return [Span.from_attributes(attributes={"text": "x" * 100}) for _ in range(LIMIT // 100)]

    _, error, _ = await failure_of(agent, tmp_path)

    assert error.limit == LIMIT


async def test_spans_of_libraries_are_counted_when_the_agent_returns(tmp_path: Path) -> None:
    tracer = agl.Tracer()

    async def agent(task: int) -> None:
        with tracer.provider.get_tracer("library").start_as_current_span("call") as span:
            span.set_attribute("text", "x" * LIMIT)

    store = Store(tmp_path / "s.db", max_payload_bytes=LIMIT)
    async with Runner(agent, store=store, tracer=tracer) as runner:
        with pytest.raises(PayloadTooLarge, match="with this one"):
            await runner.step(1)


@agl.rollout(runs_in="process")
def records_too_much_in_a_process(task: int) -> None:
    """Record too much, and catch the error."""
    try:
        agl.emit_message("x" * LIMIT)
    except ValueError:
        return


async def test_a_worker_process_counts_as_well(tmp_path: Path) -> None:
    _, error, _ = await failure_of(records_too_much_in_a_process, tmp_path)

    assert "max_payload_bytes" in str(error)


async def test_no_further_attempt_follows(tmp_path: Path) -> None:
    async def agent(task: int) -> None:
        agl.emit_message("x" * LIMIT)

    await failure_of(agent, tmp_path, RolloutConfig(max_attempts=3, retry_condition=["failed"], backoff_seconds=0))


async def test_a_store_without_a_limit_takes_everything() -> None:
    async def agent(task: int) -> None:
        agl.emit_message("x" * 10 * LIMIT)

    async with Runner(agent) as runner:
        done = await runner.step(1)

    assert len(messages(done.spans)[0] or "") == 10 * LIMIT
