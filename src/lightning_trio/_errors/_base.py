"""The base of all errors, and the function that composes them."""

from __future__ import annotations

from typing import TypeVar

from .._exception_text import repr_of
from .._public import public as public

E = TypeVar("E", bound=BaseException)


@public
class LightningTrioError(Exception):
    """The base of all errors raised by this package."""


def compose(kind: type[E], message: str, /, **fields: object) -> E:
    """Return an error with a message and its fields.

    The fields are in the instance's dict, which is pickled and copied with it. The constructor gets the message alone
    because `OSError` interprets further arguments itself.

    Args:
        kind: its class.
        message: its text.
        **fields: values for fields that the class declares; those left out stay at their default.
    """
    error = kind(message)
    vars(error).update(fields)
    return error


def with_article(name: str) -> str:
    """Return a class's name after "a" or "an", as it is spoken: the letters of an initialism, otherwise the word."""
    is_initialism = name[:2].isupper()
    return f"{'an' if name[0] in ('AEFHILMNORSX' if is_initialism else 'AEIOUaeiou') else 'a'} {name}"


def shortened(value: object) -> str:
    """Return the repr of a value, cut to 80 characters."""
    text = repr_of(value)
    return text if len(text) <= 80 else text[:79] + "…"
