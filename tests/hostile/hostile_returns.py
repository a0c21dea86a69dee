"""Rows: what agents return."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import fractions
import numbers
import types
import unittest.mock
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, NoReturn

import numpy as np
from hostile_rows import IN_ONE_PROCESS, SUCCEEDS, fails, row
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

import lightning_trio as agl

returns = partial(row, "returns", "fails")
may_return = partial(row, "returns", "succeeds")


# Numbers.


@returns(error="InvalidReward")
def not_a_number() -> float:
    return float("nan")


@returns(error="InvalidReward")
def minus_infinity() -> float:
    return float("-inf")


@returns(error="InvalidReward")
def integer_beyond_floats() -> int:
    return 10**400


@returns(error="InvalidReward")
def integer_of_ten_thousand_digits() -> int:
    return -(10**10_000)


@returns(error="InvalidReward")
def fraction_of_large_integers() -> fractions.Fraction:
    return fractions.Fraction(10**500, 3)


@returns(error="InvalidReward")
def decimal_nan() -> decimal.Decimal:
    return decimal.Decimal("NaN")


@returns(error="InvalidReward")
def decimal_signalling_nan() -> decimal.Decimal:
    return decimal.Decimal("sNaN")


@returns(error="InvalidReward")
def decimal_beyond_floats() -> decimal.Decimal:
    return decimal.Decimal("1e999999")


@returns(error="InvalidReturn")
def complex_number() -> complex:
    return 1j


@may_return()
def smallest_float() -> float:
    return 5e-324


@may_return()
def largest_float() -> float:
    return 1.7976931348623157e308


class FloatExits(numbers.Real):
    """A number like those of libraries for units or lazy arrays, that fails when it is wanted."""

    def __float__(self) -> float:
        raise SystemExit(1)


# An abstract method must be there for a class to be made.
for _name in numbers.Real.__abstractmethods__ - {"__float__"}:
    setattr(FloatExits, _name, lambda self, *others: self)
FloatExits.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


@returns(error="SystemExit")
def number_that_exits_when_it_is_wanted() -> Any:
    return FloatExits()


class FloatIsText(FloatExits):
    def __float__(self) -> Any:
        return "0.5"


@returns(error="TypeError")
def number_that_is_a_text_when_it_is_wanted() -> Any:
    return FloatIsText()


class OddFloat(float):
    def __repr__(self) -> str:
        raise SystemExit(2)

    def __eq__(self, other: object) -> bool:
        raise SystemExit(3)

    def __hash__(self) -> int:
        raise SystemExit(4)

    def __float__(self) -> float:
        raise SystemExit(5)

    def __abs__(self) -> float:
        raise SystemExit(6)


@returns(error="SystemExit")
def float_of_an_odd_class() -> float:
    return OddFloat(0.5)


@returns(error="InvalidReturn")
def numpy_not_a_time() -> Any:
    return np.datetime64("NaT")


@returns(error="InvalidReturn")
def numpy_array_of_rewards() -> Any:
    return np.array([0.5, 1.0])


@returns(error="InvalidReturn")
def numpy_object_without_dimensions() -> Any:
    return np.array(None, dtype=object)


@returns(error="InvalidReward")
def numpy_long_double() -> Any:
    return np.longdouble("1e4000")


# Things that are no reward.


class BadRepr:
    def __repr__(self) -> str:
        raise SystemExit(7)


class BadClass:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise SystemExit(8)


class SaysFloat:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return float


class SaysList:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return list


class Unbound:
    """A proxy like werkzeug's `LocalProxy`, used outside of its request."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError(f"working outside of request context: {name}")


@returns(error="InvalidReturn")
def text() -> str:
    return "done " * 1_000_000


@returns(error="InvalidReturn")
def nested_dict() -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(50_000):
        nested = {"next": nested}
    return nested


@returns(error="InvalidReturn")
def what_cannot_be_shown() -> Any:
    return BadRepr()


@returns(error="InvalidReturn")
def dict_of_what_cannot_be_shown() -> Any:
    return {"answer": BadRepr()}


@returns(error="SystemExit")
def class_that_exits() -> Any:
    return BadClass()


@returns(error="TypeError")
def says_it_is_a_float() -> Any:
    return SaysFloat()


@returns(error="TypeError")
def says_it_is_a_list() -> Any:
    return SaysList()


@returns(error="RuntimeError")
def proxy_without_its_request() -> Any:
    return Unbound()


@returns(error="InvalidReturn")
def magic_mock() -> Any:
    return unittest.mock.MagicMock()


@returns(error="InvalidReturn")
def an_exception() -> Exception:
    return ValueError("returned and not raised")


@returns(error="InvalidReturn")
def a_base_exception_class() -> type:
    return KeyboardInterrupt


@returns(error="InvalidReturn")
def a_coroutine() -> Any:
    async def forgotten() -> float:
        return 1.0

    return forgotten()


