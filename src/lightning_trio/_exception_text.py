"""Exceptions as text. Those of agents are of any class, and each of their methods may raise, so none is relied on."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from types import TracebackType

# As `type` and `BaseException` define them: a metaclass or a class may have others.
_name_of: Callable[[type], str] = vars(type)["__name__"].__get__
_qualname_of: Callable[[type], str] = vars(type)["__qualname__"].__get__
_module_of: Callable[[type], object] = vars(type)["__module__"].__get__
_mro_of: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
_traceback_of: Callable[[BaseException], TracebackType | None] = vars(BaseException)["__traceback__"].__get__


def class_names(kind: type) -> Iterator[str]:
    """Yield the names of a class and its bases, each with and without its module.

    >>> list(class_names(Exception))[:2]
    ['Exception', 'builtins.Exception']
    """
    for each in _mro_of(kind):
        yield _name_of(each)
        yield qualified_name(each)


def qualified_name(kind: type) -> str:
    """Return the name of a class with its module.

    >>> qualified_name(KeyError)
    'builtins.KeyError'
    """
    module = _module_of(kind)
    return f"{module if type(module) is str else '?'}.{_qualname_of(kind)}"


def class_name(value: object) -> str:
    """Return the name of a value's class, whatever its metaclass has made of it.

    >>> class_name(KeyError())
    'KeyError'
    """
    return _name_of(type(value))


def message_of(exception: BaseException) -> str:
    """Return ``str(exception)`` as a plain string, or a text that names what calling it raised.

    >>> message_of(ValueError("no tea"))
    'no tea'
    """
    try:
        return "".join((str(exception),))
    except BaseException as exc:
        return f"<str() of it raised {class_name(exc)}>"


def traceback_of(exception: BaseException) -> str:
    r"""Return the traceback as Python prints it, or as much of it as can be formatted.

    >>> traceback_of(ValueError("no tea"))
    'ValueError: no tea\n'
    """
    try:
        return "".join(traceback.format_exception(exception))
    except BaseException as exc:
        # Groups thousands of levels deep, for example, or a `__cause__` that raises.
        lines = traceback.format_tb(_traceback_of(exception))
        unformatted = f"(its causes, notes and members could not be formatted: {class_name(exc)})\n"
        return "".join([*lines, f"{class_name(exception)}: {message_of(exception)}\n", unformatted])
