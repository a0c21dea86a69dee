"""Methods of Agent-lightning 0.3's classes that a program overrides, and a warning about those that are not called."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from types import FrameType

_OWN = __name__.partition(".")[0]


def overridden(component: object, names: Iterable[str]) -> list[str]:
    """Return those names of methods that a class of the program's own defines."""
    return [name for name in names if _is_of_the_program(type(component), name)]


def _is_of_the_program(cls: type, name: str) -> bool:
    definer = next((each for each in cls.__mro__ if name in vars(each)), None)
    return definer is not None and definer.__module__.partition(".")[0] != _OWN


def warn_uncalled(who: str, component: object, names: Iterable[str], instead: str) -> None:
    """Warn about overridden methods that nobody calls.

    Args:
        who: what calls none of them.
        component: the object whose methods they are.
        names: the overridden methods.
        instead: what to write.
    """
    if called := ", ".join(names):
        warnings.warn(
            f"{who} does not call these methods of {type(component).__name__}: {called}; {instead}",
            UserWarning,
            stacklevel=_program_level(),
        )


def _program_level() -> int:
    """Return the `stacklevel`, for the caller, of the program's own line."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    level = 1
    # contextlib enters a context manager of this package, and typing makes an instance of a generic class.
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (_OWN, "contextlib", "typing"):
        frame, level = frame.f_back, level + 1
    return level
