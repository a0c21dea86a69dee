"""Span attributes: flattening and its inverse, tags, and links between spans.

OpenTelemetry attributes are flat: strings mapped to a string, a bool, a number, or a list of one of these.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from .._containers import copy_containers
from .._plain_record import PlainRecord
from .._plain_values import json_text, plain
from .._public import public
from ..semconv import LightningSpanAttributes
from ._span import Attributes, Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

AnySpan = TypeVar("AnySpan", bound="Span | ReadableSpan")

_PRIMITIVES = (str, bool, int, float)
_TAG = LightningSpanAttributes.TAG.value
_LINK = LightningSpanAttributes.LINK.value


def to_json(value: object) -> str:
    """Encode `value` as JSON; objects without a plain form are encoded as their `str`."""
    try:
        return json_text(value, str)
    except Exception as exc:
        # A cycle, a `__str__` that raises: recording a value must not stop the agent.
        return json.dumps(f"<{type(value).__qualname__}: {type(exc).__name__} when written as JSON>")


def is_primitive_list(value: object) -> bool:
    """Whether `value` is a list of strings, of bools, of ints or of floats."""
    if not isinstance(value, list | tuple):
        return False
    first = type(value[0]) if value else str
    return first in _PRIMITIVES and all(type(item) is first for item in value)


@public
def flatten_attributes(attributes: Mapping[str, Any], *, expand_leaf_lists: bool = False) -> dict[str, Any]:
    """Flatten nested mappings and lists into dotted keys.

    Lists of one primitive type stay lists unless `expand_leaf_lists`; other lists get indexed keys. Values that are
    not valid attributes are left unchanged. Empty mappings and lists are dropped.

    Raises:
        ValueError: a key is not a string.

    >>> flatten_attributes({"a": {"b": 1}, "c": [{"d": 2}, "x"]})
    {'a.b': 1, 'c.0.d': 2, 'c.1': 'x'}
    """
    flat: dict[str, Any] = {}
    for key, value in _items(attributes):
        _flatten(key, value, expand_leaf_lists, flat)
    return flat


def _items(mapping: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise ValueError(f"the attribute key {key!r} is of type {type(key).__name__}; keys are strings")
        # A member of an enum of strings becomes a plain string.
        yield key if key.__class__ is str else str.__str__(key), value


def _flatten(key: str, value: Any, expand: bool, flat: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for inner, item in _items(value):
            _flatten(f"{key}.{inner}", item, expand, flat)
    elif isinstance(value, list | tuple) and (expand or not is_primitive_list(value)):
        for index, item in enumerate(value):
            _flatten(f"{key}.{index}", item, expand, flat)
    elif not isinstance(value, list | tuple) or value:
        flat[key] = value


@public
def unflatten_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Reverse `flatten_attributes`; keys ``0..n-1`` become a list.

    >>> unflatten_attributes({"a.b": 1, "c.0": "x", "c.1": "y"})
    {'a': {'b': 1}, 'c': ['x', 'y']}
    """
    nested: dict[str, Any] = {}
    for key, value in attributes.items():
        *path, last = key.split(".")
        node = nested
        for part in path:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                # A value is where a mapping is needed: keep it under the empty name.
                child = node[part] = {"": child}
            node = child
        if isinstance(node.get(last), dict):
            node[last][""] = value
        else:
            node[last] = value
    return {key: _lists(value) for key, value in nested.items()}


def _lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    values = {key: _lists(value) for key, value in node.items()}
    if values and all(str(index) in values for index in range(len(values))):
        return [values[str(index)] for index in range(len(values))]
    return values


