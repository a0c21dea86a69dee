"""Values of users as JSON text that gives back what went in, or an error that says where it does not.

What JSON has comes as itself. Other things come as an object with one key that begins with ``$`` (a user's own key of
that kind is escaped), so that a tuple comes back as a tuple and NaN as NaN. Subclasses of str, int, float, list and
dict that compare equal to the plain value come back as the plain value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from .._errors import NotStorable, PayloadTooLarge
from ._tag_reader import untagged
from ._tag_writer import tagged

NO_LIMIT: Final = 1 << 62


UNREADABLE: Final = (msgspec.DecodeError, ValueError, TypeError, LookupError, AttributeError)
"""What reading a text raises that was not written by this package."""


def unreadable(what: str, exc: Exception) -> msgspec.DecodeError:
    """Say which record it is that cannot be read."""
    return msgspec.DecodeError(f"{what} cannot be read ({type(exc).__name__}: {exc})")


_encode = msgspec.json.Encoder().encode
_encode_in_order = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder().decode


def encode(value: Any, name: str, limit: int) -> str:
    """Give JSON text that `decode` turns back into what `value` is.

    Args:
        value: what to keep.
        name: how to call it in an error.
        limit: the most bytes it may take.

    Raises:
        NotStorable: something in it cannot be kept; the message has the path to it.
        PayloadTooLarge: it takes more than `limit` bytes.
    """
    encoded = _encode_plain(value, _encode)
    if encoded is None:
        try:
            encoded = _encode(tagged(value, name))
        except RecursionError:
            raise NotStorable.too_deep(name) from None
    if len(encoded) > limit:
        raise PayloadTooLarge.value(name, len(encoded), limit)
    return encoded.decode()


def canonical(value: Any, name: str) -> bytes:
    """Give bytes that are the same for equal values, in this process and in every other.

    Raises:
        NotStorable: as `encode`.
    """
    encoded = _encode_plain(value, _encode_in_order)
    if encoded is None:
        try:
            encoded = _encode_in_order(_in_order(tagged(value, name)))
        except RecursionError:
            raise NotStorable.too_deep(name) from None
    return encoded


def _in_order(written: Any) -> Any:
    """Sort what has no order of its own, or one that equal values need not share."""
    if type(written) is list:
        return [_in_order(inner) for inner in written]
    if type(written) is not dict:
        return written
    # The name that a process has for an api key is its own.
    ordered = {key: _in_order(inner) for key, inner in written.items() if key != "$key"}
    for tag in _UNORDERED & ordered.keys():
        ordered[tag].sort(key=_encode_in_order)
    return ordered


_UNORDERED: Final = frozenset({"$set", "$frozenset", "$dict"})


def _encode_plain(value: Any, encode_json: Callable[[Any], bytes]) -> bytes | None:
    """Encode what JSON has; None if something would not come back as it is."""
    kind = type(value)
    if kind is str or kind is int or value is None or kind is bool:
        with contextlib.suppress(UnicodeEncodeError):
            return encode_json(value)
        return None
    try:
        encoded = encode_json(value)
        # msgspec writes a tuple like a list, NaN as null, a date as text: comparing is quicker than looking for them.
        same = _decode(encoded) == value and b'"$' not in encoded
    except Exception:
        # An object that cannot be encoded or compared, whatever it raises; `tagged` says where it is.
        return None
    # Arrays compare elementwise, and what they give is no bool.
    return encoded if same is True else None


def decode(text: str) -> Any:
    """Give back what `encode` was given."""
    value = _decode(text)
    return untagged(value) if '"$' in text else value
