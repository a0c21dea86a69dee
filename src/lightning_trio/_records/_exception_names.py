"""Names of exception classes, stored in their place, and compared with the classes of raised exceptions."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from .._concurrency import is_kind, leaves
from .._errors import RemoteAgentError
from .._exception_text import bare_name, class_names, qualified_name
from .._public import public_module


def exception_names(
    classes: Sequence[type[BaseException] | str], parameter: str = "retry_exceptions"
) -> tuple[str, ...]:
    """Return the qualified name of each class; names are kept as they are. `parameter` is what messages call them.

    Raises:
        ValueError: an item is neither an exception class nor a name.

    >>> exception_names([TimeoutError, "RateLimitError"])
    ('builtins.TimeoutError', 'RateLimitError')
    """
    if isinstance(classes, str | type):
        raise ValueError(f"{parameter}={classes!r}; pass a list: {parameter}=[{_shown(classes)}]")
    return tuple(_name(each, parameter) for each in classes)


def _shown(value: str | type) -> str:
    return repr(value) if isinstance(value, str) else value.__name__


def _name(value: object, parameter: str) -> str:
    if isinstance(value, type) and issubclass(value, BaseException):
        return qualified_name(value)
    if isinstance(value, str) and all(part.isidentifier() or part == "<locals>" for part in value.split(".")):
        module, _, bare = value.rpartition(".")
        found = find_loaded(f"{public_module(module)}.{bare}" if module else bare)
        if found is None:
            return value
        if isinstance(found, type) and issubclass(found, BaseException):
            # A class is often imported from another module than the one that defines it; raised ones know the latter.
            return value if "." not in value else qualified_name(found)
    raise ValueError(
        f"{parameter} names {value!r}, which is not an exception; pass classes, or names such as 'TimeoutError' "
        "and 'openai.RateLimitError'"
    )


def find_loaded(name: str) -> object | None:
    """Return the object of a name in the imported modules, or None if it is not found."""
    if "." not in name:
        return getattr(builtins, name, None)
    loaded = _loaded_module(name)
    if loaded is None:
        return None
    found: object | None = loaded.module
    for part in loaded.path:
        found = getattr(found, part, None)
    return found


def missing_name(names: Sequence[str]) -> str | None:
    """Return the first misspelt name: one whose module is imported but does not have it."""
    for name in names:
        loaded = _loaded_module(name)
        # Names in a function or in the main module are unknown to other processes.
        if loaded is None or loaded.module.__name__ == "__main__" or "<locals>" in loaded.path:
            continue
        if find_loaded(name) is None:
            return name
    return None


class _Loaded(NamedTuple):
    module: ModuleType
    path: list[str]


def _loaded_module(name: str) -> _Loaded | None:
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (module := sys.modules.get(".".join(parts[:end]))) is not None:
            return _Loaded(module, parts[end:])
    return None


def is_named(exception: BaseException, names: Sequence[str]) -> bool:
    """Whether a class of the exception is among the names, qualified or bare; of a group, those of all members.

    >>> is_named(ConnectionResetError(), ["builtins.OSError"]), is_named(KeyError(), ["OSError"])
    (True, False)
    """
    return all(not names_of.isdisjoint(names) for names_of in names_of_members(exception))


def bare_names(names: Sequence[str]) -> frozenset[str]:
    """Return the bare names of the classes that are named, and of the loaded classes that derive from them.

    An error that was read from a store has only the bare name of its class.

    >>> "ConnectionResetError" in bare_names(["builtins.OSError"])
    True
    """
    found = {name.rpartition(".")[2] for name in names}
    wanted = frozenset(names)
    pending: list[tuple[type[BaseException], bool]] = [(BaseException, False)]
    while pending:
        kind, below = pending.pop()
        bare = bare_name(kind)
        below = below or bare in wanted or qualified_name(kind) in wanted
        if below:
            found.add(bare)
        pending += [(each, below) for each in type.__subclasses__(kind)]
    return frozenset(found)


def names_of_members(exception: BaseException) -> tuple[frozenset[str], ...]:
    """Return the names of the exception's classes, qualified and bare; of a group, those of each member.

    >>> [len(names) for names in names_of_members(ExceptionGroup("several", [KeyError(), ValueError()]))]
    [10, 8]
    """
    return tuple(names for each in leaves(exception) for names in _names_of(each))


def _names_of(exception: BaseException) -> tuple[frozenset[str], ...]:
    if is_kind(exception, RemoteAgentError):
        return exception.names
    return (frozenset(class_names(type(exception))),)
