"""Agent-lightning 0.3's helpers for attributes and OpenTelemetry (``agentlightning.utils.otel``) and ids."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._spans import check_attributes, exception_attributes, sanitize_attributes, to_json
from ._shapes import Attributes, AttributeValue
from ._tracers import default_provider

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

__all__ = ["sanitize_attributes"]


def generate_id(length: int) -> str:
    """Return a random id of hexadecimal digits."""
    return secrets.token_hex((length + 1) // 2)[:length]


def full_qualified_name(obj: type) -> str:
    """Return a class's name with its module, without that of a built-in class."""
    return obj.__qualname__ if obj.__module__ == "builtins" else f"{obj.__module__}.{obj.__qualname__}"


def get_tracer_provider(inspect: bool = True) -> TracerProvider:
    """Return the program's OpenTelemetry provider, set if there was none; `inspect` is ignored."""
    return default_provider()


def get_tracer(use_active_span_processor: bool = True) -> Tracer:
    """Return an OpenTelemetry tracer whose spans are recorded inside rollouts; the argument is ignored."""
    return default_provider().get_tracer("agentlightning")


def sanitize_attribute_value(object: Any, force: bool = True) -> AttributeValue:
    """Return a value as OpenTelemetry takes it, a structure as JSON."""
    value: AttributeValue = sanitize_attributes({"value": object})["value"]
    return value


def check_attributes_sanity(attributes: Mapping[Any, Any]) -> None:
    """Raise `ValueError` unless OpenTelemetry takes the attributes as they are."""
    check_attributes(attributes)


def format_exception_attributes(exception: BaseException) -> Attributes:
    """Return the attributes that describe an exception."""
    return exception_attributes(exception)


def sanitize_list_attribute_sanity(maybe_list: list[Any]) -> AttributeValue:
    """Return a list as OpenTelemetry takes it, one of several types as JSON."""
    if len({type(item) for item in maybe_list} | {str}) > 2 or not all(
        isinstance(item, str | bool | int | float) for item in maybe_list
    ):
        return to_json(maybe_list)
    return list(maybe_list)
