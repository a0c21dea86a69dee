"""`TraceToMessages`, over the spans of 0.3's tracers and over those of this package."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

import lightning_trio as agl
import lightning_trio.compat as old
from lightning_trio.testing.scripted_llm import Reply, ToolCall, open_scripted_llm

PARAMETERS = {"type": "object", "properties": {"time": {"type": "string"}}}
CALL = {"id": "call-1", "type": "function", "function": {"name": "rooms", "arguments": '{"time": "16:30"}'}}


def span(number: int, parent: int | None = None, **attributes: Any) -> agl.Span:
    return agl.Span.from_attributes(
        attributes={name.replace("__", "."): value for name, value in attributes.items()},
        span_id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        sequence_id=number,
    )


ASKED = {
    "gen_ai__prompt__0__role": "system",
    "gen_ai__prompt__0__content": "Be short.",
    "gen_ai__prompt__prompt_filter_results": "[]",
    "gen_ai__prompt__1__role": "user",
    "gen_ai__prompt__1__content": "A room?",
}


def test_a_call_of_a_tool_is_found_among_the_spans_children() -> None:
    spans = [
        span(1, 2, tool__name="rooms", tool__parameters='{"time": "16:30"}', tool__call__id="call-1"),
        span(
            2,
            **ASKED,
            gen_ai__request__functions__0__name="rooms",
            gen_ai__request__functions__0__parameters=json.dumps(PARAMETERS),
            gen_ai__completion__0__role="assistant",
        ),
    ]

    assert old.TraceToMessages().adapt(spans) == [
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "A room?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
            ],
            "tools": [{"type": "function", "function": {"name": "rooms", "parameters": PARAMETERS}}],
        }
    ]


def test_calls_and_results_of_tools_in_a_prompt_are_messages() -> None:
    spans = [
        span(
            1,
            gen_ai__prompt__0__role="assistant",
            gen_ai__prompt__0__tool_calls__0__id="call-1",
            gen_ai__prompt__0__tool_calls__0__name="rooms",
            gen_ai__prompt__0__tool_calls__0__arguments='{"time": "16:30"}',
            gen_ai__prompt__1__role="tool",
            gen_ai__prompt__1__content="A103",
            gen_ai__prompt__1__tool_call_id="call-1",
            gen_ai__completion__0__role="assistant",
            gen_ai__completion__0__content="Take A103.",
        )
    ]

    assert old.TraceToMessages().adapt(spans) == [
        {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "A103", "tool_call_id": "call-1"},
                {"role": "assistant", "content": "Take A103."},
            ],
            "tools": None,
        }
    ]


def test_spans_of_other_steps_have_no_messages() -> None:
    assert old.TraceToMessages().adapt([span(1, message="hi"), span(2, tool__name="rooms")]) == []


@pytest.mark.parametrize("attributes", [{"gen_ai__prompt__0__content": "no role"}, {"gen_ai__prompt__0": "no fields"}])
def test_malformed_messages_are_an_error(attributes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'agentlightning\.virtual' has malformed messages"):
        old.TraceToMessages().adapt([span(1, **attributes)])


def find_room(task: str, llm: agl.LLM) -> float:
    """Call a model, then a tool, then the model again."""
    messages: list[Any] = [{"role": "user", "content": task}]
    tools: Any = [{"type": "function", "function": {"name": "rooms", "parameters": PARAMETERS}}]
    with openai.OpenAI(base_url=llm.endpoint, api_key="local") as client:
        answer = client.chat.completions.create(model="m", messages=messages, tools=tools).choices[0].message
        messages.append(answer.model_dump(exclude_none=True))
        messages.append({"role": "tool", "tool_call_id": "call_1_0", "content": "A103"})
        client.chat.completions.create(model="m", messages=messages)
    return 1.0


async def test_the_calls_of_a_rollout_are_read_from_its_own_spans() -> None:
    script = [Reply(tool_calls=[ToolCall("rooms", {"time": "16:30"})]), "Take A103."]
    async with (
        open_scripted_llm(script) as server,
        agl.Runner(find_room, resources={"llm": agl.LLM(server.base_url, "m")}) as runner,
    ):
        done = await runner.step("A room?")

    [first, second] = old.TraceToMessages().adapt(done.spans)
    called = {**CALL, "id": "call_1_0"}
    asked = {"role": "user", "content": "A room?"}
    assert first["messages"] == [asked, {"role": "assistant", "content": None, "tool_calls": [called]}]
    assert first["tools"] == [{"type": "function", "function": {"name": "rooms", "parameters": PARAMETERS}}]
    assert second["messages"] == [
        *first["messages"],
        {"role": "tool", "content": "A103", "tool_call_id": "call_1_0"},
        {"role": "assistant", "content": "Take A103."},
    ]
    assert second["tools"] is None
