"""Users' values as JSON text that decodes to equal values, or an error with the path to the part that would not.

JSON's own types are encoded as themselves. Others are encoded as an object with one key that begins with ``$`` (such
keys of users are escaped), so that a tuple comes back as a tuple and NaN as NaN, and an object as one of its class
where that is loaded.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from .._errors import NotStorable, PayloadTooLarge
from .._exception_text import class_name, message_of
from .._repr import shortened
from .._spans import LARGE
from ._tag_reader import untagged
from ._tag_writer import is_plain, tagged

NO_LIMIT: Final = 1 << 62


UNREADABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""The exceptions raised by a record of values that this package did not write; `decode` itself raises only the first"""


def unreadable(what: str, exc: Exception) -> msgspec.DecodeError:
    """Return the error for a record that cannot be read."""
    return msgspec.DecodeError(f"{what} cannot be read ({reason_of(exc)})")


def reason_of(exc: BaseException) -> str:
    """Return why a record cannot be read: the message of `decode`, or another exception with its type."""
    return str(exc) if type(exc) is msgspec.DecodeError else f"{class_name(exc)}: {message_of(exc)}"


_encode = msgspec.json.Encoder().encode
_encode_in_order = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder().decode


def encode(value: Any, name: str, limit: int) -> str:
    """Return JSON text that `decode` turns back into an equal value.

    Args:
        value: the value.
        name: its name in errors.
        limit: its maximum size in bytes.

    Raises:
        NotStorable: a part of it cannot be stored; the message has the path to that part.
        PayloadTooLarge: it takes more than `limit` bytes.
    """
    encoded = _encoded(value, name, _encode)
    if len(encoded) > limit:
        raise PayloadTooLarge.value(name, len(encoded), limit)
    return encoded.decode()


def encode_mapping(value: Mapping[str, Any], name: str, limit: int) -> str:
    """Return a user's mapping as the text of a dict; see `encode`."""
    try:
        plain = dict(value)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        raise NotStorable.raising(name, type(value), exc) from exc
    return encode(plain, name, limit)


def canonical(value: Any, name: str) -> bytes:
    """Return bytes that are the same for equal values, in every process.

    Raises:
        NotStorable: see `encode`.
    """
    return _encoded(value, name, _encode_in_order)


def canonical_pieces(value: Any, name: str) -> Iterator[bytes]:
    """Yield `canonical` of a large value in pieces, none of which takes long to encode.

    That it can be read again is not checked.

    Raises:
        NotStorable: see `encode`.
    """
    written = value if is_plain(value) else _in_order(tagged(value, name))
    return _json_pieces(written)


def _json_pieces(written: Any) -> Iterator[bytes]:
    if type(written) is list:
        yield b"["
        for index, inner in enumerate(written):
            if index:
                yield b","
            yield from _json_pieces(inner)
        yield b"]"
    elif type(written) is dict:
        yield b"{"
        for index, key in enumerate(_in_slices(written)):
            yield b"%s%s:" % (b"," if index else b"", _encode(key))
            yield from _json_pieces(written[key])
        yield b"}"
    elif type(written) is str and len(written) > LARGE:
        yield b'"'
        for start in range(0, len(written), LARGE):
            yield _encode(written[start : start + LARGE])[1:-1]
        yield b'"'
    else:
        yield _encode(written)


def _in_slices(keys: Collection[str]) -> Iterable[str]:
    """Return keys in order, of which few are sorted at once."""
    left = iter(keys)
    return heapq.merge(*(sorted(islice(left, _KEYS_AT_ONCE)) for _ in range(0, len(keys), _KEYS_AT_ONCE)))


_KEYS_AT_ONCE: Final = 10_000


def _in_order(written: Any) -> Any:
    """Return encoded sets and dicts in a fixed order, because equal ones may be in different orders."""
    if type(written) is list:
        return [_in_order(inner) for inner in written]
    if type(written) is not dict:
        return written
    # Without the token of an API key, which differs between processes.
    ordered = {key: _in_order(inner) for key, inner in written.items() if key != "$key"}
    for tag in _UNORDERED & ordered.keys():
        ordered[tag].sort(key=_encode_in_order)
    return ordered


_UNORDERED: Final = frozenset({"$set", "$frozenset", "$dict"})


def _encoded(value: Any, name: str, encode_json: Callable[[Any], bytes]) -> bytes:
    try:
        if is_plain(value):
            with contextlib.suppress(UnicodeEncodeError):
                return encode_json(value)
        written = tagged(value, name)
        encoded = encode_json(written if encode_json is _encode else _in_order(written))
        _read_back(encoded, value, name)
    except NotStorable:
        raise
    except RecursionError:
        raise NotStorable.too_deep(name) from None
    except Exception as exc:
        # Such as a dict that another thread changes.
        raise NotStorable.raising(name, type(value), exc) from exc
    return encoded


def _read_back(encoded: bytes, value: Any, name: str) -> None:
    """Validate that a text can be read, because reading it makes objects of users' classes.

    Raises:
        NotStorable: it cannot; the message has the path to the innermost list or dict with such an object.
    """
    try:
        untagged(_decode(encoded))
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        for path, inner in _parts(value, name):
            _read_back(_encode(tagged(inner, path)), inner, path)
        raise NotStorable.unreadable(name, value, exc) from exc


def _parts(value: Any, path: str) -> list[tuple[str, Any]]:
    if type(value) is dict:
        return [(f"{path}[{shortened(key)}]", inner) for key, inner in value.items()]
    if type(value) in (list, tuple):
        return [(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    return []


def decode(text: str) -> Any:
    """Return the value that `encode` encoded.

    Raises:
        msgspec.DecodeError: it cannot be read, whatever a user's class raises, or a text of another program contains.
    """
    try:
        value = _decode(text)
        return untagged(value) if '"$' in text else value
    except BaseException as exc:
        raise msgspec.DecodeError(reason_of(exc)) from exc
