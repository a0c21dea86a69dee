"""Return values of agents: rewards, None, and lists of spans."""

from __future__ import annotations

import logging
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

import lightning_trio as agl
from lightning_trio import Runner, Span, SpanCoreFields, semconv


async def returning(value: object) -> agl.CompletedRollout:
    async def agent(task: int) -> object:
        agl.emit_message("captured")
        return value

    async with Runner(agent) as runner:
        return await runner.step(1)


def made_by_a_library(names: list[str]) -> list[ReadableSpan]:
    """Make nested spans with a provider of their own; the outermost is last because it ends last."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("library")

    def nest(names: list[str]) -> None:
        with tracer.start_as_current_span(names[0], attributes={"depth": len(names)}):
            if names[1:]:
                nest(names[1:])

    nest(names)
    provider.shutdown()
    return list(exporter.get_finished_spans())


class Real(float):
    """A number of some library."""


async def forgotten(task: int) -> float:
    return 1.0


def plain(task: int) -> object:
    return forgotten(task)


async def native(task: int) -> object:
    return forgotten(task)


@pytest.mark.parametrize(
    "agent",
    [plain, lambda task: forgotten(task), native, agl.rollout(runs_in="asyncio")(native)],
    ids=["thread", "lambda", "trio", "asyncio"],
)
async def test_a_coroutine_that_was_never_awaited_is_named(agent: Any) -> None:
    async with Runner(agent) as runner:
        with pytest.raises(agl.InvalidReturn, match=r"returned a coroutine .* awaited; write async def and await it"):
            await runner.step(1)


@pytest.mark.parametrize(
    ("value", "reward"),
    [
        (0.25, 0.25),
        (3, 3.0),
        (True, 1.0),
        (False, 0.0),
        (-2, -2.0),
        (Fraction(1, 4), 0.25),
        (Decimal("0.5"), 0.5),
        (Real(0.75), 0.75),
    ],
    ids=repr,
)
async def test_any_real_number_is_the_final_reward(value: object, reward: float) -> None:
    done = await returning(value)

    assert done.status == "succeeded"
    assert done.final_reward == reward
    assert type(done.final_reward) is float


@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "float16", "bool_", "array"])
async def test_numpys_numbers_are_rewards(kind: str) -> None:
    done = await returning(getattr(np, kind)(1))

    assert done.final_reward == 1.0
    assert type(done.final_reward) is float


@pytest.mark.parametrize("value", [np.array([1.0]), np.datetime64(1, "ns"), np.str_("1"), np.complex64(1)], ids=repr)
async def test_what_is_no_single_number_of_numpys_is_no_reward(value: object) -> None:
    with pytest.raises(agl.InvalidReturn, match="an agent returns a number"):
        await returning(value)


async def test_the_reward_is_one_annotation_below_the_root() -> None:
    done = await returning(0.25)

    root, _, reward = done.spans
    assert reward.name == "agentlightning.annotation"
    assert reward.attributes == {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 0.25}
    assert reward.status.status_code == "OK"
    assert reward.parent_id == root.span_id


async def test_a_returned_reward_wins_over_those_emitted_before() -> None:
    async def agent(task: int) -> float:
        agl.emit_reward(0.25)
        return 0.75

    async with Runner(agent) as runner:
        done = await runner.step(1)

    assert done.final_reward == 0.75
    assert [agl.get_reward_value(span) for span in agl.find_reward_spans(done.spans)] == [0.25, 0.75]


async def test_none_leaves_what_was_emitted() -> None:
    async def agent(task: int) -> None:
        agl.emit_reward({"correct": 1.0, "short": 0.0}, primary_key="correct")

    async with Runner(agent) as runner:
        done = await runner.step(1)

    assert done.final_reward == 1.0
    assert len(done.spans) == 2


async def test_none_without_any_reward_has_none() -> None:
    done = await returning(None)

    assert (done.status, done.final_reward, len(done.spans)) == ("succeeded", None, 2)


async def test_an_empty_list_succeeds_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "lightning_trio")

    done = await returning([])

    assert (done.status, len(done.spans)) == ("succeeded", 2)
    assert "returns an empty list" in caplog.text


async def test_core_fields_become_spans_below_the_root_beside_what_was_captured() -> None:
    done = await returning([agl.emit_reward(0.5, propagate=False), SpanCoreFields("mine", attributes={"a": 1})])

    root, captured, reward, mine = done.spans
    assert done.final_reward == 0.5
    assert (captured.name, reward.name, mine.name) == ("agentlightning.message", "agentlightning.annotation", "mine")
    assert {span.parent_id for span in done.spans[1:]} == {root.span_id}
    assert len({span.trace_id for span in done.spans}) == 1


async def test_spans_join_the_attempt_and_keep_their_own_tree() -> None:
    top = Span.from_attributes(name="top", attributes={}, start_time=1.0, end_time=4.0)
    inner = Span.from_attributes(
        name="inner", attributes={}, trace_id=top.trace_id, parent_id=top.span_id, start_time=2.0, end_time=3.0
    )

    done = await returning([top, inner])

    by_name = {span.name: span for span in done.spans}
    root = done.spans[0]
    assert by_name["top"].parent_id == root.span_id
    assert by_name["inner"].parent_id == top.span_id
    assert {(span.trace_id, span.rollout_id, span.attempt_id) for span in done.spans} == {
        (root.trace_id, done.rollout.rollout_id, done.attempt.attempt_id)
    }


async def test_the_trace_and_parent_a_span_had_are_kept_as_attributes() -> None:
    orphan = Span.from_attributes(name="orphan", attributes={"a": 1}, parent_id="00000000000000aa")

    done = await returning([orphan])

    attributes = done.spans[-1].attributes
    assert orphan.trace_id in attributes.values()
    assert "00000000000000aa" in attributes.values()
    assert attributes["a"] == 1


@given(parents=st.lists(st.integers(0, 9), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_every_returned_span_is_placed_below_the_root_whatever_its_parent(parents: list[int]) -> None:
    """Cycles, spans that are their own parents, missing parents, forests: span n has the parent `parents[n]`."""
    returned = [
        Span.from_attributes(name="returned", attributes={}, span_id=f"{n + 1:016x}", parent_id=f"{parent + 1:016x}")
        for n, parent in enumerate(parents)
    ]

    done = trio.run(returning, returned)

    by_id = {span.span_id: span for span in done.spans}
    for span in done.spans:
        above = [span]
        while above[-1].parent_id is not None and len(above) <= len(by_id):
            above.append(by_id[above[-1].parent_id])
        assert above[-1] is done.spans[0]


async def test_a_cycle_of_spans_is_broken_at_the_first_which_keeps_its_parent_as_an_attribute() -> None:
    first, second, third = (f"{n:016x}" for n in (1, 2, 3))
    parents = {first: third, second: first, third: second}
    spans = [
        Span.from_attributes(name="in a cycle", attributes={}, span_id=span_id, parent_id=parent_id)
        for span_id, parent_id in parents.items()
    ]

    done = await returning(spans)

    root, _, *returned = done.spans
    assert [span.parent_id for span in returned] == [root.span_id, first, second]
    original = [span.attributes.get(semconv.LightningSpanAttributes.ORIGINAL_PARENT_ID) for span in returned]
    assert original == [third, None, None]


def readable(**fields: Any) -> ReadableSpan:
    context = SpanContext(1, 2, is_remote=False)
    return ReadableSpan(**{"name": "call", "context": context, "start_time": 1, "end_time": 2, **fields})


def core(**fields: Any) -> SpanCoreFields:
    return SpanCoreFields(**{"name": "call", **fields})


def span(**fields: Any) -> Span:
    return attrs.evolve(Span.from_attributes(attributes={}), **fields)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("malformed", "named"),
    [
        (readable(name=None), "name of the span at index 0 is None"),
        (readable(attributes={5: 1}), "attributes of the span at index 0"),
        (readable(attributes=[1]), "malformed span: TypeError"),
        (readable(start_time="now"), "malformed span: TypeError"),
        (readable(start_time=math.nan), "start_time of the span at index 0 is nan"),
        (readable(status="fine"), "malformed span: AttributeError"),
        (readable(events=[1]), "malformed span: AttributeError"),
        (readable(links=["x"]), "malformed span: AttributeError"),
        (readable(parent="x"), "malformed span: AttributeError"),
        (core(name=None), "name of the span at index 0 is None"),
        (core(attributes=None), "malformed span: TypeError"),
        (core(start_time="now"), "start_time of the span at index 0 is 'now'"),
        (core(end_time=math.inf), "end_time of the span at index 0 is inf"),
        (core(status="fine"), "status of the span at index 0 is 'fine'"),
        (span(span_id=None), "span_id of the span at index 0 is None"),
        (span(span_id="f" * 400), "span_id of the span at index 0 is 'fff"),
        (span(trace_id=5), "trace_id of the span at index 0 is 5"),
        (span(parent_id="x" * 10**6), "parent_id of the span at index 0 is 'xxx"),
        (span(attributes=None), "attributes of the span at index 0 is None"),
        (span(events=[3]), "events of the span at index 0"),
        (span(links=[3]), "links of the span at index 0"),
        (span(resource=3), "resource of the span at index 0 is 3"),
    ],
)
async def test_a_malformed_span_fails_its_attempt_alone_and_is_named(
    malformed: Any, named: str, kind: str, tmp_path: Path
) -> None:
    exporter = InMemorySpanExporter()
    tracer = agl.Tracer()
    tracer.add_exporter(exporter)
    store = agl.InMemoryLightningStore() if kind == "memory" else agl.SqliteLightningStore(tmp_path / "runs.db")

    async def agent(task: str) -> object:
        return [malformed] if task == "malformed" else [readable(name="good")]

    async with store:
        result = await Runner(agent, store=store, tracer=tracer).fit(["good", "malformed", "good"])
        [failed] = await store.query_rollouts(status_in=["failed"])
        [attempt] = await store.query_attempts(failed.rollout_id)

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}
    assert attempt.error is not None
    assert attempt.error.type == "InvalidReturn"
    assert named in attempt.error.message
    assert [each.name for each in exporter.get_finished_spans()].count("good") == 2


async def test_spans_of_the_sdk_are_converted() -> None:
    done = await returning(made_by_a_library(["outer", "middle", "inner"]))

    by_name = {span.name: span for span in done.spans}
    assert by_name["outer"].parent_id == done.spans[0].span_id
    assert by_name["middle"].parent_id == by_name["outer"].span_id
    assert by_name["inner"].parent_id == by_name["middle"].span_id
    assert by_name["inner"].attributes["depth"] == 1
    assert by_name["inner"].start_time is not None
    assert by_name["inner"].start_time > 1e9


async def test_a_span_that_was_captured_already_is_not_doubled() -> None:
    tracer = agl.Tracer()
    exporter = InMemorySpanExporter()
    tracer.provider.add_span_processor(SimpleSpanProcessor(exporter))
    library = tracer.provider.get_tracer("library")

    async def agent(task: int) -> list[Any]:
        with library.start_as_current_span("call"):
            pass
        return list(exporter.get_finished_spans())

    async with Runner(agent, tracer=tracer) as runner:
        done = await runner.step(1)

    assert [span.name for span in done.spans] == ["invoke_agent agent", "call"]


async def test_a_span_given_twice_in_the_list_is_not_doubled() -> None:
    span = Span.from_attributes(name="mine", attributes={})

    done = await returning([span, span])

    assert [each.name for each in done.spans].count("mine") == 1


async def test_returned_spans_are_numbered_after_those_captured() -> None:
    done = await returning([Span.from_attributes(name="mine", attributes={}, sequence_id=1)])

    assert [span.sequence_id for span in done.spans] == [1, 2, 3]


def test_a_plain_function_may_return_spans_as_well(runner: Any) -> None:
    def agent(task: int) -> list[SpanCoreFields]:
        return [agl.emit_reward(0.5, propagate=False)]

    [done] = runner.run(agent, [1])

    assert done.final_reward == 0.5


async def test_a_returned_span_shares_nothing_with_the_agent() -> None:
    kept: list[Any] = [1]

    async def agent(task: int) -> list[Span]:
        return [Span.from_attributes(attributes={"list": kept, "dict": {"inner": kept}})]

    async with Runner(agent) as runner:
        done = await runner.step(1)
        kept.append("late")

    attributes = done.spans[-1].attributes
    assert (attributes["list"], attributes["dict"]) == ([1], {"inner": [1]})
