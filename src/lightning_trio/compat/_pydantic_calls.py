"""The methods of pydantic models on records, and dicts in place of records in them, as Agent-lightning 0.3 had it."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

import attrs

from .._plain_record import PlainRecord
from .._records import (
    Attempt,
    AttemptedRollout,
    EnqueueRolloutRequest,
    ErrorRecord,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
)
from .._resources import NamedResources, Resource, resource_class
from .._spans import Event, Link, OtelResource, Span, SpanContext, SpanCoreFields, TraceStatus, Usage

T = TypeVar("T")


def model_dump(self: Any, *, mode: str = "python", **options: Any) -> dict[str, Any]:
    """Return the record as a dict, with nested records as dicts."""
    dumped: dict[str, Any] = _dumped(self)
    chosen = {name for name in dumped if _is_chosen(self, name, dumped[name], options)}
    dumped = {name: value for name, value in dumped.items() if name in chosen}
    return dumped if mode == "python" else json.loads(json.dumps(dumped, default=str))


def _is_chosen(record: Any, name: str, value: object, options: Mapping[str, Any]) -> bool:
    include, exclude = options.get("include"), options.get("exclude")
    if (include is not None and name not in include) or (exclude is not None and name in exclude):
        return False
    if options.get("exclude_none") and value is None:
        return False
    return not options.get("exclude_defaults") or value != _default(type(record), name)


def _default(kind: type[Any], name: str) -> object:
    default: Any = next((field.default for field in attrs.fields(kind) if field.alias == name), attrs.NOTHING)
    return default.factory() if hasattr(default, "factory") else default


def _dumped(value: Any) -> Any:
    if attrs.has(type(value)):
        own = {"resource_type": value.resource_type} if hasattr(type(value), "resource_type") else {}
        return own | {str(field.alias): _dumped_field(value, field) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {key: _dumped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_dumped(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def _dumped_field(record: Any, field: attrs.Attribute[Any]) -> object:
    dumped = _dumped(_read(record, field))
    # Where a record has a tuple, 0.3 has a list; in a user's values both keep tuples.
    return list(dumped) if isinstance(dumped, tuple) and isinstance(field.default, tuple) else dumped


def _read(record: Any, field: attrs.Attribute[Any]) -> object:
    # By its public name, such as `api_key`.
    return getattr(record, str(field.alias))


def model_dump_json(self: Any, *, indent: int | None = None, **options: Any) -> str:
    """Return the record as JSON."""
    return json.dumps(model_dump(self, mode="json", **options), indent=indent)


def model_copy(self: T, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> T:
    """Return a copy with some fields changed."""
    made: Any = copy.deepcopy(self) if deep else self
    copied: T = attrs.evolve(made, **(update or {}))
    return copied


def model_validate(cls: type[T], obj: Any) -> T:
    """Return the record that a mapping describes; records are returned as they are.

    Raises:
        ValueError: a field is missing, unknown or of a wrong type.
    """
    if isinstance(obj, cls):
        return obj
    import msgspec

    kind: Any = cls
    own_names = {str(field.alias): field.name for field in attrs.fields(kind)}
    fields = {own_names.get(name, name): value for name, value in dict(obj).items()}
    if fields.pop("resource_type", own_type := getattr(cls, "resource_type", None)) != own_type:
        raise ValueError(f"{cls.__name__} cannot be made from {obj!r}: its resource_type is {own_type!r}")
    try:
        # Of a mapping of resources, `msgspec` would make each one of the base class.
        resources: dict[str, Any] = {}
        if "resources" in own_names:
            resources["resources"] = _resources(fields["resources"])
            fields["resources"] = {}
        made: T = attrs.evolve(_made_again(msgspec.convert(fields, cls)), **resources)
    except (msgspec.ValidationError, KeyError) as exc:
        problem = f"it has no {exc}" if isinstance(exc, KeyError) else exc
        raise ValueError(f"{cls.__name__} cannot be made from {obj!r}: {problem}") from exc
    return made


def _resources(named: Any) -> NamedResources:
    if not isinstance(named, Mapping):
        raise ValueError(f"resources is a mapping of names to resources, not {named!r}")
    return {name: _resource(given) for name, given in named.items()}


def _resource(given: Any) -> Resource:
    if isinstance(given, Resource):
        return given
    made: Resource = model_validate(resource_class(given["resource_type"]), given)
    return made


def _made_again(value: Any) -> Any:
    """Return a record made by its constructor, whose validators and converters msgspec leaves out."""
    kind = type(value)
    if not attrs.has(kind):
        return value
    fields = {str(field.alias): _field(_read(value, field), field.default) for field in attrs.fields(kind)}
    return kind(**fields)


def _field(value: Any, default: object) -> Any:
    if isinstance(value, list):
        items = [_made_again(item) for item in value]
        return tuple(items) if isinstance(default, tuple) else items
    return _made_again(value)


def model_validate_json(cls: type[T], json_data: str | bytes) -> T:
    """Return the record that a JSON text describes; see `model_validate`."""
    return model_validate(cls, json.loads(json_data))


_NESTED: Final[Mapping[str, type[Any]]] = {
    "attempt": Attempt,
    "config": RolloutConfig,
    "context": SpanContext,
    "error": ErrorRecord,
    "events": Event,
    "links": Link,
    "parent": SpanContext,
    "resource": OtelResource,
    "status": TraceStatus,
    "usage": Usage,
}
"""The classes of records in other records, by argument."""

_WITH_NESTED: Final = (
    Attempt,
    AttemptedRollout,
    EnqueueRolloutRequest,
    Link,
    ResourcesUpdate,
    Rollout,
    Span,
    SpanCoreFields,
)


def _nested(name: str, value: Any) -> Any:
    """Return an argument with records in place of the dicts that describe them."""
    kind = _NESTED[name]
    if isinstance(value, list):
        return tuple(_nested(name, item) for item in value)
    return model_validate(kind, value) if isinstance(value, Mapping) else value


def _taking_dicts(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **fields: Any) -> None:
        # Programs name the fields, as in `Span(**fields)`; the package makes spans of positional arguments.
        for name in fields.keys() & _NESTED.keys():
            fields[name] = _nested(name, fields[name])
        if "resources" in fields:
            fields["resources"] = _resources(fields["resources"])
        init(self, *args, **fields)

    return __init__


def add() -> None:
    """Give all records these methods, and those with records in them constructors that take dicts."""
    for kind in _WITH_NESTED:
        made: Any = kind
        made.__init__ = _taking_dicts(made.__init__)
    methods: dict[str, object] = {
        "model_copy": model_copy,
        "model_dump": model_dump,
        "model_dump_json": model_dump_json,
        "model_validate": classmethod(cast("Any", model_validate)),
        "model_validate_json": classmethod(cast("Any", model_validate_json)),
    }
    for name, method in methods.items():
        setattr(PlainRecord, name, method)
