"""Large values as an outline and parts, none of which takes long to encode, to store, or to read again.

The outline is the encoded value with a reference in place of each long text, list and dict: an object with the key
``$parts``, of the kind and the numbers of the parts that make it. A part is a piece of a text, some items of a list, or
some entries of a dict, in which there may be further references.

A single call into C holds the interpreter's lock until it returns, and Trio's thread waits meanwhile: so all this is
done in slices, by other threads.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import MemberDescriptorType
from typing import Any, Final, NamedTuple, Protocol, Self, TypeAlias, TypeVar

import msgspec

from .._errors import NotStorable, PayloadTooLarge
from .._spans import LARGE, join_pieces
from ._tag_reader import untagged
from ._tag_writer import is_plain, tagged
from ._values import NO_LIMIT, canonical, canonical_pieces, decode, encode, reason_of

ReadPart: TypeAlias = Callable[[int], str]
"""Returns the part with a number."""

_LEAST: Final = 16
"""What a value takes besides its characters, so that many short ones are large, too: about as long to encode."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def is_large(value: Any) -> bool:
    """Whether a value takes so long to encode or to copy that another thread should; looks at no more than it must.

    >>> is_large({"question": "why?"})
    False
    >>> is_large({"files": [{"name": "a", "text": "x" * 1_000_000}]})
    True
    """
    if type(value) in _SHORT:
        return False
    try:
        return _left(value, LARGE) < 0
    except (Exception, SystemExit):
        # Such as one that contains itself, or whose attributes run code of its class that raises.
        return False


_SHORT: Final = frozenset({int, float, bool, type(None)})
_CONTAINERS: Final = frozenset({list, tuple, set, frozenset, deque})
_ITERATED: Final = (list, tuple, set, frozenset, deque)


def _left(value: Any, left: int) -> int:
    """Return how much of `left` characters a value leaves, less than 0 if it takes more."""
    kind = type(value)
    inner: Iterable[Any]
    if kind is dict:
        inner = value.values()
        left -= sum(map(_length_of_key, value))
    elif kind in _CONTAINERS:
        inner = value
    elif issubclass(kind, str):
        return left - str.__len__(value)
    elif issubclass(kind, bytes | bytearray):
        return left - len(memoryview(value))
    else:
        inner = _attributes(value, kind)
    for each in inner:
        left -= _LEAST
        # Written out, because it runs for each text of each task.
        if type(each) is str:
            left -= len(each)
        elif type(each) not in _SHORT:
            left = _left(each, left)
        if left < 0:
            break
    return left


def _attributes(value: Any, kind: type) -> Iterable[Any]:
    """Return the items or attributes of an object, without calling a method of its class."""
    if issubclass(kind, dict):
        return itertools.chain(dict.keys(value), dict.values(value))
    for container in _ITERATED:
        if issubclass(kind, container):
            return container.__iter__(value)
    names = [name for each in kind.__mro__ for name in _slots(each)]
    found = [object.__getattribute__(value, name) for name in names if name != "__dict__"]
    fields: dict[str, Any] = object.__getattribute__(value, "__dict__") if kind.__dictoffset__ else {}
    return [*found, *fields.values()]


def _slots(kind: type) -> Iterable[str]:
    """Return the attributes that a class itself keeps outside of the ``__dict__``."""
    own = kind.__dict__
    # One of msgspec has its fields as descriptors, too.
    return [name for name, value in own.items() if isinstance(value, MemberDescriptorType)]


def _length_of_key(key: object) -> int:
    return len(key) if type(key) is str else 0