@returns(error="InvalidReturn", lanes=IN_ONE_PROCESS)
def a_generator_that_exits_when_closed() -> Iterator[int]:
    def numbers() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise SystemExit(9)

    generator = numbers()
    next(generator)
    return generator


@returns(error="InvalidReturn", lanes=IN_ONE_PROCESS)
def an_async_generator() -> AsyncIterator[int]:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    return numbers()


class CloseExits(types.SimpleNamespace):
    def close(self) -> NoReturn:
        raise SystemExit(10)


@returns(error="SystemExit", lanes=IN_ONE_PROCESS)
def a_coroutine_that_exits_when_closed() -> Any:
    async def stuck() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            raise SystemExit(11)

    coroutine = stuck()
    with contextlib.suppress(BaseException):
        coroutine.send(None)
    return coroutine


class ReduceExits:
    def __reduce__(self) -> NoReturn:
        raise SystemExit(12)


@returns(error="InvalidReturn", lanes=("process",))
def exits_when_it_is_pickled() -> Any:
    return ReduceExits()


class UnpicklingExits(float):
    def __reduce__(self) -> Any:
        return exit_with, (13,)


def exit_with(code: int) -> NoReturn:
    raise SystemExit(code)


@may_return(lanes=("process",))
def exits_when_it_is_unpickled() -> Any:
    return UnpicklingExits(1.0)


@returns(error="InvalidReturn", lanes=("process",))
def deep_list_to_pickle() -> Any:
    nested: list[Any] = []
    for _ in range(50_000):
        nested = [nested]
    return nested


# Lists of spans.


def core(**attributes: Any) -> agl.SpanCoreFields:
    return agl.SpanCoreFields("judge", attributes=attributes)


def span(**fields: Any) -> agl.Span:
    values = {
        "rollout_id": "ro-000000000000",
        "attempt_id": "at-00000000",
        "sequence_id": 1,
        "trace_id": "1" * 32,
        "span_id": "2" * 16,
        "parent_id": None,
        "name": "judge",
        "status": agl.TraceStatus("OK"),
        "attributes": {},
        "start_time": 1.0,
        "end_time": 2.0,
    }
    return agl.Span(**{**values, **fields})


@may_return()
def spans_of_another_rollout() -> Any:
    return [span()]


@may_return()
def spans_with_the_same_id() -> Any:
    return [span(), span(name="again"), span(name="and again", parent_id="2" * 16)]


@may_return()
def span_that_is_its_own_parent() -> Any:
    return [span(parent_id="2" * 16)]


@may_return()
def spans_that_are_each_others_parents() -> Any:
    return [span(parent_id="3" * 16), span(span_id="3" * 16, parent_id="2" * 16)]


@returns(error="InvalidReturn")
def span_with_strange_ids() -> Any:
    return [span(trace_id="not hex", span_id="\x00", parent_id="\ud800"), span(trace_id="", span_id="")]


@returns(error="InvalidReturn")
def span_with_ids_that_are_numbers() -> Any:
    return [span(trace_id=1, span_id=2, parent_id=3, rollout_id=None, attempt_id=4)]


@returns(error="InvalidReturn")
def span_with_ids_that_are_lists() -> Any:
    return [span(span_id=[1], parent_id=[{}], rollout_id=[], trace_id={})]


@returns(error="InvalidReturn")
def span_without_a_name() -> Any:
    return [span(name=None), agl.SpanCoreFields(None)]  # type: ignore[arg-type]


@returns(error="InvalidReturn")
def core_span_without_a_name() -> Any:
    return [agl.SpanCoreFields(None)]  # type: ignore[arg-type]


@returns(error="InvalidReturn")
def core_span_with_a_name_of_bytes() -> Any:
    return [agl.SpanCoreFields(b"judge\x00")]  # type: ignore[arg-type]


@may_return()
def span_whose_number_is_too_large() -> Any:
    return [span(sequence_id=2**70), span(span_id="3" * 16, sequence_id=-5)]


@may_return()
def span_whose_number_is_a_text() -> Any:
    return [span(sequence_id="first")]


@returns(error="InvalidReturn")
def span_with_strange_times() -> Any:
    return [
        span(start_time=float("nan"), end_time=float("inf")),
        span(span_id="3" * 16, start_time=-1e300, end_time=1e300),
        span(span_id="4" * 16, start_time=2.0, end_time=1.0),
    ]


@returns(error="InvalidReturn")
def span_with_times_that_are_dates() -> Any:
    now = datetime.datetime.now(datetime.UTC)
    return [span(start_time=now, end_time=now)]


@returns(error="InvalidReturn")
def core_span_with_times_that_are_texts() -> Any:
    return [agl.SpanCoreFields("judge", start_time="2026-01-01", end_time=object())]  # type: ignore[arg-type]


