"""Reprs for debuggers and logs: one line, computed at once, without secrets."""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Callable
from typing import TypeVar

from ._exception_text import class_name

T = TypeVar("T")

_SHORT = reprlib.Repr()
_SHORT.maxstring = 100


def shortened(value: object) -> str:
    """Return the repr of a value, with the middle left out if it is long; its class if the repr raises.

    >>> shortened("Answer in one word. " * 10)
    "'Answer in one word. Answer in one word. Answer ...e word. Answer in one word. Answer in one word. '"
    """
    try:
        return _SHORT.repr(value)
    except BaseException:
        # Of a user's class, or of an integer with more digits than Python writes.
        return f"<{class_name(value)}>"


def one_line(show: Callable[[T], str]) -> Callable[[T], str]:
    """Return a ``__repr__`` that returns the text of `show` in one line, and never raises.

    Debuggers also show objects that are not initialized yet or half closed, and reprs of users' objects may raise.
    """

    @functools.wraps(show)
    def __repr__(self: T) -> str:
        try:
            return " ".join(show(self).splitlines())
        except Exception as exc:
            # The failure is shown instead.
            return f"<{type(self).__name__} that cannot be shown: {type(exc).__name__}>"

    return __repr__


def counted(number: int, what: str, *, several: str | None = None) -> str:
    """Return a number with its noun, in the singular or plural.

    >>> counted(1, "rollout"), counted(12_000, "rollout"), counted(0, "retry", several="retries")
    ('1 rollout', '12,000 rollouts', '0 retries')
    """
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"
