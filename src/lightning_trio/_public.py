"""The public places of names: what users import from `lightning_trio` calls itself ``lightning_trio.…``.

Tracebacks, pickles, stored values and `retry_exceptions` name a class by its ``__module__``. That of a class exported
by a public module is the public module, wherever the class is defined, so that files can be read after it has moved.

`inspect.getsource` looks for a class in the file of its ``__module__``, and for these it raises OSError. It goes on
working for functions and methods, which know their code. Nothing cheap would mend it: the file of a class is always
that of its module. `typing.get_overloads` goes by ``__module__`` as well, and finds none.
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

    It is the outermost decorator: attrs makes classes with slots anew.
    """

    def decorate(exported: T) -> T:
        if isinstance(exported, type):
            _resolve_annotations(exported)
        # For a type checker, not every object has one that can be set.
        exported.__module__ = module
        return exported

    return decorate


public: Final = public_in(PACKAGE)
"""The decorator for what users import from the package itself."""


def _resolve_annotations(cls: type) -> None:
    """Replace annotations that are text by what they mean.

    `typing.get_type_hints`, msgspec and attrs read the text among the names of the class's ``__module__``, where after
    this the names of its own module are missing.

    Raises:
        NameError: an annotation names what is imported for type checkers only.
    """
    own = inspect.get_annotations(cls)
    if own:
        names = vars(sys.modules[cls.__module__])
        cls.__annotations__ = {name: _meaning(each, names, {cls.__name__: cls}) for name, each in own.items()}


def _meaning(annotation: object, names: dict[str, object], itself: dict[str, object]) -> object:
    text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
    return eval(text, names, itself) if isinstance(text, str) else annotation


def public_module(module: str) -> str:
    """Return the module that public names of `module` are known by.

    Until 0.1.0 files named this package's own classes by the private modules that they were defined in then.

    >>> public_module("lightning_trio._records"), public_module("lightning_trio.store"), public_module("trio")
    ('lightning_trio', 'lightning_trio.store', 'trio')
    """
    return PACKAGE if module.startswith(f"{PACKAGE}._") else module
