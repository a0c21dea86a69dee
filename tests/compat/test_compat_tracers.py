"""Agent-lightning 0.3's tracers: the program's default provider, traces without a runner, LangChain."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import opentelemetry.trace
import pytest
from lightning_trio.compat.tracer import clear_active_tracer, get_active_tracer, set_active_tracer
from opentelemetry.sdk.trace import TracerProvider

import lightning_trio
import lightning_trio.compat as agl


@agl.rollout
def traced(task: str) -> float:
    """Make a span through OpenTelemetry's default provider."""
    with opentelemetry.trace.get_tracer("program").start_as_current_span("own step"):
        agl.emit_message("inside")
    return 1.0


def names_of_trace(trainer: Any) -> list[str]:
    async def read() -> list[str]:
        [rollout] = await trainer.store.query_rollouts()
        return [span.name for span in await trainer.store.query_spans(rollout.rollout_id)]

    return asyncio.run(read())


def test_a_span_of_the_default_provider_is_kept() -> None:
    trainer = agl.Trainer()

    trainer.fit(traced, ["tea"])

    assert names_of_trace(trainer) == [
        "invoke_agent traced",
        "own step",
        "agentlightning.message",
        "agentlightning.annotation",
    ]


def test_a_default_provider_that_the_program_has_set_is_joined() -> None:
    provider = TracerProvider()
    opentelemetry.trace.set_tracer_provider(provider)
    trainer = agl.Trainer()

    trainer.fit(traced, ["tea"])

    assert opentelemetry.trace.get_tracer_provider() is provider
    assert "own step" in names_of_trace(trainer)


def test_lightning_trio_alone_sets_no_default_provider() -> None:
    lightning_trio.Trainer().fit(lambda task: 1.0, ["tea"])

    assert isinstance(opentelemetry.trace.get_tracer_provider(), opentelemetry.trace.ProxyTracerProvider)


def test_a_trace_without_a_runner_is_stored_for_its_attempt() -> None:
    async def main() -> Any:
        tracer, store = agl.OtelTracer(), agl.InMemoryLightningStore()
        rollout = await store.start_rollout(input="task")
        ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
        with tracer.lifespan(store):
            async with tracer.trace_context("by hand", **ids) as otel:
                with otel.start_as_current_span("outer"), otel.start_as_current_span("inner"):
                    await asyncio.sleep(0)
                agl.emit_reward(0.5)
        return await store.query_spans(rollout.rollout_id), tracer.get_last_trace()

    stored, last = asyncio.run(main())

    outer, inner, reward = stored
    assert [span.name for span in stored] == [span.name for span in last]
    assert [span.sequence_id for span in stored] == [1, 2, 3]
    assert (outer.parent_id, inner.parent_id, reward.parent_id) == (None, outer.span_id, None)
    assert agl.find_final_reward(stored) == 0.5


def test_one_id_alone_is_refused() -> None:
    async def main() -> None:
        async with agl.OtelTracer().trace_context(rollout_id="ro-1"):
            pass

    with pytest.raises(ValueError, match="give both, or neither"):
        asyncio.run(main())


def test_functions_are_traced() -> None:
    tracer = agl.OtelTracer()

    def step(word: str) -> str:
        agl.emit_message(word)
        return word

    async def async_step(word: str) -> str:
        return step(word)

    assert tracer.trace_run(step, "tea") == "tea"
    assert [agl.get_message_value(span) for span in tracer.get_last_trace()] == ["tea"]
    assert asyncio.run(tracer.trace_run_async(async_step, "milk")) == "milk"
    assert [agl.get_message_value(span) for span in tracer.get_last_trace()] == ["milk"]


def test_single_spans_and_operations_are_recorded() -> None:
    tracer = agl.OtelTracer()

    def step() -> None:
        tracer.create_span("point", {"a": {"b": 1}})
        with tracer.operation_context("work", {"n": 1}) as recording:
            recording.record_attributes({"m": 2})
            recording.record_status("OK")

    tracer.trace_run(step)

    point, work = tracer.get_last_trace()
    assert (point.name, point.attributes) == ("point", {"a.b": 1})
    assert (work.name, work.attributes, work.status.status_code) == ("work", {"n": 1, "m": 2}, "OK")


def test_single_spans_and_operations_have_the_times_given() -> None:
    tracer = agl.OtelTracer()

    def step() -> None:
        assert tracer.create_span("point", timestamp=5.0).end_time == 5.0
        with tracer.operation_context("work", start_time=1.0, end_time=2.5):
            pass

    tracer.trace_run(step)

    point, work = tracer.get_last_trace()
    assert (point.start_time, point.end_time) == (5.0, 5.0)
    assert (work.start_time, work.end_time) == (1.0, 2.5)


