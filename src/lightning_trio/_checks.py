"""Components: stores, algorithms, tracers and the like, as users give them to runners and trainers."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from ._errors import ComponentError, UsageError

T = TypeVar("T")


def checked(name: str, value: object, kind: type[T]) -> T:
    """Return `value`, or say what is wrong with it.

    Raises:
        ComponentError: it is no `kind`.
    """
    if isinstance(value, kind):
        return value
    raise ComponentError.kind(name, value, kind)


def build(name: str, spec: Any, kind: type[T]) -> T:
    """Make a component of an instance, class, factory, import path or mapping.

    Raises:
        UsageError: the specification names nothing.
        ComponentError: what it gives is no `kind`.
    """
    if isinstance(spec, Mapping):
        options = dict(cast("Mapping[str, Any]", spec))
        path = options.pop("type", None)
        if not isinstance(path, str):
            raise UsageError.no_type(name, spec)
        made: object = _imported(name, path)(**options)
    elif isinstance(spec, str):
        made = _imported(name, spec)()
    elif isinstance(spec, kind) and not isinstance(spec, type):
        made = spec
    elif callable(spec) and not _wants_arguments(spec):
        made = spec()
    else:
        return checked(name, spec, kind)
    if not isinstance(made, kind):
        raise ComponentError.made(name, spec, made, kind)
    return made


def _wants_arguments(spec: Callable[..., object]) -> bool:
    """Tell a function that is meant to do the work from a factory."""
    if not inspect.isroutine(spec):
        return False
    return inspect.iscoroutinefunction(spec) or any(
        parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for parameter in inspect.signature(spec).parameters.values()
    )


def _imported(name: str, path: str) -> Callable[..., object]:
    module, _, attribute = path.rpartition(".")
    try:
        return cast("Callable[..., object]", getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as exc:
        raise UsageError.no_such_component(name, path, exc) from exc


def check_count(name: str, value: object, *, least: int = 1, unlimited: bool = False) -> None:
    """Refuse what is no number of things.

    Raises:
        UsageError: showing what to give.
    """
    if (unlimited and value is None) or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return
    raise UsageError.count(name, value, least, unlimited=unlimited)
