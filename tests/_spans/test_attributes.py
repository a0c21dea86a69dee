"""Attributes: flattening and its inverse, tags and links."""

from __future__ import annotations

import datetime
import enum
import uuid
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

import lightning_trio as agl
from lightning_trio import semconv
from lightning_trio._spans import check_attributes, flatten_value, sanitize_attributes, to_json

# Flat and nested.


def test_nested_mappings_and_lists_get_dotted_keys() -> None:
    assert agl.flatten_attributes({"a": {"b": {"c": 1}}, "d": [{"e": 2}, "x"]}) == {"a.b.c": 1, "d.0.e": 2, "d.1": "x"}


@pytest.mark.parametrize("value", [["a", "b"], [1, 2], [1.0, 2.0], [True, False]])
def test_a_list_of_one_primitive_kind_stays_a_list(value: list[Any]) -> None:
    assert agl.flatten_attributes({"a": value}) == {"a": value}


@pytest.mark.parametrize("value", [[1, "a"], [1, 2.0], [True, 1], [None], [["a"], "b"]])
def test_a_list_of_several_kinds_gets_indexed_keys(value: list[Any]) -> None:
    assert agl.flatten_attributes({"a": value}) == {f"a.{index}": item for index, item in enumerate(value)}


def test_leaf_lists_are_expanded_on_request() -> None:
    assert agl.flatten_attributes({"a": ["x", "y"]}, expand_leaf_lists=True) == {"a.0": "x", "a.1": "y"}


def test_empty_mappings_and_lists_vanish() -> None:
    assert agl.flatten_attributes({"a": {}, "b": [], "c": {"d": {}}, "e": ""}) == {"e": ""}


@pytest.mark.parametrize("attributes", [{1: "a"}, {"a": {None: 1}}, {"a": [{"b": {("c",): 1}}]}])
@pytest.mark.parametrize("flatten", [agl.flatten_attributes, agl.emit_annotation])
def test_a_key_that_is_no_string_is_named(flatten: Any, attributes: Any) -> None:
    with pytest.raises(ValueError, match=r"the attribute key (1|None|\('c',\)) is of type \w+; keys are strings"):
        flatten(attributes)


def test_keys_0_to_n_become_a_list_however_they_are_ordered() -> None:
    flat = {f"a.{index}": index for index in reversed(range(12))}

    assert agl.unflatten_attributes(flat) == {"a": list(range(12))}


def test_digit_keys_with_a_gap_stay_a_mapping() -> None:
    assert agl.unflatten_attributes({"a.0": "x", "a.2": "y"}) == {"a": {"0": "x", "2": "y"}}


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}])
def test_a_key_that_is_a_value_and_a_branch_keeps_both(flat: dict[str, int]) -> None:
    assert agl.unflatten_attributes(flat) == {"a": {"": 1, "b": 2}}


keys = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1).filter(lambda key: not key.isdigit())
leaves = st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False))
nested = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4), st.dictionaries(keys, inner, min_size=1, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(keys, nested, max_size=4), st.booleans())
def test_unflatten_undoes_flatten(attributes: dict[str, Any], expand: bool) -> None:
    flat = agl.flatten_attributes(attributes, expand_leaf_lists=expand)

    assert agl.unflatten_attributes(flat) == attributes


@settings(deadline=None)
@given(st.dictionaries(keys, nested, max_size=4))
def test_flattening_leaves_no_mapping_and_only_lists_of_one_kind(attributes: dict[str, Any]) -> None:
    flat = agl.flatten_attributes(attributes)

    assert agl.flatten_attributes(flat) == flat
    assert all(not isinstance(value, list) or len({type(item) for item in value}) == 1 for value in flat.values())


def test_filter_keeps_the_prefix_and_what_lies_under_it() -> None:
    attributes = {"a": 1, "a.b": 2, "ab": 3, "c.a.b": 4}

    assert agl.filter_attributes(attributes, "a") == {"a": 1, "a.b": 2}


