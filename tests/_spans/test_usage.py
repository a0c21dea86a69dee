"""Tokens and costs are read from the spans of model calls."""

from __future__ import annotations

from typing import Any

import pytest

import lightning_trio as agl
from lightning_trio import Runner, Span, Usage
from lightning_trio._spans import sum_usage


def call(**attributes: Any) -> Span:
    return Span.from_attributes(attributes={key.replace("__", "."): value for key, value in attributes.items()})


def test_tokens_and_costs_add_up() -> None:
    calls = [
        call(gen_ai__usage__input_tokens=7, gen_ai__usage__output_tokens=2, gen_ai__usage__cost=0.5),
        call(gen_ai__usage__input_tokens=1, gen_ai__operation__name="embeddings"),
        call(agent="no call"),
    ]

    assert sum_usage(calls) == Usage(8, 2, 0.5)


def test_a_span_that_repeats_what_the_calls_below_it_took_does_not_count() -> None:
    agent = call(gen_ai__usage__input_tokens=7, gen_ai__operation__name="invoke_agent")

    assert sum_usage([agent]) == Usage()


@pytest.mark.parametrize("nonsense", ["many", None, float("nan"), float("inf"), [1]])
def test_what_is_no_number_counts_as_none(nonsense: Any) -> None:
    assert sum_usage([call(gen_ai__usage__input_tokens=nonsense)]) == Usage()


async def test_an_attempt_and_a_run_have_the_usage_of_their_calls() -> None:
    async def agent(task: int) -> float:
        agl.emit_annotation({"gen_ai": {"usage": {"input_tokens": 10 * task, "output_tokens": task, "cost": 0.25}}})
        return 1.0

    async with Runner(agent) as runner:
        done = await runner.step(3)
    result = await Runner(agent).fit([1, 2])

    assert done.attempt.usage == Usage(30, 3, 0.25)
    assert result.usage == Usage(30, 3, 0.5)
