"""Decoding of tagged JSON: objects with one key that begins with ``$``, back into values."""

from __future__ import annotations

import base64
import collections
import contextlib
import dataclasses
import datetime
import enum
import functools
import types
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs
import msgspec

from .._repr import shortened
from .._resources import LostKey, Resource, UnknownResource, key_for_token, resource_class
from ._arrays import read_array, read_pandas, read_scalar
from ._classes import find_class
from ._pydantic_models import is_model, is_old_model, read_model, read_old_model
from ._subclasses import base_of, made_of_plain

T = TypeVar("T")
Time = TypeVar("Time", datetime.datetime, datetime.time)


@attrs.frozen
class UnknownObject:
    """A stored object whose class this process does not define; `type` is ``module:name``."""

    type: str
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


def untagged(value: Any) -> Any:
    """Return the value that `tagged` encoded, with an `UnknownObject` for each object whose class is not loaded.

    An object of an unknown class that is also a string, a number, a list or a dict is read as that.
    """
    if type(value) is list:
        return [untagged(inner) for inner in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        [(tag, inner)] = value.items()
        reader = _READERS.get(tag)
        if reader is not None:
            return reader(inner)
    return {key: untagged(inner) for key, inner in value.items()}


def _read_object(stored: list[Any]) -> Any:
    name, raw, *more = stored
    fields = {key: untagged(inner) for key, inner in raw.items()}
    rest: dict[str, Any] = untagged(more[0]) if more else {}
    kind = _loaded_class(name)
    # A class that has become an enum has only its members.
    if kind is None or issubclass(kind, enum.Enum):
        return UnknownObject(name, {**fields, **(rest.get("__pydantic_extra__") or {})})
    if issubclass(kind, PurePath):
        return kind(fields["path"])
    if is_model(kind):
        return read_model(kind, fields, rest)
    if is_old_model(kind):
        return read_old_model(kind, fields)
    if issubclass(kind, tuple):
        return _read_named_tuple(kind, name, fields)
    if issubclass(kind, msgspec.Struct):
        return _read_struct(kind, name, fields)
    return _made_of(kind, fields)


def _made_of(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Return an object with these fields; neither `__init__` nor converters nor `__post_init__` run again."""
    made = object.__new__(kind)
    for field, inner in fields.items():
        object.__setattr__(made, field, inner)
    return made


def _read_struct(kind: type[msgspec.Struct], name: str, fields: Mapping[str, Any]) -> Any:
    """Return a struct with these fields, made without its `__post_init__`; only a call of its class makes one."""
    known = {field.name: field.required for field in msgspec.structs.fields(kind)}
    if not known.keys() >= fields.keys() or any(known[field] for field in known.keys() - fields.keys()):
        # Stored by another version of the class.
        return UnknownObject(name, fields)
    if not hasattr(kind, "__post_init__"):
        return kind(**fields)
    # A struct of a class derived from it is made without that, and then becomes one of the class itself.
    made = _without_post_init(kind)(**fields)
    msgspec.structs.force_setattr(made, "__class__", kind)
    for field, inner in fields.items():
        msgspec.structs.force_setattr(made, field, inner)
    return made


@functools.lru_cache(maxsize=256)
def _without_post_init(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    def fill(members: dict[str, Any]) -> None:
        members["__post_init__"] = _do_nothing

    return types.new_class(kind.__name__, (kind,), {}, fill)


def _do_nothing(made: msgspec.Struct) -> None:
    """Leave a struct as it was made."""


def _read_enum(stored: list[Any]) -> Any:
    name, member, *value = stored
    kind = _loaded_class(name)
    if kind is not None and issubclass(kind, enum.Enum):
        if member in kind.__members__:
            return kind[member]
        if value and issubclass(kind, enum.Flag):
            # The class raises ValueError for flags that it no longer has, unless its boundary is KEEP.
            with contextlib.suppress(ValueError):
                return kind(untagged(value[0]))
    plain = untagged(value[0]) if value and kind is None else None
    return plain if isinstance(plain, str | int) else UnknownObject(name, {"name": member})


def _loaded_class(name: str) -> type[Any] | None:
    """Return a loaded class of which objects can be made without calling it, or None."""
    found = find_class(name)
    if found is None:
        return None
    made_of_fields = (
        attrs.has(found)
        or dataclasses.is_dataclass(found)
        or issubclass(found, msgspec.Struct | enum.Enum | PurePath)
        or (issubclass(found, tuple) and hasattr(found, "_fields"))
        or is_model(found)
        or is_old_model(found)
    )
    return found if made_of_fields else None


def _read_named_tuple(kind: type[Any], name: str, fields: dict[str, Any]) -> Any:
    """Return a named tuple without calling its class, whose `__new__` may take other arguments."""
    known: dict[str, Any] = {**kind._field_defaults, **fields}
    if known.keys() != set(kind._fields):
        # Stored by another version of the class.
        return UnknownObject(name, fields)
    return tuple.__new__(kind, [known[field] for field in kind._fields])


def _read_subclass(stored: list[Any]) -> Any:
    name, raw, *more = stored
    plain = untagged(raw)
    kind = find_class(name)
    base = None if kind is None else base_of(kind)
    if kind is None or base is None or not issubclass(base, type(plain)):
        return plain
    return made_of_plain(kind, plain, untagged(more[0]) if more else {})


def _read_time(kind: type[Time], stored: Any) -> Time:
    if isinstance(stored, str):
        return kind.fromisoformat(stored)
    text, zone, fold = stored
    value = kind.fromisoformat(text).replace(fold=fold)
    try:
        return value if zone is None else value.replace(tzinfo=ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # This machine does not know the zone, or has a folder of that name. A datetime has its offset.
        return value


def _read_timezone(stored: list[Any]) -> datetime.timezone:
    offset, name = stored
    return datetime.timezone(untagged(offset)) if name is None else datetime.timezone(untagged(offset), untagged(name))


def _read_base64(stored: str) -> bytearray:
    # In pieces, because the interpreter's lock is held meanwhile.
    made = bytearray()
    for start in range(0, len(stored), _CHARACTERS_AT_ONCE):
        made += base64.b64decode(stored[start : start + _CHARACTERS_AT_ONCE])
    return made


_CHARACTERS_AT_ONCE: Final = 4 << 16
"""Whole groups of characters, each of which stands for three bytes."""


def _read_fraction(stored: Any) -> Fraction:
    if isinstance(stored, str):
        # Of an earlier version. `Fraction` also reads exponents, and would raise 10 to any of them.
        return Fraction(*map(int, stored.split("/")))
    numerator, denominator = map(untagged, stored)
    if type(numerator) is not int or type(denominator) is not int or denominator < 1:
        raise ValueError(f"{shortened(stored)} is not a fraction")
    made = object.__new__(Fraction)
    # Without a common factor when it was stored, and looking for one takes hours for the largest that fit into a text.
    object.__setattr__(made, "_numerator", numerator)
    object.__setattr__(made, "_denominator", denominator)
    return made


def _read_resource(stored: list[Any]) -> Resource:
    name, raw = stored
    kind = resource_class(name)
    if kind is UnknownResource:
        return UnknownResource(name, raw)
    token = raw.pop("$key", None)
    fields = {key: untagged(inner) for key, inner in raw.items()}
    if token is not None:
        key = key_for_token(token)
        fields["_api_key"] = LostKey(token) if key is None else key
    known = attrs.fields_dict(kind)
    later = known.keys() - fields.keys()
    if not known.keys() >= fields.keys() or any(known[name].default is attrs.NOTHING for name in later):
        # Stored by another version of the class.
        return UnknownResource(name, raw)
    made = _made_of(kind, fields)
    for field in (known[name] for name in known if name in later):
        # A default, or a factory that may read earlier fields.
        default: Any = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a function to type checkers only
            default = default.factory(made) if default.takes_self else default.factory()
        object.__setattr__(made, field.name, default)
    return made


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "$tuple": lambda stored: tuple(map(untagged, stored)),
    "$set": lambda stored: set(map(untagged, stored)),
    "$frozenset": lambda stored: frozenset(map(untagged, stored)),
    "$deque": lambda stored: collections.deque(map(untagged, stored[0]), stored[1]),
    "$range": lambda stored: range(*map(untagged, stored)),
    "$bytes": lambda stored: bytes(_read_base64(stored)),
    "$bytearray": _read_base64,
    "$complex": lambda stored: complex(*map(untagged, stored)),
    "$datetime": lambda stored: _read_time(datetime.datetime, stored),
    "$date": datetime.date.fromisoformat,
    "$time": lambda stored: _read_time(datetime.time, stored),
    "$timedelta": lambda stored: datetime.timedelta(*stored),
    "$uuid": uuid.UUID,
    "$decimal": Decimal,
    "$fraction": _read_fraction,
    "$int": lambda stored: int(stored, 16),
    "$zone": ZoneInfo,
    "$timezone": _read_timezone,
    "$float": float,
    "$unset": lambda stored: msgspec.UNSET,
    "$utf8": lambda stored: base64.b64decode(stored).decode("utf-8", "surrogatepass"),
    # What stores of the first versions have.
    "$surrogates": lambda stored: base64.b64decode(stored).decode("utf-16-le", "surrogatepass"),
    "$dict": lambda stored: {untagged(key): untagged(inner) for key, inner in stored},
    "$ndarray": lambda stored: read_array(stored, untagged),
    "$numpy": lambda stored: read_scalar(stored, untagged),
    "$pandas": read_pandas,
    "$subclass": _read_subclass,
    "$object": _read_object,
    "$enum": _read_enum,
    "$resource": _read_resource,
}