def test_filter_and_unflatten_drops_the_prefix_and_ignores_a_value_at_it() -> None:
    attributes = {"a": "odd", "a.b.0": 1, "a.b.1": 2, "ab": 3}

    assert agl.filter_and_unflatten_attributes(attributes, "a") == {"b": [1, 2]}


# Any value as attributes, and strictly.


@attrs.frozen
class Moment:
    when: datetime.date


def test_any_object_can_be_attached_as_json() -> None:
    sane = sanitize_attributes({"moment": Moment(datetime.date(2026, 1, 2)), "id": uuid.UUID(int=1), "none": None})

    assert sane == {
        "moment": '{"when":"2026-01-02"}',
        "id": '"00000000-0000-0000-0000-000000000001"',
        "none": "null",
    }


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [{1: "a"}, {("a", 1): [None]}, cycle(), Unspeakable(), [{"a": Unspeakable()}], Moment("\ud800")],  # type: ignore[arg-type]  # bad input
    ids=["int keys", "tuple keys", "cycle", "no repr", "no repr inside", "lone surrogate"],
)
def test_no_value_is_too_odd_to_be_attached(value: object) -> None:
    """Operations record the arguments of any function, which must not change the function's behaviour."""
    attributes = flatten_value("key", value)

    assert all(isinstance(each, str) for each in attributes.values())


@pytest.mark.parametrize(
    ("key", "text"), [((1, "a"), '{"[1,\\"a\\"]":2}'), (frozenset({1}), '{"[1]":2}')], ids=["tuple", "set"]
)
def test_a_key_of_several_values_is_no_obstacle(key: Any, text: str) -> None:
    assert flatten_value("a", {key: 2}) == {"a": text}
    assert flatten_value("a", [{key: 2}]) == {"a": f"[{text}]"}


def test_only_the_names_of_attributes_must_be_strings() -> None:
    assert sanitize_attributes({"votes": {0: 3, 1: 5}, "by": {"a": {None: 1}}}) == {
        "votes": '{"0":3,"1":5}',
        "by": '{"a":{"null":1}}',
    }
    with pytest.raises(ValueError, match="the attribute key 1 is of type int; keys are strings"):
        sanitize_attributes({1: "a"})  # type: ignore[dict-item]  # bad input


def test_a_mapping_with_other_keys_than_strings_is_attached_as_json() -> None:
    assert flatten_value("key", {1: "a"}) == {"key": '{"1":"a"}'}


def test_a_model_is_attached_without_its_key() -> None:
    assert "sk-secret" not in to_json(agl.LLM("http://h", "m", api_key="sk-secret"))


@pytest.mark.parametrize("value", [None, b"raw", object(), {"inner": None}, [1, None], datetime.date.min])
def test_strict_attributes_refuse_what_opentelemetry_does(value: object) -> None:
    with pytest.raises(ValueError, match=r"attribute 'key[.\w]*' has the value .* \(emit_object takes any object\)"):
        check_attributes({"key": value})


@pytest.mark.parametrize("copying", [check_attributes, sanitize_attributes])
def test_lists_are_copied(copying: Any) -> None:
    names = ["a"]

    attributes = copying({"names": names})
    names.append("b")

    assert attributes == {"names": ["a"]}


# Tags.


def test_tags_are_read_back_in_order() -> None:
    tags = [f"tag {index}" for index in range(12)]

    assert agl.extract_tags_from_attributes({**agl.make_tag_attributes(tags), "other": 1}) == tags


def test_without_tags_there_are_none() -> None:
    assert agl.make_tag_attributes([]) == {}
    assert agl.extract_tags_from_attributes({"agentlightning.tag": "odd", "agentlightning.tagged.0": "x"}) == []


@pytest.mark.parametrize("tags", [[1], ["a", None]])
def test_a_tag_that_is_no_string_is_named(tags: Any) -> None:
    with pytest.raises(ValueError, match=r"the tag (1|None) is of type \w+; tags are strings"):
        agl.make_tag_attributes(tags)


