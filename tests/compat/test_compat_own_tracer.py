"""Emitters that record with a tracer of the program's own, as tests of 0.3's users have it."""

from __future__ import annotations

from collections.abc import Generator
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
