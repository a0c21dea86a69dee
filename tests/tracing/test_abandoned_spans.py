"""Abandoned code, and code that keeps what it recorded, change nothing that is recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

import lightning_trio as agl
from lightning_trio.tracing import find_recorder

NAME = "agentlightning.operation.name"
OUTPUT = "agentlightning.operation.output"

Body = Callable[[Callable[[], object]], None]


async def recorded_by(body: Body, raised: list[BaseException] | None = None) -> list[dict[str, Any]]:
    """Return the attributes of the spans of an agent that is abandoned where it calls the argument of `body`."""
    gate, ended = threading.Event(), threading.Event()

    def wait() -> bool:
        trio.from_thread.run_sync(scope.cancel)
        return gate.wait(20)

    def agent(task: int) -> None:
        try:
            body(wait)
        except agl.AttemptAbandoned as exc:
            if raised is not None:
                raised.append(exc)
        finally:
            ended.set()

    store = agl.InMemoryLightningStore()
    async with agl.Runner(agent, store=store) as runner:
        with trio.CancelScope() as scope:
            await runner.step(1)
        gate.set()
        await trio.to_thread.run_sync(ended.wait, 20)
    [rollout] = await store.query_rollouts()
    return [dict(span.attributes) for span in await store.query_spans(rollout.rollout_id)][1:]


async def test_an_abandoned_thread_changes_nothing_through_an_operation_that_it_holds() -> None:
    raised: list[BaseException] = []

    def body(wait: Callable[[], object]) -> None:
        with agl.operation(name="call") as op:
            wait()
            op.set_output("late")

    assert await recorded_by(body, raised) == [{NAME: "call"}]
    assert isinstance(raised[0], agl.AttemptAbandoned)


async def test_an_abandoned_function_with_an_operation_around_it_records_no_output() -> None:
    def body(wait: Callable[[], object]) -> None:
        agl.operation(name="call")(lambda: wait() and "late")()

    assert await recorded_by(body) == [{NAME: "call"}]


async def test_an_abandoned_thread_changes_nothing_through_the_span_of_an_operation_that_has_ended() -> None:
    def body(wait: Callable[[], object]) -> None:
        with agl.operation(name="call", pages=[1, 2]) as op:
            pass
        wait()
        kept: Any = op.span().attributes
        kept["late"] = True
        kept["pages"].append(3)

    assert await recorded_by(body) == [{NAME: "call", "pages": [1, 2]}]


@pytest.mark.parametrize("emit", ["annotation", "reward", "object"])
async def test_what_an_emitter_returns_shares_no_list_with_the_record(emit: str) -> None:
    def body(wait: Callable[[], object]) -> None:
        attributes = {"pages": [1, 2]}
        span = {
            "annotation": lambda: agl.emit_annotation(attributes),
            "reward": lambda: agl.emit_reward(1.0, attributes=attributes),
            "object": lambda: agl.emit_object("x", attributes=attributes),
        }[emit]()
        wait()
        attributes["pages"].append(3)
        span.attributes["pages"].append(3)

    [attributes] = await recorded_by(body)

    assert attributes["pages"] == [1, 2]


async def test_an_abandoned_thread_changes_nothing_through_the_last_trace() -> None:
    def body(wait: Callable[[], object]) -> None:
        agl.emit_annotation({"pages": [1, 2]})
        recorder = find_recorder()
        assert recorder is not None
        [span] = recorder.tracer.get_last_trace()  # type: ignore[attr-defined]
        wait()
        kept: Any = span.attributes
        kept["late"] = True
        kept["pages"].append(3)

    assert await recorded_by(body) == [{"pages": [1, 2]}]


async def test_an_abandoned_thread_changes_nothing_through_a_library_span_that_it_holds() -> None:
    def body(wait: Callable[[], object]) -> None:
        recorder = find_recorder()
        assert recorder is not None
        with recorder.tracer.provider.get_tracer("library").start_as_current_span("call") as span:
            wait()
            span.set_attribute("late", True)

    assert await recorded_by(body) == [{}]


async def test_an_abandoned_thread_changes_nothing_through_its_task() -> None:
    gate, ended = threading.Event(), threading.Event()

    def agent(task: dict[str, list[int]]) -> None:
        gate.wait(20)
        task["rooms"].append(2)
        ended.set()

    async with agl.Runner(agent, config=agl.RolloutConfig(timeout_seconds=0.05)) as runner:
        async with runner.stream([{"rooms": [1]}]) as results:
            done = await anext(results)
        gate.set()
        await trio.to_thread.run_sync(ended.wait, 20)

    assert done.rollout.input == {"rooms": [1]}


async def test_an_agent_changes_nothing_through_the_attributes_of_spans_that_it_returned() -> None:
    attributes: dict[str, Any] = {"pages": [1]}

    async def agent(task: int) -> list[agl.Span]:
        return [agl.Span.from_attributes(attributes=attributes)]

    async with agl.Runner(agent) as runner:
        done = await runner.step(1)
    attributes["pages"].append(2)
    attributes["late"] = True

    assert done.spans[1].attributes["pages"] == [1]
    assert "late" not in done.spans[1].attributes
