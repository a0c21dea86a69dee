"""Values of users as JSON text that gives back what went in, or an error that says where it does not.

What JSON has comes as itself. Other things come as an object with one key that begins with ``$`` (a user's own key of
that kind is escaped), so that a tuple comes back as a tuple and NaN as NaN. Subclasses of str, int, float, list and
dict that compare equal to the plain value come back as the plain value.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import enum
import functools
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Set
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Final, TypeVar

import attrs
import msgspec

from .._errors import NotStorable, PayloadTooLarge
from .._resources import (
    LLM,
    LostKey,
    Resource,
    UnknownResource,
    key_for_token,
    resource_class,
    token_for_key,
)

NO_LIMIT: Final = 1 << 62


UNREADABLE: Final = (msgspec.DecodeError, ValueError, TypeError, LookupError, AttributeError)
"""What reading a text raises that was not written by this package."""


def unreadable(what: str, exc: Exception) -> msgspec.DecodeError:
    """Say which record it is that cannot be read."""
    return msgspec.DecodeError(f"{what} cannot be read ({type(exc).__name__}: {exc})")


T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_encode_in_order = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder().decode


@attrs.frozen
class UnknownObject:
    """Stand for a stored object whose class this process has not defined; `type` is ``module:name``."""

    type: str
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


def encode(value: Any, name: str, limit: int) -> str:
    """Give JSON text that `decode` turns back into what `value` is.

    Args:
        value: what to keep.
        name: how to call it in an error.
        limit: the most bytes it may take.

    Raises:
        NotStorable: something in it cannot be kept; the message has the path to it.
        PayloadTooLarge: it takes more than `limit` bytes.
    """
    encoded = _encode_plain(value, _encode)
    if encoded is None:
        try:
            encoded = _encode(_tagged(value, name))
        except RecursionError:
            raise _too_deep(name) from None
    if len(encoded) > limit:
        raise PayloadTooLarge(
            f"{name} takes {len(encoded):,} bytes, the store's limit is {limit:,}; keep large data in files and put "
            "their paths into it, or raise the limit with max_payload_bytes=…"
        )
    return encoded.decode()


def canonical(value: Any, name: str) -> bytes:
    """Give bytes that are the same for equal values, in this process and in every other.

    Raises:
        NotStorable: as `encode`.
    """
    encoded = _encode_plain(value, _encode_in_order)
    if encoded is None:
        try:
            encoded = _encode_in_order(_in_order(_tagged(value, name)))
        except RecursionError:
            raise _too_deep(name) from None
    return encoded


def _too_deep(name: str) -> NotStorable:
    return NotStorable(f"{name} contains itself or is nested too deeply to be stored")


def _in_order(tagged: Any) -> Any:
    """Sort what has no order of its own, or one that equal values need not share."""
    if type(tagged) is list:
        return [_in_order(inner) for inner in tagged]
    if type(tagged) is not dict:
        return tagged
    # The name that a process has for an api key is its own.
    ordered = {key: _in_order(inner) for key, inner in tagged.items() if key != "$key"}
    for tag in _UNORDERED & ordered.keys():
        ordered[tag].sort(key=_encode_in_order)
    return ordered


_UNORDERED: Final = frozenset({"$set", "$frozenset", "$dict"})


def _encode_plain(value: Any, encode_json: Callable[[Any], bytes]) -> bytes | None:
    """Encode what JSON has; None if something would not come back as it is."""
    kind = type(value)
    if kind is str or kind is int or value is None or kind is bool:
        with contextlib.suppress(UnicodeEncodeError):
            return encode_json(value)
        return None
    try:
        encoded = encode_json(value)
        # msgspec writes a tuple like a list, NaN as null, a date as text: comparing is quicker than looking for them.
        same = _decode(encoded) == value and b'"$' not in encoded
    except Exception:
        # An object that cannot be encoded or compared, whatever it raises; `_tagged` says where it is.
        return None
    # Arrays compare elementwise, and what they give is no bool.
    return encoded if same is True else None


def decode(text: str) -> Any:
    """Give back what `encode` was given."""
    value = _decode(text)
    return _untagged(value) if '"$' in text else value


# Into tags.


def _tagged(value: Any, path: str) -> Any:  # noqa: C901  # one line for each kind of value
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return value
    if kind is str:
        return _text(value, path)
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return _items(value, path)
    if kind is dict:
        return _mapping(value, path)
    tag = _TAGS.get(kind)
    if tag is not None:
        return {tag: _WRITERS[tag](value, path)}
    if isinstance(value, Resource):
        return {"$resource": _resource(value, path)}
    if isinstance(value, enum.Enum):
        stored = [_type_name(kind, path), value.name]
        # Flags together are no member; what they come to says which.
        return {"$enum": stored if value.name in kind.__members__ else [*stored, _tagged(value.value, path)]}
    if (fields := _fields_of(value)) is not None:
        named = [_type_name(kind, path), {name: _tagged(v, f"{path}.{name}") for name, v in fields}]
        return {"$object": [*named, _tagged(rest, path)] if (rest := _rest_of_model(value)) else named}
    if isinstance(value, str):
        return _text(str.__str__(value), path)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _tagged(float(value), path)
    if isinstance(value, list):
        return _items(value, path)
    if isinstance(value, Mapping):
        return _mapping(value, path)
    raise NotStorable(
        f"{path}: object of type {kind.__module__}.{kind.__qualname__} cannot be stored; a store keeps what JSON has, "
        "tuples, sets, bytes, dates, enums, dataclasses, attrs classes, msgspec structs and pydantic models. Put a "
        "path, bytes or a plain value in its place, or use InMemoryLightningStore, which keeps any object"
    )


def _text(value: str, path: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"$surrogates": base64.b64encode(value.encode("utf-16-le", "surrogatepass")).decode()}
    return value


def _items(values: Iterable[Any], path: str) -> list[Any]:
    return [_tagged(value, f"{path}[{index}]") for index, value in enumerate(values)]


def _mapping(value: Mapping[Any, Any], path: str) -> Any:
    if all(type(key) is str and not key.startswith("$") for key in value):
        with contextlib.suppress(UnicodeEncodeError):
            for key in value:
                key.encode()
            return {key: _tagged(inner, f"{path}[{key!r}]") for key, inner in value.items()}
    return {
        "$dict": [[_tagged(key, f"{path} key {key!r}"), _tagged(v, f"{path}[{key!r}]")] for key, v in value.items()]
    }


def _tuple(value: tuple[Any, ...], path: str) -> list[Any]:
    return _items(value, path)


def _members(value: Iterable[Any], path: str) -> list[Any]:
    return [_tagged(member, f"{path} member {member!r}") for member in value]


_TAGS: Final[Mapping[type, str]] = {
    tuple: "$tuple",
    set: "$set",
    frozenset: "$frozenset",
    bytes: "$bytes",
    complex: "$complex",
    datetime.datetime: "$datetime",
    datetime.date: "$date",
    datetime.time: "$time",
    datetime.timedelta: "$timedelta",
    uuid.UUID: "$uuid",
    Decimal: "$decimal",
    Fraction: "$fraction",
}

_WRITERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "$tuple": _tuple,
    "$set": _members,
    "$frozenset": _members,
    "$bytes": lambda value, path: base64.b64encode(value).decode(),
    "$complex": lambda value, path: [_tagged(value.real, path), _tagged(value.imag, path)],
    "$datetime": lambda value, path: value.isoformat(),
    "$date": lambda value, path: value.isoformat(),
    "$time": lambda value, path: value.isoformat(),
    "$timedelta": lambda value, path: [value.days, value.seconds, value.microseconds],
    "$uuid": lambda value, path: str(value),
    "$decimal": lambda value, path: str(value),
    "$fraction": lambda value, path: str(value),
}


def _type_name(kind: type, path: str) -> str:
    if "<locals>" in kind.__qualname__:
        raise NotStorable(
            f"{path}: the class {kind.__qualname__} is defined inside a function, so that another process could not "
            "find it; define it at the top of its module"
        )
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    return f"{module}:{kind.__qualname__}"


def _fields_of(value: Any) -> list[tuple[str, Any]] | None:
    """Give the fields of an object that is made of fields, None if it is not."""
    kind = type(value)
    if isinstance(value, PurePath):
        return [("path", str(value))]
    if attrs.has(kind):
        return [(field.name, getattr(value, field.name)) for field in attrs.fields(kind)]
    if dataclasses.is_dataclass(kind):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(kind)]
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return list(zip(kind._fields, value, strict=True))
    if _is_model(kind):
        return list(value.__dict__.items())
    return None


_REST_OF_MODEL: Final = ("__pydantic_extra__", "__pydantic_private__", "__pydantic_fields_set__")
"""What a pydantic model has besides its fields."""


def _rest_of_model(value: Any) -> dict[str, Any]:
    """Give what else a pydantic model has, nothing if that is what its class would have as well."""
    if not _is_model(type(value)):
        return {}
    rest = {name: getattr(value, name, None) for name in _REST_OF_MODEL}
    extra, private, given = rest.values()
    return rest if extra or private or given != value.__dict__.keys() else {}


def _is_model(kind: type[Any]) -> bool:
    return hasattr(kind, "model_fields") and hasattr(kind, "model_construct")


def _resource(value: Resource, path: str) -> list[Any]:
    if isinstance(value, UnknownResource):
        # As it was found, for a process that knows it.
        return [value.stored_type, dict(value.fields)]
    kind = type(value)
    fields: dict[str, Any] = {}
    known = attrs.fields(kind)
    _check_made_of(value, {field.name for field in known}, path)
    for field in known:
        inner = getattr(value, field.name)
        if isinstance(value, LLM) and field.name == "_api_key":
            # Never the key itself: only a name for it that this process understands.
            if inner is not None:
                fields["$key"] = inner.token if isinstance(inner, LostKey) else token_for_key(inner)
            continue
        fields[field.name] = _tagged(inner, f"{path}.{field.name}")
    return [value.resource_type, fields]


def _check_made_of(value: Resource, fields: Set[str], path: str) -> None:
    """Refuse a resource that holds more than its fields: it would come back without."""
    kind = type(value)
    more = [
        name
        for name in getattr(value, "__dict__", ())
        if name not in fields and not isinstance(getattr(kind, name, None), functools.cached_property)
    ]
    if more:
        raise NotStorable(
            f"{path}: the resource {kind.__qualname__} holds {', '.join(more)}, which no store would keep, for a store "
            f"keeps fields; write:\n    @attrs.frozen\n    class {kind.__name__}(Resource):\n        {more[0]}: …"
        )


# And back.


def _untagged(value: Any) -> Any:
    if type(value) is list:
        return [_untagged(inner) for inner in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        [(tag, inner)] = value.items()
        reader = _READERS.get(tag)
        if reader is not None:
            return reader(inner)
    return {key: _untagged(inner) for key, inner in value.items()}


def _read_object(stored: list[Any]) -> Any:
    name, raw, *more = stored
    fields = {key: _untagged(inner) for key, inner in raw.items()}
    rest: dict[str, Any] = _untagged(more[0]) if more else {}
    kind = _loaded_class(name)
    if kind is None:
        return UnknownObject(name, {**fields, **(rest.get("__pydantic_extra__") or {})})
    if issubclass(kind, PurePath):
        return kind(fields["path"])
    if _is_model(kind):
        return _read_model(kind, fields, rest)
    if issubclass(kind, msgspec.Struct | tuple):
        return kind(**fields)
    return _made_of(kind, fields)


def _made_of(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Make an object as it was: neither `__init__` nor converters nor `__post_init__` run a second time."""
    made = object.__new__(kind)
    for field, inner in fields.items():
        object.__setattr__(made, field, inner)
    return made


