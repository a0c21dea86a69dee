"""Records are no pydantic models, and say what to write instead of the methods of one."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import attrs
import pytest
from programs import run_program

import lightning_trio as agl

# In a process of its own, because `lightning_trio.compat` gives these methods to the records of a process.


def test_a_pydantic_method_of_a_record_says_what_to_write() -> None:
    ended = run_program(
        """
        import lightning_trio as agl

        records = [agl.Rollout("ro-1", "tea", 0.0), agl.Span.from_attributes(attributes={}), agl.LLM("http://h", "m")]
        for record in records:
            for method in ("model_copy", "model_dump", "model_dump_json", "model_validate", "model_validate_json"):
                try:
                    getattr(record, method)
                except AttributeError as exc:
                    print(exc)
        """
    )

    lines = ended.out.splitlines()
    assert len(lines) == 15, ended.err
    assert lines[0] == (
        "Rollout has no model_copy, because it is an attrs class and no pydantic model; write: "
        "attrs.evolve(record, name=…). Programs that import lightning_trio.compat can call it"
    )
    assert "Span has no model_validate, " in lines[8]
    assert "write: Span(**fields). " in lines[8]
    assert "LLM has no model_dump, " in lines[11]


def test_a_method_that_compat_does_not_have_either_says_what_to_write() -> None:
    ended = run_program(
        """
        import lightning_trio as agl

        for method in ("model_construct", "model_fields", "model_json_schema"):
            try:
                getattr(agl.Attempt, method)
            except AttributeError as exc:
                print(exc)
                exec("import attrs, msgspec; from lightning_trio import Attempt; fields = dict(rollout_id='r', "
                    "attempt_id='a', sequence_id=1, start_time=0.0); " + str(exc).partition("write: ")[2])
        """
    )

    assert ended.out.splitlines() == [
        "Attempt has no model_construct, because it is an attrs class and no pydantic model; write: Attempt(**fields)",
        "Attempt has no model_fields, because it is an attrs class and no pydantic model; write: "
        "attrs.fields_dict(Attempt)",
        "Attempt has no model_json_schema, because it is an attrs class and no pydantic model; write: "
        "msgspec.json.schema(Attempt, schema_hook=lambda kind: {})",
    ], ended.err


def test_a_record_has_no_such_attribute() -> None:
    ended = run_program(
        """
        import lightning_trio as agl

        kinds = [agl.Attempt, agl.AttemptedRollout, agl.CompletedRollout, agl.EnqueueRolloutRequest, agl.Event,
            agl.Link, agl.LinkAttributes, agl.OtelResource, agl.PaginatedResult, agl.PromptTemplate,
            agl.ResourcesUpdate, agl.RewardDimension, agl.RolloutConfig, agl.SpanContext, agl.SpanCoreFields,
            agl.TraceStatus, agl.Worker]
        print([hasattr(kind, "model_dump") for kind in kinds].count(False) == len(kinds))
        """
    )

    assert ended.out == "True\n"


class Tuned(agl.LLM):
    """As a subclass of a pydantic model is written."""

    adapter: str = ""


class TunedTwice(Tuned):
    """A further one."""


@attrs.define(kw_only=True)
class Rated(agl.Event):
    """As a subclass of a record is written."""

    stars: int


@dataclasses.dataclass(frozen=True)
class Graded(agl.Resource):
    """A dataclass derived from a record."""

    grade: str = ""


@pytest.mark.parametrize("kind", [Tuned, TunedTwice])
def test_a_subclass_with_fields_and_without_a_decorator_says_what_to_write(kind: Any) -> None:
    with pytest.raises(TypeError) as caught:
        kind(endpoint="http://h/v1", model="m", adapter="lora")

    assert str(caught.value) == (
        "Tuned has no field adapter, because it is no pydantic model: a subclass of an attrs class needs a decorator; "
        "write:\n    @attrs.define(kw_only=True)\n    class Tuned(LLM):\n        adapter: …"
    )


def test_an_argument_that_no_class_declares_is_an_ordinary_error() -> None:
    kind: Any = Tuned

    with pytest.raises(TypeError, match=r"unexpected keyword argument 'bogus'"):
        kind(endpoint="http://h/v1", model="m", bogus=1)


def test_a_subclass_may_have_an_init_of_its_own() -> None:
    class Judged(agl.Event):
        judge: str

        def __init__(self, judge: str) -> None:
            super().__init__("judged", {"judge": judge})

    assert Judged(judge="me").attributes == {"judge": "me"}


@pytest.mark.parametrize("record", [Rated(name="e", stars=3), Tuned("http://h/v1", "m")])
def test_a_subclass_of_a_record_is_made_copied_and_pickled(record: Any) -> None:
    assert copy.deepcopy(record) == record
    assert pickle.loads(pickle.dumps(record)) == record


def test_a_subclass_may_be_a_dataclass() -> None:
    assert Graded(grade="A").grade == "A"