class Digest(Protocol):
    """A hash of the module `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def copy(self) -> Self:
        """Return a copy."""
        ...


DigestT = TypeVar("DigestT", bound=Digest)


def with_digest_of(value: Any, name: str, digest: DigestT) -> DigestT:
    """Return a copy of a digest to which the `canonical` bytes of a large value are added, in slices.

    Raises:
        NotStorable: see `encode`.
    """
    added = digest.copy()
    try:
        if not is_plain(value):
            # As in `canonical`, it must be one that can be read again.
            _encode_large(value, name, NO_LIMIT)
        for piece in canonical_pieces(value, name):
            added.update(piece)
    except (UnicodeEncodeError, RuntimeError):
        # It has surrogates, contains itself, is nested deeper than pieces can be, or was changed meanwhile.
        added = digest.copy()
        added.update(canonical(value, name))
    return added


class EncodedValue(NamedTuple):
    """The text of a value; of a large one its outline, and the parts that this refers to."""

    text: str
    parts: Sequence[str] = ()


def encode_value(value: Any, name: str, limit: int) -> EncodedValue:
    """Return a value as text, a large one as an outline and parts; see `encode`, also for errors."""
    return _encode_large(value, name, limit) if is_large(value) else EncodedValue(encode(value, name, limit))


def _encode_large(value: Any, name: str, limit: int) -> EncodedValue:
    writer = _Writer(name, limit)
    try:
        outline = writer.outlined(value, name).outline
        text = _encode({"$large": [writer.digest.hexdigest(), outline]}).decode()
        # Of an outline that is one reference, nothing counts.
        size = writer.size + (0 if _is_reference(outline) else len(text))
        if writer.has_tags and size <= limit:
            # As `encode` does, because reading it makes objects of users' classes.
            _free(read_large(text, writer.parts.__getitem__))
    except (NotStorable, PayloadTooLarge, KeyboardInterrupt):
        raise
    except BaseException:
        # Of whatever a user's class raises, `encode` says where; what is nested too deeply here may not be for it.
        return EncodedValue(encode(value, name, limit))
    if size > limit:
        raise PayloadTooLarge.value(name, size, limit)
    return EncodedValue(text, writer.parts)


def _free(value: Any) -> None:
    """Free lists and dicts item by item; Python frees all of one at once, with the interpreter's lock held."""
    if type(value) is list:
        while value:
            _free(value.pop())
    elif type(value) is dict:
        while value:
            _free(value.popitem()[1])


class _Outlined(NamedTuple):
    """A value as JSON has it, with references to parts, and about how many characters it takes."""

    outline: Any
    size: int


class _Writer:
    """Writes parts of a value.

    Args:
        name: what the value is, for errors.
        limit: how many bytes the parts may have.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.parts: list[str] = []
        self.size = 0
        self.has_tags = False
        self.digest = hashlib.sha256()
        """Of the digests of the parts: tells the outlines of different values apart, and parts that are not theirs."""
        self._name = name
        self._limit = limit
        self._open: set[int] = set()
        """The lists and dicts that are being written."""

    def outlined(self, value: Any, path: str | None) -> _Outlined:
        """Return the outline of a value; `path` is None for one that has its tags already."""
        kind = type(value)
        if kind is list or (kind is dict and (path is None or _has_plain_keys(value))):
            if id(value) in self._open:
                raise ValueError("contains itself")
            self._open.add(id(value))
            outlined = self._list(value, path) if kind is list else self._dict(value, path)
            self._open.discard(id(value))
            return outlined
        if kind is str and (path is None or _is_utf8(value)):
            return self._text(value)
        if path is None or (kind in _SHORT and is_plain(value)):
            return _Outlined(value, _LEAST)
        self.has_tags = True
        return self.outlined(tagged(value, path), None)

    def _list(self, value: list[Any], path: str | None) -> _Outlined:
        batch: list[Any] = []
        size = 0
        numbers: list[int] = []
        for index, inner in enumerate(value):
            if size >= LARGE:
                numbers.append(self._add(batch))
                batch, size = [], 0
            outline, length = self.outlined(inner, None if path is None else f"{path}[{index}]")
            batch.append(outline)
            size += length + _LEAST
        if numbers or size >= LARGE:
            return self._reference("list", [*numbers, self._add(batch)])
        return _Outlined(batch, size)

    def _dict(self, value: dict[str, Any], path: str | None) -> _Outlined:
        batch: dict[str, Any] = {}
        size = 0
        numbers: list[int] = []
        for key, inner in value.items():
            if size >= LARGE:
                numbers.append(self._add(batch))
                batch, size = {}, 0
            outline, length = self.outlined(inner, None if path is None else f"{path}[{key!r}]")
            batch[key] = outline
            size += length + len(key) + _LEAST
        # One of a single key may be a tag, which must stay in sight of its reader; what it holds is short by now.
        if numbers or (size >= LARGE and len(value) > 1):
            return self._reference("dict", [*numbers, self._add(batch)])
        return _Outlined(batch, size)

    def _text(self, value: str) -> _Outlined:
        if len(value) <= LARGE:
            return _Outlined(value, len(value))
        return self._reference("text", [self._add(piece) for piece in _pieces(value)])

    def _reference(self, kind: str, numbers: list[int]) -> _Outlined:
        return _Outlined({"$parts": [kind, numbers]}, _LEAST * len(numbers))

    def _add(self, value: Any) -> int:
        """Write a part and return its number."""
        part = _encode(value)
        self.digest.update(_digest(part))
        # Without its brackets or quotes.
        self.size += len(part) - 2
        if self.size > self._limit:
            # At once, because a value that has one object many times may have no end.
            raise PayloadTooLarge.value(self._name, self.size, self._limit, at_least=True)
        self.parts.append(part.decode())
        return len(self.parts) - 1


def _digest(part: bytes) -> bytes:
    return hashlib.sha256(part).digest()


def _is_reference(outline: Any) -> bool:
    return type(outline) is dict and outline.keys() == _REFERENCE


def _has_plain_keys(value: dict[Any, Any]) -> bool:
    return all(type(key) is str and key[:1] != "$" and _is_utf8(key) for key in value)


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        for piece in _pieces(text):
            piece.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pieces(text: str) -> Iterable[str]:
    return (text[start : start + LARGE] for start in range(0, len(text), LARGE))


def decode_value(text: str, read_part: ReadPart) -> Any:
    """Return the value that `encode_value` encoded; for errors see `decode`.

    What `read_part` raises is raised, except the `LookupError` of a missing part.
    """
    if not is_outline(text):
        return decode(text)
    reader = _Reader(read_part)
    try:
        return reader.read(text)
    except BaseException as exc:
        if reader.failure is not None:
            raise reader.failure from None
        raise msgspec.DecodeError(reason_of(exc)) from exc


def is_outline(text: str) -> bool:
    """Whether a text is the outline of a large value."""
    return text.startswith('{"$large":')


def read_large(text: str, read_part: ReadPart) -> Any:
    """Return the value of an outline; raises whatever a user's class raises."""
    return _Reader(read_part).read(text)