def _read_model(kind: type[Any], fields: dict[str, Any], rest: dict[str, Any]) -> Any:
    made: Any = object.__new__(kind)
    # What the class got only later is as it is by default.
    later = {
        name: field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
        if name not in fields and not field.is_required()
    }
    has_extra = kind.model_config.get("extra") == "allow"
    object.__setattr__(made, "__dict__", {**fields, **later})
    object.__setattr__(made, "__pydantic_extra__", rest.get("__pydantic_extra__") or ({} if has_extra else None))
    object.__setattr__(made, "__pydantic_private__", rest.get("__pydantic_private__"))
    object.__setattr__(made, "__pydantic_fields_set__", rest.get("__pydantic_fields_set__", set(fields)))
    return made


def _read_enum(stored: list[Any]) -> Any:
    name, member, *value = stored
    kind = _loaded_class(name)
    if kind is not None and issubclass(kind, enum.Enum):
        if member in kind.__members__:
            return kind[member]
        if value and issubclass(kind, enum.Flag):
            # Flags that the class has no longer are refused, unless it keeps them.
            with contextlib.suppress(ValueError):
                return kind(_untagged(value[0]))
    return UnknownObject(name, {"name": member})


def _loaded_class(name: str) -> type[Any] | None:
    """Find a class among the modules that are loaded: what a file names must not decide what is imported."""
    module, _, qualified = name.partition(":")
    if module.startswith("lightning_trio._"):
        # Before 0.1.0 this package's own classes were stored under the names of its private modules.
        module = "lightning_trio"
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        return None
    made_of_fields = (
        attrs.has(found)
        or dataclasses.is_dataclass(found)
        or issubclass(found, msgspec.Struct | enum.Enum | PurePath)
        or (issubclass(found, tuple) and hasattr(found, "_fields"))
        or _is_model(found)
    )
    return found if made_of_fields else None


