"""Validation of arguments and components, such as stores, algorithms and tracers."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from ._errors import ComponentError, UsageError

T = TypeVar("T")


def checked(name: str, value: object, kind: type[T]) -> T:
    """Return `value` if it is a `kind`.

    Raises:
        ComponentError: it is not; the message shows what to write.
    """
    if isinstance(value, kind):
        return value
    raise ComponentError.kind(name, value, kind)


def build(name: str, spec: Any, kind: type[T]) -> T:
    """Return a component made from an instance, class, factory, import path or mapping.

    Raises:
        UsageError: the specification names no class, or one that cannot be imported.
        ComponentError: the result is not a `kind`.
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
    """Whether a function is the component itself rather than a factory of it."""
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
    """Validate that `value` is a count.

    Raises:
        UsageError: it is not; the message shows what to pass.
    """
    if (unlimited and value is None) or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return
    raise UsageError.count(name, value, least, unlimited=unlimited)
