"""A quicker ``__init__`` for frozen attrs classes with several instances per rollout.

A frozen class with slots cannot set its own fields, so attrs' ``__init__`` calls ``object.__setattr__`` for each one:
0.9 µs for a span's fifteen, most of the cost of a span. The ``__init__`` made here turns the new object into one of a
subclass that is not frozen, sets its fields in 15 ns each, and turns it back: 0.3 µs. No other code sees the object in
between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import attrs

T = TypeVar("T")


def quick_init(cls: type[T]) -> type[T]:
    """Replace the ``__init__`` of a frozen attrs class with slots by a quicker one; write it above ``@attrs.frozen``.

    Signature, defaults, validators and errors stay the same; validators run also where attrs has them switched off.
    Subclasses of the class keep attrs' own ``__init__``.

    Raises:
        TypeError: a field has a converter, or a default that takes the object.

    >>> @quick_init
    ... @attrs.frozen
    ... class Point:
    ...     x: int
    ...     y: int = 0
    >>> Point(1)
    Point(x=1, y=0)
    """
    return _replace_init(cls, {})


def quick_init_with(**checks: Callable[[Any, Any], None]) -> Callable[[type[T]], type[T]]:
    """Return a `quick_init` that takes further arguments, which are no fields: they repeat what the fields contain.

    The class writes the ``__init__`` for type checkers itself, under ``TYPE_CHECKING``, and has ``init=False``.

    Args:
        checks: by argument, a function that gets the new object and the argument, unless it is None.
    """
    return lambda cls: _replace_init(cls, checks)


def _replace_init(cls: type[T], checks: Mapping[str, Callable[[Any, Any], None]]) -> type[T]:
    fields = attrs.fields(cast("type[attrs.AttrsInstance]", cls))
    namespace: dict[str, Any] = {
        "attrs_init": getattr(cls, "__attrs_init__", cls.__init__),
        "frozen": cls,
        "open_class": _unfrozen(cls),
        "set_attribute": object.__setattr__,
        "NOTHING": attrs.NOTHING,
    }
    parameters: list[str] = []
    keywords: list[str] = []
    defaults: list[str] = []
    assignments: list[str] = []
    validators: list[str] = []
    for field in fields:
        name = str(field.alias)
        (keywords if field.kw_only else parameters).append(_parameter(field, namespace))
        if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]  # a function to type checkers only
            namespace[f"make_{name}"] = _factory(cls, field)
            defaults.append(f"if {name} is NOTHING: {name} = make_{name}()")
        if field.converter is not None:
            raise TypeError(f"quick_init does not support the converter of {cls.__qualname__}.{field.name}")
        assignments.append(f"self.{field.name} = {name}")
        if field.validator is not None:
            namespace[f"check_{name}"], namespace[f"field_{name}"] = field.validator, field
            validators.append(f"check_{name}(self, field_{name}, {name})")
    for name, check in checks.items():
        parameters.append(f"{name}=None")
        namespace[f"check_{name}"] = check
        validators.append(f"if {name} is not None: check_{name}(self, {name})")
    names = [field.alias for field in fields if not field.kw_only] + [
        f"{field.alias}={field.alias}" for field in fields if field.kw_only
    ]
    lines = [
        f"def __init__(self, {', '.join([*parameters, *(['*', *keywords] if keywords else [])])}):",
        "    if self.__class__ is not frozen:",
        f"        return attrs_init(self, {', '.join(names)})",
        *(f"    {line}" for line in defaults),
        "    set_attribute(self, '__class__', open_class)",
        *(f"    {line}" for line in assignments),
        "    set_attribute(self, '__class__', frozen)",
        *(f"    {line}" for line in validators),
    ]
    exec(compile("\n".join(lines), f"<quick_init of {cls.__module__}.{cls.__qualname__}>", "exec"), namespace)
    made = namespace["__init__"]
    made.__annotations__ = dict(getattr(namespace["attrs_init"], "__annotations__", {}))
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    cls.__init__ = made  # type: ignore[method-assign]
    return cls


def _unfrozen(cls: type[Any]) -> type[Any]:
    """Return a subclass of the same layout whose fields can be set.

    Both methods are overridden because a type with one of them alone sets attributes more slowly.
    """
    namespace = {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    return type(f"_Unfrozen{cls.__name__}", (cls,), namespace)


def _parameter(field: attrs.Attribute[Any], namespace: dict[str, Any]) -> str:
    name = str(field.alias)
    if field.default is attrs.NOTHING:
        return name
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return f"{name}=NOTHING"
    namespace[f"default_{name}"] = field.default
    return f"{name}=default_{name}"


def _factory(cls: type[Any], field: attrs.Attribute[Any]) -> Callable[[], Any]:
    factory: Any = field.default
    if factory.takes_self:
        raise TypeError(f"quick_init does not support the default of {cls.__qualname__}.{field.name}, which takes self")
    return cast("Callable[[], Any]", factory.factory)
