"""Rows: tasks of datasets; what `act` returns is the task. One that a store cannot keep is refused by it."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import re
import threading
import uuid
import zoneinfo
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn

import attrs
import msgspec
import numpy as np
import pydantic
from hostile_rows import SUCCEEDS, fails, row

# A task's meaning does not depend on the lane; the lanes where it moves differently are these.
LANES = ("trio", "process")
kept = partial(row, "tasks", "succeeds", lanes=LANES)
# The store in memory writes nothing and keeps any object.
refused = partial(row, "tasks", "refused", error="NotStorable", lanes=LANES, but={"memory": SUCCEEDS})


# Classes with constructors of their own.


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()

    def __new__(cls, text: str) -> Point:
        return super().__new__(cls, *text.split(","))


class Typed(NamedTuple):
    x: int
    y: Any


@dataclasses.dataclass(frozen=True)
class Checked:
    text: str
    length: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if not self.text.startswith("raw:"):
            raise ValueError("not raw")
        object.__setattr__(self, "text", self.text.removeprefix("raw:"))
        object.__setattr__(self, "length", len(self.text))


@dataclasses.dataclass
class WithInitVar:
    path: dataclasses.InitVar[str]
    name: str = ""

    def __post_init__(self, path: str) -> None:
        self.name = path.rsplit("/", 1)[-1]


@attrs.define
class Converted:
    words: list[str] = attrs.field(converter=lambda text: text.split())


class Struct(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        if self.number > 0:
            self.number = -self.number
        else:
            raise ValueError("must be positive")


class Model(pydantic.BaseModel):
    text: str

    @pydantic.field_validator("text")
    @classmethod
    def check(cls, value: str) -> str:
        if value.startswith("seen:"):
            raise ValueError("validated twice")
        return f"seen:{value}"


class OnlyOnce(pydantic.BaseModel):
    text: str

    def model_post_init(self, context: Any) -> None:
        raise_if_seen(self)


SEEN: list[object] = []


def raise_if_seen(value: object) -> None:
    if len(SEEN) > 0:
        SEEN.clear()
        raise SystemExit(1)
    SEEN.append(value)


@kept(but={"process": fails("UnsupportedLane")})
def named_tuple_with_a_constructor_of_its_own() -> Any:
    return Point("1,2")


@kept()
def named_tuple_within_a_list() -> Any:
    return [Typed(1, [Typed(2, None)])]


@kept()
def dataclass_that_checks_its_arguments() -> Any:
    return Checked("raw:abc")


@kept()
def dataclass_with_an_init_variable() -> Any:
    return WithInitVar("a/b")


@kept()
def attrs_class_with_a_converter() -> Any:
    return Converted("a b c")


@kept(but={"process": fails("UnsupportedLane")})
def struct_that_changes_its_arguments() -> Any:
    return Struct(5)


@kept()
def model_that_validates_once_only() -> Any:
    return Model(text="x")


@kept()
def model_that_exits_when_it_is_made_again() -> Any:
    SEEN.clear()
    return OnlyOnce(text="x")


@dataclasses.dataclass
class WithSlots:
    __slots__ = ("a", "b")
    a: int
    b: int


@refused()
def dataclass_without_one_of_its_fields() -> Any:
    value = WithSlots(1, 2)
    del value.b
    return value


@refused()
def instance_of_a_local_class() -> Any:
    @dataclasses.dataclass
    class Local:
        x: int = 1

    return Local()


@kept()
def instance_of_a_class_that_was_replaced() -> Any:
    """Make what a reloaded module or a redefined notebook cell leaves behind."""
    old = dataclasses.make_dataclass("Typed", ["x"], namespace={"__module__": __name__})
    return old(1)


# Enums.


class Colour(enum.Enum):
    RED = {"r": 255}  # noqa: RUF012
    ODD = object()


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    FIRST = "first"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Coin:
    cents: int


class Coins(Coin, enum.Enum):
    PENNY = 1


@kept()
def enums_of_every_kind() -> Any:
    return [Level.LOW, Name.FIRST, Colour.RED, Access.READ]


@kept()
def flags_that_are_combined() -> Any:
    return Access.READ | Access.WRITE


@kept(but={"process": fails("UnsupportedLane")})
def enum_of_objects() -> Any:
    return [Colour.ODD, Coins.PENNY]


# Times.


@kept()
def time_in_a_zone_that_is_repeated() -> Any:
    zone = zoneinfo.ZoneInfo("Europe/Oslo")
    return datetime.datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=1)


@kept()
def times_at_the_ends_of_the_calendar() -> Any:
    return [datetime.datetime.max, datetime.datetime.min, datetime.date.min, datetime.timedelta.max]


@kept()
def times_with_odd_offsets() -> Any:
    offset = datetime.timezone(datetime.timedelta(hours=5, minutes=53, seconds=28, microseconds=7), "LMT")
    return [datetime.datetime(1890, 1, 1, tzinfo=offset), datetime.time(1, fold=1), datetime.time(1, tzinfo=offset)]


class OddZone(datetime.tzinfo):
    def utcoffset(self, when: datetime.datetime | None) -> NoReturn:
        raise SystemExit(2)


@refused()
def time_in_a_zone_of_its_own() -> Any:
    return datetime.datetime(2026, 1, 1, tzinfo=OddZone())


# Numbers.


@kept()
def integers_of_any_size() -> Any:
    return [2**63, -(2**63) - 1, 2**200, -(2**64)]


@kept()
def task_of_ten_thousand_digits() -> Any:
    return 10**10_000


@kept()
def floats_that_json_does_not_have() -> Any:
    return [float("nan"), float("inf"), -0.0, 5e-324]


@kept()
def decimals_and_fractions() -> Any:
    return [decimal.Decimal("sNaN"), decimal.Decimal("1e999999"), fractions.Fraction(1, 10**5000)]


@kept()
def complex_numbers() -> Any:
    return [1j, complex("nan")]


@kept()
def numpy_of_every_kind() -> Any:
    return [np.float64("nan"), np.int8(3), np.datetime64("NaT"), np.zeros((0, 3)), np.array(["a", "bc"])]


@refused()
def task_of_a_numpy_array_of_objects() -> Any:
    return np.array([None, object()], dtype=object)


@kept()
def numpy_record_array() -> Any:
    return np.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f8")])


# Texts and bytes.


@kept()
def lone_surrogates() -> Any:
    return {"text": "\ud83d", "list": ["\udfff"]}


@kept()
def zero_bytes() -> Any:
    return {"text": "a\x00b", "key": ["\x00"]}


@kept()
def keys_with_zero_bytes_and_surrogates() -> Any:
    return {"\x00": 1, "\ud800": 2}


@kept()
def bytes_of_every_kind() -> Any:
    return [b"\xff\x00", b""]


@refused()
def arrays_of_bytes() -> Any:
    return [bytearray(b"x"), memoryview(b"y"), array.array("d", [1.0])]


class OddStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise SystemExit(3)

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        raise SystemExit(4)


class OddInt(int):
    def __index__(self) -> int:
        raise SystemExit(5)

    def __repr__(self) -> str:
        raise SystemExit(6)


@kept()
def text_and_number_of_odd_classes() -> Any:
    return [OddStr("x"), OddInt(5)]


# Containers.


def nest(depth: int) -> Any:
    value: Any = "core"
    for _ in range(depth):
        value = [value]
    return value


@refused()
def list_five_hundred_deep() -> Any:
    return nest(500)


@refused()
def list_fifty_thousand_deep() -> Any:
    return nest(50_000)


@refused()
def dict_that_contains_itself() -> Any:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


@kept()
def keys_that_are_no_texts() -> Any:
    return {1: "a", (2, 3): "b", None: "c", 1.5: "d", False: "e", b"f": "g"}


@kept()
def keys_that_become_one() -> Any:
    return {1: "a", "1": "b"}


@kept()
def keys_of_the_store_itself() -> Any:
    """Make dicts with keys like those by which stores mark what JSON does not have."""
    return [{"$tuple": [1]}, {"$fraction": "1/0"}, {"$bytes": "?"}, {"$": {"$": 1}}, {"$set": 5, "a": 1}]


@kept()
def sets_of_sets() -> Any:
    return {frozenset({1, frozenset()}), "a", None, 1.5}


class NeedsArguments(dict[str, Any]):
    def __init__(self, path: str, /) -> None:
        super().__init__(path=path)


@kept()
def dict_class_that_needs_arguments() -> Any:
    return NeedsArguments("a")


@kept()
def collections_of_every_kind() -> Any:
    factory = collections.defaultdict(list, {"a": [1]})
    return [factory, collections.Counter("aab"), collections.deque([1], maxlen=1), collections.OrderedDict(a=1)]


@kept()
def factory_that_cannot_be_stored() -> Any:
    return collections.defaultdict(lambda: 5, {"a": 1})


class Growing(dict[str, Any]):
    """A dict that finds its values when they are asked for, and can change while it is read."""

    def items(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("dictionary changed size during iteration")


@kept(but={"process": fails("UnsupportedLane")})
def dict_that_changes_while_it_is_read() -> Any:
    return Growing(a=1)


@refused()
def ranges_slices_and_ellipsis() -> Any:
    return [range(5), slice(1, 2), ..., NotImplemented]


@refused()
def values_of_the_standard_library() -> Any:
    return [
        ipaddress.ip_network("10.0.0.0/8"),
        re.compile("a(b)"),
        uuid.UUID(int=5),
        pathlib.PurePosixPath("/a"),
        pathlib.PureWindowsPath("C:/a"),
    ]


@kept()
def task_of_three_megabytes() -> Any:
    return {"page": "x" * 3_000_000, "rows": list(range(10_000))}


@refused(error="PayloadTooLarge")
def task_larger_than_a_payload_may_be() -> Any:
    return {"page": "x" * 70_000_000}


# Things that are no data.


class Unshowable:
    def __repr__(self) -> str:
        raise SystemExit(7)

    def __eq__(self, other: object) -> bool:
        raise SystemExit(8)

    def __hash__(self) -> int:
        raise SystemExit(9)

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise SystemExit(10)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise SystemExit(11)


@refused()
def object_that_cannot_be_shown_copied_or_compared() -> Any:
    return Unshowable()


@refused()
def list_of_objects_that_cannot_be_copied() -> Any:
    return [Unshowable(), {"a": Unshowable()}]


class BadClass:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise SystemExit(12)


@refused()
def object_whose_class_exits() -> Any:
    return BadClass()


@refused()
def lock_lambda_and_generator() -> Any:
    return [threading.Lock(), lambda: 1, (n for n in ())]


@refused()
def class_and_function() -> Any:
    return [Point, nest, ValueError]


@refused()
def exception_as_a_task() -> Any:
    return ValueError("x")


@refused()
def coroutine_function_as_a_task() -> Any:
    async def work() -> None: ...

    return work
