"""Objects of classes derived from str, int, list, dict and the like, taken apart and made again without `__init__`."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any, Final

_FACTORIES: Final[Mapping[str, type]] = {
    kind.__name__: kind for kind in (bool, int, float, str, bytes, list, tuple, dict, set, frozenset)
}
"""What a `defaultdict` may call for a missing key: a file must not name any other class for that."""


def _filled(fill: Callable[[Any, Any], Any], base: Any) -> Callable[[type, Any], Any]:
    def make(kind: type, plain: Any) -> Any:
        made = base.__new__(kind)
        fill(made, plain)
        return made

    return make


def _deque(kind: type, plain: collections.deque[Any]) -> Any:
    made: Any = collections.deque.__new__(kind)
    collections.deque.__init__(made, plain, plain.maxlen)
    return made


def _ordered(made: Any, plain: Mapping[Any, Any]) -> None:
    for key, value in plain.items():
        collections.OrderedDict.__setitem__(made, key, value)


_MAKERS: Final[Mapping[type, Callable[[type, Any], Any]]] = {
    str: str.__new__,
    int: int.__new__,
    float: float.__new__,
    bytes: bytes.__new__,
    tuple: tuple.__new__,
    frozenset: frozenset.__new__,
    list: _filled(list.extend, list),
    set: _filled(set.update, set),
    bytearray: _filled(bytearray.extend, bytearray),
    collections.deque: _deque,
    # Before dict, of which it is a subclass with a state of its own.
    collections.OrderedDict: _filled(_ordered, collections.OrderedDict),
    dict: _filled(dict.update, dict),
}


def base_of(kind: type) -> type | None:
    """Return the built-in class that a class is derived from, None for others."""
    return next((base for base in _MAKERS if issubclass(kind, base)), None)


def _copy_of(read: Callable[[Any], Any], make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def copy(value: Any) -> Any:
        return make(read(value))

    return copy


def _plain_deque(value: Any) -> Any:
    return collections.deque(collections.deque.__iter__(value), collections.deque.maxlen.__get__(value))


_PLAIN: Final[Mapping[type, Callable[[Any], Any]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: _copy_of(bytes.__iter__, bytes),
    tuple: _copy_of(tuple.__iter__, tuple),
    frozenset: _copy_of(frozenset.__iter__, frozenset),
    list: _copy_of(list.__iter__, list),
    set: _copy_of(set.__iter__, set),
    bytearray: bytearray.copy,
    collections.deque: _plain_deque,
    collections.OrderedDict: _copy_of(collections.OrderedDict.items, dict),
    dict: _copy_of(dict.items, dict),
}


def plain_of(value: Any, base: type[Any]) -> Any:
    """Return an object as one of the built-in class itself, dict in place of `OrderedDict`.

    It is read by the methods of the built-in class, as it is made again, because its own may do anything.
    """
    return _PLAIN[base](value)


def state_of(value: Any) -> dict[str, Any] | None:
    """Return what an object has besides the value of its built-in class; None if that cannot be read."""
    kind = type(value)
    if any(vars(each).get("__slots__") for each in kind.__mro__):
        return None
    state: dict[str, Any] = dict(getattr(value, "__dict__", {}))
    if isinstance(value, collections.defaultdict) and value.default_factory is not None:
        name = getattr(value.default_factory, "__name__", "")
        if _FACTORIES.get(name) is not value.default_factory:
            return None
        state["default_factory"] = name
    return state


def made_of_plain(kind: type, plain: Any, state: Mapping[str, Any]) -> Any:
    """Return an object of a class with the value of its built-in class and further state."""
    base = base_of(kind)
    assert base is not None
    made = _MAKERS[base](kind, plain)
    rest = dict(state)
    if isinstance(made, collections.defaultdict) and "default_factory" in rest:
        made.default_factory = _FACTORIES.get(rest.pop("default_factory"))
    if rest:
        made.__dict__.update(rest)
    return made
