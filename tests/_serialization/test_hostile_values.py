"""Values whose classes do odd things, and texts of other programs: an error by name, never another one or a hang."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import pathlib
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from lightning_trio import NotStorable, Span, TraceStatus
from lightning_trio._serialization import (
    NO_LIMIT,
    UnknownObject,
    canonical,
    decode,
    decode_spans,
    encode,
    encode_spans,
)

HUGE = 7**20_000


class Point(namedtuple("Point", "x y")):  # a class of users that takes a text
    def __new__(cls, text: str) -> Point:
        return super().__new__(cls, *text.split(","))


class Grade(msgspec.Struct, frozen=True, kw_only=True):
    points: Any

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "points", int(self.points.removesuffix(" points")))


class Exits(msgspec.Struct):
    code: int

    def __post_init__(self) -> None:
        if self.code:
            raise SystemExit(self.code)


def exiting() -> Exits:
    made = Exits(0)
    made.code = 1
    return made


class Level(str, enum.Enum):  # noqa: UP042  # a StrEnum has other methods
    HARD = "hard"

    def __hash__(self) -> int:
        raise SystemExit


class Pair(tuple[int, int], enum.Enum):
    ONE = (1, 2)


class Text(str):
    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        raise SystemExit

    __str__ = __repr__ = encode  # type: ignore[assignment]


class Number(int):
    def __index__(self) -> int:
        raise SystemExit

    __int__ = __repr__ = __trunc__ = __index__  # type: ignore[assignment]


class Endless(list[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 1


class Table(dict[str, int]):
    def keys(self) -> Any:
        raise SystemExit

    __iter__ = items = values = keys


class Ordered(OrderedDict[str, int]):
    def items(self) -> Any:
        raise SystemExit

    __iter__ = keys = items


def text_of(value: Any) -> str:
    """What a value is, without its own methods."""
    if isinstance(value, msgspec.Struct):
        return str(msgspec.structs.asdict(value))
    kind = type(value).__mro__[1]
    return repr(list(kind.items(value))) if issubclass(kind, dict) else kind.__repr__(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Point("1,2"),
        lambda: Grade(points="5 points"),
        exiting,
        lambda: Number(5),
        lambda: Endless([1, 2]),
        lambda: Table(a=1),
        lambda: Ordered(b=1, a=2),
    ],
    ids=["named tuple", "struct", "struct that exits", "int", "list", "dict", "OrderedDict"],
)
def test_an_object_comes_back_without_its_constructor_and_its_methods(make: Callable[[], Any]) -> None:
    value = make()

    back = decode(encode([value], "task", NO_LIMIT))[0]

    assert type(back) is type(value)
    assert text_of(back) == text_of(value)


@pytest.mark.parametrize("value", [Level.HARD, Pair.ONE], ids=["str", "tuple"])
def test_an_enum_that_is_also_another_value_is_an_enum(value: enum.Enum) -> None:
    assert decode(encode([value], "task", NO_LIMIT))[0] is value


@pytest.mark.parametrize(
    "value",
    [HUGE, -HUGE, (HUGE,), {HUGE: 1}, Fraction(1, HUGE), Fraction(-HUGE, 2), range(HUGE), 2**64, -(2**2048)],
    ids=range(9),
)
def test_integers_of_any_size_come_back(value: Any) -> None:
    # Not `==` of the texts in a report of pytest, which Python refuses to write.
    assert bool(decode(encode(value, "task", NO_LIMIT)) == value)
    assert canonical(value, "task") == canonical(value, "task")


def test_a_fraction_of_an_earlier_version_comes_back() -> None:
    assert [decode('{"$fraction":"-3/4"}'), decode('{"$fraction":"5"}')] == [Fraction(-3, 4), Fraction(5)]


@pytest.mark.parametrize(
    "value",
    [
        ZoneInfo("Europe/Berlin"),
        datetime.UTC,
        datetime.timezone(datetime.timedelta(seconds=-4321), "X"),
        datetime.timezone(datetime.timedelta(hours=1)),
    ],
    ids=str,
)
def test_a_zone_comes_back(value: datetime.tzinfo) -> None:
    back = decode(encode({"zone": value}, "task", NO_LIMIT))["zone"]

    assert back == value
    assert back.tzname(None) == value.tzname(None)


class Shifted(datetime.tzinfo):
    """A zone of a user with a key that is also one of the machine's."""

    key = "Europe/Berlin"

    def utcoffset(self, _: Any) -> datetime.timedelta:
        return datetime.timedelta(hours=7)

    def dst(self, _: Any) -> None:
        return None