@public
def filter_attributes(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the attributes whose key is `prefix` or starts with ``prefix.``."""
    inside = prefix + "."
    return {key: value for key, value in attributes.items() if key == prefix or key.startswith(inside)}


@public
def filter_and_unflatten_attributes(attributes: Mapping[str, Any], prefix: str) -> Any:
    """Return the attributes under ``prefix.`` as nested mappings and lists; a value at `prefix` itself is ignored.

    >>> filter_and_unflatten_attributes({"agentlightning.tag.0": "a"}, "agentlightning.tag")
    ['a']
    """
    inside = prefix + "."
    return _lists(
        unflatten_attributes({key[len(inside) :]: value for key, value in attributes.items() if key.startswith(inside)})
    )


def sanitize_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return attributes flattened, with values that are not valid ones as JSON, so that any object can be recorded."""
    if not attributes:
        return {}
    sane: dict[str, Any] = {}
    for key, value in _items({_plain_key(key): value for key, value in attributes.items()}):
        sane.update(flatten_value(key, value))
    return sane


def _with_plain(value: Any, plain_leaf: Callable[[Any], Any]) -> Any:
    """Return attributes, or a part of them, with what `plain_leaf` returns for objects that are no valid attributes."""
    if value.__class__ in _PRIMITIVES or value is None:
        return value
    if isinstance(value, Mapping):
        return {
            _plain_key(key): inner if inner.__class__ in _PRIMITIVES else _with_plain(inner, plain_leaf)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return value if is_primitive_list(value) else [_with_plain(inner, plain_leaf) for inner in value]
    return plain_leaf(value)


def _plain_key(key: Any) -> Any:
    """Return a key that stands for a string, such as the member of an enum, as that; others unchanged."""
    known = key if key.__class__ is str else _plain_number(key)
    return known if isinstance(known, str) else key


def _plain_number(value: Any) -> Any:
    """Return members of enums, and NumPy's scalars and arrays, as strings, numbers and lists; others unchanged."""
    try:
        known = plain(value)
    except Exception:
        # Users' methods run here; `to_json` describes the value.
        return value
    if isinstance(known, str):
        return known if isinstance(value, str | enum.Enum) else value
    return known if isinstance(known, int | float) or _is_array(known) else value


def _is_array(value: object) -> bool:
    """Whether a value is a list of one kind of primitive, or of such lists."""
    return isinstance(value, list) and (is_primitive_list(value) or all(map(_is_array, value)))


def plain_annotation(annotation: Any) -> Any:
    """Return an annotation with attributes that OpenTelemetry accepts in place of objects with a form in JSON.

    A model may be an annotation itself; its fields that are None are left out, because no attribute is None.
    """
    if not isinstance(annotation, Mapping):
        annotation = _without_none(plain(annotation))
    return _with_plain(annotation, _plain_text)


def _without_none(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_none(inner) for key, inner in value.items() if inner is not None}


def _plain_text(value: Any) -> Any:
    """Return an object as a string, number or list, one with fields as JSON, bytes and other objects unchanged."""
    if isinstance(value, bytes):
        return value
    try:
        known = plain(value)
    except (TypeError, ValueError, RecursionError):
        return value
    return json_text(known) if isinstance(known, dict | list) and not _is_array(known) else known


def check_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes flattened, with lists copied.

    Raises:
        ValueError: a value is not a string, bool, number or list of one of these.
    """
    flat = flatten_attributes(attributes)
    for key, value in flat.items():
        if value.__class__ in _PRIMITIVES:
            continue
        if is_primitive_list(value):
            flat[key] = list(value)
        elif not isinstance(value, _PRIMITIVES):
            raise ValueError(
                f"attribute {key!r} has the value {value!r} of type {type(value).__name__}; it takes strings, "
                "bools, numbers and lists of one of these (emit_object takes any object)"
            )
    return flat


def copy_attributes(attributes: Attributes) -> dict[str, Any]:
    """Return a copy of attributes and of the lists and dicts in them."""
    return {key: copy_containers(value) for key, value in attributes.items()}


def flatten_value(key: str, value: object) -> dict[str, Any]:
    """Return any value as attributes under `key`: mappings and lists flattened, other objects as JSON."""
    if value.__class__ in _PRIMITIVES:
        return {key: value}
    try:
        flat = flatten_attributes({key: _with_plain(value, _plain_number)})
    except (ValueError, RecursionError):
        # A mapping with keys that are not strings, or a cycle.
        return {key: to_json(value)}
    return {name: _as_attribute(inner) for name, inner in flat.items()}


def _as_attribute(value: Any) -> Any:
    if value.__class__ in _PRIMITIVES:
        return value
    return list(value) if is_primitive_list(value) else to_json(value)


@public
def make_tag_attributes(tags: Sequence[str]) -> dict[str, Any]:
    """Return tags as attributes, to pass to an emitter.

    >>> make_tag_attributes(["draft", "slow"])
    {'agentlightning.tag.0': 'draft', 'agentlightning.tag.1': 'slow'}
    """
    if isinstance(tags, str):
        raise ValueError(f"tags={tags!r} is one string; pass a list: [{tags!r}]")
    for tag in tags:
        if not isinstance(tag, str):
            raise ValueError(f"the tag {tag!r} is of type {type(tag).__name__}; tags are strings")
    return {f"{_TAG}.{index}": tag for index, tag in enumerate(tags)}


@public
def extract_tags_from_attributes(attributes: Attributes) -> list[str]:
    """Return the tags in attributes, in order."""
    tags = filter_and_unflatten_attributes(attributes, _TAG)
    values = list(tags.values()) if isinstance(tags, dict) else tags
    for tag in values:
        if not isinstance(tag, str):
            raise ValueError(f"the tag {tag!r} is of type {type(tag).__name__}; tags are strings")
    return values


@public
@attrs.frozen
class LinkAttributes(PlainRecord):
    """A link to spans whose attribute `key_match` is `value_match`; ``trace_id`` and ``span_id`` are keys too."""

    key_match: str
    value_match: str


@public
def make_link_attributes(links: Mapping[str, str]) -> dict[str, Any]:
    """Return ``{key: value}`` as attributes that link to the spans with that key and value.

    >>> make_link_attributes({"span_id": "00f067aa0ba902b7"})["agentlightning.link.0.key_match"]
    'span_id'
    """
    attributes: dict[str, Any] = {}
    for index, (key, value) in enumerate(links.items()):
        if not isinstance(value, str):
            raise ValueError(f"the link {key!r} has the value {value!r} of type {type(value).__name__}, not str")
        attributes[f"{_LINK}.{index}.key_match"] = key
        attributes[f"{_LINK}.{index}.value_match"] = value
    return attributes


@public
def extract_links_from_attributes(attributes: Attributes) -> list[LinkAttributes]:
    """Return the links in attributes, in order."""
    links = filter_and_unflatten_attributes(attributes, _LINK)
    values = list(links.values()) if isinstance(links, dict) else links
    try:
        return [LinkAttributes(link["key_match"], link["value_match"]) for link in values]
    except (KeyError, TypeError) as exc:
        raise ValueError(
            f"malformed link attributes: {json.dumps(links, default=str)}; each link has key_match and value_match"
        ) from exc


@public
def query_linked_spans(spans: Iterable[AnySpan], links: Sequence[LinkAttributes]) -> list[AnySpan]:
    """Return the spans, of this package or of the OpenTelemetry SDK, that match all of `links`."""
    return [span for span in spans if all(_matches(span, link) for link in links)]


def _matches(span: Span | ReadableSpan, link: LinkAttributes) -> bool:
    if link.key_match in ("trace_id", "span_id"):
        return _read_id(span, link.key_match) == link.value_match
    return bool((span.attributes or {}).get(link.key_match) == link.value_match)


def _read_id(span: Span | ReadableSpan, name: str) -> str | None:
    if isinstance(span, Span):
        return span.trace_id if name == "trace_id" else span.span_id
    if span.context is None:
        return None
    return f"{span.context.trace_id:032x}" if name == "trace_id" else f"{span.context.span_id:016x}"
