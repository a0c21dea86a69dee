"""Adapters: a user's own turns spans into data for an algorithm; other objects raise an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import lightning_trio as agl
from lightning_trio import Adapter, Runner, Trainer


class Said:
    """A user's adapter, without a base class: messages and their rewards."""

    def adapt(self, spans: Sequence[agl.Span]) -> list[tuple[str, float | None]]:
        reward = agl.find_final_reward(spans)
        return [(text, reward) for span in spans if (text := agl.get_message_value(span)) is not None]


async def speaker(task: str, emitter: agl.Emitter) -> float:
    emitter.emit_message(f"looking at {task}")
    return float(len(task))


@agl.algo
async def collect(session: agl.Session, adapter: Adapter[list[Any]], train_dataset: Sequence[str]) -> None:
    for done in await session.run(train_dataset):
        session.note(data=adapter.adapt(done.spans))


COLLECTED = [{"data": [("looking at tea", 3.0)]}, {"data": [("looking at milk", 4.0)]}]


async def test_an_algorithm_has_data_made_of_its_rollouts_spans() -> None:
    result = await Runner(speaker, algorithm=collect, adapter=Said()).fit(["tea", "milk"])

    assert list(result.history) == COLLECTED


@pytest.mark.parametrize("adapter", [Said(), Said, f"{__name__}.Said", {"type": f"{__name__}.Said"}])
def test_a_trainer_accepts_every_form_of_adapter(adapter: Any) -> None:
    result = Trainer(algorithm=collect, adapter=adapter).fit(speaker, ["tea", "milk"])

    assert list(result.history) == COLLECTED


async def test_an_algorithm_class_gets_it_from_itself_and_from_its_session() -> None:
    class Collect(agl.Algorithm):
        async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
            assert self.get_adapter() is self.session.adapter
            done = await self.session.run(train_dataset)
            self.session.note(data=self.get_adapter().adapt(done[0].spans))

    result = await Runner(speaker, algorithm=Collect(), adapter=Said()).fit(["tea"])

    assert list(result.history) == COLLECTED[:1]


async def test_spans_of_a_store_give_the_same_data() -> None:
    async with Runner(speaker) as runner:
        done = await runner.step("tea")
        stored = await runner.store.query_spans(done.rollout.rollout_id)

    assert Said().adapt(stored) == Said().adapt(done.spans) == COLLECTED[0]["data"]


class Slow:
    async def adapt(self, spans: Sequence[agl.Span]) -> None: ...


class Data:
    adapt = (1, 2)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("adapter", r"adapter takes an Adapter, not 'adapter'; an adapter has a method: def adapt\(self, spans\): …"),
        (len, r"not <built-in function len>; an adapter has a method: def adapt"),
        (Said, r"not <class .*Said'>; did you mean Said\(\)\?"),
        (Slow(), r"its method is async, and an adapter only computes; write: def adapt\(self, spans\): …"),
        (Data(), r"an adapter has a method: def adapt"),
    ],
    ids=["text", "function", "class", "async", "no method"],
)
def test_what_is_no_adapter_is_refused_with_what_to_write(adapter: Any, message: str) -> None:
    with pytest.raises(agl.ComponentError, match=message):
        Runner(speaker, adapter=adapter)
    with pytest.raises(agl.ComponentError, match=message):
        collect.set_adapter(adapter)


@pytest.mark.parametrize("adapter", ["builtins.dict", len, Slow])
def test_a_trainer_refuses_it_too(adapter: Any) -> None:
    with pytest.raises(agl.ComponentError, match="adapter takes an Adapter, not"):
        Trainer(adapter=adapter)


async def test_an_error_of_an_adapter_is_the_algorithms() -> None:
    class Broken:
        def adapt(self, spans: Sequence[agl.Span]) -> list[str]:
            raise LookupError("no such span")

    with pytest.raises(LookupError, match="no such span"):
        await Runner(speaker, algorithm=collect, adapter=Broken()).fit(["tea"])