def test_a_time_of_a_users_zone_has_its_offset() -> None:
    value = datetime.datetime(2026, 1, 1, tzinfo=Shifted())

    assert decode(encode((value,), "task", NO_LIMIT))[0] == value


@dataclasses.dataclass
class Hidden:
    x: int

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            raise SystemExit("hidden")
        return object.__getattribute__(self, name)


class Lazy(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise RuntimeError("no item")

    def __iter__(self) -> Iterator[str]:
        return iter("a")

    def __len__(self) -> int:
        return 1


class Meta(type):
    @property
    def __module__(cls) -> Any:  # type: ignore[override]
        raise ValueError("no module")


class Odd(metaclass=Meta):
    pass


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit


class Loud:
    @property
    def __class__(self) -> Any:
        raise Unspeakable

    @__class__.setter
    def __class__(self, _: Any) -> None: ...


class Stays(datetime.tzinfo):
    def utcoffset(self, _: Any) -> datetime.timedelta:
        raise SystemExit("no offset")


class Once(tuple[int, ...]):
    """Can be hashed when a set is made of it, and never again."""

    __slots__ = ()
    hashes = 1

    def __hash__(self) -> int:
        Once.hashes -= 1
        if Once.hashes < 0:
            raise SystemExit("hashed again")
        return 1


def once() -> set[Once]:
    Once.hashes = 1
    return {Once((1,))}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hidden(1), "this Hidden cannot be stored, because reading it raised SystemExit: hidden"),
        (Lazy, "this Lazy cannot be stored, because reading it raised RuntimeError: no item"),
        (Odd, "this Odd cannot be stored, because reading it raised ValueError: no module"),
        (Loud, "this Loud .* raised Unspeakable: <str.. of it raised SystemExit>"),
        (lambda: datetime.datetime(2026, 1, 1, tzinfo=Stays()), "this datetime .* raised SystemExit: no offset"),
        (once, "this set could be stored and not read again .SystemExit: hashed again"),
        (lambda: (x for x in ()), "object of type builtins.generator cannot be stored"),
    ],
    ids=["dataclass", "mapping", "metaclass", "class", "zone", "hash", "generator"],
)
@pytest.mark.parametrize("write", [lambda *args: encode(*args, NO_LIMIT), canonical], ids=["encode", "canonical"])
def test_a_value_whose_class_raises_is_refused_with_its_path(
    write: Callable[..., Any], make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(NotStorable, match=rf"task\['a'\]\[1\]: {message}"):
        write({"a": [1, make()]}, "task")


@pytest.mark.parametrize("depth", [1_000, 100_000])
@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"a": x}, lambda x: (x,), Hidden], ids=range(4))
def test_what_is_nested_deeply_is_refused(depth: int, wrap: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)

    with pytest.raises(NotStorable, match="task"):
        encode(value, "task", NO_LIMIT)


class Bare(msgspec.Struct):
    x: int


@pytest.mark.parametrize("fields", ['{"x":1,"y":2}', "{}"])
def test_a_struct_that_has_other_fields_now_is_an_unknown_object(fields: str) -> None:
    name = f"{__name__}:Bare"

    assert decode(f'{{"$object":["{name}",{fields}]}}') == UnknownObject(name, decode(fields))


