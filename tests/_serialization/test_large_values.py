"""Large values: an outline and parts, of which none is long, and the same value again."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import date
from itertools import count
from typing import Any

import attrs
import msgspec
import pytest

from lightning_trio import NotStorable, PayloadTooLarge, PromptTemplate
from lightning_trio._serialization import (
    NO_LIMIT,
    canonical,
    decode_value,
    encode,
    encode_value,
    is_large,
    with_digest_of,
)
from lightning_trio._spans import LARGE

LONG = "x" * 3 * LARGE


@attrs.frozen
class Document:
    """A user's class."""

    title: str
    pages: Any


@attrs.frozen(hash=False)
class Member:
    """A class whose objects are hashed by what `object.__new__` does not give them."""

    number: int

    def __hash__(self) -> int:
        return _HASHES.pop()


_HASHES = [1]


class Slots:
    """A class without a ``__dict__``."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class MoreSlots(Slots):
    """One with the attributes of its base."""

    __slots__ = ()


class Struct(msgspec.Struct):
    """A class of msgspec."""

    text: str


class Text(str):
    """A class of texts."""


class Data(bytes):
    """A class of bytes."""


class Numbers(set[int]):
    """A class of sets, whose iteration is code of a user's."""

    def __iter__(self) -> Any:
        raise AssertionError


class Failing:
    """A class whose attributes cannot be read."""

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        raise SystemExit


