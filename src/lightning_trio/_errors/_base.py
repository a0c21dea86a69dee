"""What all errors share: their base, and how a message comes to its fields."""

from __future__ import annotations

from typing import TypeVar

from .._public import public as public

E = TypeVar("E", bound=BaseException)


@public
class LightningTrioError(Exception):
    """The base of all errors raised by this package."""


def compose(kind: type[E], message: str, /, **fields: object) -> E:
    """Return an error with a message and what it names.

    The fields lie in the instance's dict, which exceptions are pickled and copied with; their constructor takes the
    message alone, since that of `OSError` has ideas of its own about more.

    Args:
        kind: its class.
        message: what is shown.
        **fields: values for what the class declares, each with None as its default.
    """
    error = kind(message)
    vars(error).update(fields)
    return error


def shortened(value: object) -> str:
    """Return the repr of a value, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