def test_a_class_that_is_an_enum_now_gives_an_unknown_object() -> None:
    name = f"{__name__}:Pair"

    assert decode(f'{{"$object":["{name}",{{"x":1}}]}}') == UnknownObject(name, {"x": 1})


CRAFTED = {
    "exponent": '{"$fraction":"1e999999999"}',
    "zero": '{"$fraction":"1/0"}',
    "negative": '{"$fraction":[1,-2]}',
    "digits": f'{{"$fraction":"1/{"9" * 5000}"}}',
    "decimal": '{"$decimal":"1e99999999999999999999999"}',
    "int": f'[{"9" * 5000},{{"a":1}}]',
    "hexadecimal": '{"$int":"0xzz"}',
    "timedelta": '{"$timedelta":[1e300,0,0]}',
    "date": '{"$date":"2026-13-40"}',
    "zone": '{"$zone":"../../etc/passwd"}',
    "deep": '{"$tuple":[' * 50_000,
    "deep and closed": '{"$tuple":[' * 5_000 + "1" + "]}" * 5_000,
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "array": '{"$ndarray":["V999999999999",[1],[1]]}',
    "shape": '{"$ndarray":["<i8",[1000000000,3],[1]]}',
    "deque": '{"$deque":[[1],-1]}',
    "keys": '{"$dict":[[[1],2]]}',
    "members": '{"$set":[[1]]}',
    "object": '{"$object":[]}',
    "module": '{"$object":[5,{}]}',
    "no JSON": "{oops",
    "no UTF-8": '{"$utf8":"////"}',
}
if sys.platform != "win32":
    CRAFTED["path"] = f'{{"$object":["{pathlib.WindowsPath.__module__}:WindowsPath",{{"path":"c:"}}]}}'


@pytest.mark.parametrize("what", CRAFTED)
def test_a_text_that_is_crafted_is_one_kind_of_error(what: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(CRAFTED[what])


def test_a_shape_without_items_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy")

    assert decode('{"$ndarray":["<i8",[1000000000000,0],[]]}') == []


def test_a_large_fraction_is_read_without_looking_for_a_common_factor() -> None:
    # For which Python takes hours; without a common factor it was written.
    number = hex(1 << 20_000_000)

    assert decode(f'{{"$fraction":[{{"$int":"{number}"}},{{"$int":"{number}"}}]}}').denominator == int(number, 16)


@pytest.mark.parametrize("value", [Decimal("1e999999"), np.float64(1), PurePosixPath("a"), Decimal("sNaN"), b"\xff"])
def test_what_looks_crafted_and_is_not_comes_back(value: Any) -> None:
    back = decode(encode(value, "task", NO_LIMIT))

    assert type(back) is type(value)
    assert str(back) == str(value)


made: list[int] = []
derived: list[type] = []


class Announced(msgspec.Struct):
    x: int

    def __init_subclass__(cls, **options: Any) -> None:
        derived.append(cls)
        super().__init_subclass__(**options)

    def __post_init__(self) -> None:
        made.append(self.x)


def test_a_struct_is_read_without_its_constructor_and_with_one_class_derived_from_its_own() -> None:
    value = [Announced(1)]
    text = encode(value, "task", NO_LIMIT)

    back = [decode(text) for _ in range(3)]

    assert back == [value] * 3
    assert made == [1]
    assert len(derived) <= 1


@pytest.mark.parametrize("value", [HUGE, -HUGE, 2**63, 7**2000], ids=["huge", "negative", "64 bits", "long"])
def test_integers_of_any_size_in_the_attributes_of_a_span_are_stored_and_read(value: int) -> None:
    span = Span("ro-0", "at-0", 1, "1" * 32, "2" * 16, None, "x", TraceStatus("OK"), {"tokens": value}, 1.0, 2.0)

    stored = encode_spans([span], 10**6)

    assert decode_spans(stored, "ro-0", "at-0")[0].attributes == {"tokens": value}
