"""The span record: made from attributes, from core fields, and from spans of the OpenTelemetry SDK."""

from __future__ import annotations

import re
import time

import attrs
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

import lightning_trio as agl
from lightning_trio._ids import new_attempt_id, new_resources_id, new_run_id
from lightning_trio.store._rollout_ids import RolloutIds


def converted(readable: ReadableSpan) -> agl.Span:
    return agl.Span.from_opentelemetry(readable, rollout_id="ro-1", attempt_id="at-1", sequence_id=7)


def test_a_span_made_by_hand_has_the_defaults_of_agent_lightning() -> None:
    span = agl.Span.from_attributes(attributes={"a": 1})

    assert (span.rollout_id, span.attempt_id, span.sequence_id) == ("", "", 0)
    assert (span.name, span.status, span.parent_id) == ("agentlightning.virtual", agl.TraceStatus("OK"), None)
    assert (span.start_time, span.end_time) == (None, None)


def test_random_ids_are_hexadecimal_of_the_right_length() -> None:
    span = agl.Span.from_attributes(attributes={})

    assert (len(span.trace_id), len(span.span_id)) == (32, 16)
    assert int(span.trace_id, 16) > 0
    assert int(span.span_id, 16) > 0


def test_given_fields_are_kept() -> None:
    resource = agl.OtelResource({"service.name": "mine"})

    span = agl.Span.from_attributes(
        attributes={"a": 1},
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=4,
        name="step",
        trace_id="1" * 32,
        span_id="2" * 16,
        parent_id="3" * 16,
        start_time=1.0,
        end_time=2.0,
        resource=resource,
        status=agl.TraceStatus("UNSET"),
    )

    assert span == agl.Span(
        "ro-1",
        "at-1",
        4,
        "1" * 32,
        "2" * 16,
        "3" * 16,
        "step",
        agl.TraceStatus("UNSET"),
        {"a": 1},
        1.0,
        2.0,
        resource=resource,
    )


def test_a_span_has_its_own_context_and_its_parents() -> None:
    span = agl.Span.from_attributes(attributes={}, parent_id="3" * 16)

    assert span.context == agl.SpanContext(span.trace_id, span.span_id)
    assert span.parent == agl.SpanContext(span.trace_id, "3" * 16)
    assert attrs.evolve(span, parent_id=None).parent is None


def test_attributes_are_copied_from_what_was_given() -> None:
    attributes = {"a": 1}
    core = agl.SpanCoreFields("step", attributes=attributes)
    spans = [
        agl.Span.from_attributes(attributes=attributes),
        agl.Span.from_core_fields(core, rollout_id="ro-1", attempt_id="at-1", sequence_id=1),
    ]

    attributes["b"] = 2

    assert [span.attributes for span in spans] == [{"a": 1}, {"a": 1}]


def test_spans_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        agl.Span.from_attributes(attributes={}).name = "other"  # type: ignore[misc]  # bad use


def test_core_fields_without_times_start_and_end_now() -> None:
    before = time.time()

    span = agl.Span.from_core_fields(agl.SpanCoreFields("step"), rollout_id="ro-1", attempt_id="at-1", sequence_id=3)

    assert span.start_time == span.end_time
    assert span.start_time is not None
    assert before <= span.start_time <= time.time()
    assert (span.name, span.rollout_id, span.attempt_id, span.sequence_id) == ("step", "ro-1", "at-1", 3)


def test_core_fields_keep_their_times() -> None:
    core = agl.SpanCoreFields("step", start_time=1.0, end_time=2.0)

    span = agl.Span.from_core_fields(core, rollout_id="ro-1", attempt_id="at-1", sequence_id=3)

    assert (span.start_time, span.end_time) == (1.0, 2.0)


# From OpenTelemetry.


