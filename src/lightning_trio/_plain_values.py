r"""Plain values: users' objects as what JSON has, and as JSON text.

No library is imported to recognise its objects: arrays, models and tables are known by the methods of their classes.

A lone surrogate, as in a file name that is not valid text, is written as its escape: ``\ud835``.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import enum
import json
import math
import numbers
import os
import re
import uuid
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any, Final

import attrs

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TIMES: Final = (datetime.datetime, datetime.date, datetime.time)


def without_surrogates(text: str) -> str:
    """Return text that UTF-8 can encode: a lone surrogate becomes its escape."""
    return text if text.isascii() else _LONE_SURROGATE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def json_text(value: object, otherwise: Callable[[Any], Any] | None = None) -> str:
    """Return `value` as JSON text, in which other objects than JSON's are what `simplified` makes of them.

    Args:
        value: the value.
        otherwise: what becomes of an object that `simplified` does not know, and of a mapping with keys that are the
            same in JSON; without it, that is an error.

    Raises:
        TypeError: the value has an object without a plain form, or a mapping with keys that are the same in JSON.
        RecursionError: it contains itself.
    """
    # msgspec takes 40 ms to import, and many agents emit no objects.
    import msgspec

    # It has a form of its own for objects with fields, without some of these and with cached properties.
    natural = value if _is_json(value) else plain(value, otherwise)
    try:
        return msgspec.json.encode(natural).decode()
    except (UnicodeEncodeError, OverflowError):
        # Lone surrogates, integers of more than 64 bits.
        return _dumped(natural)


_LEAVES: Final = frozenset({str, int, float, bool, type(None)})


def _is_json(value: Any) -> bool:
    """Whether a value has only JSON's own types."""
    kind = type(value)
    if kind is not dict and kind is not list:
        return kind in _LEAVES
    # Loops, because `all` of a generator takes half as long again.
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str or not (type(inner) in _LEAVES or _is_json(inner)):
                return False
        return True
    for inner in value:  # noqa: SIM110
        if not (type(inner) in _LEAVES or _is_json(inner)):
            return False
    return True


def _dumped(value: object) -> str:
    return without_surrogates(_json(value, ensure_ascii=False, separators=(",", ":")))


def _json(value: object, **options: Any) -> str:
    """Return a plain value as JSON text in the layout of `json.dumps`."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_with_null(value), allow_nan=False, **options)


def spaced_json(value: object, **options: Any) -> str:
    """Return `value` as JSON text in the layout of `json.dumps`, which takes the options; text remains readable.

    Raises:
        TypeError, RecursionError: see `json_text`.
    """
    options.setdefault("ensure_ascii", False)
    return without_surrogates(_json(plain(value), **options))


def from_json(text: str | bytes) -> Any:
    """Return the value of JSON text, in which there may be escapes of lone surrogates, which msgspec rejects.

    Raises:
        ValueError: it is not JSON.
    """
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        if (b"\\u" if isinstance(text, bytes) else "\\u") not in text:  # type: ignore[operator]  # they go together
            raise
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _with_null(value: Any) -> Any:
    """Return a plain value with null for NaN and infinities, as msgspec writes them."""
    if isinstance(value, dict):
        return {key: _with_null(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_null(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any, otherwise: Callable[[Any], Any] | None = None) -> Any:
    """Return `value` with dicts with strings as keys, lists, strings, numbers, bools and None in place of all else.

    Args:
        value: the value.
        otherwise: as for `json_text`.

    Raises:
        TypeError, RecursionError: see `json_text`.
    """
    kind = type(value)
    if value is None or kind is str or kind is bool or kind is int or kind is float:
        return value
    if isinstance(value, Mapping):
        return _with_text_keys(value, otherwise)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner, otherwise) for inner in value]
    return plain(_known(value, otherwise), otherwise)


def _with_text_keys(value: Mapping[Any, Any], otherwise: Callable[[Any], Any] | None) -> Any:
    written: dict[str, Any] = {}
    keys: dict[str, Any] = {}
    for key, inner in value.items():
        name = _key(key, otherwise)
        # Equal keys, as a dict of HTTP's headers has them, are one with the last value.
        other = keys.setdefault(name, key)
        if other is not key and other != key:
            if otherwise is not None:
                return plain(otherwise(value))
            raise TypeError(
                f"the keys {other!r} and {key!r} of a {type(value).__qualname__} are both {name!r} in JSON; write them "
                "as different strings"
            )
        written[name] = plain(inner, otherwise)
    return written


def _key(key: object, otherwise: Callable[[Any], Any] | None) -> str:
    written = plain(key, otherwise)
    # As `json.dumps` writes keys that are not strings.
    return written if isinstance(written, str) else _dumped(written)


def _known(value: Any, otherwise: Callable[[Any], Any] | None) -> Any:
    try:
        return simplified(value)
    except TypeError:
        if otherwise is None:
            raise
        return otherwise(value)


def simplified(value: Any) -> Any:
    """Return an object as a value that is a step nearer to JSON's, such as a model's fields or an array's list.

    Raises:
        TypeError: it has no plain form.
    """
    for simplify in (_of_scalar, _of_time, _of_array, _of_model, _of_collection):
        nearer = simplify(value)
        if nearer is not value:
            return nearer
    raise TypeError(f"objects of type {type(value).__module__}.{type(value).__qualname__} have no form in JSON")


def _of_scalar(value: Any) -> Any:  # one line for each kind of value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, collections.UserString):
        return value.data
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal | uuid.UUID | complex):
        return str(value)
    if isinstance(value, numbers.Integral) and not is_time(value):
        return int(value)
    if isinstance(value, numbers.Real) and not is_time(value):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def is_time(value: Any) -> bool:
    """Whether a value or an array is one of NumPy's times, which turn into numbers too easily."""
    return getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M")


