"""Users' objects as what JSON has."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import functools
import json
import math
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
import pydantic.v1
import pytest
from langchain_core.messages import HumanMessage
from openai.types.chat import ChatCompletionMessage

from lightning_trio._plain_values import from_json, json_text, plain, spaced_json, without_surrogates

HALF = "half \ud835"


class Level(enum.StrEnum):
    EASY = "easy"


class Rank(enum.IntEnum):
    FIRST = 1


class Place(enum.Enum):
    HOME = (1, 2)


class Answer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    text: str
    scores: Any = None


class OldAnswer(pydantic.v1.BaseModel):
    text: str


@attrs.frozen
class Room:
    name: Any
    _secret: str = "s"


@dataclasses.dataclass
class Booking:
    rooms: list[Any]


class Message(msgspec.Struct, rename="camel"):
    sent_by: Any
    reply_to: str | msgspec.UnsetType = msgspec.UNSET


class Shape(msgspec.Struct, tag="circle"):
    radius: Any


@dataclasses.dataclass
class Event:
    kind: str = dataclasses.field(default="event", init=False)
    _seen: int = 0
    where: Any = None


@attrs.frozen(slots=False)
class Search:
    words: Any

    @functools.cached_property
    def count(self) -> int:
        return len(self.words)


class Question(str):
    __slots__ = ()


TIMED = np.array([("2026-01-02", 5, 1)], [("at", "M8[ns]"), ("took", "m8[ns]"), ("count", "i8")])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.bool_(True), "true"),
        (np.int64(3), "3"),
        (np.float32(0.5), "0.5"),
        (np.float64("nan"), "null"),
        (np.longdouble(1), "1.0"),
        (np.str_("a"), '"a"'),
        (np.array(2), "2"),
        (np.array([[1, 2], [3, 4]]), "[[1,2],[3,4]]"),
        (np.array([{"role": "user"}, np.int8(1)], dtype=object), '[{"role":"user"},1]'),
        (np.datetime64("2026-01-02"), '"2026-01-02"'),
        (np.array(["2026-01-02"], dtype="M8[ns]"), '["2026-01-02T00:00:00.000000000"]'),
        (np.timedelta64(1500, "ns"), '"1500 nanoseconds"'),
        (TIMED, '[["2026-01-02T00:00:00.000000000","5 nanoseconds",1]]'),
        (TIMED[0], '["2026-01-02T00:00:00.000000000","5 nanoseconds",1]'),
        (TIMED.reshape(()), '["2026-01-02T00:00:00.000000000","5 nanoseconds",1]'),
        (
            np.zeros(1, [("at", [("day", "M8[D]")]), ("days", "M8[D]", 2)]),
            '[[["1970-01-01"],["1970-01-01","1970-01-01"]]]',
        ),
        (pd.DataFrame({"at": np.array([0], "M8[ns]")}).to_records(index=False), '[["1970-01-01T00:00:00.000000000"]]'),
        (np.array([(1, "a", b"a", None)], "i8, U1, S1, O"), '[[1,"a","YQ==",null]]'),
        (np.complex64(1j), '"1j"'),
        ({math.nan: 1}, '{"null":1}'),
        (pd.Timestamp("2026-01-02"), '"2026-01-02T00:00:00"'),
        (pd.Timedelta(1500, "ns"), '"P0DT0H0M0.0000015S"'),
        (pd.Timedelta(1, "s"), '"PT1S"'),
        (pd.NaT, "null"),
        (pd.NA, "null"),
        (pd.Series([1, 2]), "[1,2]"),
        (pd.DataFrame({"q": ["a", "b"]}), '[{"q":"a"},{"q":"b"}]'),
        (pa.table({"q": ["a"]}), '[{"q":"a"}]'),
        (pa.scalar(1), "1"),
        (Answer(text="42"), '{"text":"42","scores":null}'),
        (Answer(text=HALF), '{"text":"half \\ud835","scores":null}'),
        (Answer(text="42", scores=np.array([1])), '{"text":"42","scores":[1]}'),
        (OldAnswer(text="42"), '{"text":"42"}'),
        (Room("A"), '{"name":"A"}'),
        (Room(HALF), '{"name":"half \\ud835"}'),
        (Booking([Room(2**70)]), '{"rooms":[{"name":1180591620717411303424}]}'),
        (Message("me"), '{"sentBy":"me"}'),
        (Message(HALF), '{"sentBy":"half \\ud835"}'),
        (Shape(1), '{"type":"circle","radius":1}'),
        (Shape(HALF), '{"type":"circle","radius":"half \\ud835"}'),
        (Event(), '{"kind":"event","where":null}'),
        (Event(where=HALF), '{"kind":"event","where":"half \\ud835"}'),
        (collections.UserString("a"), '"a"'),
        (Level.EASY, '"easy"'),
        (Rank.FIRST, "1"),
        (Place.HOME, "[1,2]"),
        (Question("why?"), '"why?"'),
        (Path("/x"), '"/x"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.50"), '"1.50"'),
        (1 + 2j, '"(1+2j)"'),
        (datetime.timedelta(days=1), '"P1D"'),
        (bytearray(b"a"), '"YQ=="'),
        (memoryview(b"a"), '"YQ=="'),
        (collections.deque([1, np.int8(2)]), "[1,2]"),
        (range(3), "[0,1,2]"),
        ({np.int8(1)}, "[1]"),
        (collections.UserDict(a=1), '{"a":1}'),
        ({Level.EASY: 1, 2: 3, None: 4, (1, "b"): 5, 1.5: 6}, '{"easy":1,"2":3,"null":4,"[1,\\"b\\"]":5,"1.5":6}'),
        ({HALF: ["Ü", HALF, math.inf]}, '{"half \\ud835":["Ü","half \\ud835",null]}'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_is_written_as_its_natural_json(value: Any, text: str) -> None:
    assert json_text(value) == text
    # It is valid JSON for every reader.
    json.loads(text)


def test_only_the_fields_of_an_object_are_written() -> None:
    search = Search(["a"])
    assert search.count == 1

    assert json_text([search, HALF]) == '[{"words":["a"]},"half \\ud835"]'
    assert json_text(search) == '{"words":["a"]}'


def test_messages_of_clients_are_written_with_their_fields() -> None:
    openai = plain(ChatCompletionMessage(role="assistant", content="hi"))
    langchain = plain(HumanMessage("hi"))

    assert (openai["role"], openai["content"]) == ("assistant", "hi")
    assert (langchain["type"], langchain["content"]) == ("human", "hi")


@pytest.mark.parametrize(
    "value", [object(), [len], {"a": Answer}, (each for each in ())], ids=lambda value: type(value).__name__
)
def test_an_object_without_a_form_in_json_is_an_error_that_names_its_type(value: Any) -> None:
    with pytest.raises(TypeError, match=r"objects of type [\w.]+ have no form in JSON"):
        json_text(value)


def test_keys_that_are_the_same_in_json_are_an_error_that_names_them() -> None:
    with pytest.raises(TypeError, match=r"the keys 1 and '1' of a dict are both '1' in JSON"):
        json_text({"scores": {1: "a", "1": "b"}})


def test_a_dict_with_such_keys_becomes_what_a_function_makes_of_it() -> None:
    assert json_text({1: "a", "1": "b"}, otherwise=str) == "\"{1: 'a', '1': 'b'}\""


def test_a_value_that_contains_itself_is_an_error() -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(RecursionError):
        json_text(value)


def test_other_objects_become_what_a_function_makes_of_them() -> None:
    assert json_text([len], otherwise=lambda inner: inner.__name__) == '["len"]'


def test_a_lone_surrogate_is_read_back_from_json() -> None:
    assert from_json(json_text({HALF: [HALF]})) == {HALF: [HALF]}
    assert from_json(json_text(HALF).encode()) == HALF


@pytest.mark.parametrize("text", ['{"a": "\\ud835", "b": NaN}', "{", '"\\ud835', b"\xff"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|trunc|Invalid|Unterminated|Expecting|decode"):
        from_json(text)


def test_spaced_json_has_the_layout_of_the_standard_library() -> None:
    assert spaced_json({"a": np.array([1]), "b": "Ü\ud835"}) == '{"a": [1], "b": "Ü\\ud835"}'
    assert spaced_json([math.nan, np.float32("inf"), 1], indent=None) == "[null, null, 1]"


@pytest.mark.parametrize(
    ("text", "escaped"), [("a", "a"), ("Ü𝔸", "Ü𝔸"), (HALF, "half \\ud835"), ("\udc00\ud835", "\\udc00\\ud835")]
)
def test_a_lone_surrogate_is_written_as_its_escape(text: str, escaped: str) -> None:
    assert without_surrogates(text) == escaped