@returns(error="InvalidReturn")
def span_with_a_status_of_text() -> Any:
    return [span(status="OK"), agl.SpanCoreFields("x", status="FINE")]  # type: ignore[arg-type]


@returns(error="InvalidReturn")
def core_span_with_a_status_of_its_own() -> Any:
    return [agl.SpanCoreFields("x", status=agl.TraceStatus("FINE", BadRepr()))]  # type: ignore[arg-type]


@returns(error="InvalidReturn")
def span_with_attributes_of_none() -> Any:
    return [span(attributes=None)]


@may_return()
def core_span_with_a_list_of_attributes() -> Any:
    return [agl.SpanCoreFields("x", attributes=[("a", 1)])]  # type: ignore[arg-type]


@may_return()
def span_with_an_odd_reward() -> Any:
    return [span(attributes={"agentlightning.reward.0.name": 5, "agentlightning.reward.0.value": "good"})]


@returns(error="InvalidReward")
def core_span_with_a_reward_of_nan() -> Any:
    return [core(**{"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": float("nan")})]


@returns(error="InvalidReward")
def core_span_with_a_reward_beyond_floats() -> Any:
    return [core(**{"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 10**400})]


@may_return()
def core_span_with_usage_beyond_integers() -> Any:
    return [core(**{"gen_ai.usage.input_tokens": 2**63, "gen_ai.usage.output_tokens": -(2**70)})]


@may_return()
def core_span_with_usage_of_other_types() -> Any:
    return [core(**{"gen_ai.usage.input_tokens": "many", "gen_ai.usage.output_tokens": [1], "gen_ai.usage.cost": {}})]


@may_return()
def core_span_with_costs_beyond_floats() -> Any:
    return [core(**{"gen_ai.usage.cost": 10**400}), core(**{"gen_ai.usage.cost": float("inf")})]


@returns(error="NotStorable", but={"memory": SUCCEEDS, "process": fails("SystemExit")})
def core_span_with_objects_as_attributes() -> Any:
    return [core(a=BadRepr(), b=object(), c={1: 2}, d={"e": {"f": BadClass()}}, g=b"\xff", h=float("nan"))]


@returns(error="NotStorable", but={"memory": SUCCEEDS})
def core_span_with_attributes_that_contain_themselves() -> Any:
    round_list: list[Any] = []
    round_list.append(round_list)
    return [core(a=round_list)]


@returns(error="NotStorable", but={"memory": SUCCEEDS, "process": fails("RecursionError")})
def core_span_with_deep_attributes() -> Any:
    nested: Any = []
    for _ in range(50_000):
        nested = [nested]
    return [core(a=nested)]


@returns(error="InvalidReturn")
def core_span_with_keys_that_are_no_texts() -> Any:
    return [agl.SpanCoreFields("x", attributes={1: "a", None: "b", ("t",): "c"})]  # type: ignore[dict-item]


@may_return()
def core_span_with_zero_bytes_and_surrogates() -> Any:
    return [agl.SpanCoreFields("x\x00\ud800", attributes={"k\x00\ud800": "v\x00\ud800"})]


@returns(error="InvalidReturn")
def span_with_odd_events_and_links() -> Any:
    return [span(events=None, links=[1, "a"], kind=7, resource=None)]


@may_return()
def ten_thousand_spans() -> Any:
    return [core(number=number) for number in range(10_000)]


@returns(error="InvalidReturn")
def spans_and_numbers_mixed() -> Any:
    return [core(), 1.0, BadRepr()]


class OddList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise SystemExit(14)

    def __len__(self) -> int:
        raise SystemExit(15)

    def __bool__(self) -> bool:
        raise SystemExit(16)


@returns(error="SystemExit")
def list_of_an_odd_class() -> Any:
    return OddList([1.0])


class GrowingList(list[Any]):
    """A list like those of lazy result sets, which is never at its end."""

    def __iter__(self) -> Iterator[Any]:
        for number in range(1000):
            yield core(number=number)
        raise ConnectionError("the cursor was closed")


@returns(error="ConnectionError")
def list_whose_cursor_was_closed() -> Any:
    return GrowingList([core()])


@may_return(lanes=IN_ONE_PROCESS)
def readable_span_without_a_context() -> Any:
    return [ReadableSpan("judge", context=None)]


@may_return(lanes=IN_ONE_PROCESS)
def readable_span_that_has_not_ended() -> Any:
    return [TracerProvider().get_tracer("a.library").start_span("judge")]


@returns(error="InvalidReturn", lanes=IN_ONE_PROCESS)
def readable_span_with_odd_attributes() -> Any:
    context = TracerProvider().get_tracer("a.library").start_span("x").get_span_context()
    return [ReadableSpan("judge", context=context, attributes={"a": BadRepr(), 5: None}, start_time="now", end_time=-1)]  # type: ignore[dict-item,arg-type]
