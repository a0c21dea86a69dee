"""Making components from what Agent-lightning 0.3's `Trainer` takes: instances, classes, factories, paths, mappings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

T = TypeVar("T")

ExecutionStrategyRegistry: dict[str, str] = {
    "shm": "lightning_trio.compat.execution.SharedMemoryExecutionStrategy",
    "cs": "lightning_trio.compat.execution.ClientServerExecutionStrategy",
}
"""The short names of strategies."""


def load_class(path: str) -> Any:
    """Return the class that a path such as ``"package.module.Name"`` names.

    Raises:
        ValueError: it is not such a path.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError(f"{path!r} is not the path of a class, such as 'package.module.Name'")
    return getattr(importlib.import_module(module), name)


def instantiate_component(
    cls: Callable[..., T],
    provided_kwargs: Mapping[str, Any] | None = None,
    optional_defaults: Mapping[str, Any] | None = None,
) -> T:
    """Make a component; a default, or what it returns, is passed if the class has a parameter of its name."""
    arguments = dict(provided_kwargs or {})
    # Builtin classes have no signature, and few components get defaults.
    parameters = inspect.signature(cls).parameters if optional_defaults else {}
    for name, default in (optional_defaults or {}).items():
        if name in parameters and name not in arguments:
            arguments[name] = default() if callable(default) else default
    return cls(**arguments)


def instantiate_from_spec(
    spec: Any,
    *,
    spec_name: str,
    optional_defaults: Mapping[str, Any] | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[Any] | None = None,
    registry: Mapping[str, str] | None = None,
) -> Any:
    """Make a component from a path, or from a mapping with the path under ``"type"``.

    Raises:
        TypeError: `spec` is neither.
        ValueError: the mapping has no path.
    """
    paths = registry or {}
    if isinstance(spec, str):
        return instantiate_component(load_class(paths.get(spec, spec)), {}, optional_defaults)
    if not isinstance(spec, Mapping):
        raise TypeError(f"{spec_name} spec must be a string or dict (got {type(spec).__name__}).")
    arguments = dict(cast("Mapping[str, Any]", spec))
    path = arguments.pop("type", None)
    if path is None and arguments.get("name") in paths:
        path = arguments.pop("name")
    if path is not None:
        cls = load_class(paths.get(path, path)) if isinstance(path, str) else path
    elif dict_default_cls is not None and not dict_requires_type:
        cls = dict_default_cls
    else:
        raise ValueError(f"{spec_name} dict must have a 'type' key with the class full name")
    return instantiate_component(cls, arguments, optional_defaults)


def build_component(  # noqa: PLR0913  # Agent-lightning 0.3's
    spec: Any,
    *,
    expected_type: type[T],
    spec_name: str,
    default_factory: Callable[[], T] | None = None,
    allow_none: bool = False,
    optional_defaults: Mapping[str, Any] | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[T] | None = None,
    type_error_fmt: str | None = None,
    invalid_spec_error_fmt: str | None = None,
    registry: Mapping[str, str] | None = None,
) -> T | None:
    """Return a component made from an instance, a class, a factory, a path or a mapping.

    Raises:
        TypeError: what was made is not of `expected_type`.
        ValueError: nothing can be made from `spec`.
    """
    if isinstance(spec, expected_type):
        return spec
    if spec is None:
        if default_factory is not None:
            return default_factory()
        if allow_none:
            return None
        raise ValueError(invalid_spec_error_fmt or f"{spec_name} cannot be None.")
    made: Any
    if isinstance(spec, str | Mapping):
        made = instantiate_from_spec(
            spec,
            spec_name=spec_name,
            optional_defaults=optional_defaults,
            dict_requires_type=dict_requires_type,
            dict_default_cls=dict_default_cls,
            registry=registry,
        )
    elif isinstance(spec, type) and issubclass(spec, expected_type):
        made = instantiate_component(spec, {}, optional_defaults)
    elif callable(spec) and not isinstance(spec, type):
        made = spec()
    else:
        message = invalid_spec_error_fmt or f"Invalid {spec_name} type: {{actual_type}}. Expected {{expected_type}}."
        raise ValueError(message.format(actual_type=type(spec), expected_type=expected_type.__name__))
    if not isinstance(made, expected_type):
        message = type_error_fmt or f"{spec_name} factory returned {{type_name}}, which is not a {{expected}} subclass."
        raise TypeError(message.format(type_name=type(made), expected=expected_type.__name__))
    return made
