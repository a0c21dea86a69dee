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


class HostileInt(int):
    """An integer whose methods raise."""

    def refuse(self, *_: object) -> Any:
        raise OSError("refused")

    __add__ = __radd__ = __abs__ = __int__ = __index__ = __float__ = __eq__ = __lt__ = __le__ = __gt__ = refuse  # type: ignore[assignment]
    __hash__ = int.__hash__


@pytest.mark.parametrize("operation", [["chat"], HostileInt(3), None])
def test_no_value_of_an_agent_keeps_the_others_from_being_counted(operation: Any) -> None:
    calls = [
        call(gen_ai__usage__input_tokens=HostileInt(3), gen_ai__operation__name=operation),
        call(gen_ai__usage__cost=HostileInt(2)),
        call(gen_ai__usage__input_tokens=1),
    ]

    assert sum_usage(calls) == Usage(4, 0, 2.0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1 << 63, "an integer of 64 bits"), (10**400, "an integer of 1329 bits"), (1e300, "1e+300")],
)
def test_tokens_beyond_63_bits_are_clamped_and_a_warning_says_so(
    value: float, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    span = Span.from_attributes(attributes={"gen_ai.usage.input_tokens": value}, rollout_id="ro-1")

    assert sum_usage([span]) == Usage(2**63 - 1)
    [message] = caplog.messages
    assert message.startswith(
        f"a span of rollout ro-1 has {shown} as gen_ai.usage.input_tokens; it counts as the large"
    )


async def test_an_attempt_and_a_run_have_the_usage_of_their_calls() -> None:
    async def agent(task: int) -> float:
        agl.emit_annotation({"gen_ai": {"usage": {"input_tokens": 10 * task, "output_tokens": task, "cost": 0.25}}})
        return 1.0

    async with Runner(agent) as runner:
        done = await runner.step(3)
    result = await Runner(agent).fit([1, 2])

    assert done.attempt.usage == Usage(30, 3, 0.25)
    assert result.usage == Usage(30, 3, 0.5)