def _of_time(value: Any) -> Any:
    if type(value).__name__ in ("NaTType", "NAType"):
        # What pandas has for a value that is missing.
        return None
    if isinstance(value, _TIMES):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        if getattr(value, "nanoseconds", 0):
            # One of pandas, which Python's would cut to microseconds.
            return value.isoformat()  # type: ignore[attr-defined]
        import msgspec

        return msgspec.to_builtins(datetime.timedelta(value.days, value.seconds, value.microseconds))
    return value


def _of_array(value: Any) -> Any:
    """Return arrays, series and tables as lists; 0-d arrays, and scalars of such a library, as a scalar."""
    kind = type(value)
    if is_time(value) and hasattr(kind, "astype"):
        return value.astype(str).tolist()
    if names := getattr(getattr(value, "dtype", None), "names", None):
        # By its fields, because the times among them would become numbers.
        return list(value) if value.ndim else [value[name] for name in names]
    if hasattr(kind, "iterrows"):
        return value.to_dict("records")
    for method in ("tolist", "to_list", "to_dicts", "to_pylist", "as_py"):
        if hasattr(kind, method):
            return getattr(value, method)()
    return value


def _of_model(value: Any) -> Any:
    """Return the fields of a record or a model by their names."""
    kind = type(value)
    names: list[str]
    if attrs.has(kind):
        # Before `model_dump`, which `lightning_trio.compat` adds to our records, with API keys.
        names = [field.name for field in attrs.fields(kind)]
    elif hasattr(kind, "model_dump"):
        return _dumped_model(value)
    elif dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif hasattr(kind, "__struct_fields__"):
        return _fields_of_struct(value)
    elif hasattr(kind, "__fields__") and hasattr(kind, "dict"):
        # A model of pydantic's first version.
        return value.dict()
    elif hasattr(kind, "to_dict"):
        return value.to_dict()
    else:
        return value
    return {name: getattr(value, name) for name in names if not name.startswith("_")}


def _fields_of_struct(value: Any) -> dict[str, Any]:
    import msgspec

    kind = type(value)
    names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    fields = {name: inner for name, field in names if (inner := getattr(value, field)) is not msgspec.UNSET}
    config = kind.__struct_config__
    return fields if config.tag is None else {config.tag_field: config.tag, **fields}


def _dumped_model(value: Any) -> Any:
    try:
        return value.model_dump(mode="json", warnings=False)
    except (TypeError, ValueError):
        # A field that pydantic cannot write as JSON, such as an array or a lone surrogate.
        return value.model_dump()


def _of_collection(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Collection) else value
