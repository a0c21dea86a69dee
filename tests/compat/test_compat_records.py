"""With `lightning_trio.compat`, records have the methods of the pydantic models that they were."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

import lightning_trio as agl
import lightning_trio.compat
from lightning_trio.compat import Triplet

ROLLOUT: Any = agl.AttemptedRollout(
    "ro-1",
    {"room": 1},
    0.0,
    config=agl.RolloutConfig(max_attempts=2, retry_condition=["failed"]),
    attempt=agl.Attempt("ro-1", "at-1", 1, 0.0),
)
SPAN: Any = agl.Span.from_attributes(attributes={"a": [1, 2]}, name="step", start_time=1.0)


def test_a_record_can_be_dumped() -> None:
    dumped = ROLLOUT.model_dump()

    assert dumped["input"] == {"room": 1}
    assert dumped["config"]["retry_condition"] == ["failed"]
    assert dumped["attempt"]["attempt_id"] == "at-1"


def test_fields_can_be_chosen() -> None:
    assert SPAN.status.model_dump(exclude_none=True) == {"status_code": "OK"}
    assert SPAN.model_dump(include={"name", "start_time"}) == {"name": "step", "start_time": 1.0}
    assert "name" not in SPAN.model_dump(exclude={"name"})
    assert agl.Worker("w").model_dump(exclude_defaults=True) == {"worker_id": "w"}  # type: ignore[attr-defined]


def test_a_resource_is_dumped_with_its_type_name_and_key() -> None:
    llm: Any = agl.LLM("http://h/v1", "m", api_key="local")

    assert llm.model_dump() == {
        "resource_type": "llm",
        "endpoint": "http://h/v1",
        "model": "m",
        "api_key": "local",
        "sampling_parameters": {},
        "api_key_env": None,
    }
    assert agl.LLM.model_validate(llm.model_dump()) == llm  # type: ignore[attr-defined]


def test_an_emitted_model_does_not_have_its_key() -> None:
    llm = agl.LLM("http://h/v1", "m", api_key="sk-secret")

    written = [
        agl.emit_object({"llm": llm}, propagate=False),
        agl.emit_annotation({"llm": llm}, propagate=False),
        agl.emit_reward(1, attributes={"llm": [llm]}, propagate=False),
    ]

    assert "sk-secret" not in repr(written)
    assert (
        written[0].attributes["agentlightning.object.json"].startswith('{"llm":{"endpoint":"http://h/v1","model":"m"')
    )


@pytest.mark.parametrize(
    "record",
    [
        ROLLOUT,
        SPAN,
        SPAN.status,
        agl.PromptTemplate("{a}"),
        agl.Worker("w"),
        Triplet(prompt={"token_ids": [1]}, response=[2], reward=0.5),
    ],
)
def test_what_was_dumped_can_be_read_again(record: Any) -> None:
    kind = type(record)

    assert kind.model_validate(record.model_dump()) == record
    assert kind.model_validate_json(record.model_dump_json()) == record
    assert kind.model_validate(record) is record


def test_a_tuple_among_the_attributes_of_a_span_stays_one() -> None:
    span: Any = agl.Span.from_attributes(attributes={"ids": (1, 2)})

    dumped = span.model_dump()

    assert (dumped["attributes"], dumped["events"]) == ({"ids": (1, 2)}, [])
    assert span.model_validate(dumped) == span


def test_a_triplet_can_be_copied_with_another_reward() -> None:
    triplet: Any = Triplet(prompt=1, response=2)

    assert triplet.model_copy(update={"reward": 1.0}) == Triplet(prompt=1, response=2, reward=1.0)


LINKED: Any = attrs.evolve(
    SPAN,
    events=(agl.Event("step", {"a": 1}, 1.0),),
    links=(agl.Link(agl.SpanContext(SPAN.trace_id, SPAN.span_id)),),
    resource=agl.OtelResource({"service.name": "s"}),
)


@pytest.mark.parametrize(
    "record",
    [
        ROLLOUT,
        ROLLOUT.attempt,
        agl.Rollout("ro-1", 1, 0.0),
        agl.EnqueueRolloutRequest({"config": {}}, config=agl.RolloutConfig(max_attempts=2)),
        SPAN,
        LINKED,
        LINKED.links[0],
        agl.SpanCoreFields("step"),
        agl.ResourcesUpdate("rs-1", 1.0, 1.0, 1, {"main": agl.PromptTemplate("{a}")}),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_is_made_of_the_dicts_of_its_records(record: Any) -> None:
    kind = type(record)

    assert kind(**record.model_dump()) == record
    assert kind(**json.loads(record.model_dump_json())) == record


def test_a_span_takes_its_context_as_a_dict() -> None:
    context = {"trace_id": SPAN.trace_id, "span_id": SPAN.span_id, "is_remote": False, "trace_state": {}}

    assert agl.Span(**SPAN.model_dump(), context=context) == SPAN


def test_a_dict_that_describes_no_nested_record_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"TraceStatus cannot be made from .* missing required field `status_code`"):
        agl.Span(**{**SPAN.model_dump(), "status": {"code": "OK"}})


def test_records_are_not_mistaken_for_pydantic_models() -> None:
    names = ["model_fields", "model_construct", "model_json_schema"]

    assert [name for name in names if hasattr(agl.Span, name)] == []
    with pytest.raises(AttributeError, match=r"Triplet has no model_fields.*write: attrs\.fields_dict\(Triplet\)$"):
        _ = Triplet.model_fields  # type: ignore[attr-defined]


def test_a_snapshot_is_read_with_its_resources() -> None:
    snapshot: Any = agl.ResourcesUpdate("rs-1", 1.0, 1.0, 1, {"main": agl.PromptTemplate("{a}")})

    assert agl.ResourcesUpdate.model_validate_json(snapshot.model_dump_json()) == snapshot  # type: ignore[attr-defined]
    assert snapshot.model_validate({**snapshot.model_dump(), "resources": snapshot.resources}) == snapshot


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({}, "ResourcesUpdate cannot be made from .* it has no 'resources'"),
        ({"resources": {"main": {}}}, "ResourcesUpdate cannot be made from .* it has no 'resource_type'"),
        ({"resources": {"main": {"resource_type": "llm"}}}, "LLM cannot be made from .* missing required field"),
        ({"resources": 3}, "resources is a mapping of names to resources, not 3"),
    ],
)
def test_a_mapping_that_describes_no_snapshot_is_an_error(resources: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agl.ResourcesUpdate.model_validate(resources)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"rollout_id": "ro-1"}, "missing required field `input`"), ({"rollout_id": 1}, "Expected `str`, got `int`")],
)
def test_a_mapping_that_describes_no_record_is_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Rollout cannot be made from .*{message}"):
        agl.Rollout.model_validate(fields)  # type: ignore[attr-defined]


def test_the_records_own_checks_are_made() -> None:
    with pytest.raises(ValueError, match="max_attempts=0: pass at least 1"):
        agl.RolloutConfig.model_validate({"max_attempts": 0})  # type: ignore[attr-defined]


def test_a_copy_may_have_other_values() -> None:
    copied = ROLLOUT.model_copy(update={"status": "running"})

    assert (copied.status, ROLLOUT.status) == ("running", "queuing")
    assert copied.input is ROLLOUT.input
    assert ROLLOUT.model_copy(deep=True).input is not ROLLOUT.input


async def test_a_record_in_a_task_is_stored_as_before(tmp_path: Any) -> None:
    async with agl.SqliteLightningStore(tmp_path / "runs.db") as store:
        await store.enqueue_rollout(agl.TraceStatus("OK"))

        [rollout] = await store.query_rollouts()

    assert rollout.input == agl.TraceStatus("OK")


def test_a_resource_of_another_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="its resource_type is 'llm'"):
        agl.LLM.model_validate(  # type: ignore[attr-defined]
            {"resource_type": "proxy_llm", "endpoint": "http://h", "model": "m"}
        )
