"""References of an agent to itself, such as ``self.tools = [self.search]``, which in a copy must refer to the copy."""

from __future__ import annotations

import dis
import functools
import operator
from collections.abc import Iterable, Mapping
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from ._agent import LitAgent

_MOST_ITEMS = 100
"""How many items of a container are looked at."""

_MOST_LEVELS = 3
"""How deep in containers methods are replaced."""

_MOST_INNER = 10
"""How many items of a container in another one are looked at to replace methods."""

_MOST_OBJECTS = 1000
"""How many objects are looked at."""

_BEFORE_ROLLOUTS = ("__init__", "__new__", "__post_init__", "__attrs_post_init__", "__setstate__")


def redirected(value: Any, source: object, target: object, depth: int = _MOST_LEVELS) -> Any:
    """Return an attribute's value with methods of `source`, and itself, replaced by those of `target`.

    Only methods, functions defined where ``self`` is known, partial functions, and lists, tuples and dicts of them are
    replaced, such as a table of tools: other objects belong to whoever made them.
    """
    kind = type(value)
    if value is source:
        return target
    if kind is MethodType:
        return MethodType(value.__func__, target) if value.__self__ is source else value
    if kind is FunctionType:
        return _with_own_cells(value, source, target)
    if kind is functools.partial:
        function, *arguments = (redirected(each, source, target, 0) for each in (value.func, *value.args))
        if function is value.func and all(map(operator.is_, arguments, value.args)):
            return value
        return functools.partial(function, *arguments, **value.keywords)
    if kind in (list, tuple, dict) and depth and len(value) <= (_MOST_ITEMS if depth == _MOST_LEVELS else _MOST_INNER):
        items = value.values() if kind is dict else value
        own = [redirected(item, source, target, depth - 1) for item in items]
        if not all(map(operator.is_, own, items)):
            return dict(zip(value, own, strict=True)) if kind is dict else kind(own)
    return value


def _with_own_cells(function: FunctionType, source: object, target: object) -> FunctionType:
    """Return a function with `target` where its closure has `source`."""
    cells = function.__closure__ or ()
    own = tuple(CellType(target) if any(each is source for each in _content(cell)) else cell for cell in cells)
    if all(map(operator.is_, own, cells)):
        return function
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, own)
    functools.update_wrapper(made, function)
    del made.__dict__["__wrapped__"]
    made.__dict__.update(function.__dict__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def find_reference(attributes: Mapping[str, Any], made: object, agent: object) -> str | None:
    """Return the name of an attribute of the copy `made` that leads to `agent`, None if there is none nearby."""
    for name, value in attributes.items():
        waiting, seen = [value], {id(made)}
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