class _Reader:
    """Reads values whose outlines refer to parts."""

    def __init__(self, read_part: ReadPart) -> None:
        self._read_part = read_part
        self._digests: dict[int, bytes] = {}
        self.failure: BaseException | None = None
        """What the store raised when it was asked for a part."""

    def read(self, text: str) -> Any:
        """Return the value of the outline in a text."""
        digest, outline = _decode(text)["$large"]
        value = self.value(outline)
        found = hashlib.sha256(b"".join(self._digests[number] for number in sorted(self._digests)))
        if found.hexdigest() != digest:
            raise ValueError("its parts are not those that were stored with it")
        return value

    def value(self, stored: Any) -> Any:
        """Return the value of an outline."""
        if type(stored) is list:
            return [self.value(inner) for inner in stored]
        if type(stored) is not dict:
            return stored
        if len(stored) == 1:
            [(tag, inner)] = stored.items()
            if tag == "$parts":
                return self._joined(inner, self.value)
            if tag[:1] == "$":
                return untagged(self._with_tags(stored))
        return {key: self.value(inner) for key, inner in stored.items()}

    def _with_tags(self, stored: Any) -> Any:
        """Return what `tagged` returned of a value."""
        if type(stored) is list:
            return [self._with_tags(inner) for inner in stored]
        if type(stored) is not dict:
            return stored
        if stored.keys() == _REFERENCE:
            return self._joined(stored["$parts"], self._with_tags)
        return {key: self._with_tags(inner) for key, inner in stored.items()}

    def _joined(self, reference: Any, read: Callable[[Any], Any]) -> Any:
        kind, numbers = reference
        parts = map(self._part, numbers)
        if kind == "text":
            return join_pieces(map(_decode, parts))
        if kind == "list":
            items: list[Any] = []
            for part in parts:
                items += [read(each) for each in _decode(part)] if '"$' in part else _decode(part)
            return items
        entries: dict[str, Any] = {}
        for part in parts:
            some = _decode(part)
            entries.update({key: read(each) for key, each in some.items()} if '"$' in part else some)
        return entries

    def _part(self, number: int) -> str:
        # In a file that somebody has changed, few parts that refer to each other could stand for a value without end.
        if type(number) is not int or not 0 <= number <= _LAST_PART:
            raise ValueError(f"{number!r} is not the number of a part")
        if number in self._digests:
            raise ValueError(f"part {number} is referred to twice")
        try:
            part = self._read_part(number)
        except LookupError:
            raise
        except BaseException as exc:
            self.failure = exc
            raise
        self._digests[number] = _digest(part.encode())
        return part


_LAST_PART: Final = 2**31 - 1

_REFERENCE: Final = frozenset({"$parts"})
