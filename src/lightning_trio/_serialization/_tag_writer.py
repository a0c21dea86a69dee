"""Encoding of values that JSON lacks as objects with one key that begins with ``$``."""

from __future__ import annotations

import base64
import collections
import contextlib
import dataclasses
import datetime
import enum
import functools
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Set
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Final
from zoneinfo import ZoneInfo

import attrs
import msgspec

from .._errors import NotStorable
from .._repr import shortened
from .._resources import LLM, LostKey, Resource, UnknownResource, token_for_key
from .._spans import join_pieces
from ._arrays import write_array
from ._classes import is_findable, name_of
from ._pydantic_models import is_model, is_old_model, rest_of_model
from ._subclasses import base_of, plain_of, state_of
from ._unreadable import Unreadable


def tagged(value: Any, path: str) -> Any:  # noqa: C901  # one line for each kind of value
    """Return `value` as values that JSON can represent.

    Raises:
        NotStorable: a part of it cannot be stored; the message has the path to that part, which begins with `path`.
        RecursionError: it contains itself or is nested too deeply.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if value.bit_length() <= _BITS_IN_JSON else {"$int": hex(value)}
    if kind is str:
        return _text(value, path)
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    # The other kinds run code of users' classes. Not in a function of its own, which would halve the possible depth.
    try:
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
            return {"$enum": _enum_member(value, path)}
        if value is msgspec.UNSET:
            return {"$unset": None}
        if (array := write_array(value, path, tagged)) is not None:
            return array
        if (fields := _fields_of(value)) is not None:
            named = [_type_name(kind, path), {name: tagged(v, f"{path}.{name}") for name, v in fields}]
            return {"$object": [*named, tagged(rest, path)] if (rest := rest_of_model(value)) else named}
        if (base := base_of(kind)) is not None:
            return _subclass(value, base, path)
        if isinstance(value, Mapping) and kind is not Unreadable:
            return _mapping(value, path)
        raise NotStorable.kind(path, kind)
    except (NotStorable, RecursionError, KeyboardInterrupt):
        raise
    except BaseException as exc:
        raise NotStorable.raising(path, kind, exc) from exc


_BITS_IN_JSON: Final = 2048
"""The longest integers written as numbers: 617 digits, which any process reads, whatever limit Python was given."""


def _enum_member(value: enum.Enum, path: str) -> list[Any]:
    kind = type(value)
    stored: list[Any] = [_type_name(kind, path), value.name]
    # Combined flags are not a member; their value identifies them. A string or a number is one in a process, too, that
    # does not know the class.
    is_plain_too = isinstance(value, str | int) and isinstance(value.value, str | int)
    if is_plain_too or value.name not in kind.__members__:
        stored.append(tagged(value.value, path))
    return stored


def _subclass(value: Any, base: type, path: str) -> Any:
    """Return an object of a class derived from a built-in one; one of JSON's as the plain value if need be.

    Another process can do with a plain string or dict in place of an object of a class that it cannot find.
    """
    kind = type(value)
    plain = tagged(plain_of(value, base), path)
    may_be_plain = base in _JSON_TYPES
    if not (may_be_plain and not is_findable(kind)):
        name = _type_name(kind, path)
        state = state_of(value)
        if state is not None and (not may_be_plain or is_plain(state)):
            return {"$subclass": [name, plain, tagged(state, path)] if state else [name, plain]}
        if not may_be_plain:
            raise NotStorable.kind(path, kind)
    return plain


_JSON_TYPES: Final = frozenset({str, int, float, list, dict, collections.OrderedDict})


def _text(value: str, path: str) -> Any:
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        # Not UTF-16, which would make one character of two halves.
        return {"$utf8": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}
    return value


def is_plain(value: Any) -> bool:
    """Whether JSON text without tags decodes to an equal value of the same types, if UTF-8 can encode its strings."""
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str or key[:1] == "$" or not (type(inner) is str or is_plain(inner)):
                return False
        return True
    if kind is list:
        return all(type(inner) is str or is_plain(inner) for inner in value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        # What msgspec reads as an integer.
        return bool(-(1 << 63) <= value < 1 << 64)
    return kind is float and math.isfinite(value)


def _items(values: Iterable[Any], path: str) -> list[Any]:
    return [tagged(value, f"{path}[{index}]") for index, value in enumerate(values)]


def _mapping(value: Mapping[Any, Any], path: str) -> Any:
    if all(type(key) is str and not key.startswith("$") for key in value):
        with contextlib.suppress(UnicodeEncodeError):
            for key in value:
                key.encode()
            return {key: tagged(inner, f"{path}[{key!r}]") for key, inner in value.items()}
    named = [(key, inner, shortened(key)) for key, inner in value.items()]
    return {"$dict": [[tagged(key, f"{path} key {name}"), tagged(v, f"{path}[{name}]")] for key, v, name in named]}


def _tuple(value: tuple[Any, ...], path: str) -> list[Any]:
    return _items(value, path)


def _members(value: Iterable[Any], path: str) -> list[Any]:
    return [tagged(member, f"{path} member {shortened(member)}") for member in value]


def _base64(value: bytes | bytearray) -> str:
    # In pieces, because the interpreter's lock is held meanwhile.
    return join_pieces(
        base64.b64encode(value[start : start + _BYTES_AT_ONCE]).decode()
        for start in range(0, len(value), _BYTES_AT_ONCE)
    )


_BYTES_AT_ONCE: Final = 3 << 16
"""Of which base64 makes whole groups of characters."""


def _time(value: datetime.datetime | datetime.time, path: str) -> Any:
    """Return a time as text, with its zone and its fold if it has one of them, because the text has neither."""
    # Other zones may have a key, too, which means something else or nothing.
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    if zone is None and value.tzinfo is not None and value.utcoffset() is None:
        # A zone of another library, whose offset depends on the day.
        part = f"{path}.tzinfo"
        raise NotStorable.kind(part, type(value.tzinfo))
    return [value.isoformat(), zone, value.fold] if zone is not None or value.fold else value.isoformat()


def _zone(value: ZoneInfo, path: str) -> str:
    if value.key is None:
        # Made of a file's content.
        raise NotStorable.kind(path, type(value))
    return value.key


def _fixed_zone(value: datetime.timezone, path: str) -> list[Any]:
    offset, name = value.utcoffset(None), value.tzname(None)
    unnamed = datetime.timezone(offset).tzname(None)
    return [tagged(offset, path), None if name == unnamed else tagged(name, path)]


_TAGS: Final[Mapping[type, str]] = {
    tuple: "$tuple",
    set: "$set",
    frozenset: "$frozenset",
    collections.deque: "$deque",
    range: "$range",
    bytes: "$bytes",
    bytearray: "$bytearray",
    complex: "$complex",
    datetime.datetime: "$datetime",
    datetime.date: "$date",
    datetime.time: "$time",
    datetime.timedelta: "$timedelta",
    uuid.UUID: "$uuid",
    Decimal: "$decimal",
    Fraction: "$fraction",
    ZoneInfo: "$zone",
    datetime.timezone: "$timezone",
}

_WRITERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "$tuple": _tuple,
    "$set": _members,
    "$frozenset": _members,
    "$deque": lambda value, path: [_items(value, path), value.maxlen],
    "$range": lambda value, path: [tagged(each, path) for each in (value.start, value.stop, value.step)],
    "$bytes": lambda value, path: _base64(value),
    "$bytearray": lambda value, path: _base64(value),
    "$complex": lambda value, path: [tagged(value.real, path), tagged(value.imag, path)],
    "$datetime": _time,
    "$date": lambda value, path: value.isoformat(),
    "$time": _time,
    "$timedelta": lambda value, path: [value.days, value.seconds, value.microseconds],
    "$uuid": lambda value, path: str(value),
    "$decimal": lambda value, path: str(value),
    "$fraction": lambda value, path: [tagged(value.numerator, path), tagged(value.denominator, path)],
    "$zone": _zone,
    "$timezone": _fixed_zone,
}


def _type_name(kind: type, path: str) -> str:
    if "<locals>" in kind.__qualname__:
        raise NotStorable.local_class(path, kind)
    name = name_of(kind)
    if name is None:
        raise NotStorable.unfindable_class(path, kind)
    return name


def _fields_of(value: Any) -> list[tuple[str, Any]] | None:
    """Return the fields of an object, or None if it is not of a class with fields."""
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
        return list(zip(kind._fields, tuple.__iter__(value), strict=True))
    if is_model(kind) or is_old_model(kind):
        return list(value.__dict__.items())
    return None


def _resource(value: Resource, path: str) -> list[Any]:
    if isinstance(value, UnknownResource):
        # Unchanged, for a process that knows its class.
        return [value.stored_type, dict(value.fields)]
    kind = type(value)
    fields: dict[str, Any] = {}
    known = attrs.fields(kind)
    _check_made_of(value, {field.name for field in known}, path)
    for field in known:
        inner = getattr(value, field.name)
        if isinstance(value, LLM) and field.name == "_api_key":
            # Never the key itself, only a token that this process can resolve.
            if inner is not None:
                fields["$key"] = inner.token if isinstance(inner, LostKey) else token_for_key(inner)
            continue
        fields[field.name] = tagged(inner, f"{path}.{field.name}")
    return [value.resource_type, fields]


def _check_made_of(value: Resource, fields: Set[str], path: str) -> None:
    """Validate that a resource has no attributes besides its fields, because these would be lost."""
    kind = type(value)
    more = [
        name
        for name in getattr(value, "__dict__", ())
        if name not in fields and not isinstance(getattr(kind, name, None), functools.cached_property)
    ]
    if more:
        raise NotStorable.resource_with_more(path, kind, more)
