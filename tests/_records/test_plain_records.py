"""Records are no pydantic models, and say what to write instead of the methods of one."""

from __future__ import annotations

from programs import run_program

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
        "Rollout has no model_copy, because it is a frozen attrs class and no pydantic model; write: "
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
        "Attempt has no model_construct, because it is a frozen attrs class and no pydantic model; write: "
        "Attempt(**fields)",
        "Attempt has no model_fields, because it is a frozen attrs class and no pydantic model; write: "
        "attrs.fields_dict(Attempt)",
        "Attempt has no model_json_schema, because it is a frozen attrs class and no pydantic model; write: "
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
