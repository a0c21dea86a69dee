"""Rewards: valid values, their layout on spans, and their readers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_trio as agl
from lightning_trio._spans import as_reward, reward_attributes

NUMBERS = [
    0.5,
    1,
    True,
    np.float32(0.5),
    np.float64(0.25),
    np.int64(3),
    Decimal("0.75"),
    Fraction(1, 4),
    -2,
]
NOT_FINITE = [
    math.nan,
    math.inf,
    -math.inf,
    np.float32("nan"),
    np.float64("inf"),
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal("Infinity"),
    10**400,
    10**5000,
    Fraction(10**400),
]


def span_with(attributes: Mapping[str, Any], name: str = "agentlightning.annotation") -> agl.Span:
    return agl.Span.from_attributes(attributes=attributes, name=name)


def rewarded(value: float) -> agl.Span:
    return span_with({"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": value})


# Valid values.


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_every_real_number_counts_and_becomes_a_plain_float(value: float) -> None:
    reward = as_reward(value)

    assert type(reward) is float
    assert reward == float(value)


@pytest.mark.parametrize("value", NOT_FINITE, ids=lambda value: type(value).__name__)
def test_what_is_not_finite_is_refused(value: float) -> None:
    message = "which makes every mean meaningless; return None if there is nothing to judge"

    with pytest.raises(agl.InvalidReward, match=message):
        as_reward(value)


@pytest.mark.parametrize("value", [np.timedelta64(1, "s"), np.timedelta64(1, "ns"), np.array(1, "m8[ns]")], ids=repr)
def test_a_duration_is_no_number(value: object) -> None:
    with pytest.raises(TypeError, match="Reward must be a number, not "):
        as_reward(value)


def test_the_error_for_a_reward_that_is_not_finite_names_it_and_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="the reward is nan,"):
        as_reward(math.nan)


@pytest.mark.parametrize("value", ["1", None, 1j, [1.0], (0.5,), {"a": 1.0}])
def test_what_is_no_real_number_is_a_type_error_that_names_it(value: object) -> None:
    with pytest.raises(TypeError, match="Reward must be a number, not ") as caught:
        as_reward(value)

    assert repr(value) in str(caught.value)
    assert type(value).__name__ in str(caught.value)


# The layout on a span.


def test_a_plain_number_is_the_dimension_primary() -> None:
    assert reward_attributes(1) == {
        "agentlightning.reward.0.name": "primary",
        "agentlightning.reward.0.value": 1.0,
    }


def test_the_primary_dimension_comes_first_and_the_others_keep_their_order() -> None:
    attributes = reward_attributes({"short": 0.5, "correct": True, "polite": Decimal(1)}, "correct")

    assert attributes == {
        "agentlightning.reward.0.name": "correct",
        "agentlightning.reward.0.value": 1.0,
        "agentlightning.reward.1.name": "short",
        "agentlightning.reward.1.value": 0.5,
        "agentlightning.reward.2.name": "polite",
        "agentlightning.reward.2.value": 1.0,
    }


@pytest.mark.parametrize(
    ("reward", "primary_key", "message"),
    [
        ({"a": 1.0, "b": 2.0}, None, r"needs primary_key=…, the one that counts; one of \['a', 'b'\]"),
        ({"a": 1.0}, "b", r"primary_key='b' is not a dimension of the reward; the dimensions are \['a'\]"),
        ({"a": "good"}, "a", r"dimension 'a' is 'good', which is not a number"),
        ({"a": None}, "a", r"dimension 'a' is None, which is not a number"),
        ({"a": math.inf}, "a", r"the reward is inf"),
        ({}, None, r"has no dimension; pass at least one"),
        (1.0, "a", r"primary_key='a' is for a reward of several dimensions"),
    ],
)
def test_bad_dimensions_are_value_errors_that_name_them(reward: object, primary_key: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reward_attributes(reward, primary_key)


dimensions = st.dictionaries(
    st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12
)


@settings(deadline=None)
@given(dimensions, st.data())
def test_dimensions_are_read_back_as_they_were_given(reward: dict[str, float], data: st.DataObject) -> None:
    primary = data.draw(st.sampled_from(sorted(reward)))

    read = agl.get_rewards_from_span(span_with(reward_attributes(reward, primary)))

    assert read[0].name == primary
    assert {dimension.name: dimension.value for dimension in read} == reward


# Readers.


def test_get_reward_value_reads_the_primary_dimension() -> None:
    assert agl.get_reward_value(span_with(reward_attributes({"a": 1.0, "b": 2.0}, "b"))) == 2.0


@pytest.mark.parametrize("key", ["agentops.task.output", "agentops.entity.output"])
@pytest.mark.parametrize("encode", [dict, json.dumps])
def test_get_reward_value_reads_agentops_spans(key: str, encode: Any) -> None:
    span = span_with({key: encode({"type": "reward", "value": 0.75})}, "grade.task")

    assert agl.get_reward_value(span) == 0.75


@pytest.mark.parametrize(
    "output",
    [
        "no json",
        "[1, 2]",
        "3",
        '{"type": "reward"',
        '{"type": "text", "value": 1}',
        '{"type": "reward", "value": null}',
    ],
)
def test_other_agentops_outputs_are_no_rewards(output: str) -> None:
    assert agl.get_reward_value(span_with({"agentops.task.output": output})) is None


@pytest.mark.parametrize("part", ["[", '{"a":'])
def test_text_that_is_nested_too_deeply_for_json_is_no_reward(part: str) -> None:
    assert agl.get_reward_value(span_with({"agentops.entity.output": part * 100_000})) is None


@pytest.mark.parametrize("name", ["agentlightning.reward", "agentlightning.annotation"])
def test_get_reward_value_reads_spans_of_agent_lightning_0_2(name: str) -> None:
    assert agl.get_reward_value(span_with({"reward": 0.25}, name)) == 0.25


def test_an_attribute_called_reward_on_any_other_span_is_no_reward() -> None:
    assert agl.get_reward_value(span_with({"reward": 0.25}, "chat")) is None


def test_a_span_without_a_reward_has_no_value_and_no_dimensions() -> None:
    span = span_with({"a": 1})

    assert agl.get_reward_value(span) is None
    assert agl.get_rewards_from_span(span) == []
    assert not agl.is_reward_span(span)


def test_a_reward_of_zero_is_a_reward() -> None:
    assert agl.is_reward_span(rewarded(0.0))


@pytest.mark.parametrize("value", ["high", None, [1.0]])
def test_a_malformed_reward_of_another_tool_is_read_as_none(value: Any) -> None:
    assert agl.get_reward_value(rewarded(value)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400])
def test_a_reward_of_another_tool_that_is_not_finite_is_read_as_none(value: float) -> None:
    assert agl.find_final_reward([rewarded(0.5), rewarded(value)]) == 0.5


def test_an_attribute_named_like_the_prefix_disturbs_no_reader() -> None:
    """Agent-lightning 0.3 raises an error for the whole list of spans."""
    odd = span_with({"agentlightning.reward": 9.0})

    assert agl.find_final_reward([rewarded(0.5), odd]) == 0.5
    assert agl.get_rewards_from_span(odd) == []


def test_the_final_reward_is_that_of_the_last_reward_span_in_the_list() -> None:
    spans = [rewarded(0.1), rewarded(0.9), span_with({"a": 1})]

    assert agl.find_final_reward(spans) == 0.9


def test_without_a_reward_span_there_is_no_final_reward() -> None:
    assert agl.find_final_reward([span_with({"a": 1})]) is None
    assert agl.find_final_reward([]) is None


def test_find_reward_spans_keeps_reward_spans_in_order() -> None:
    first, other, last = rewarded(0.1), span_with({"a": 1}), rewarded(0.2)

    assert agl.find_reward_spans([first, other, last]) == [first, last]


def test_readers_take_what_emitters_return() -> None:
    core = agl.emit_reward({"a": 1, "b": 0.5}, primary_key="b", propagate=False)

    assert agl.find_reward_spans([core]) == [core]
    assert agl.get_rewards_from_span(core) == [agl.RewardDimension("b", 0.5), agl.RewardDimension("a", 1.0)]