def _read_resource(stored: list[Any]) -> Resource:
    name, raw = stored
    kind = resource_class(name)
    if kind is UnknownResource:
        return UnknownResource(name, raw)
    token = raw.pop("$key", None)
    fields = {key: _untagged(inner) for key, inner in raw.items()}
    if token is not None:
        key = key_for_token(token)
        fields["_api_key"] = LostKey(token) if key is None else key
    known = attrs.fields_dict(kind)
    later = known.keys() - fields.keys()
    if not known.keys() >= fields.keys() or any(known[name].default is attrs.NOTHING for name in later):
        # Made by another version of the class.
        return UnknownResource(name, raw)
    made = _made_of(kind, fields)
    for field in (known[name] for name in known if name in later):
        # A default, or a factory that may look at the fields before it.
        default: Any = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a function to type checkers only
            default = default.factory(made) if default.takes_self else default.factory()
        object.__setattr__(made, field.name, default)
    return made


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "$tuple": lambda stored: tuple(map(_untagged, stored)),
    "$set": lambda stored: set(map(_untagged, stored)),
    "$frozenset": lambda stored: frozenset(map(_untagged, stored)),
    "$bytes": base64.b64decode,
    "$complex": lambda stored: complex(*map(_untagged, stored)),
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$time": datetime.time.fromisoformat,
    "$timedelta": lambda stored: datetime.timedelta(*stored),
    "$uuid": uuid.UUID,
    "$decimal": Decimal,
    "$fraction": Fraction,
    "$float": float,
    "$surrogates": lambda stored: base64.b64decode(stored).decode("utf-16-le", "surrogatepass"),
    "$dict": lambda stored: {_untagged(key): _untagged(inner) for key, inner in stored},
    "$object": _read_object,
    "$enum": _read_enum,
    "$resource": _read_resource,
}