VALUES: dict[str, Any] = {
    "a text": LONG,
    "a text that is not ASCII": "ä€\U0001f600" * LARGE,
    "a text with quotes and control characters": '"\\\n\x00' * LARGE,
    "a text that UTF-8 cannot encode": "\ud800" + LONG,
    "a text in a dict": {"text": LONG},
    "a text deep inside": [1, {"a": {"b": [{"c": LONG}, None]}}],
    "many numbers": list(range(17_000)),
    "many texts": ["y" * 1000] * 1000,
    "many keys": {f"key {number}": 0.5 for number in range(17_000)},
    "many dicts": {"rows": [{"number": number, "text": "z" * 20} for number in range(8_000)]},
    "long lists in a long list": [["x" * (LARGE // 2)] * 3] * 9,
    "nothing but empty lists": [[[]] * 9_000] * 2,
    "tuples": [("a", number, math.inf) for number in range(5_000)],
    "a long tuple": tuple(range(17_000)),
    "a set of texts": {f"{number:09}" for number in range(17_000)},
    "numbers as keys": {number: date(2026, 1, 1) for number in range(17_000)},
    "bytes": b"\x00\xff!" * LARGE,
    "a dict with a tag's name": {"$tuple": LONG, "$parts": ["list", [0]]},
    "a dict with a tag's name alone": [{"$parts": ["text", [0]]}, {"$large": LONG}],
    "a dict with a long key": {"k" * 2 * LARGE: 1, "l": LONG},
    "objects": [Document("a", [LONG, Document("b", LONG)])],
    "a dict of another class": [OrderedDict((str(number), LONG[:1000]) for number in range(1000))],
    "a template": {"prompt": PromptTemplate(LONG)},
}
each_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)


@each_value
def test_a_large_value_comes_back(value: Any) -> None:
    encoded = encode_value(value, "task", NO_LIMIT)

    read = decode_value(encoded.text, encoded.parts.__getitem__)

    assert encoded.parts
    assert read == value
    assert type(read) is type(value)


@each_value
def test_no_part_is_long(value: Any) -> None:
    encoded = encode_value(value, "task", NO_LIMIT)

    # An escaped character may take six; a part ends after the item with which it is long.
    assert max(map(len, encoded.parts)) < 7 * LARGE
    assert len(encoded.text) < LARGE


@each_value
def test_the_digest_of_a_large_value_is_that_of_its_canonical_bytes(value: Any) -> None:
    whole = hashlib.sha256(canonical(value, "task"))

    assert with_digest_of(value, "task", hashlib.sha256()).digest() == whole.digest()


@pytest.mark.parametrize(
    ("value", "large"),
    [
        (1, False),
        (None, False),
        ("x" * LARGE, False),
        (LONG, True),
        (bytearray(2 * LARGE), True),
        ({"question": "why?", "options": ["a", "b"]}, False),
        ({"messages": [{"content": LONG}]}, True),
        (list(range(1000)), False),
        (list(range(100_000)), True),
        (([],) * 100_000, True),
        (Document("a", "x"), False),
        (Document("a", LONG), True),
        (OrderedDict(a=LONG), True),
        ({"prompt": PromptTemplate(LONG)}, True),
        (Failing(), False),
        ({"k" * 2 * LARGE: 1}, True),
        (dict.fromkeys(map(str, range(100_000))), True),
        (OrderedDict([("k" * 2 * LARGE, 1)]), True),
        (Slots(LONG), True),
        (Slots("x"), False),
        (MoreSlots(LONG), True),
        (Struct(LONG), True),
        (Struct("x"), False),
        (deque([LONG]), True),
        (deque(range(100_000)), True),
        (deque([1, 2]), False),
        (Text(LONG), True),
        ([Text(LONG)], True),
        (Text("x"), False),
        (Data(2 * LARGE), True),
        (Data(2), False),
        (set(range(100_000)), True),
        (frozenset(range(100_000)), True),
        (Numbers(range(100_000)), True),
        (Numbers(range(10)), False),
    ],
    ids=count(),
)
def test_large_is_what_takes_long_to_encode(value: Any, large: bool) -> None:
    assert is_large(value) == large


def test_a_value_that_is_not_large_has_the_ordinary_text() -> None:
    assert encode_value({"a": (1, 2)}, "task", NO_LIMIT) == (encode({"a": (1, 2)}, "task", NO_LIMIT), ())


def test_what_cannot_be_stored_in_a_large_value_has_its_path() -> None:
    with pytest.raises(NotStorable) as caught:
        encode_value({"text": LONG, "rows": [0, {"file": object()}]}, "task", NO_LIMIT)

    assert caught.value.path == "task['rows'][1]['file']"


def test_a_large_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = [LONG]
    value.append(value)

    with pytest.raises(NotStorable, match="contains itself or is nested too deeply"):
        encode_value(value, "task", NO_LIMIT)
    with pytest.raises(NotStorable, match="contains itself or is nested too deeply"):
        with_digest_of(value, "task", hashlib.sha256())


def test_a_large_value_that_is_nested_deeply_comes_back() -> None:
    value: Any = [LONG]
    for _ in range(400):
        value = [value]

    encoded = encode_value(value, "task", NO_LIMIT)

    assert decode_value(encoded.text, encoded.parts.__getitem__) == value


def test_a_large_value_that_cannot_be_made_again_is_refused_with_its_path() -> None:
    with pytest.raises(NotStorable) as caught:
        encode_value({"text": LONG, "kept": [{Member(1)}]}, "task", NO_LIMIT)

    assert caught.value.path == "task['kept'][0]"


def test_a_large_value_over_the_limit_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="task takes at least 524,288 bytes, the store's limit is 262,144"):
        encode_value([LONG, LONG], "task", LARGE)


@pytest.mark.parametrize(
    "read_part", [{}.__getitem__, lambda number: "[", lambda number: "1"], ids=["missing", "cut off", "another"]
)
def test_a_value_without_its_parts_is_unreadable(read_part: Callable[[int], str]) -> None:
    encoded = encode_value([1] * 100_000, "task", NO_LIMIT)

    with pytest.raises(msgspec.DecodeError):
        decode_value(encoded.text, read_part)


def test_parts_that_refer_to_one_part_twice_are_unreadable() -> None:
    """Thirty parts that each refer to the next one twice would stand for a thousand million values."""

    def read_part(number: int) -> str:
        reference = f'{{"$parts": ["list", [{number + 1}]]}}' if number < 30 else "1"
        return f"[{reference}, {reference}]"

    with pytest.raises(msgspec.DecodeError, match="referred to twice"):
        decode_value('{"$large":["", {"$parts": ["list", [0]]}]}', read_part)


def test_a_value_that_has_one_object_without_end_is_refused_before_it_is_written() -> None:
    value: Any = ["x"] * 9
    for _ in range(30):
        value = [value] * 9

    with pytest.raises(PayloadTooLarge, match="at least"):
        encode_value(value, "task", 10 * LARGE)


def test_a_value_at_the_limit_is_taken_though_references_take_room() -> None:
    text = "x" * 999_990
    assert decode_value(*_stored(text, 1_000_000)) == text


def _stored(value: Any, limit: int) -> tuple[str, Callable[[int], str]]:
    encoded = encode_value(value, "task", limit)
    return encoded.text, encoded.parts.__getitem__


def test_what_the_store_raises_for_a_part_is_raised() -> None:
    def fail(number: int) -> str:
        raise OSError("disk I/O error")

    text, _ = _stored(LONG, NO_LIMIT)
    with pytest.raises(OSError, match="disk I/O error"):
        decode_value(text, fail)


@pytest.mark.parametrize("number", ["zero", True, -1, 1 << 70, None, [0]])
def test_a_crafted_number_of_a_part_never_reaches_the_store(number: Any) -> None:
    asked: list[int] = []

    def read_part(part: int) -> str:
        asked.append(part)
        return "[]"

    text = msgspec.json.encode({"$large": ["", {"$parts": ["list", [number]]}]}).decode()
    with pytest.raises(msgspec.DecodeError, match="is not the number of a part"):
        decode_value(text, read_part)
    assert not asked


def test_parts_of_another_value_are_unreadable() -> None:
    text, _ = _stored(["x" * LARGE, LONG], NO_LIMIT)
    _, other = _stored(["y" * LARGE, LONG], NO_LIMIT)
    with pytest.raises(msgspec.DecodeError, match="not those that were stored with it"):
        decode_value(text, other)
