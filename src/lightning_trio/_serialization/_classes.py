"""Classes by name: ``module:name``, as a store keeps them."""

from __future__ import annotations

import sys
from typing import Any

from .._public import public_module


def find_class(name: str) -> type[Any] | None:
    """Return a class from a loaded module, or None; a file must not be able to make a process import modules."""
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(public_module(module))
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def is_findable(kind: type) -> bool:
    """Whether its module has a class under its name, so that another process finds it there."""
    found = find_class(f"{kind.__module__}:{kind.__qualname__}")
    # In a notebook, running a cell again replaces the class by another one of the same name.
    return found is kind or (
        found is not None and (found.__module__, found.__qualname__) == (kind.__module__, kind.__qualname__)
    )
