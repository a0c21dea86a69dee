"""NumPy's scalars and arrays and pandas' scalars, read and restored without importing either.

An array is stored as its dtype, its shape and a flat list, a scalar as its dtype and value. In a process that has not
imported the library they are lists and Python's scalars.
"""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from .._errors import NotStorable

Write = Callable[[Any, str], Any]


def write_array(value: Any, path: str, write: Write) -> dict[str, Any] | None:
    """Return a scalar or array of NumPy, or a scalar of pandas, as values that JSON can represent; None for others.

    Args:
        value: the value.
        path: its path, for errors.
        write: the function for items that are any objects.

    Raises:
        NotStorable: a type of NumPy's or an item cannot be stored.
    """
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if library == "pandas":
        return _pandas_scalar(value)
    if library != "numpy" or (numpy := sys.modules.get("numpy")) is None:
        return None
    if kind is numpy.ndarray:
        items = _items(value.reshape(-1), path, write)
        return {"$ndarray": [_dtype(value.dtype, path), list(value.shape), items]}
    if isinstance(value, numpy.generic):
        [item] = _items(numpy.array([value], value.dtype), path, write)
        return {"$numpy": [_dtype(value.dtype, path), item]}
    return None


def _items(flat: Any, path: str, write: Write) -> list[Any]:
    kind = flat.dtype.kind
    if kind in "mM" or (kind in "fc" and flat.dtype.itemsize > 16 * (kind == "c") + 8 * (kind == "f")):
        # NumPy's times, of which Python's have no nanoseconds, and floats longer than Python's.
        flat = flat.astype("int64" if kind == "m" else str)
    items: list[Any] = flat.tolist()
    if flat.dtype.kind in "biu" or (flat.dtype.kind == "f" and all(map(math.isfinite, items))):
        return items
    return [write(item, f"{path}[{index}]") for index, item in enumerate(items)]


def _dtype(dtype: Any, path: str) -> Any:
    if dtype.names is None:
        return dtype.str
    numpy: Any = sys.modules["numpy"]
    fields = [list(field) for field in dtype.descr]
    if numpy.dtype(_fields(fields)) != dtype:
        raise NotStorable.array(path, dtype)
    return {"record": fields} if dtype.type is numpy.record else fields


def _fields(stored: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the description of a structured dtype in the form that NumPy takes."""
    return [
        (name, _fields(inner) if isinstance(inner, list) else inner, *map(tuple, shape))
        for name, inner, *shape in stored
    ]


def read_array(stored: Sequence[Any], read: Callable[[Any], Any]) -> Any:
    """Return the array; without NumPy, nested lists."""
    dtype, shape, raw = stored
    items = [read(item) for item in raw]
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        if math.prod(shape) != len(items):
            raise ValueError(f"an array of the shape {shape} has {len(items)} items")
        return _nested(items, shape) if items else []
    return _made(numpy, dtype, items).reshape(shape)


def read_scalar(stored: Sequence[Any], read: Callable[[Any], Any]) -> Any:
    """Return the scalar; without NumPy, Python's."""
    dtype, raw = stored
    item = read(raw)
    numpy: Any = sys.modules.get("numpy")
    return item if numpy is None else _made(numpy, dtype, [item])[0]


_MOST_BYTES: Final = 1 << 30
"""The size of the largest array that is made of a text, whose type may say that each item takes any size."""


def _made(numpy: Any, stored: Any, items: list[Any]) -> Any:
    if isinstance(stored, dict):
        # Rows of a record array, which have their fields as attributes, too.
        dtype = numpy.dtype((numpy.record, _fields(stored["record"])))
    else:
        dtype = numpy.dtype(stored if isinstance(stored, str) else _fields(stored))
    if dtype.itemsize * len(items) > _MOST_BYTES:
        raise ValueError(f"{len(items)} items of the type {dtype} take more than {_MOST_BYTES:,} bytes")
    if dtype.kind == "m":
        return numpy.array(items, "int64").astype(dtype)
    if dtype.kind != "O":
        return numpy.array(items, dtype)
    # One by one: NumPy would make a further dimension of items that are lists.
    made = numpy.empty(len(items), dtype)
    for index, item in enumerate(items):
        made[index] = item
    return made


def _nested(items: list[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return items[0]
    first, *rest = shape
    step = math.prod(rest)
    return [_nested(items[start * step : (start + 1) * step], rest) for start in range(first)]


_MISSING: Final = {"NaTType": "NaT", "NAType": "NA"}


def _pandas_scalar(value: Any) -> dict[str, Any] | None:
    name = type(value).__name__
    if name in _MISSING:
        return {"$pandas": [_MISSING[name]]}
    if name == "Timestamp":
        return {"$pandas": [name, value.isoformat(), getattr(value.tz, "key", None)]}
    return {"$pandas": [name, value.isoformat()]} if name == "Timedelta" else None


def read_pandas(stored: Sequence[Any]) -> Any:
    """Return pandas' scalar; without pandas, Python's time, the text of a duration, or None."""
    name, *state = stored
    pandas: Any = sys.modules.get("pandas")
    if name in _MISSING.values():
        return None if pandas is None else getattr(pandas, name)
    if pandas is None:
        return datetime.datetime.fromisoformat(state[0]) if name == "Timestamp" else state[0]
    if name == "Timedelta":
        return pandas.Timedelta(state[0])
    made = pandas.Timestamp(state[0])
    return made if state[1] is None else made.tz_convert(state[1])
