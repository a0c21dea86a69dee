"""References of an agent to itself, such as ``self.tools = [self.search]``, which in a copy must refer to the copy."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterable, Mapping
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from ._agent import LitAgent

_MOST_ITEMS = 100
"""How many items of a container are looked at."""

_MOST_OBJECTS = 1000
"""How many objects are looked at."""

_BEFORE_ROLLOUTS = ("__init__", "__new__", "__post_init__", "__attrs_post_init__", "__setstate__")


def redirected(value: Any, source: object, target: object) -> Any:
    """Return an attribute's value with methods of `source`, and itself, replaced by those of `target`.

    Only methods, partial functions, and lists, tuples and dicts of them are replaced: other objects belong to
    whoever made them.
    """
    kind = type(value)
    if value is source:
        return target
    if kind is MethodType:
        return MethodType(value.__func__, target) if value.__self__ is source else value
    if kind is functools.partial:
        function = redirected(value.func, source, target)
        return value if function is value.func else functools.partial(function, *value.args, **value.keywords)
    if kind in (list, tuple, dict) and len(value) <= _MOST_ITEMS:
        items = value.values() if kind is dict else value
        own = [_redirected_item(item, source, target) for item in items]
        if any(new is not old for new, old in zip(own, items, strict=True)):
            return dict(zip(value, own, strict=True)) if kind is dict else kind(own)
    return value


def _redirected_item(item: Any, source: object, target: object) -> Any:
    return redirected(item, source, target) if type(item) in (MethodType, functools.partial) else item


def find_reference(attributes: Mapping[str, Any], agent: object) -> str | None:
    """Return the name of an attribute through which `agent` can be reached, None if there is none nearby."""
    for name, value in attributes.items():
        waiting, seen = [value], set[int]()
        while waiting and len(seen) < _MOST_OBJECTS:
            each = waiting.pop()
            if each is agent:
                return name
            if id(each) not in seen:
                seen.add(id(each))
                waiting.extend(_parts(each))
    return None


def _parts(value: Any) -> Iterable[Any]:
    """Return the objects that an object refers to, without running its code."""
    kind = type(value)
    if kind is MethodType:
        return (value.__self__, value.__func__)
    if kind is functools.partial:
        return (value.func, *value.args)
    if kind is FunctionType:
        return [content for cell in value.__closure__ or () for content in _content(cell)]
    if kind in (list, tuple, set):
        return list(value)[:_MOST_ITEMS] if len(value) <= _MOST_ITEMS else ()
    if kind is dict:
        return list(value.values()) if len(value) <= _MOST_ITEMS else ()
    if issubclass(kind, type | ModuleType):
        return ()
    try:
        return list(object.__getattribute__(value, "__dict__").values())
    except AttributeError:
        return ()


def _content(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        # It is empty as yet.
        return ()


def changes_itself(kind: type[LitAgent[Any]]) -> bool:
    """Whether a method of a class sets an attribute of ``self`` after ``__init__``."""
    return any(
        name not in _BEFORE_ROLLOUTS and isinstance(value, FunctionType) and _sets_attributes(value)
        for each in kind.__mro__[: kind.__mro__.index(LitAgent)]
        for name, value in vars(each).items()
    )


def _sets_attributes(function: FunctionType) -> bool:
    code = function.__code__
    if not code.co_argcount:
        return False
    self_name, before = code.co_varnames[0], None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR":
            loaded = before[-1] if isinstance(before, tuple) else before
            if loaded == self_name:
                return True
        if instruction.opname not in ("CACHE", "EXTENDED_ARG"):
            before = instruction.argval
    return False
