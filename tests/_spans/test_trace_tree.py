"""`format_trace`: an attempt's spans as a tree of text."""

from __future__ import annotations

import re
from typing import Any

import pytest

import lightning_trio as agl
from lightning_trio.semconv import LightningSpanAttributes as Keys


def span(
    span_id: str,
    parent_id: str | None = None,
    *,
    name: str | None = None,
    attributes: dict[str, Any] | None = None,
    seconds: float | None = None,
    status: agl.TraceStatus | None = None,
) -> agl.Span:
    return agl.Span.from_attributes(
        attributes=attributes or {},
        name=name or span_id,
        span_id=span_id,
        parent_id=parent_id,
        start_time=None if seconds is None else 100.0,
        end_time=None if seconds is None else 100.0 + seconds,
        status=status,
    )


def test_children_are_drawn_below_their_parents() -> None:
    spans = [span("root"), span("a", "root"), span("a1", "a"), span("a2", "a"), span("b", "root"), span("b1", "b")]

    assert agl.format_trace(spans).split("\n") == [
        "root",
        "├─ a",
        "│  ├─ a1",
        "│  └─ a2",
        "└─ b",
        "   └─ b1",
    ]


def test_a_span_whose_parent_is_missing_is_placed_at_the_top() -> None:
    assert agl.format_trace([span("root"), span("lost", "elsewhere")]).split("\n") == ["root", "lost"]


def test_text_that_cannot_be_printed_is_escaped() -> None:
    assert agl.format_trace([span("half \ud835")]) == r"half \ud835"


def test_nothing_is_drawn_of_no_spans() -> None:
    assert agl.format_trace([]) == ""


def test_a_duration_is_shown_in_milliseconds_where_there_is_one() -> None:
    lines = agl.format_trace([span("call", seconds=0.25), span("moment", seconds=0.0), span("timeless")]).split("\n")

    assert lines == ["call  250.0 ms", "moment", "timeless"]


def test_an_error_shows_its_description() -> None:
    error = agl.TraceStatus("ERROR", "ValueError: bad\n  reply")

    assert agl.format_trace([span("call", status=error)]) == "call  ERROR ValueError: bad reply"


def test_an_error_without_a_description_is_shown() -> None:
    assert agl.format_trace([span("call", status=agl.TraceStatus("ERROR"))]) == "call  ERROR"


@pytest.mark.parametrize(
    ("attributes", "shown"),
    [
        ({"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 0.5}, "reward 0.5"),
        ({"gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 3}, "tokens 12→3"),
        ({Keys.OPERATION_NAME: "search"}, "search"),
        ({Keys.MESSAGE_BODY: "two\n  lines"}, "two lines"),
        ({Keys.OBJECT_TYPE: "dict", Keys.OBJECT_JSON: '{"a":1}'}, '{"a":1}'),
        ({Keys.OBJECT_TYPE: "int", Keys.OBJECT_LITERAL: "3"}, "3"),
        ({"exception.type": "KeyError", "exception.message": "'k'"}, "KeyError  'k'"),
    ],
)
def test_a_line_says_what_its_span_is_about(attributes: dict[str, Any], shown: str) -> None:
    assert agl.format_trace([span("step", attributes=attributes)]) == f"step  {shown}"


def test_long_lines_are_cut_to_the_width() -> None:
    trace = agl.format_trace([span("root"), span("a", "root", attributes={Keys.MESSAGE_BODY: "x" * 200})], width=40)

    assert [len(line) for line in trace.split("\n")] == [4, 40]
    assert trace.endswith("x…")


def test_a_cycle_of_parents_is_left_out_and_does_not_hang() -> None:
    assert agl.format_trace([span("root"), span("a", "b"), span("b", "a")]) == "root"


async def test_the_trace_of_a_rollout_reads_like_the_agent() -> None:
    async def agent(task: str) -> float:
        with agl.operation(name="plan"):
            agl.emit_message("thinking")
        return 1.0

    async with agl.Runner(agent) as runner:
        done = await runner.step("task")

    assert re.sub(r"  [\d.]+ ms", "", agl.format_trace(done.spans)).split("\n") == [
        "invoke_agent agent",
        "├─ agentlightning.operation  plan",
        "│  └─ agentlightning.message  thinking",
        "└─ agentlightning.annotation  reward 1.0",
    ]


def chat(messages: object) -> agl.Span:
    return agl.Span.from_attributes(name="chat m", attributes={agl.semconv.GEN_AI_OUTPUT_MESSAGES: messages})


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        ('[{"role": "assistant", "parts": [{"type": "text", "content": "It is\\nR104."}]}]', "It is R104."),
        (
            '[{"parts": [{"type": "tool_call", "name": "rooms", "arguments": {"day": 3, "of": "May"}}]}]',
            'rooms(day=3, of="May")',
        ),
        ('[{"parts": [{"type": "tool_call", "name": "rooms", "arguments": "{\\"day\\": 3}"}]}]', "rooms(day=3)"),
        (
            '[{"parts": [{"type": "text", "content": "I look."}, {"type": "tool_call", "name": "now"}]}]',
            "I look. now()",
        ),
        ('[{"parts": []}]', ""),
        ("no JSON", "no JSON"),
        ('{"other": "layout"}', '{"other": "layout"}'),
        ('[{"parts": [{"type": "tool_call", "name": "rooms", "arguments": "cut o"}]}]', "cut o"),
    ],
)
def test_a_models_answer_is_shown_without_the_json_around_it(messages: str, shown: str) -> None:
    line = " ".join(agl.format_trace([chat(messages)]).split())

    assert shown in line
    assert ("parts" in line) == (shown == "cut o")
