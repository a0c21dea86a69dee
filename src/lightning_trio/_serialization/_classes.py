"""Classes by name, as a store keeps them: ``module:name``, and ``module:name[module:name]`` of a generic model."""

from __future__ import annotations

import sys
from typing import Any

from .._public import public_module
from ._pydantic_models import is_model


def find_class(name: str) -> type[Any] | None:
    """Return a class from a loaded module, or None; a file must not be able to make a process import modules."""
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(public_module(module))
    for part in qualified.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type):
        return found
    return _parametrised(name) if name.endswith("]") else None


def _parametrised(name: str) -> type[Any] | None:
    """Return a generic pydantic model of loaded classes, which is no attribute of its module if a function made it."""
    generic_name, _, inner = name[:-1].partition("[")
    generic: Any = find_class(generic_name)
    arguments = [find_class(each) for each in _split(inner)]
    if generic is None or None in arguments or not _generic(generic).get("parameters"):
        return None
    try:
        found: type[Any] = generic[tuple(arguments)]
    except TypeError:
        # By now it has other parameters.
        return None
    return found


def _generic(kind: type) -> dict[str, Any]:
    """Return what pydantic says about a generic model; an empty dict for other classes."""
    return getattr(kind, "__pydantic_generic_metadata__", {}) if is_model(kind) else {}


def _split(names: str) -> list[str]:
    """Return names between commas outside of brackets."""
    split = [""]
    depth = 0
    for character in names:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            split.append("")
        else:
            split[-1] += character
    return split


def name_of(kind: type) -> str | None:
    """Return the name by which another process finds a class, None if there is no such name."""
    if is_findable(kind):
        return f"{'__main__' if kind.__module__ == '__mp_main__' else kind.__module__}:{kind.__qualname__}"
    generic = _generic(kind)
    names = [name_of(each) for each in (generic.get("origin"), *generic.get("args", ())) if isinstance(each, type)]
    known = [name for name in names if name is not None]
    # Fewer if an argument is no class, as `Any` and `list[int]` are none.
    if not generic.get("args") or len(known) != 1 + len(generic["args"]):
        return None
    return f"{known[0]}[{','.join(known[1:])}]"


def is_findable(kind: type) -> bool:
    """Whether its module has a class under its name, so that another process finds it there."""
    found = find_class(f"{kind.__module__}:{kind.__qualname__}")
    # In a notebook, running a cell again replaces the class by another one of the same name.
    return found is kind or (
        found is not None and (found.__module__, found.__qualname__) == (kind.__module__, kind.__qualname__)
    )