def test_a_library_span_keeps_ids_times_kind_status_events_links_and_resource() -> None:
    tracer = TracerProvider(resource=Resource({"service.name": "lib"}), shutdown_on_exit=False).get_tracer("lib")
    other = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("vendor", "x")]))
    parent = tracer.start_span("parent")
    span = tracer.start_span("call", kind=SpanKind.CLIENT, links=[Link(other, {"why": "retry"})], start_time=10**18)
    span.set_attributes({"n": 1, "names": ["a", "b"]})
    span.add_event("token", {"i": 0}, timestamp=10**18 + 5 * 10**8)
    span.set_status(Status(StatusCode.ERROR, "refused"))
    span.end(end_time=10**18 + 10**9)
    parent.end()
    assert isinstance(span, ReadableSpan)

    record = converted(span)

    context = span.get_span_context()
    assert context is not None
    assert (record.trace_id, record.span_id) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert (record.name, record.kind, record.sequence_id) == ("call", "CLIENT", 7)
    assert (record.start_time, record.end_time) == (1e9, 1e9 + 1)
    assert record.status == agl.TraceStatus("ERROR", "refused")
    assert record.attributes == {"n": 1, "names": ("a", "b")}
    assert record.events == (agl.Event("token", {"i": 0}, 1e9 + 0.5),)
    assert record.links == (
        agl.Link(agl.SpanContext(f"{1:032x}", f"{2:016x}", True, {"vendor": "x"}), {"why": "retry"}),
    )
    assert record.resource.attributes["service.name"] == "lib"


def test_a_library_span_names_its_parent() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("lib")
    with tracer.start_as_current_span("parent") as parent, tracer.start_as_current_span("child") as child:
        pass
    assert isinstance(child, ReadableSpan)

    assert converted(child).parent_id == f"{parent.get_span_context().span_id:016x}"


def test_a_bare_readable_span_without_ids_and_times_converts() -> None:
    record = converted(ReadableSpan("bare"))

    assert len(record.trace_id) == 32
    assert (record.start_time, record.end_time, record.parent_id) == (None, None, None)


# Ids.


@pytest.mark.parametrize(
    ("new", "pattern"),
    [
        (RolloutIds().new, r"ro-[0-9a-f]{12}"),
        (new_attempt_id, r"at-[0-9a-f]{8}"),
        (new_resources_id, r"rs-[0-9a-f]{12}"),
        (new_run_id, r"run-[0-9a-f]{12}"),
    ],
)
def test_ids_have_the_form_users_know(new: object, pattern: str) -> None:
    assert callable(new)
    assert re.fullmatch(pattern, new())


# The shapes of Agent-lightning 0.3.


def made_by_hand(**ids: agl.SpanContext | None) -> agl.Span:
    return agl.Span(
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=1,
        trace_id="1" * 32,
        span_id="2" * 16,
        parent_id="3" * 16,
        name="step",
        status=agl.TraceStatus(status_code="OK"),
        attributes={},
        start_time=1.0,
        end_time=2.0,
        **ids,
    )


def test_a_span_takes_its_ids_once_more_as_context_and_parent() -> None:
    context, parent = agl.SpanContext("1" * 32, "2" * 16), agl.SpanContext("1" * 32, "3" * 16)

    span = made_by_hand(context=context, parent=parent)

    assert span == made_by_hand() == made_by_hand(context=None, parent=None)
    assert (span.context, span.parent) == (context, parent)


@pytest.mark.parametrize("name", ["context", "parent"])
def test_ids_that_are_not_the_spans_own_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=SpanContext.*not .* leave {name} out"):
        made_by_hand(**{name: agl.SpanContext("1" * 32, "4" * 16)})


def test_an_sdk_span_is_converted_with_the_ids_in_their_order() -> None:
    readable = ReadableSpan(name="step")

    span = agl.Span.from_opentelemetry(readable, "ro-1", "at-1", 7)

    assert (span.rollout_id, span.attempt_id, span.sequence_id) == ("ro-1", "at-1", 7)
