"""The layouts of emitters' spans: the attributes of messages, objects, exceptions, annotations and calls.

Rewards have their own module.
"""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .. import semconv
from .._exception_text import class_name, message_of, traceback_of
from .._plain_values import from_json, json_text
from .._public import public
from ..semconv import LightningSpanAttributes as Keys
from ._attributes import check_attributes, flatten_value, plain_annotation, sanitize_attributes
from ._span import Span, SpanCoreFields

# Plain strings, because members of an enum take longer to look up, and show in the repr of a span's attributes.
_MESSAGE_BODY = Keys.MESSAGE_BODY.value
_OBJECT_TYPE = Keys.OBJECT_TYPE.value
_OBJECT_LITERAL = Keys.OBJECT_LITERAL.value
_OBJECT_JSON = Keys.OBJECT_JSON.value


def message_attributes(message: str, attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the attributes of a message, with the user's own attributes.

    Raises:
        TypeError: `message` is not a string.
    """
    if not isinstance(message, str):
        raise TypeError(f"a message is a string, not {type(message).__name__}; emit_object takes any object")
    if message.__class__ is not str:
        message = str.__str__(message)
    if not attributes:
        return {_MESSAGE_BODY: message}
    return {**sanitize_attributes(attributes), _MESSAGE_BODY: message}


@public
def get_message_value(span: Span | SpanCoreFields) -> str | None:
    """Return the text of a message span, or None for other spans.

    >>> get_message_value(SpanCoreFields("agentlightning.message", attributes={"agentlightning.message.body": "hi"}))
    'hi'
    """
    body = span.attributes.get(_MESSAGE_BODY)
    if body is not None and not isinstance(body, str):
        raise TypeError(f"{_MESSAGE_BODY} is {body!r} of type {type(body).__name__}; a message is a string")
    return body


def object_attributes(value: object, attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the attributes of a value: primitives and bytes as text, other objects as JSON.

    Raises:
        RuntimeError: the value cannot be encoded as JSON.
    """
    sane = sanitize_attributes(attributes) if attributes else {}
    kind = type(value)
    if kind in (str, bool, int, float):
        return {**sane, _OBJECT_TYPE: kind.__name__, _OBJECT_LITERAL: str(value)}
    if isinstance(value, bytes | bytearray):
        return {**sane, _OBJECT_TYPE: "bytes", _OBJECT_LITERAL: base64.b64encode(value).decode()}
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {**sane, _OBJECT_TYPE: name, _OBJECT_JSON: _strict_json(value)}


def _strict_json(value: object) -> str:
    try:
        return json_text(value)
    except (TypeError, ValueError, RecursionError) as exc:
        raise RuntimeError(
            f"Object must be JSON serializable, and this {type(value).__qualname__} is not ({exc}); "
            "emit its repr() or a dict of what matters"
        ) from exc


_LITERALS: dict[str, Callable[[str], object]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda literal: literal.lower() == "true",
    "bytes": base64.b64decode,
}


@public
def get_object_value(span: Span | SpanCoreFields) -> Any:
    """Return the value of an object span (JSON as mappings and lists), or None for other spans.

    >>> from lightning_trio import emit_object
    >>> get_object_value(emit_object(b"raw", propagate=False))
    b'raw'
    """
    encoded = span.attributes.get(_OBJECT_JSON)
    if encoded is not None:
        try:
            return from_json(encoded)
        except (ValueError, TypeError) as exc:
            name = getattr(span, "name", None)
            raise RuntimeError(f"{_OBJECT_JSON} of the span {name!r} is not JSON: {exc}") from exc
    literal = span.attributes.get(_OBJECT_LITERAL)
    if literal is None:
        return None
    kind = span.attributes.get(_OBJECT_TYPE, "str")
    if kind not in _LITERALS:
        raise RuntimeError(f"{_OBJECT_TYPE} is {kind!r}; the types of literals are {sorted(_LITERALS)}")
    return _LITERALS[kind](literal)


def exception_attributes(exception: BaseException, attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the attributes of an exception and its traceback, under OpenTelemetry's names.

    Raises:
        TypeError: `exception` is not an exception.
    """
    if not issubclass(type(exception), BaseException):
        raise TypeError(f"emit_exception takes an exception, not {type(exception).__name__}")
    laid_out = {
        **sanitize_attributes(attributes),
        semconv.EXCEPTION_TYPE: class_name(exception),
        semconv.EXCEPTION_MESSAGE: message_of(exception),
        semconv.EXCEPTION_ESCAPED: True,
    }
    stacktrace = traceback_of(exception)
    if stacktrace.strip():
        laid_out[semconv.EXCEPTION_STACKTRACE] = stacktrace
    return laid_out


def annotation_attributes(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of an annotation, flattened.

    Raises:
        TypeError: `annotation` is not a mapping.
        ValueError: a value is not a string, bool, number or list of one of these.
    """
    try:
        attributes = plain_annotation(annotation)
    except (TypeError, RecursionError):
        attributes = None
    if not isinstance(attributes, Mapping):
        raise TypeError(f"an annotation is a mapping of attributes, not {type(annotation).__name__}")
    return check_attributes(attributes)


def input_attributes(
    signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object]
) -> dict[str, Any]:
    """Return the attributes of an operation's input: the arguments of a call, under the names of its parameters."""
    prefix = Keys.OPERATION_INPUT.value
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        # The call itself will raise; the span shows its arguments.
        return flatten_value(prefix, {"args": list(args), "kwargs": kwargs})
    bound.apply_defaults()
    inputs: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        variadic = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        items = (
            {f"{prefix}.{name}.{i}": item for i, item in enumerate(value)} if variadic else {f"{prefix}.{name}": value}
        )
        for key, item in items.items():
            inputs.update(flatten_value(key, item))
    return inputs
