"""Emitters that record with a tracer of the program's own, as tests of 0.3's users have it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any

import attrs
import pytest

import lightning_trio.compat as old
from lightning_trio.compat._modules import module


class Recording(old.DummyTracer):  # type: ignore[misc, name-defined]
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Any] = []
        self.steps: list[Any] = []

    def create_span(self, *args: Any, **kwargs: Any) -> Any:
        self.spans.append(super().create_span(*args, **kwargs))
        return self.spans[-1]

    def operation_context(self, *args: Any, **kwargs: Any) -> Any:
        block = super().operation_context(*args, **kwargs)
        step = block.__enter__()
        self.steps.append(step)
        block.__exit__(None, None, None)
        return super().operation_context(step.name, step.attributes)


@pytest.fixture
def tracer() -> Generator[Recording]:
    made = Recording()
    old.set_active_tracer(made)
    yield made
    old.clear_active_tracer()


def test_emitters_ask_the_active_tracer_for_their_spans(tracer: Recording) -> None:
    old.emit_message("hi", {"meta": {"tag": "a"}})
    old.emit_object({"room": 1})
    old.emit_exception(ValueError("boom"))
    old.emit_annotation({"score": 1.5})
    old.emit_reward(2)

    assert [span.name.rpartition(".")[2] for span in tracer.spans] == [
        "message",
        "object",
        "exception",
        "annotation",
        "annotation",
    ]
    assert tracer.spans[0].attributes == {"meta.tag": "a", "agentlightning.message.body": "hi"}
    assert tracer.spans[4].attributes == {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 2}


def test_without_propagation_nothing_is_asked_for(tracer: Recording) -> None:
    span = old.emit_reward(1.0, propagate=False)

    assert span.attributes["agentlightning.reward.0.value"] == 1.0
    assert tracer.spans == []


def test_a_function_replaced_in_an_emitters_module_applies_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = Recording()
    monkeypatch.setattr(module("emitter.message"), "get_active_tracer", lambda: tracer)

    old.emit_message("hi")

    assert len(tracer.spans) == 1


@attrs.frozen
class Rooms:
    names: tuple[str, ...]


def test_what_a_step_returns_is_recorded_as_03_did(tracer: Recording) -> None:
    @old.operation(kind="search")
    def search(time: str) -> Rooms:
        return Rooms(("A103",))

    assert search("16:30") == Rooms(("A103",))
    [step] = tracer.steps
    assert step.attributes["kind"] == "search"
    assert step.attributes["agentlightning.operation.name"] == "search"
    assert step.attributes["agentlightning.operation.input.time"] == "16:30"
    assert step.attributes["agentlightning.operation.output"] == "\"Rooms(names=('A103',))\""


# A tracer of the program's own that records the rollouts.


class Redacting(old.OtelTracer):  # type: ignore[misc, name-defined]
    """Removes the text of messages and of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def init(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append("init")

    def init_worker(self, worker_id: int, store: Any = None, *args: Any, **kwargs: Any) -> None:
        self.calls.append(f"init_worker {worker_id} {store is not None}")
        super().init_worker(worker_id, store)

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        self.calls.append("teardown_worker")

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append("teardown")
        raise ValueError("a failure of the clean-up")

    def create_span(self, name: str, attributes: Any = None, timestamp: Any = None, status: Any = None) -> Any:
        return super().create_span(name, _redacted(attributes), timestamp, status)

    def operation_context(
        self, name: str, attributes: Any = None, start_time: Any = None, end_time: Any = None
    ) -> AbstractContextManager[Any]:
        return super().operation_context(name, _redacted(attributes), start_time, end_time)  # type: ignore[no-any-return]


def _redacted(attributes: Any) -> Any:
    return {key: "***" if key.endswith(("body", "input.word")) else value for key, value in attributes.items()}


@old.operation
def look_up(word: str) -> float:
    return 0.5


@old.reward
def judge(word: str) -> float:
    return look_up(word)


@old.rollout
async def telling(task: str) -> None:
    await asyncio.sleep(0)
    old.emit_message(task)
    judge(task)


def _attributes_of(spans: Any) -> list[Any]:
    return [value for span in spans for value in span.attributes.values()]


def test_a_tracer_of_the_programs_own_makes_the_spans_of_a_fit() -> None:
    tracer, store = Redacting(), old.InMemoryLightningStore()

    result = old.Trainer(tracer=tracer, store=store).fit(telling, ["secret"])

    [rollout] = asyncio.run(store.query_rollouts())
    spans = asyncio.run(store.query_spans(rollout.rollout_id))
    assert _attributes_of(spans).count("***") == 2
    assert "secret" not in _attributes_of(spans)
    assert result.mean_reward["train"] == 0.5


def test_a_tracer_of_the_programs_own_makes_the_spans_of_a_step() -> None:
    async def main() -> Any:
        store: Any = old.InMemoryLightningStore()
        runner: Any = old.LitAgentRunner(Redacting())
        with runner.run_context(agent=telling, store=store):
            rollout = await runner.step("secret")
        return await store.query_spans(rollout.rollout_id)

    assert _attributes_of(asyncio.run(main())).count("***") == 2


def test_an_operation_that_a_tracer_of_the_programs_own_records_has_its_span() -> None:
    taken: list[Any] = []

    @old.rollout
    def stepping(task: str) -> None:
        with old.operation(word=task) as step:
            step.set_output(1.0)
        taken.append(step.span())

    old.Trainer(tracer=Redacting()).fit(stepping, ["tea"])

    assert taken[0].attributes["agentlightning.operation.output"] == 1.0


def test_a_fit_prepares_the_tracer_and_cleans_up_whatever_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    tracer = Redacting()

    old.Trainer(tracer=tracer).fit(telling, ["tea"])

    assert tracer.calls == ["init", "init_worker 0 True", "teardown_worker", "teardown"]
    assert "Error during tracer teardown" in caplog.text


class Around(old.OtelTracer):  # type: ignore[misc, name-defined]
    """Overrides what a runner does not call."""

    def trace_context(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    def get_last_trace(self) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    "make", [lambda: old.Trainer(tracer=Around), lambda: old.LitAgentRunner(Around())], ids=["trainer", "runner"]
)
def test_a_warning_names_the_methods_of_a_tracer_that_a_runner_does_not_call(make: Any) -> None:
    with pytest.warns(UserWarning, match="methods of Around: trace_context, get_last_trace; .* create_span") as caught:
        make()

    assert caught[0].filename == __file__


@pytest.mark.parametrize("make", [old.OtelTracer, old.AgentOpsTracer, Redacting, old.DummyTracer])
def test_a_tracer_whose_methods_are_all_called_warns_about_nothing(make: Any) -> None:
    assert old.Trainer(tracer=make()).tracer is not None


def test_a_dummy_that_is_given_to_a_trainer_loses_no_reward() -> None:
    assert old.Trainer(tracer=old.DummyTracer()).fit(telling, ["tea"]).mean_reward["train"] == 0.5
