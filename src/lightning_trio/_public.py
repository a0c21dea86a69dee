"""The public modules of names: whatever users import from `lightning_trio` has that as its ``__module__``.

Tracebacks, pickles, stored values and `retry_exceptions` name a class by its ``__module__``. For a class exported by a
public module that is the public module, wherever the class is defined, so that files can be read after it has moved.

`inspect.getsource` looks for a class in the file of its ``__module__``, and raises OSError for these classes. It still
works for functions and methods, which refer to their code. There is no cheap remedy, because the file of a class is
always that of its module. `typing.get_overloads` also relies on ``__module__``, and finds no overloads.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Final, ForwardRef, TypeVar

from ._names import PACKAGE

T = TypeVar("T")


def public_in(module: str) -> Callable[[T], T]:
    """Return a decorator for a class or function that users import from `module`.

    It must be the outermost decorator, because attrs builds a new class for one with slots.
    """

    def decorate(exported: T) -> T:
        if isinstance(exported, type):
            _resolve_annotations(exported)
        # For a type checker, not every object has a `__module__` that can be set.
        exported.__module__ = module
        return exported

    return decorate


public: Final = public_in(PACKAGE)
"""The decorator for classes and functions that users import from the package itself."""


def _resolve_annotations(cls: type) -> None:
    """Replace annotations that are strings by their values.

    `typing.get_type_hints`, msgspec and attrs evaluate such strings in the class's ``__module__``. Once that is the
    public module, the names of the defining module are missing there.

    Raises:
        NameError: an annotation uses a name that is imported for type checkers only.
    """
    own = inspect.get_annotations(cls)
    if own:
        names = vars(sys.modules[cls.__module__])
        cls.__annotations__ = {name: _meaning(each, names, {cls.__name__: cls}) for name, each in own.items()}


def _meaning(annotation: object, names: dict[str, object], itself: dict[str, object]) -> object:
    text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
    return eval(text, names, itself) if isinstance(text, str) else annotation


def public_module(module: str) -> str:
    """Return the public module for names of `module`.

    Files written before 0.1.0 name this package's classes by the private modules that defined them then.

    >>> public_module("lightning_trio._records"), public_module("lightning_trio.store"), public_module("trio")
    ('lightning_trio', 'lightning_trio.store', 'trio')
    """
    return PACKAGE if module.startswith(f"{PACKAGE}._") else module