def test_an_operation_that_fails_has_its_exception() -> None:
    tracer = agl.OtelTracer()

    def step() -> None:
        with tracer.operation_context("work"):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        tracer.trace_run(step)

    [work] = tracer.get_last_trace()
    assert (work.status.status_code, work.status.description) == ("ERROR", "no")
    assert work.events[0].attributes["exception.type"] == "ValueError"


def test_a_span_outside_of_any_trace_is_an_error() -> None:
    with pytest.raises(lightning_trio.NoActiveRollout):
        agl.OtelTracer().create_span("point")


def test_a_dummy_records_nothing() -> None:
    tracer = agl.DummyTracer()

    with tracer.operation_context("work", {"n": 1}) as recording:
        recording.record_attributes({"m": 2})

    span = recording.get_recorded_span()
    assert (span.name, span.attributes) == ("work", {"n": 1, "m": 2})
    assert tracer.create_span("point").status.status_code == "OK"


def test_the_active_tracer_is_set_once() -> None:
    tracer = agl.DummyTracer()
    set_active_tracer(tracer)
    try:
        assert get_active_tracer() is tracer
        assert agl.emit_reward(1.0).attributes["agentlightning.reward.0.value"] == 1.0
        with pytest.raises(ValueError, match="An active tracer is already set"):
            set_active_tracer(tracer)
    finally:
        clear_active_tracer()
    assert get_active_tracer() is None


def test_the_active_tracer_of_a_rollout_is_the_trainers() -> None:
    seen: list[Any] = []

    @agl.rollout
    def looking(task: str) -> None:
        seen.append(get_active_tracer())

    trainer = agl.Trainer(tracer=agl.OtelTracer())
    trainer.fit(looking, ["tea"])

    assert seen == [trainer.tracer]


def test_langchains_chains_tools_and_models_are_recorded() -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.language_models import FakeListChatModel
    from langchain_core.runnables import RunnableLambda

    model = FakeListChatModel(responses=["blue"])

    class Asking(agl.LitAgent[str]):
        def rollout(self, task: str, resources: Any, rollout: Any) -> float:
            handler = self.tracer.get_langchain_handler()  # type: ignore[attr-defined]
            chain = RunnableLambda(lambda text: f"{text}?") | model
            answer = chain.invoke(task, {"callbacks": [handler]})
            return float(answer.content == "blue")

    trainer = agl.Trainer()
    trainer.fit(Asking(), ["sky"])

    async def read() -> Any:
        [rollout] = await trainer.store.query_rollouts()
        return await trainer.store.query_spans(rollout.rollout_id)

    spans = asyncio.run(read())
    steps = [span for span in spans if span.name == "agentlightning.operation"]
    kinds = [span.attributes["agentlightning.operation.name"].split()[0] for span in steps]
    assert sorted(kinds) == ["chain", "chain", "model"]
    assert agl.find_final_reward(spans) == 1.0


def test_a_failed_chain_has_its_error() -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.runnables import RunnableLambda

    tracer = agl.AgentOpsTracer()

    def fail(text: str) -> str:
        raise ValueError(text)

    def step() -> None:
        with pytest.raises(ValueError, match="sky"):
            RunnableLambda(fail).invoke("sky", {"callbacks": [tracer.get_langchain_handler()]})

    tracer.trace_run(step)

    [span] = tracer.get_last_trace()
    assert (span.status.status_code, span.status.description) == ("ERROR", "ValueError: sky")


def test_without_langchain_there_is_no_handler() -> None:
    program = (
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'langchain_core' else find(name)\n"
        "import lightning_trio.compat as agl\n"
        "print(agl.OtelTracer().get_langchain_handler())"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert ended.stdout == "None\n", ended.stderr


def test_an_operation_in_a_generator_is_not_around_the_code_after_it() -> None:
    def chunks() -> Any:
        with agl.operation(name="stream"):
            yield from range(5)

    def step() -> None:
        generator = chunks()
        next(generator)
        agl.emit_message("after")
        generator.close()

    tracer = agl.OtelTracer()
    tracer.trace_run(step)

    [operation, message] = tracer.get_last_trace()
    assert message.parent_id != operation.span_id


def test_an_operation_of_a_generator_lasts_until_its_end() -> None:
    @agl.operation
    def chunks() -> Any:
        agl.emit_message("first step")
        yield 1
        agl.emit_message("second step")

    tracer = agl.OtelTracer()
    tracer.trace_run(lambda: list(chunks()))

    operation, *messages = tracer.get_last_trace()
    assert [message.parent_id for message in messages] == [operation.span_id] * 2
    assert "agentlightning.operation.output" not in operation.attributes
