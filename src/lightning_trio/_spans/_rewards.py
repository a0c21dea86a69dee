"""Rewards: valid values, their layout on spans, and functions that read them."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import attrs

from .. import semconv
from .._errors import InvalidReward
from .._plain_record import PlainRecord
from .._plain_values import is_time, plain
from .._public import public
from ._attributes import filter_and_unflatten_attributes, sanitize_attributes
from ._span import Attributes, Span, SpanCoreFields

_NUMBERS = (float, int, numbers.Real, Decimal)
_REWARD = semconv.LightningSpanAttributes.REWARD.value
_SpanLike = TypeVar("_SpanLike", Span, SpanCoreFields)


@public
@attrs.frozen
class RewardDimension(PlainRecord):
    """One dimension of a reward."""

    name: str
    value: float


def is_number(value: object) -> bool:
    """Whether `value` can be a reward: any real number, also a decimal, or one of NumPy's or in a 0-d array."""
    if value.__class__ is float:
        return True
    is_real = isinstance(value, _NUMBERS) or isinstance(_scalar(value), _NUMBERS)
    # A duration of NumPy's would become a number of its units.
    return is_real and not is_time(value)


def _scalar(value: Any) -> object:
    """Return NumPy's bool, or the only item of an array or tensor without dimensions, as Python's; None for others."""
    return value.tolist() if hasattr(type(value), "tolist") and getattr(value, "shape", None) == () else None


def as_reward(value: object) -> float:
    """Return `value` as a finite float.

    Raises:
        TypeError: it is not a real number.
        InvalidReward: it is NaN or infinite.
    """
    if type(value) is float and math.isfinite(value):
        # Nearly all rewards; the checks below take three calls.
        return value
    if not is_number(value):
        raise TypeError(f"Reward must be a number, not {value!r} of type {type(value).__name__}")
    reward = _finite(value)
    if reward is None:
        # Python refuses to convert the longest integers to text.
        shown = "too large for a float" if isinstance(value, numbers.Rational) else str(value)
        raise InvalidReward.not_finite(shown)
    return reward


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (OverflowError, ValueError):
        # An integer that is too large for a float, or a signalling NaN of `decimal`.
        return None
    return number if math.isfinite(number) else None


def reward_attributes(
    reward: object, primary_key: str | None = None, attributes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the attributes of a reward, the primary dimension first, after the user's own attributes.

    Raises:
        TypeError, InvalidReward: see `as_reward`.
        ValueError: `primary_key` is missing, unknown, or given for a plain number.
    """
    if attributes:
        return {**sanitize_attributes(attributes), **reward_attributes(reward, primary_key)}
    if type(reward) is float and primary_key is None and math.isfinite(reward):
        # What nearly all rewards are, without three more calls.
        return {semconv.PRIMARY_REWARD_NAME: semconv.PRIMARY_REWARD, semconv.PRIMARY_REWARD_VALUE: reward}
    if not isinstance(reward, Mapping):
        if primary_key is not None:
            raise ValueError(f"primary_key={primary_key!r} is for a reward of several dimensions")
        return {
            semconv.PRIMARY_REWARD_NAME: semconv.PRIMARY_REWARD,
            semconv.PRIMARY_REWARD_VALUE: as_reward(reward),
        }
    if not reward:
        raise ValueError("the reward has no dimension; pass at least one: {'accuracy': 1.0}")
    if primary_key is None:
        raise ValueError(
            f"a reward of several dimensions needs primary_key=…, the one that counts; one of {list(reward)}"
        )
    if primary_key not in reward:
        raise ValueError(
            f"primary_key={primary_key!r} is not a dimension of the reward; the dimensions are {list(reward)}"
        )
    laid_out: dict[str, Any] = {}
    for index, name in enumerate([primary_key, *(name for name in reward if name != primary_key)]):
        if not is_number(reward[name]):
            raise ValueError(f"the reward's dimension {name!r} is {reward[name]!r}, which is not a number")
        laid_out[f"{_REWARD}.{index}.name"] = plain(name)
        laid_out[f"{_REWARD}.{index}.value"] = as_reward(reward[name])
    return laid_out


@public
def get_rewards_from_span(span: Span | SpanCoreFields) -> list[RewardDimension]:
    """Return all dimensions of a reward span, the primary one first; an empty list for other spans."""
    dimensions = filter_and_unflatten_attributes(span.attributes, _REWARD)
    if not isinstance(dimensions, list):
        return []
    return [
        RewardDimension(str(dimension["name"]), float(dimension["value"]))
        for dimension in dimensions
        if isinstance(dimension, dict) and "name" in dimension and is_number(dimension.get("value"))
    ]


@public
def get_reward_value(span: Span | SpanCoreFields) -> float | None:
    """Return the primary reward of a span, or None if it has no finite reward.

    The function reads the layouts of this package, of AgentOps (``agentops.task.output`` or ``agentops.entity.output``
    with ``{"type": "reward", "value": …}``) and of Agent-lightning 0.2 (an attribute ``reward``).

    >>> from lightning_trio import emit_reward
    >>> get_reward_value(emit_reward({"style": 0.2, "correct": 1}, primary_key="correct", propagate=False))
    1.0
    """
    attributes = span.attributes
    value = attributes.get(semconv.PRIMARY_REWARD_VALUE)
    if value is None:
        value = _agentops_reward(attributes)
    if value is None and span.name in (semconv.AGL_ANNOTATION, semconv.AGL_REWARD):
        value = attributes.get("reward")
    return _finite(value) if is_number(value) else None


def _agentops_reward(attributes: Attributes) -> object:
    for key in ("agentops.task.output", "agentops.entity.output"):
        output = attributes.get(key)
        if isinstance(output, str):
            try:
                output = json.loads(output)
            except (ValueError, RecursionError):
                # Text that is no JSON, or nested too deeply.
                continue
        if isinstance(output, Mapping) and output.get("type") == "reward":
            return output.get("value")
    return None


@public
def is_reward_span(span: Span | SpanCoreFields) -> bool:
    """Whether a span has a reward."""
    return get_reward_value(span) is not None


@public
def find_reward_spans(spans: Iterable[_SpanLike]) -> list[_SpanLike]:
    """Return the spans that have a reward."""
    return [span for span in spans if is_reward_span(span)]


@public
def find_final_reward(spans: Sequence[Span | SpanCoreFields]) -> float | None:
    """Return the value of the last reward span in list order, or None without reward spans.

    >>> from lightning_trio import emit_reward
    >>> find_final_reward([emit_reward(0.5, propagate=False), emit_reward(1, propagate=False)])
    1.0
    """
    for span in reversed(spans):
        value = span.attributes.get(semconv.PRIMARY_REWARD_VALUE)
        if type(value) is float and math.isfinite(value):
            return value
        reward = get_reward_value(span)
        if reward is not None:
            return reward
    return None
