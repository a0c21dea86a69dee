"""Rows: what agents emit."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import threading
import unittest.mock
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import numpy as np
import pydantic
from hostile_exceptions import EndlessCause, FrozenFailure, NotesExit, StrExits, StrInterrupts
from hostile_rows import IN_ONE_PROCESS, SUCCEEDS, fails, row
from opentelemetry import trace

import lightning_trio as agl

must_emit = partial(row, "emits", "succeeds")
must_fail = partial(row, "emits", "fails")


class BadRepr:
    def __repr__(self) -> str:
        raise SystemExit(1)


class OddStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise SystemExit(2)

    def __format__(self, spec: str) -> str:
        raise SystemExit(3)

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        raise SystemExit(4)

    def __eq__(self, other: object) -> bool:
        raise SystemExit(5)

    def __hash__(self) -> int:
        return str.__hash__(self)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


# Usage and cost.


@must_emit()
def more_tokens_than_63_bits() -> None:
    agl.emit_annotation({"gen_ai.usage.input_tokens": 2**63})


@must_emit()
def sums_of_tokens_beyond_63_bits() -> None:
    for _ in range(3):
        agl.emit_annotation({"gen_ai.usage.input_tokens": 2**62, "gen_ai.usage.output_tokens": 2**62})


@must_emit()
def more_tokens_than_digits_are_converted() -> None:
    agl.emit_annotation({"gen_ai.usage.input_tokens": 10**5000})


@must_emit()
def negative_tokens() -> None:
    agl.emit_annotation({"gen_ai.usage.input_tokens": -1, "gen_ai.usage.output_tokens": -(2**64)})


@must_emit()
def tokens_as_texts_floats_and_bools() -> None:
    agl.emit_annotation({"gen_ai.usage.input_tokens": "12", "gen_ai.usage.output_tokens": 1e300})
    agl.emit_annotation({"gen_ai.usage.input_tokens": True, "gen_ai.usage.output_tokens": [1, 2]})


@must_emit()
def tokens_that_are_not_finite() -> None:
    agl.emit_annotation({"gen_ai.usage.input_tokens": float("nan"), "gen_ai.usage.output_tokens": float("inf")})


@must_emit()
def cost_beyond_floats() -> None:
    agl.emit_annotation({"gen_ai.usage.cost": 10**400})


@must_emit()
def costs_that_are_not_finite() -> None:
    agl.emit_annotation({"gen_ai.usage.cost": float("nan")})
    agl.emit_annotation({"gen_ai.usage.cost": float("-inf")})


@must_emit()
def costs_whose_sum_is_not_finite() -> None:
    for _ in range(3):
        agl.emit_annotation({"gen_ai.usage.cost": 1.7e308})


@must_emit()
def cost_as_a_decimal() -> None:
    agl.emit_annotation({"gen_ai.usage.cost": decimal.Decimal("sNaN")})


# Rewards.


@must_emit()
def reward_of_nan_that_is_tolerated() -> None:
    try:
        agl.emit_reward(float("nan"))
    except ValueError:
        agl.emit_reward(0.0)


@must_emit()
def forged_reward_of_text() -> None:
    agl.emit_annotation({"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": "excellent"})


@must_emit()
def forged_reward_of_nan() -> None:
    agl.emit_annotation({"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": float("nan")})


@must_emit()
def forged_reward_beyond_floats() -> None:
    agl.emit_annotation({"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 10**400})


@must_emit()
def forged_reward_of_a_list() -> None:
    agl.emit_annotation({"agentlightning.reward.0.value": [1.0, 2.0], "agentlightning.reward.x.value": 1})


@must_emit()
def rewards_at_the_end_of_floats() -> None:
    for _ in range(3):
        agl.emit_reward(-1.7976931348623157e308)


@must_emit()
def reward_of_many_odd_dimensions() -> None:
    agl.emit_reward({"a": 1, "": 0, "\x00\ud800": 0.5, "b.c": 2}, primary_key="a")


@must_emit()
def reward_of_dimensions_that_are_no_texts() -> None:
    agl.emit_reward({1: 1.0, None: 0.5}, primary_key=1)  # type: ignore[dict-item,arg-type]


@must_fail(error="TypeError")
def reward_that_is_a_mock() -> None:
    agl.emit_reward(unittest.mock.MagicMock())


# Attributes.


@must_emit()
def brackets_in_a_message_of_agentops() -> None:
    agl.emit_annotation({"agentops.entity.output": "[" * 1000})


@must_emit()
def braces_in_messages_of_other_tools() -> None:
    for key in ("gen_ai.output.messages", "gen_ai.input.messages", "gen_ai.tool.definitions", "llm.output_messages"):
        agl.emit_annotation({key: '{"a":' * 50_000})


@must_emit()
def json_of_another_shape() -> None:
    for text in (
        '"a"',
        "1e999",
        "null",
        '[[["a"]]]',
        '[{"role": 5, "parts": "x"}]',
        '{"role": null}',
        "NaN",
        "[1e400]",
    ):
        for key in ("gen_ai.output.messages", "gen_ai.input.messages", "agentops.entity.output"):
            agl.emit_annotation({key: text})


@must_fail(error="TypeError")
def attributes_nested_deeply() -> None:
    agl.emit_annotation({"a": nested(50_000)})


@must_fail(error="TypeError")
def attributes_that_contain_themselves() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    agl.emit_annotation(value)


@must_fail(error="ValueError")
def attributes_of_wrong_types() -> None:
    agl.emit_annotation({"a": None, "b": b"\xff", "c": object(), "d": BadRepr()})


@must_fail(error="ValueError")
def attribute_keys_of_wrong_types() -> None:
    agl.emit_annotation({1: "a", ("b",): "c", None: "d"})  # type: ignore[dict-item]


@must_emit()
def attributes_with_zero_bytes() -> None:
    agl.emit_annotation({"key\x00": "value\x00", "list": ["\x00", "a"]})


@must_emit()
def attributes_with_lone_surrogates() -> None:
    agl.emit_annotation({"key": "\ud83d", "list": ["\udfff"]})
    agl.emit_annotation({"key\ud83d": "x"})


@must_emit()
def attribute_keys_with_zero_bytes_and_surrogates_in_operations() -> None:
    with agl.operation(name="\x00\ud800", **{"k\x00": "v"}) as op:
        op.set_input("\x00\ud800")
        op.set_output({"\x00": "\ud800"})


@must_emit()
def attributes_of_integers_of_any_size() -> None:
    agl.emit_annotation({"a": 2**63, "b": -(2**200), "c": [2**64, 1], "d": 10**5000})


@must_fail(error="ValueError")
def lists_of_mixed_types() -> None:
    agl.emit_annotation({"a": [1, "b", None, 2.5, True, [1]], "c": [float("nan"), 1], "d": [[], {}]})


@must_emit()
def ten_thousand_attributes() -> None:
    agl.emit_annotation({f"key {number}": number for number in range(10_000)})


@must_emit()
def key_of_a_megabyte() -> None:
    agl.emit_annotation({"k" * 1_000_000: 1})


@must_emit()
def value_of_twenty_megabytes() -> None:
    agl.emit_annotation({"page": "x" * 20_000_000})


@must_fail(error="PayloadTooLarge", but={"memory": SUCCEEDS})
def more_than_a_payload_may_have() -> None:
    agl.emit_annotation({"page": "x" * 70_000_000})


@must_emit()
def many_spans() -> None:
    for number in range(5000):
        agl.emit_annotation({"number": number})


@must_emit()
def ids_of_another_rollout() -> None:
    agl.emit_annotation({"agentlightning.rollout_id": "ro-000000000000", "agentlightning.attempt_id": "at-00000000"})


@must_emit()
def sequence_ids_of_its_own() -> None:
    agl.emit_annotation({"agentlightning.span_sequence_id": -7, "agentlightning.tracer.name": ["a"]})


@must_emit()
def malformed_tags_and_links() -> None:
    agl.emit_annotation({"agentlightning.tag": 5, "agentlightning.tag.x": [1], "agentlightning.link.0.key_match": 7})


class OddMapping(dict[str, Any]):
    def items(self) -> Any:
        raise SystemExit(6)

    def __iter__(self) -> Iterator[str]:
        raise SystemExit(7)

    def keys(self) -> Any:
        raise SystemExit(8)


@must_fail(error="SystemExit")
def attributes_in_an_odd_mapping() -> None:
    agl.emit_annotation(OddMapping(a=1))


@must_emit()
def text_of_an_odd_class() -> None:
    agl.emit_annotation({"a": OddStr("b"), OddStr("c"): 1})
    agl.emit_message(OddStr("message"))


@must_emit()
def attributes_that_change_afterwards() -> None:
    """Emit lists and dicts that the agent goes on using."""
    value: dict[str, Any] = {"list": [1]}
    agl.emit_annotation(value)
    agl.emit_object(value, attributes=value)
    value["list"].append(BadRepr())
    value["self"] = value
    value[5] = b"\xff"  # type: ignore[index]


class Colour(enum.Enum):
    RED = BadRepr


@must_fail(error="ValueError")
def enum_of_an_odd_value() -> None:
    agl.emit_annotation({"colour": Colour.RED})


# Messages and objects.


@must_fail(error="TypeError")
def message_that_is_no_text() -> None:
    agl.emit_message(5)  # type: ignore[arg-type]


@must_emit()
def message_with_zero_bytes_and_surrogates() -> None:
    agl.emit_message("\x00\ud83d")


@must_emit()
def message_of_twenty_megabytes() -> None:
    agl.emit_message("x" * 20_000_000)


class ToDictExits:
    def to_dict(self) -> NoReturn:
        raise SystemExit(9)


@must_fail(error="SystemExit")
def object_whose_to_dict_exits() -> None:
    agl.emit_object(ToDictExits())


class ToDictWithoutEnd:
    def to_dict(self) -> dict[str, Any]:
        return {"next": ToDictWithoutEnd()}


@must_fail(error="RuntimeError")
def object_whose_to_dict_never_ends() -> None:
    agl.emit_object(ToDictWithoutEnd())


@dataclasses.dataclass
class Node:
    children: list[Any] = dataclasses.field(default_factory=list)


@must_fail(error="RuntimeError")
def graph_that_is_a_circle() -> None:
    node = Node()
    node.children.append(node)
    agl.emit_object(node)


@must_fail(error="RuntimeError")
def object_nested_deeply() -> None:
    agl.emit_object(nested(50_000))


class Fails(pydantic.BaseModel):
    value: int = 5

    @pydantic.field_serializer("value")
    def write(self, value: int) -> int:
        raise SystemExit(10)


@must_fail(error="RuntimeError")
def model_whose_serializer_exits() -> None:
    agl.emit_object(Fails())


@must_fail(error="RuntimeError")
def objects_without_json() -> None:
    agl.emit_object({"lock": threading.Lock(), "set": {1, 2}, "gen": (n for n in ()), "f": print})


@must_fail(error="RuntimeError")
def two_keys_that_become_one() -> None:
    agl.emit_object({1: "a", "1": "b"})


@must_fail(error="RuntimeError")
def numpy_array_of_objects() -> None:
    agl.emit_object(np.array([object(), BadRepr()], dtype=object))


@must_fail(error="RuntimeError")
def counter_of_odd_keys() -> None:
    agl.emit_object(collections.Counter([(1, 2), "a", None, float("nan")]))


@must_emit()
def mock_as_an_object() -> None:
    agl.emit_object(unittest.mock.MagicMock())


# Exceptions that were caught.


@must_emit()
def caught_exceptions_with_odd_texts() -> None:
    for exc in (StrExits("x"), NotesExit("x"), FrozenFailure("x"), EndlessCause("x")):
        try:
            raise exc
        except Exception as caught:
            agl.emit_exception(caught)


@must_emit()
def caught_exception_whose_text_interrupts() -> None:
    agl.emit_exception(StrInterrupts("x"))


@must_emit()
def caught_deep_group() -> None:
    exc: Exception = ValueError("x")
    for _ in range(3000):
        exc = ExceptionGroup("g", [exc])
    agl.emit_exception(exc)


@must_fail(error="TypeError")
def exception_that_is_none() -> None:
    agl.emit_exception("an error")  # type: ignore[arg-type]


# Operations and spans of libraries.


@must_emit()
def operation_that_never_ends() -> None:
    agl.operation(name="forgotten").__enter__()


@must_emit()
def operation_that_ends_twice() -> None:
    op = agl.operation(name="twice")
    op.__enter__()
    op.__exit__(None, None, None)
    op.__exit__(None, None, None)


@must_emit()
def operations_that_end_in_the_wrong_order() -> None:
    first, second = agl.operation(name="first"), agl.operation(name="second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    agl.emit_message("between")
    second.__exit__(None, None, None)


@must_emit()
def operations_a_thousand_deep() -> None:
    def deeper(left: int) -> None:
        with agl.operation(name=f"{left} left"):
            if left:
                deeper(left - 1)

    deeper(200)
    opened = [agl.operation(name="open") for _ in range(1000)]
    for op in opened:
        op.__enter__()
    for op in reversed(opened):
        op.__exit__(None, None, None)


@must_fail(error="SystemExit")
def operation_with_odd_input_and_output() -> None:
    with agl.operation(name="search") as op:
        op.set_input(BadRepr(), nested(20_000), key=BadRepr())
        op.set_output(BadRepr())


@must_fail(error="TypeError")
def operation_whose_name_is_no_text() -> None:
    with agl.operation(name=BadRepr()):  # type: ignore[arg-type]
        pass


@must_fail(error="StrExits")
def operation_that_an_odd_exception_leaves() -> None:
    with agl.operation(name="search"):
        raise StrExits("x")


@agl.operation
def search(query: Any) -> Any:
    return query


@must_fail(error="SystemExit")
def decorated_operation_with_odd_arguments() -> None:
    search(BadRepr())


@must_emit(but={"process": fails("SystemExit")})
def library_span_with_odd_attributes() -> None:
    with trace.get_tracer("a.library").start_as_current_span("call") as span:
        span.set_attribute("a", BadRepr())  # type: ignore[arg-type]
        span.set_attribute(None, 1)  # type: ignore[arg-type]
        span.set_attribute("tokens\x00", "\ud800")
        span.add_event("chunk", {"a": object()}, timestamp=-5)  # type: ignore[dict-item]


@must_emit()
def library_span_with_odd_times() -> None:
    tracer = trace.get_tracer("a.library")
    span = tracer.start_span("call", start_time=2**70)
    span.end(end_time=-5)
    span.end()
    tracer.start_span("forgotten")


@must_fail(error="StrExits", but={"process": fails("SystemExit")})
def library_span_that_an_odd_exception_leaves() -> None:
    with trace.get_tracer("a.library").start_as_current_span("call"):
        raise StrExits("x")


@must_emit(lanes=IN_ONE_PROCESS)
def library_span_with_many_events() -> None:
    with trace.get_tracer("a.library").start_as_current_span("stream") as span:
        for number in range(3000):
            span.add_event("chunk", {"number": number})
