"""Values in a store: those that come back unchanged, and those that are rejected with their path."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import io
import json
import math
import os
import subprocess
import sys
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import attrs
import msgspec
import numpy as np
import pandas as pd
import pydantic
import pydantic.v1
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from openai.types.chat import ChatCompletionMessage

from lightning_trio import (
    LLM,
    NotStorable,
    PayloadTooLarge,
    PromptTemplate,
    Resource,
    RolloutConfig,
    Span,
    UnknownResource,
)
from lightning_trio._serialization import (
    UnknownObject,
    canonical,
    decode,
    decode_config,
    decode_parts,
    decode_spans,
    encode,
    encode_config,
    encode_parts,
    encode_spans,
)
from lightning_trio._spans import LARGE, Event, Link, OtelResource, SpanContext, TraceStatus, size_of

LIMIT = 1 << 20


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Room:
    name: str
    seats: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Booking:
    room: Room
    at: datetime.datetime
    cost: float = dataclasses.field(default=0.0, init=False)


class Point(NamedTuple):
    x: float
    y: float


class Message(msgspec.Struct):
    role: str
    parts: list[bytes]


@attrs.frozen
class Judge(Resource, resource_type="values_test_judge"):
    llm: LLM
    rubric: tuple[str, ...] = ()


ItemT = TypeVar("ItemT")
OtherT = TypeVar("OtherT")


class Box(pydantic.BaseModel, Generic[ItemT]):
    item: ItemT


class Two(pydantic.BaseModel, Generic[ItemT, OtherT]):
    first: ItemT
    second: OtherT


def round_trip(value: Any) -> Any:
    text = encode(value, "task", LIMIT)
    # The text is JSON for every value.
    json.loads(text)
    return decode(text)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal and of the same types at every level; NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, dict):
        return list(map(repr, left)) == list(map(repr, right)) and all(
            same(*pair) for pair in zip(left.values(), right.values(), strict=True)
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(*pair) for pair in zip(left, right, strict=True))
    return bool(left == right)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.sampled_from(["$tuple", "$", "$dict", "\x00"])
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.dates()
    | st.uuids()
    | st.decimals(allow_nan=False)
)
KEYS = st.text() | st.sampled_from(["$tuple", "$object", "$"]) | st.integers() | st.tuples(st.integers())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_goes_in_comes_back(value: Any) -> None:
    back = round_trip(value)

    assert same(back, value), (back, value)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset({"a"}),
        complex(1, -2),
        datetime.time(1, 2, 3, 4),
        datetime.timedelta(days=-1, microseconds=5),
        Fraction(1, 3),
        Decimal("1.10"),
        uuid.UUID(int=5),
        Colour.RED,
        Room("A", (1, 2)),
        Point(1.0, math.inf),
        Message("user", [b"\x00"]),
        Path("a/b"),
        {"rooms": [Room("A", ()), {"$tuple": [1]}]},
        2**200,
    ],
    ids=repr,
)
def test_other_kinds_come_back_as_well(value: Any) -> None:
    back = round_trip(value)

    assert back == value
    assert type(back) is type(value)


def test_fields_that_init_does_not_take_come_back() -> None:
    booking = Booking(Room("A", (1,)), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))
    object.__setattr__(booking, "cost", 2.5)

    assert round_trip(booking) == booking


def test_a_mapping_that_is_no_dict_comes_back_as_one() -> None:
    back = round_trip(MappingProxyType({"a": 1}))

    assert back == {"a": 1}
    assert type(back) is dict


# Classes derived from built-in ones.


class Level(enum.StrEnum):
    EASY = "easy"


class Rank(enum.IntEnum):
    FIRST = 1


class Question(str):
    """Without slots: an instance has attributes of its own."""


class Row(dict[str, Any]):
    pass


class Pair(tuple[int, ...]):
    __slots__ = ()


class Bag(set[int]):
    pass


class Named(dict[str, Any]):
    def __init__(self, name: str) -> None:
        self.name = name


class Parsed(NamedTuple("Parsed", [("x", str), ("y", str)])):
    def __new__(cls, text: str) -> Parsed:
        return super().__new__(cls, *text.split(","))


def named() -> Named:
    made = Named("tea")
    made["a"] = 1
    return made


@pytest.mark.parametrize(
    "value",
    [
        Level.EASY,
        Rank.FIRST,
        {"level": Level.EASY},
        {Level.EASY: 1},
        Question("why?"),
        Row(a=(1,)),
        Pair((1, 2)),
        Bag({1}),
        named(),
        Parsed("1,2"),
        OrderedDict(b=1, a=2),
        Counter("aab"),
        defaultdict(list, {"a": [1]}),
        deque([1, (2,)], maxlen=5),
        range(1, 9, 2),
        bytearray(b"raw"),
        "half \ud835",
        "\ud835\udc00",
        {"\ud835": "\udc00"},
        datetime.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    ],
    ids=ascii,
)
def test_an_object_of_a_class_that_equals_plain_values_comes_back_as_one(value: Any) -> None:
    back = round_trip([value])[0]

    assert back == value
    assert type(back) is type(value)
    assert getattr(back, "__dict__", None) == getattr(value, "__dict__", None)
    assert canonical(back, "task") == canonical(value, "task")


def test_what_is_more_than_its_value_comes_back_with_it() -> None:
    assert round_trip(deque([1, 2], maxlen=2)).maxlen == 2
    assert round_trip(defaultdict(list))["new"] == []
    moment = round_trip(datetime.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1))
    assert (str(moment.tzinfo), moment.fold) == ("Europe/Berlin", 1)


@pytest.mark.parametrize(
    "value",
    [
        datetime.time(9, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime.time(2, 30, fold=1),
        datetime.time(2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        datetime.time(9, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
        datetime.datetime(2026, 10, 25, 2, 30, fold=1),
        datetime.datetime(2026, 10, 25, 2, 30, tzinfo=datetime.UTC, fold=1),
    ],
    ids=repr,
)
def test_a_time_comes_back_with_its_zone_and_its_fold(value: datetime.time | datetime.datetime) -> None:
    back = round_trip(value)

    assert back == value
    assert (back.tzinfo, back.fold) == (value.tzinfo, value.fold)


def test_a_time_of_a_zone_without_a_name_is_an_error() -> None:
    class Abroad(datetime.tzinfo):
        def utcoffset(self, dt: datetime.datetime | None) -> datetime.timedelta | None:
            return None if dt is None else datetime.timedelta(hours=1)

    with pytest.raises(NotStorable, match=r"task\.tzinfo: object of type .*Abroad cannot be stored"):
        encode(datetime.time(9, tzinfo=Abroad()), "task", LIMIT)


def test_times_of_older_files_can_be_read() -> None:
    assert decode('{"$time":"09:00:00"}') == datetime.time(9)
    assert decode('{"$datetime":"2026-10-25T02:30:00"}') == datetime.datetime(2026, 10, 25, 2, 30)
    moment = decode('{"$datetime":["2026-10-25T02:30:00+01:00","Europe/Berlin",1]}')
    assert (moment.tzinfo, moment.fold) == (ZoneInfo("Europe/Berlin"), 1)


def test_a_zone_that_this_machine_does_not_know_is_an_offset() -> None:
    moment = datetime.datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    text = encode(moment, "task", LIMIT).replace("Europe/Berlin", "Europe/Atlantis")

    assert decode(text) == moment


@pytest.mark.parametrize(
    "value",
    [defaultdict(lambda: 1, a=1), type("Local", (dict,), {})(a=1), type("Cycle", (dict,), {})(a=1)],
    ids=["factory", "local", "cycle"],
)
def test_a_dict_that_cannot_be_made_again_comes_back_plain(value: Any) -> None:
    if type(value).__name__ == "Cycle":
        value.itself = value

    back = round_trip(value)

    assert back == {"a": 1}
    assert type(back) is dict


def test_a_file_cannot_choose_what_a_defaultdict_calls() -> None:
    text = encode(defaultdict(list), "task", LIMIT).replace('"list"', '"Popen"')

    assert decode(text).default_factory is None


def test_a_class_that_is_no_longer_derived_from_it_gives_the_plain_value() -> None:
    text = encode(Row(a=1), "task", LIMIT)

    assert decode(text.replace(":Row", ":Question")) == decode(text.replace(":Row", ":Gone")) == {"a": 1}


def test_a_named_tuple_that_has_other_fields_now_is_an_unknown_object() -> None:
    text = encode(Point(1.0, 2.0), "task", LIMIT).replace('"y"', '"z"')

    assert decode(text) == UnknownObject("test_store_values:Point", {"x": 1.0, "z": 2.0})


# NumPy and pandas.

ARRAYS = [
    np.bool_(True),
    np.int64(3),
    np.uint64(2**64 - 1),
    np.float16(0.1),
    np.float32(0.1),
    np.float64(0.1),
    np.longdouble("0.1"),
    np.complex64(1 + 2j),
    np.str_("Ü\ud835"),
    np.bytes_(b"raw"),
    np.datetime64("2026-01-02T03:04:05.123456789"),
    np.datetime64("2026-01"),
    np.timedelta64(5, "ns"),
    np.arange(6).reshape(2, 3),
    np.array(3.5),
    np.zeros((0, 3), "float32"),
    np.array([1.0, math.nan, -math.inf]),
    np.array([[1, 2], [3, 4]], order="F"),
    np.array(["a", "bb"]),
    np.array([b"a"]),
    np.array([True]),
    np.array([1j]),
    np.array(["2026-01-02", "NaT"], "M8[D]"),
    np.array([1, 2], "m8[ms]"),
    np.array(["0.1"], np.longdouble),
    np.array([{"role": "user", "content": "hi"}, (1, np.int8(2))], dtype=object),
    np.array([(1, [2.0, 3.0])], dtype=[("a", "i4"), ("b", "f8", (2,))]),
    np.array([(1, (2.0,))], dtype=[("a", "i4"), ("b", [("c", "f8")])]),
    np.rec.array([(1, "x")], dtype=[("a", "i4"), ("b", "O")])[0],
]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: f"{type(value).__name__} {value!a}")
def test_numpys_values_come_back_as_they_were(value: Any) -> None:
    back = round_trip({"rows": [value]})["rows"][0]

    assert type(back) is type(value)
    assert (back.dtype, back.shape) == (value.dtype, value.shape)
    assert repr(back) == repr(value)
    assert canonical(back, "task") == canonical(value, "task")


@pytest.mark.parametrize(
    "value",
    [
        pd.Timestamp("2026-01-02 03:04:05.123456789"),
        pd.Timestamp("2026-07-02", tz="Europe/Berlin"),
        pd.Timedelta(-5, "ns"),
        pd.NaT,
        pd.NA,
    ],
    ids=repr,
)
def test_pandas_values_come_back_as_they_were(value: Any) -> None:
    back = round_trip([value])[0]

    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_a_process_without_the_libraries_gets_lists_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [np.int64(3), np.array([[1, 2]]), np.array(0.5), np.zeros((0, 3)), np.array([{"a": np.float32(0.5)}])]
    text = encode([*values, pd.NaT, pd.Timestamp("2026-01-02"), pd.Timedelta(1, "s")], "task", LIMIT)
    monkeypatch.delitem(sys.modules, "numpy")
    monkeypatch.delitem(sys.modules, "pandas")

    moment = datetime.datetime(2026, 1, 2)
    assert decode(text) == [3, [[1, 2]], 0.5, [], [{"a": 0.5}], None, moment, "P0DT0H0M1S"]


# Messages of clients.


@pytest.mark.parametrize(
    "message",
    [
        ChatCompletionMessage(role="assistant", content="hi"),
        ChatCompletionMessage.model_validate({"role": "assistant", "content": None, "reasoning": "extra"}),
        HumanMessage("hi", name="Ada"),
        AIMessage("hi", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "7"}]),
        ToolMessage("yes", tool_call_id="7"),
    ],
    ids=repr,
)
def test_a_clients_message_comes_back(message: Any) -> None:
    back = round_trip([message])[0]

    assert back == message
    assert type(back) is type(message)


class OldModel(pydantic.v1.BaseModel):
    x: int = 0
    tags: tuple[str, ...] = ()


def test_a_model_of_pydantics_first_version_comes_back() -> None:
    assert round_trip(OldModel(x=1)) == OldModel(x=1)


# Classes that another process could not find, and objects that could not be made again.


class Counted(msgspec.Struct, frozen=True):
    x: int | msgspec.UnsetType = msgspec.UNSET
    y: int = 0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "y", self.y + 1)


@pytest.mark.parametrize("value", [Counted(), Counted(1, 2)], ids=repr)
def test_a_struct_comes_back_with_the_values_that_it_had(value: Counted) -> None:
    assert round_trip([value]) == [value]


class Fickle(NamedTuple):
    x: int

    def __hash__(self) -> int:
        if calls.pop():
            raise ValueError("made again")
        return 1


calls: list[bool] = []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            next(pd.DataFrame({"q": ["a"]}).itertuples()),
            r"task\[0\]: the module pandas.core.frame has no class Pandas, .*_asdict\(\)",
        ),
        (namedtuple("Elsewhere", "x")(1), r"task\[0\]: the module test_store_values has no class Elsewhere"),
        (enum.Enum("Colours", "RED").RED, r"task\[0\]: the module test_store_values has no class Colours"),
        (np.ma.array([1]), r"task\[0\]: object of type numpy.ma.MaskedArray cannot be stored"),
        (pd.DataFrame({"q": ["a"]}), r"task\[0\]: object of type pandas.*DataFrame cannot be stored"),
        (
            pd.DataFrame({"q": ["a"]}).iloc[0],
            r"object of type pandas.*Series cannot be stored; .* Put its to_dict\(\), ",
        ),
    ],
    ids=["named row of a frame", "named tuple", "enum", "masked array", "frame", "row of a frame"],
)
def test_an_object_of_a_class_that_is_not_to_be_found_is_refused(value: Any, message: str) -> None:
    with pytest.raises(NotStorable, match=message):
        encode([value], "task", LIMIT)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Box[int](item=1),
        lambda: Box[Box[str]](item=Box[str](item="a")),
        lambda: Two[Two[int, str], bool](first=Two[int, str](first=1, second="a"), second=True),
    ],
    ids=["one", "nested", "two"],
)
def test_a_generic_model_with_classes_given_in_a_function_comes_back(make: Callable[[], Any]) -> None:
    value = make()

    back = round_trip(value)

    assert back == value
    assert type(back) is type(value)


def test_a_generic_model_of_another_process_is_made_there() -> None:
    back = decode('{"$object":["test_store_values:Box[builtins:float]",{"item":0.5}]}')

    assert type(back) is Box[float]
    assert back.item == 0.5


@pytest.mark.parametrize(
    "name",
    [
        "Box[nowhere:Thing]",
        "Gone[builtins:int]",
        "Box[builtins:int,builtins:int]",
        "Room[builtins:int]",
        "Box[int]",
        "Box[]",
        "Box[float]]",
    ],
)
def test_a_generic_model_that_this_process_does_not_know_is_an_unknown_object(name: str) -> None:
    name = f"test_store_values:{name}"

    assert decode(json.dumps({"$object": [name, {"item": 1}]})) == UnknownObject(name, {"item": 1})


def test_a_generic_model_of_what_is_no_class_is_refused() -> None:
    with pytest.raises(NotStorable, match=r"the module test_store_values has no class Box\[list\[int\]\]"):
        encode(Box[list[int]](item=[1]), "task", LIMIT)


def test_an_object_that_cannot_be_made_again_is_refused_with_its_path() -> None:
    calls[:] = [True, True, True, False]
    value = {"a": [1, {Fickle(1)}]}

    with pytest.raises(NotStorable, match=r"task\['a'\]\[1\]: this set could .* \(ValueError: made again\)") as caught:
        encode(value, "task", LIMIT)

    assert caught.value.path == "task['a'][1]"


def test_a_class_that_is_not_loaded_reads_as_an_unknown_object() -> None:
    text = encode(Room("A", (1,)), "task", LIMIT).replace("test_store_values:Room", "no_such_module:Room")

    assert decode(text) == UnknownObject("no_such_module:Room", {"name": "A", "seats": (1,)})


def test_strings_and_numbers_of_an_enum_that_is_not_loaded_are_read_as_these() -> None:
    text = encode([Level.EASY, Rank.FIRST, Colour.RED], "task", LIMIT).replace("test_store_values:", "no_such_module:")

    assert decode(text) == ["easy", 1, UnknownObject("no_such_module:Colour", {"name": "RED"})]


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "builtins:eval", "test_store_values:round_trip"])
def test_a_file_cannot_name_what_is_no_record(name: str) -> None:
    text = encode(Room("A", ()), "task", LIMIT).replace("test_store_values:Room", name)

    assert isinstance(decode(text), UnknownObject)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"image": [0, 1, 2, io.BytesIO()]}, r"task\['image'\]\[3\]: object of type _io.BytesIO cannot be stored; .*"),
        ([{"f": len}], r"task\[0\]\['f'\]: object of type builtins.builtin_function_or_method cannot"),
        ({"a": (1, {"b": object()})}, r"task\['a'\]\[1\]\['b'\]: object of type builtins.object"),
        (Room("A", (object(),)), r"task.seats\[0\]: object of type builtins.object"),  # type: ignore[arg-type]
        ({object(): 1}, r"task key <object .*: object of type builtins.object"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_path(value: Any, message: str) -> None:
    with pytest.raises(NotStorable, match=message):
        encode(value, "task", LIMIT)


def test_what_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(NotStorable, match="contains itself or is nested too deeply"):
        encode(value, "task", LIMIT)


def test_a_class_inside_a_function_is_refused() -> None:
    @attrs.frozen
    class Local:
        value: int

    with pytest.raises(NotStorable, match=r"task\[0\]: the class .*Local is defined inside a function"):
        encode([Local(1)], "task", LIMIT)


def test_a_value_over_the_limit_is_refused_with_both_sizes() -> None:
    with pytest.raises(
        PayloadTooLarge, match=r"task takes 1,002 bytes, the store's limit is 1,001; .*max_payload_bytes"
    ):
        encode("x" * 1000, "task", 1001)


def test_an_object_whose_comparison_raises_is_refused_not_passed_on() -> None:
    class Rude:
        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(NotStorable, match=r"task\['a'\]"):
        encode({"a": Rude()}, "task", LIMIT)


# Resources.


def test_a_key_given_as_a_value_is_known_to_this_process_and_not_in_the_text() -> None:
    resources = {
        "judge": Judge(LLM("http://h/v1", "m", api_key="sk-secret-1"), ("short",)),
        "llm": LLM("e", "m", "sk-2"),
    }
    text = encode(resources, "resources", LIMIT)
    back = decode(text)

    assert "sk-" not in text
    assert back == resources
    assert back["judge"].llm.api_key == "sk-secret-1"


def test_a_key_of_another_process_is_none_with_a_warning_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_trio._resources import _api_keys

    text = encode(LLM("http://h/v1", "m", api_key="sk-other"), "llm", LIMIT)
    monkeypatch.setattr(_api_keys, "_keys", {})
    llm = decode(text)

    with pytest.warns(UserWarning, match=r"given its api_key as a value in another process.*api_key_env="):
        assert llm.api_key is None
    # Stored again, it still refers to the same key.
    assert encode(llm, "llm", LIMIT) == text


def test_a_key_by_its_variable_is_read_where_the_agent_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-env")
    text = encode(LLM("http://h/v1", "m", api_key_env="MY_KEY"), "llm", LIMIT)

    assert "sk-env" not in text
    assert decode(text).api_key == "sk-env"


def test_a_resource_of_an_undefined_type_is_kept_as_it_is() -> None:
    text = encode(PromptTemplate("{a}", engine="f-string"), "r", LIMIT).replace("prompt_template", "of_tomorrow")
    unknown = decode(text)

    assert unknown == UnknownResource("of_tomorrow", {"template": "{a}", "engine": "f-string"})
    assert encode(unknown, "r", LIMIT) == text


@attrs.frozen
class Converted(Resource, resource_type="test-converted"):
    """A resource whose `__init__` parameters differ from its fields."""

    xs: tuple[int, ...] = attrs.field(converter=lambda xs: tuple(x + 1 for x in xs))
    total: int = attrs.field(init=False, default=attrs.Factory(lambda self: sum(self.xs), takes_self=True))
    note: str = attrs.field(init=False, default="none")


class WithMethods(PromptTemplate, resource_type="test-with-methods"):
    """A resource that adds nothing to its base class."""

    @functools.cached_property
    def words(self) -> int:
        return len(self.template.split())


class Plain(Resource, resource_type="test-plain"):
    """A resource that is not an attrs class."""

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "text", text)


def test_a_resource_comes_back_without_its_init() -> None:
    resource = Converted((1, 2))
    object.__setattr__(resource, "note", "changed")

    assert round_trip(resource) == resource
    assert resource.xs == (2, 3)


def test_a_field_that_its_class_got_later_is_as_it_is_by_default() -> None:
    text = encode(Converted((1, 2)), "r", LIMIT).replace(',"total":5,"note":"none"', "")
    assert "total" not in text

    assert decode(text) == Converted((1, 2))


def test_a_field_without_default_that_its_class_got_later_makes_it_unknown() -> None:
    assert decode('{"$resource":["test-converted",{"note":"a"}]}') == UnknownResource("test-converted", {"note": "a"})


def test_a_resource_that_adds_methods_is_kept() -> None:
    resource = WithMethods("a b", engine="f-string")
    assert resource.words == 2

    assert round_trip(resource) == resource


def test_a_resource_that_is_no_attrs_class_is_refused_with_what_to_write() -> None:
    message = r"r: the resource Plain holds text, .*\n    @attrs.frozen\n    class Plain\(Resource\):\n        text: …"
    with pytest.raises(NotStorable, match=message):
        encode(Plain("x"), "r", LIMIT)


# Pydantic models and flags.


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    x: int = 0
    name: str = pydantic.Field(default="n", alias="theName")
    _cache: dict[str, Any] = pydantic.PrivateAttr(default_factory=dict[str, Any])


class Closed(pydantic.BaseModel):
    x: int
    tags: tuple[str, ...] = ("a",)


class Access(enum.Flag):
    READ = 1
    WRITE = 2


def test_a_model_comes_back_with_what_it_has_besides_its_fields() -> None:
    model = Open(x=1, theName="m", question="what?", tags={"a"})  # type: ignore[call-arg]  # extra ones
    model._cache["seen"] = (1, 2)
    back = round_trip({"model": model})["model"]

    assert back == model
    assert (back.question, back.tags, back._cache) == ("what?", {"a"}, {"seen": (1, 2)})
    assert back.model_dump(exclude_unset=True) == model.model_dump(exclude_unset=True)
    back.more = 1
    assert back.model_extra == {"question": "what?", "tags": {"a"}, "more": 1}


@pytest.mark.parametrize("model", [Closed(x=1), Closed(x=1, tags=("b",)), Open()])
def test_a_model_knows_what_it_was_given(model: pydantic.BaseModel) -> None:
    back = round_trip(model)

    assert back == model
    assert back.model_fields_set == model.model_fields_set


def test_a_field_that_a_model_got_later_is_as_it_is_by_default() -> None:
    text = encode(Closed(x=1, tags=("a",)), "m", LIMIT).replace(',"tags":{"$tuple":["a"]}', "")

    assert decode(text).tags == ("a",)


def test_extra_fields_of_an_unknown_model_are_there() -> None:
    text = encode(Open(x=1, question="what?"), "m", LIMIT).replace(":Open", ":Gone")  # type: ignore[call-arg]

    assert decode(text).fields == {"x": 1, "name": "n", "question": "what?"}


@pytest.mark.parametrize("flags", [Access.READ | Access.WRITE, Access.READ, Access(0)])
def test_flags_come_back_together(flags: Access) -> None:
    assert round_trip([flags]) == [flags]


def test_flags_that_the_class_has_no_longer_are_unknown() -> None:
    text = encode(Access.READ | Access.WRITE, "flags", LIMIT).replace(",3]", ",9]")

    assert isinstance(decode(text), UnknownObject)


# Spans and configurations.

ATTRIBUTES = st.dictionaries(
    st.text(max_size=8),
    st.text(max_size=8)
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.lists(st.text(max_size=4) | st.floats(), max_size=3)
    | st.tuples(st.integers()),
    max_size=4,
)
TIMES = st.none() | st.floats(0, 1e10)
SPANS = st.builds(
    Span,
    st.just("ro-1"),
    st.just("at-1"),
    st.integers(1, 9),
    st.just("a" * 32),
    st.just("b" * 16),
    st.none() | st.just("c" * 16),
    st.text(),
    st.sampled_from([TraceStatus("UNSET"), TraceStatus("OK"), TraceStatus("ERROR", "why")]),
    ATTRIBUTES,
    TIMES,
    TIMES,
    st.lists(st.builds(Event, st.text(max_size=4), ATTRIBUTES, TIMES), max_size=2).map(tuple),
    st.lists(st.builds(Link, st.builds(SpanContext, st.just("d" * 32), st.just("e" * 16)), ATTRIBUTES), max_size=2).map(
        tuple
    ),
    st.sampled_from(["INTERNAL", "CLIENT"]),
    st.builds(OtelResource, ATTRIBUTES, st.sampled_from(["", "http://schema"])),
)


@given(st.lists(SPANS, max_size=3))
def test_spans_come_back(spans: list[Span]) -> None:
    back = decode_spans(encode_spans(spans, LIMIT), "ro-1", "at-1")

    for left, right in zip(back, spans, strict=True):
        assert same(attrs.astuple(left), attrs.astuple(right))


@dataclasses.dataclass
class RaisesWhenRead:
    """A record that raises whatever it is made of when it is read."""

    failure: BaseException

    def __getattribute__(self, name: str) -> Any:
        raise object.__getattribute__(self, "failure")


class Mute(Exception):
    """An exception without a text."""

    def __str__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize(
    "failure",
    [OverflowError("too large"), OSError("gone"), RecursionError(), SystemExit(3), Mute()],
    ids=lambda failure: type(failure).__name__,
)
def test_a_span_with_a_value_that_cannot_be_read_is_refused_with_its_rollout(failure: BaseException) -> None:
    span = Span.from_attributes(attributes={"a": RaisesWhenRead(failure)}, rollout_id="ro-1")

    with pytest.raises(NotStorable, match=r"the spans of rollout ro-1|attributes of the span"):
        encode_spans([span], LIMIT)


@pytest.mark.parametrize(
    "field",
    [{"status": None}, {"start_time": "now"}, {"start_time": 10**400}, {"events": [object()]}, {"resource": None}],
    ids=["no status", "a time as text", "a huge time", "no event", "no resource"],
)
def test_a_malformed_span_is_refused_with_its_rollout(field: dict[str, Any]) -> None:
    span = attrs.evolve(Span.from_attributes(attributes={}, rollout_id="ro-1"), **field)

    with pytest.raises(NotStorable, match="the spans of rollout ro-1 cannot be stored"):
        encode_spans([span], LIMIT)


@given(st.lists(SPANS, max_size=3))
def test_spans_in_parts_come_back(spans: list[Span]) -> None:
    back = decode_parts(encode_parts(spans, LIMIT), "ro-1", "at-1")

    for left, right in zip(back, spans, strict=True):
        assert same(attrs.astuple(left), attrs.astuple(right))


LONG = "\u00e4" * (2 * LARGE) + "\udce9"


@pytest.mark.parametrize(
    "spans",
    [
        [Span.from_attributes(attributes={"n": n}, rollout_id="ro-1", attempt_id="at-1") for n in range(2_000)],
        [Span.from_attributes(attributes={"a": LONG, "b": LONG[1:]}, rollout_id="ro-1", attempt_id="at-1")],
        [
            Span.from_attributes(attributes={"a": LONG}, name="\udce9", rollout_id="ro-1", attempt_id="at-1"),
            Span.from_attributes(attributes={"a": LONG[2:]}, rollout_id="ro-1", attempt_id="at-1"),
        ],
    ],
    ids=["many", "long", "two"],
)
def test_no_part_of_large_spans_is_large(spans: list[Span]) -> None:
    parts = encode_parts(spans, 100 * LARGE)

    assert decode_parts(parts, "ro-1", "at-1") == spans
    assert max(map(len, parts)) < 8 * LARGE
    assert len(parts) > 3


def test_parts_over_the_limit_are_refused_with_their_size() -> None:
    span = Span.from_attributes(attributes={"text": "x" * 2 * LARGE}, rollout_id="ro-1")

    with pytest.raises(PayloadTooLarge, match=r"1 spans of rollout ro-1 take 524,.* bytes, the store's limit is 1,000"):
        encode_parts([span], 1000)


@given(st.lists(SPANS, min_size=1, max_size=3))
def test_the_size_of_spans_is_no_more_than_they_take(spans: list[Span]) -> None:
    assert size_of(spans) <= len(encode_spans(spans, LIMIT).encode())


def test_spans_over_the_limit_are_refused() -> None:
    span = Span.from_attributes(attributes={"text": "x" * 2000}, rollout_id="ro-1")

    with pytest.raises(PayloadTooLarge, match=r"1 spans of rollout ro-1 take 2,.* bytes, the store's limit is 1,000"):
        encode_spans([span], 1000)


def test_an_attribute_that_cannot_be_stored_is_refused_with_its_span() -> None:
    span = Span.from_attributes(attributes={"a": 1, "f": len}, rollout_id="ro-1", name="chat")

    with pytest.raises(NotStorable, match="attributes of the span 'chat'"):
        encode_spans([span], LIMIT)


@pytest.mark.parametrize(
    "config",
    [
        RolloutConfig(),
        RolloutConfig(timeout_seconds=math.inf, max_attempts=3, retry_condition=["timeout"], backoff_jitter=0.25),
    ],
)
def test_a_configuration_comes_back(config: RolloutConfig) -> None:
    assert decode_config(encode_config(config)) == config


def test_a_field_of_a_later_version_is_left_to_it() -> None:
    assert decode_config('{"max_attempts":2,"of_tomorrow":1}') == RolloutConfig(max_attempts=2)


FINGERPRINTS = """
import dataclasses, pydantic, trio
from lightning_trio import LLM
from lightning_trio.algorithms._datasets import Datasets, encoded_task

class Model(pydantic.BaseModel):
    tags: set[str]

@dataclasses.dataclass
class Data:
    tags: frozenset

letters = set("abcdefgh")
llm = LLM("e", "m", api_key="sk-12345678")
tasks = [
    Model(tags=letters), {(1, 2): letters}, {"z": 1j, "s": letters}, Data(frozenset(letters)), [letters, {1, "a"}],
    {Data(frozenset(letters)).tags: 1, 2: "b"}, {"llm": llm}, "\\ud800", float("nan"),
]
for task in tasks:
    print(encoded_task(task))
print(trio.run(Datasets(tasks, None).fingerprints))
"""


def test_equal_tasks_have_one_fingerprint_in_all_processes() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINTS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "123"
    }

    assert len(printed) == 1
    assert len(printed.pop().splitlines()) == 10


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": 1, "b": (1,)}, {"b": (1,), "a": 1}),
        ({1: "a", 2: {"x"}}, {2: {"x"}, 1: "a"}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_the_order_in_a_mapping_makes_no_other_task(left: Any, right: Any) -> None:
    assert canonical(left, "task") == canonical(right, "task")


def test_lists_have_an_order() -> None:
    assert canonical([1, (2, 3)], "task") != canonical([1, (3, 2)], "task")