def test_a_stored_tag_that_is_no_string_is_named() -> None:
    with pytest.raises(ValueError, match="the tag 3 is of type int"):
        agl.extract_tags_from_attributes({"agentlightning.tag.0": 3})


def test_a_single_string_instead_of_a_list_of_tags_is_refused_with_the_right_form() -> None:
    with pytest.raises(ValueError, match=r"tags='draft' is one string; pass a list: \['draft'\]"):
        agl.make_tag_attributes("draft")


# Links.


def test_links_are_read_back_in_order() -> None:
    links = {"span_id": "00f067aa0ba902b7", "agentlightning.operation.name": "search"}

    read = agl.extract_links_from_attributes(agl.make_link_attributes(links))

    assert read == [agl.LinkAttributes(key, value) for key, value in links.items()]


def test_a_link_value_that_is_no_string_is_named() -> None:
    with pytest.raises(ValueError, match="the link 'attempt' has the value 3 of type int, not str"):
        agl.make_link_attributes({"attempt": 3})  # type: ignore[dict-item]  # bad input


@pytest.mark.parametrize("attributes", [{"agentlightning.link.0.key_match": "a"}, {"agentlightning.link.0": "a"}])
def test_malformed_links_are_shown(attributes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"malformed link attributes: \[.*\]; each link has key_match and value_match"):
        agl.extract_links_from_attributes(attributes)


def test_an_attribute_named_like_the_link_prefix_is_no_link() -> None:
    assert agl.extract_links_from_attributes({"agentlightning.link": "odd"}) == []


def test_linked_spans_match_all_links_by_id_or_attribute() -> None:
    wanted = agl.Span.from_attributes(attributes={"step": "search", "n": "1"})
    others = [
        agl.Span.from_attributes(attributes={"step": "search", "n": "1"}),
        agl.Span.from_attributes(attributes={"step": "other"}, trace_id=wanted.trace_id),
        agl.Span.from_attributes(attributes={}),
    ]
    links = [agl.LinkAttributes("trace_id", wanted.trace_id), agl.LinkAttributes("step", "search")]

    assert agl.query_linked_spans([*others, wanted], links) == [wanted]


def test_linked_spans_are_found_by_span_id() -> None:
    spans = [agl.Span.from_attributes(attributes={}) for _ in range(3)]

    assert agl.query_linked_spans(spans, [agl.LinkAttributes("span_id", spans[1].span_id)]) == [spans[1]]


# The names of keys.


def test_a_key_is_a_string_and_has_it_as_its_value() -> None:
    tag = semconv.LightningSpanAttributes.TAG

    assert tag == tag.value == f"{tag}" == str(tag) == "agentlightning.tag"
    assert type(tag.value) is str
    assert {tag: 1}["agentlightning.tag"] == 1


def test_keys_of_recorded_attributes_are_plain_strings() -> None:
    span = agl.emit_annotation({semconv.LightningSpanAttributes.TAG: {"0": "a"}, Colour.RED: 1}, propagate=False)

    assert [type(key) for key in span.attributes] == [str, str]
    assert span.attributes == {"agentlightning.tag.0": "a", "red": 1}


class Colour(str, enum.Enum):  # noqa: UP042  # the older kind, see below
    """An enum whose members, unlike those of `StrEnum`, are formatted as ``Colour.RED``."""

    RED = "red"


def test_linked_spans_may_be_spans_of_the_sdk() -> None:
    context = SpanContext(0xA, 0xB, is_remote=False)
    found, orphan = ReadableSpan(name="found", context=context), ReadableSpan(name="orphan", attributes={"a": 1})

    assert agl.query_linked_spans([found, orphan], [agl.LinkAttributes("span_id", f"{0xB:016x}")]) == [found]
    assert agl.query_linked_spans([found, orphan], [agl.LinkAttributes("trace_id", f"{0xA:032x}")]) == [found]
    assert agl.query_linked_spans([found, orphan], [agl.LinkAttributes("a", 1)]) == [orphan]  # type: ignore[arg-type]
