"""Usage of models, tokens and cost, read from spans."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import attrs

from .. import semconv
from .._log import Log
from .._public import public
from ._bounds import MOST, MOST_INT, bounded, bounded_int
from ._span import Span

logger = Log("lightning_trio.agent")


@public
@attrs.frozen
class Usage:
    """The usage of models, summed up: tokens, and cost if the spans have it.

    Source: the attributes ``gen_ai.usage.input_tokens``, ``gen_ai.usage.output_tokens`` and ``gen_ai.usage.cost`` of
    an attempt's spans; `cost` is in the currency of these attributes. Tokens stay within 63 bits, and costs finite:
    what is larger becomes the largest number.

    >>> Usage(10, 2) + Usage(5, 1, 0.5)
    Usage(input_tokens=15, output_tokens=3, cost=0.5)
    """

    input_tokens: int = attrs.field(default=0, converter=bounded_int)
    output_tokens: int = attrs.field(default=0, converter=bounded_int)
    cost: float = attrs.field(default=0.0, converter=bounded)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens, self.cost + other.cost
        )


NO_USAGE = Usage()

_KEYS = frozenset({semconv.GEN_AI_USAGE_INPUT_TOKENS, semconv.GEN_AI_USAGE_OUTPUT_TOKENS, semconv.GEN_AI_USAGE_COST})

_TOTALS = frozenset({semconv.INVOKE_AGENT, "create_agent", "execute_tool"})
"""Operations whose spans repeat the usage of the calls below them."""


def sum_usage(spans: Iterable[Span]) -> Usage:
    """Return the sum of the tokens and costs of model calls.

    >>> call = Span.from_attributes(
    ...     attributes={"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 2}
    ... )
    >>> sum_usage([call, call])
    Usage(input_tokens=14, output_tokens=4, cost=0.0)
    """
    usage = NO_USAGE
    for span in spans:
        attributes = span.attributes
        if not _KEYS.isdisjoint(attributes) and not _is_total(attributes.get(semconv.GEN_AI_OPERATION_NAME)):
            usage += Usage(
                bounded_int(_read(span, semconv.GEN_AI_USAGE_INPUT_TOKENS, MOST_INT)),
                bounded_int(_read(span, semconv.GEN_AI_USAGE_OUTPUT_TOKENS, MOST_INT)),
                bounded(_read(span, semconv.GEN_AI_USAGE_COST, MOST)),
            )
    return usage


def _is_total(operation: Any) -> bool:
    return issubclass(type(operation), str) and str.__str__(operation) in _TOTALS


def _read(span: Span, key: str, most: float) -> float:
    """Return the number that an attribute counts as, and log it if that is another one."""
    # Attributes are set by libraries and agents, so the value can be anything, with methods that raise.
    value: Any = span.attributes.get(key)
    if issubclass(type(value), int):
        number: float = int.__int__(value)
    elif issubclass(type(value), float):
        number = float.__float__(value)
    else:
        return 0
    if -most <= number <= most:
        return number
    finite = isinstance(number, int) or math.isfinite(number)
    logger.warning(
        "a span of rollout %s has %s as %s; it counts as %s",
        span.rollout_id,
        f"an integer of {number.bit_length()} bits" if isinstance(number, int) else repr(number),
        key,
        "the largest number, with its sign" if finite else "0",
    )
    return number if finite else 0
