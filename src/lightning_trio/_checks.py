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
    raise ComponentError(f"{name} takes {_article(kind)}, not {value!r}{_hint(value, kind)}")


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
            raise UsageError(f'{name}={spec!r} has no "type"; write {{"type": "package.module.Name", …}}')
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
        raise ComponentError(f"{name}={spec!r} gives {made!r}, which is no {kind.__name__}")
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
        raise UsageError(f"{name}={path!r} cannot be imported: {exc}; write package.module.Name") from exc


def _article(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"


def _hint(value: object, kind: type) -> str:
    if isinstance(value, type):
        return f"; did you mean {value.__name__}()?" if issubclass(value, kind) else ""
    if kind.__name__ == "Algorithm" and inspect.isroutine(value):
        return "; it is a plain function: decorate it with @agl.algo"
    if kind.__name__ == "RolloutConfig" and isinstance(value, Mapping):
        options = ", ".join(f"{name}={option!r}" for name, option in cast("Mapping[str, object]", value).items())
        return f"; write RolloutConfig({options})"
    return ""


def check_count(name: str, value: object, *, least: int = 1, unlimited: bool = False) -> None:
    """Refuse what is no number of things.

    Raises:
        UsageError: showing what to give.
    """
    if (unlimited and value is None) or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return
    raise UsageError(f"{name}={value!r}; give a whole number from {least}{', None for no limit' if unlimited else ''}")
