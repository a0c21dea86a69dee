"""Agent-lightning 0.3's helpers for attributes and OpenTelemetry (``agentlightning.utils.otel``), and ids.

Those for attributes differ from the ones of `lightning_trio`: they took lists and single values at the top, and checked
more strictly.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import opentelemetry.trace

from .._spans import exception_attributes
from .._spans import extract_tags_from_attributes as _extract_tags
from .._spans import filter_and_unflatten_attributes as _filter_and_unflatten
from .._spans import flatten_attributes as _flatten
from .._spans import make_link_attributes as _make_link_attributes
from ._modules import module

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

otel_logger = logging.getLogger("lightning_trio.compat")

_PRIMITIVES = (str, bool, int, float)


def generate_id(length: int) -> str:
    """Return a random id of hexadecimal digits."""
    return secrets.token_hex((length + 1) // 2)[:length]


def full_qualified_name(obj: type) -> str:
    """Return the name of a class with its module, but for builtin ones."""
    return obj.__qualname__ if obj.__module__ == "builtins" else f"{obj.__module__}.{obj.__qualname__}"


# Flat and nested attributes.


def flatten_attributes(nested_data: Any, *, expand_leaf_lists: bool = False) -> dict[str, Any]:
    """Flatten nested mappings and lists into dotted keys, see `lightning_trio.flatten_attributes`.

    Raises:
        ValueError: a key is not a string.
    """
    if isinstance(nested_data, list | tuple):
        nested_data = {str(index): value for index, value in enumerate(nested_data)}
    elif not isinstance(nested_data, Mapping):
        return {"": nested_data}
    _check_nested(nested_data)
    return _flatten(nested_data, expand_leaf_lists=expand_leaf_lists)


def _check_nested(value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(
                    f"Only string keys are supported in dictionaries; the key '{key}' has the type {type(key)}"
                )
            _check_nested(item)
    elif isinstance(value, list | tuple):
        kinds = {type(item) for item in value}
        if len(kinds) > 1 and kinds <= {*_PRIMITIVES}:
            otel_logger.warning("A list with mixed primitive types gets a key for each item: %r", value)
        for item in value:
            _check_nested(item)


def unflatten_attributes(flat_data: Mapping[str, Any]) -> Any:
    """Reverse `flatten_attributes`; where a key has a value and further keys below it, these replace the value."""
    parents = {key[:end] for key in flat_data for end, letter in enumerate(key) if letter == "."}
    kept = {f"x.{key}": value for key, value in flat_data.items() if key not in parents}
    return _filter_and_unflatten(kept, "x")


def filter_and_unflatten_attributes(attributes: Mapping[str, Any], prefix: str) -> Any:
    """Return the attributes under ``prefix.`` as nested mappings and lists.

    Raises:
        ValueError: there is a value at `prefix` itself.
    """
    if prefix in attributes:
        raise ValueError(f"the attribute {prefix!r} has a value itself, and so cannot have keys below it")
    return _filter_and_unflatten(attributes, prefix)


# Values.


def sanitize_attribute_value(object: Any, force: bool = True) -> Any:
    """Return a value that is a valid attribute; what is none as JSON.

    Raises:
        ValueError: it cannot be encoded as JSON, unless `force`, which encodes it as its `str`.
    """
    if isinstance(object, _PRIMITIVES):
        return object
    if isinstance(object, list):
        try:
            return sanitize_list_attribute_sanity(object)
        except ValueError as exc:
            otel_logger.warning("Failed to sanitize list attribute, which is recorded as JSON: %s", exc)
    try:
        return json.dumps(object, default=str if force else None)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"Object must be JSON serializable, and this {type(object).__qualname__} is not") from exc


def sanitize_attributes(attributes: Mapping[str, Any], force: bool = True) -> dict[str, Any]:
    """Return attributes with each value as `sanitize_attribute_value` returns it.

    Raises:
        ValueError: a value cannot be encoded as JSON, unless `force`.
    """
    sane: dict[str, Any] = {}
    for key, value in attributes.items():
        try:
            sane[key] = sanitize_attribute_value(value, force)
        except ValueError as exc:
            raise ValueError(f"Failed to sanitize attribute {key!r}: {exc}") from exc
    return sane


def sanitize_list_attribute_sanity(maybe_list: Sequence[Any]) -> list[Any]:
    """Return a list of one primitive type: bools among numbers become numbers, integers among floats floats.

    Raises:
        ValueError: the types differ otherwise.
    """
    for kinds, made in ((str, str), (bool, bool), (int, int), (int | float, float)):
        if all(isinstance(item, kinds) for item in maybe_list):
            return [made(item) for item in maybe_list]
    raise ValueError(f"List must contain only one type of primitive values, and this one has several: {maybe_list!r}")


def check_attributes_sanity(attributes: Mapping[Any, Any]) -> None:
    """Validate that attributes are flat, with strings as keys.

    Raises:
        ValueError: a key is not a string, or a value is not a valid attribute.
    """
    for key, value in attributes.items():
        if not isinstance(key, str):
            raise ValueError(f"Attribute key must be a string, not {key!r}")
        if isinstance(value, list):
            try:
                sanitize_list_attribute_sanity(value)
            except ValueError as exc:
                raise ValueError(f"Failed to sanitize list attribute {key!r}: {exc}") from exc
        elif not isinstance(value, _PRIMITIVES):
            raise ValueError(
                f"Attribute value must be a string, a number, a bool or a list of one of these, not {value!r}"
            )


def attributes_of_value(key: str, value: object) -> dict[str, Any]:
    """Return any value as attributes under `key`, flattened."""
    try:
        return sanitize_attributes(flatten_attributes({key: value}))
    except (ValueError, RecursionError):
        return {key: str(value)}


def format_exception_attributes(exception: BaseException) -> dict[str, Any]:
    """Return the attributes of an exception and its traceback."""
    return exception_attributes(exception)


# Tags and links.


def extract_tags_from_attributes(attributes: Mapping[str, Any]) -> list[str]:
    """Return the tags in attributes, in order.

    Raises:
        ValueError: a tag is not a string (pydantic's ValidationError, where pydantic is installed).
    """
    try:
        return _extract_tags(attributes)
    except ValueError:
        try:
            from pydantic import TypeAdapter
        except ImportError:
            pass
        else:
            from ..semconv import LightningSpanAttributes

            TypeAdapter(list[str]).validate_python(_filter_and_unflatten(attributes, LightningSpanAttributes.TAG.value))
        raise


def make_link_attributes(links: Mapping[str, str]) -> dict[str, Any]:
    """Return ``{key: value}`` as attributes that link to the spans with that key and value.

    Raises:
        ValueError: a value is not a string.
    """
    for key, value in links.items():
        if not isinstance(value, str):
            raise ValueError(f"Link value must be a string, and that of {key!r} is {value!r}")
    return _make_link_attributes(links)


# OpenTelemetry's default provider.


def get_tracer_provider(inspect: bool = True) -> TracerProvider:
    """Return the provider of the process.

    Args:
        inspect: kept for Agent-lightning 0.3, which logged the provider's processors.

    Raises:
        RuntimeError: there is none.
    """
    provider: Any = module("utils.otel").otel_get_tracer_provider()
    if isinstance(provider, opentelemetry.trace.ProxyTracerProvider):
        raise RuntimeError("OpenTelemetry has no tracer provider; it is set when a trainer or runner starts")
    from opentelemetry.sdk.trace import TracerProvider

    if not isinstance(provider, TracerProvider):
        otel_logger.error("Tracer provider is expected to be one of OpenTelemetry's SDK, not %r", provider)
    return cast("TracerProvider", provider)


def otel_get_tracer_provider() -> object:
    """Return OpenTelemetry's default provider."""
    return opentelemetry.trace.get_tracer_provider()


def get_tracer(use_active_span_processor: bool = True) -> Tracer:
    """Return a tracer of the process's provider.

    Args:
        use_active_span_processor: False for one whose spans go nowhere.

    Raises:
        RuntimeError: there is no provider.
    """
    provider = module("utils.otel").get_tracer_provider()
    if not use_active_span_processor:
        from opentelemetry.sdk.trace import TracerProvider

        provider = TracerProvider(sampler=provider.sampler, resource=provider.resource, shutdown_on_exit=False)
    tracer: Tracer = provider.get_tracer("agentlightning")
    return tracer
