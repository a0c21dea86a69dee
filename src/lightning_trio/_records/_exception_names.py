"""Names of exceptions: how classes of them are kept where classes cannot go, and found again in what was raised."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

from .._errors import RemoteAgentError
from .._public import public_module


def exception_names(classes: Sequence[type[BaseException] | str]) -> tuple[str, ...]:
    """Give the qualified name of each class; names are taken as they are.

    Raises:
        ValueError: something is no exception, or no name.

    >>> exception_names([TimeoutError, "RateLimitError"])
    ('builtins.TimeoutError', 'RateLimitError')
    """
    if isinstance(classes, str | type):
        raise ValueError(f"retry_exceptions={classes!r}; give a list: retry_exceptions=[{_shown(classes)}]")
    return tuple(_name(each) for each in classes)


def _shown(value: str | type) -> str:
    return repr(value) if isinstance(value, str) else value.__name__


def _name(value: object) -> str:
    if isinstance(value, type) and issubclass(value, BaseException):
        return _qualified(value)
    if isinstance(value, str) and all(part.isidentifier() or part == "<locals>" for part in value.split(".")):
        module, _, bare = value.rpartition(".")
        found = find_loaded(f"{public_module(module)}.{bare}" if module else bare)
        if found is None:
            return value
        if isinstance(found, type) and issubclass(found, BaseException):
            # A class is often imported from elsewhere than where it is defined; what is raised knows only the latter.
            return value if "." not in value else _qualified(found)
    raise ValueError(
        f"retry_exceptions names {value!r}, which is no exception; give classes, or names such as 'TimeoutError' and "
        "'openai.RateLimitError'"
    )


def find_loaded(name: str) -> object | None:
    """Give what a name stands for in the modules that are imported, None if that is not to be seen."""
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
    """Give the first name that a module, which is imported, does not have: one that has a typing error."""
    for name in names:
        loaded = _loaded_module(name)
        # What stands in a function or in the program's main module, another process cannot see.
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
    """Tell whether a class of the exception is named, by its qualified or its bare name; of a group, all members.

    >>> is_named(ConnectionResetError(), ["builtins.OSError"]), is_named(KeyError(), ["OSError"])
    (True, False)
    """
    return all(not names_of.isdisjoint(names) for names_of in names_of_members(exception))


def names_of_members(exception: BaseException) -> tuple[frozenset[str], ...]:
    """Give the names of the exception's classes, qualified and bare; of a group, those of each member in it.

    >>> [len(names) for names in names_of_members(ExceptionGroup("several", [KeyError(), ValueError()]))]
    [10, 8]
    """
    if isinstance(exception, BaseExceptionGroup):
        return tuple(names for member in exception.exceptions for names in names_of_members(member))
    if isinstance(exception, RemoteAgentError):
        return exception.names
    return (frozenset(_names_of(type(exception))),)


def _names_of(kind: type[BaseException]) -> Iterator[str]:
    for each in kind.__mro__:
        yield each.__name__
        yield _qualified(each)


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
