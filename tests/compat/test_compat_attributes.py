"""The helpers of ``agentlightning.utils.otel``, where they differ from those of the package itself."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import lightning_trio as agl
import lightning_trio.compat
from lightning_trio.compat._modules import module

otel: Any = module("utils.otel")


@pytest.mark.parametrize(
    ("nested", "flat"),
    [
        ([10, 20], {"0": 10, "1": 20}),
        ([{"a": 1}], {"0.a": 1}),
        ([], {}),
        (42, {"": 42}),
        ({"a": {"b": [1, 2]}}, {"a.b": [1, 2]}),
    ],
)
def test_lists_and_single_values_can_be_flattened_too(nested: Any, flat: dict[str, Any]) -> None:
    assert otel.flatten_attributes(nested) == flat


def test_a_list_of_mixed_types_is_expanded_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    flat = otel.flatten_attributes({"values": [1, "two"]})

    assert flat == {"values.0": 1, "values.1": "two"}
    assert "mixed primitive types" in caplog.text


def test_a_key_that_is_no_string_is_named_with_its_type() -> None:
    with pytest.raises(ValueError, match=r"Only string keys are supported in dictionaries.*'1'.*type <class 'int'>"):
        otel.flatten_attributes({"a": {1: "bad"}})


@pytest.mark.parametrize(
    ("flat", "nested"),
    [
        ({"0": "a", "1": "b"}, ["a", "b"]),
        ({"a": 1, "a.b": 2}, {"a": {"b": 2}}),
        ({"a.b": 2, "a": 1}, {"a": {"b": 2}}),
        ({}, {}),
    ],
)
def test_flat_attributes_become_a_list_or_a_mapping(flat: dict[str, Any], nested: Any) -> None:
    assert otel.unflatten_attributes(flat) == nested


def test_a_value_at_the_prefix_itself_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'agentlightning\.tag' has a value itself"):
        otel.filter_and_unflatten_attributes({"agentlightning.tag": "a"}, "agentlightning.tag")


@pytest.mark.parametrize(
    ("value", "sane"),
    [
        ("text", "text"),
        ([True, 2], [1, 2]),
        ([1.0, 2, True], [1.0, 2.0, 1.0]),
        ({"a": 1}, '{"a": 1}'),
        ([1, "two"], '[1, "two"]'),
        (ValueError("boom"), '"boom"'),
    ],
)
def test_any_value_can_be_made_an_attribute(value: Any, sane: Any) -> None:
    assert otel.sanitize_attribute_value(value) == sane


def test_without_force_a_value_that_is_no_json_is_an_error_with_its_key() -> None:
    with pytest.raises(ValueError, match="Failed to sanitize attribute 'payload': Object must be JSON serializable"):
        otel.sanitize_attributes({"payload": object()}, force=False)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({1: "a"}, "Attribute key must be a string, not 1"),
        ({"a": {}}, "Attribute value must be a string, a number, a bool or a list of one of these, not {}"),
        ({"a": [1, "b"]}, "Failed to sanitize list attribute 'a': List must contain only one type"),
    ],
)
def test_invalid_attributes_are_named(attributes: dict[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        otel.check_attributes_sanity(attributes)


def test_valid_attributes_pass() -> None:
    otel.check_attributes_sanity({"a": 1, "b": [True, 2], "c": "x"})


def test_a_tag_that_is_no_string_is_pydantics_error() -> None:
    pydantic = pytest.importorskip("pydantic")

    with pytest.raises(pydantic.ValidationError):
        otel.extract_tags_from_attributes({"agentlightning.tag.0": 1})


def test_a_links_value_is_a_string() -> None:
    with pytest.raises(ValueError, match="Link value must be a string, and that of 'span_id' is 1"):
        otel.make_link_attributes({"span_id": 1})


def test_links_can_be_dumped_as_pydantic_models() -> None:
    links = otel.extract_links_from_attributes(otel.make_link_attributes({"span_id": "b"}))

    assert [link.model_dump() for link in links] == [{"key_match": "span_id", "value_match": "b"}]


def test_the_names_of_keys_are_those_of_the_package() -> None:
    old: Any = module("semconv")

    assert old.LinkAttributes.KEY_MATCH.value == "key_match"
    assert old.RewardAttributes.REWARD_NAME.value == "name"
    assert old.LightningSpanAttributes is agl.semconv.LightningSpanAttributes
    assert old.LinkPydanticModel("a", "b") == agl.LinkAttributes("a", "b")


def test_a_process_without_a_provider_has_no_tracer() -> None:
    program = """
import lightning_trio.compat.utils.otel as otel
try:
    otel.get_tracer()
except RuntimeError as exc:
    print(exc)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ended.stdout.startswith("OpenTelemetry has no tracer provider"), ended.stderr


def test_the_processs_provider_is_the_one_of_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    assert otel.get_tracer_provider() is provider
    assert otel.get_tracer().start_span("a").is_recording()
    assert otel.get_tracer(use_active_span_processor=False).start_span("a").is_recording()


def test_another_kind_of_provider_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    other = object()
    monkeypatch.setattr(otel, "otel_get_tracer_provider", lambda: other)

    assert otel.get_tracer_provider() is other
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_ids_are_hexadecimal() -> None:
    made = lightning_trio.compat.utils.id.generate_id(5)  # type: ignore[attr-defined]

    assert len(made) == 5
    assert int(made, 16) >= 0
    assert json.dumps(made)
