"""Chat formats: reading and writing requests, replies and the messages of spans."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from lightning_trio._chat_format import (
    LAST_EVENT,
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    Delta,
    ErrorBody,
    FunctionCall,
    FunctionDelta,
    SpanMessage,
    TextPart,
    TokenCounts,
    ToolCall,
    ToolCallDelta,
    ToolCallPart,
    decode_request,
    decode_span_messages,
    encode_event,
    encode_span_messages,
)


def test_a_request_has_its_messages_tools_and_stream_options() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "rooms", "arguments": "{}"}}
    body = {
        "model": "m",
        "temperature": 0.5,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "free?"}, {"type": "image_url", "image_url": {}}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "R104"},
        ],
        "tools": [{"type": "function", "function": {"name": "rooms", "parameters": {"type": "object"}}}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    request = decode_request(json.dumps(body).encode())

    asked, called, answered = request.messages
    assert (asked.role, asked.texts()) == ("user", ["free?"])
    assert called.tool_calls == [ToolCall("c1", "function", FunctionCall("rooms", "{}"))]
    assert (called.texts(), answered.tool_call_id, answered.texts()) == ([], "c1", ["R104"])
    assert request.tools is not None
    [tool] = request.tools
    assert tool.function is not None
    assert (tool.function.name, tool.function.parameters) == ("rooms", {"type": "object"})
    assert request.includes_usage()


def test_tools_that_are_no_functions_are_read_too() -> None:
    custom = {"type": "custom", "custom": {"name": "grep"}}
    message = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "custom", "custom": {"input": "tea"}}]}

    request = decode_request(json.dumps({"messages": [message], "tools": [custom]}).encode())

    assert request.messages[0].tool_calls == [ToolCall("c1", "custom")]
    assert request.tools is not None
    assert (request.tools[0].type, request.tools[0].function) == ("custom", None)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", r"The body of the request is not valid JSON: "),
        (b'{"messages": []}', r"The request is not a chat completion request: .* length >= 1 - at `\$\.messages`"),
    ],
)
def test_a_malformed_request_is_an_error_that_says_where(body: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode_request(body)


def test_a_whole_reply_is_written_as_openai_does_and_read_back() -> None:
    message = AssistantMessage(tool_calls=[ToolCall("c1", "function", FunctionCall("rooms", "{}"))])
    completion = ChatCompletion(
        id="1",
        created=7,
        model="m",
        choices=[Choice(index=0, message=message, finish_reason="tool_calls")],
        usage=TokenCounts(4, 1, 5),
    )

    written = msgspec.json.encode(completion)

    assert json.loads(written) == {
        "id": "1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "refusal": None,
                    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "rooms", "arguments": "{}"}}],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5},
    }
    assert msgspec.json.decode(written, type=ChatCompletion) == completion


@pytest.mark.parametrize(
    ("delta", "sent"),
    [
        (Delta(role="assistant", content="", refusal=None), {"role": "assistant", "content": "", "refusal": None}),
        (Delta(content="tea"), {"content": "tea"}),
        (
            Delta(tool_calls=[ToolCallDelta(index=0, function=FunctionDelta(arguments='{"a"'))]),
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        ),
        (Delta(), {}),
    ],
    ids=["role", "text", "arguments", "end"],
)
def test_a_chunk_sends_only_what_it_adds(delta: Delta, sent: dict[str, Any]) -> None:
    chunk = ChatChunk(id="1", created=7, model="m", choices=[ChunkChoice(index=0, delta=delta)])

    written = json.loads(msgspec.json.encode(chunk))

    assert written["choices"] == [{"index": 0, "delta": sent, "logprobs": None, "finish_reason": None}]
    assert "usage" not in written
    assert msgspec.json.decode(msgspec.json.encode(chunk), type=ChatChunk) == chunk


def test_events_are_framed_and_the_last_one_says_so() -> None:
    assert encode_event(b"{}") == b"data: {}\n\n"
    assert LAST_EVENT == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "invalid_request_error", "invalid_api_key"),
        (429, "requests", "rate_limit_exceeded"),
        (503, "server_error", None),
    ],
)
def test_an_error_is_named_after_its_status(status: int, kind: str, code: str | None) -> None:
    written = json.loads(msgspec.json.encode(ErrorBody.of(status, "no")))

    assert written == {"error": {"message": "no", "type": kind, "param": None, "code": code}}


MESSAGES = [
    SpanMessage("user", [TextPart("Which room?")]),
    SpanMessage(
        "assistant", [TextPart("I look.", "reasoning"), ToolCallPart("rooms", {"day": 3}, "c1"), TextPart("R104")]
    ),
]


def test_messages_of_spans_are_read_as_they_were_written() -> None:
    written = encode_span_messages(MESSAGES)

    assert decode_span_messages(written) == MESSAGES
    assert decode_span_messages(json.loads(written)) == MESSAGES


def test_half_a_surrogate_pair_is_written_escaped() -> None:
    written = encode_span_messages([SpanMessage("user", [TextPart("cut \ud83d")])])

    assert "\\ud83d" in written
    assert decode_span_messages(written)[0].parts == [TextPart("cut \ud83d")]


@pytest.mark.parametrize("arguments", ['{"day": 3}', {"day": 3}])
def test_arguments_of_a_call_are_read_from_json_and_as_they_are(arguments: object) -> None:
    part = {"type": "tool_call", "name": "rooms", "arguments": arguments}

    assert decode_span_messages([{"parts": [part]}]) == [SpanMessage("", [ToolCallPart("rooms", {"day": 3})])]


@pytest.mark.parametrize(
    "attribute",
    ["no JSON", '{"other": "layout"}', 3, None, [{"parts": 3}], [{"parts": ["text"]}], "[" * 100_000],
    ids=["text", "mapping", "number", "none", "no parts", "text for a part", "deep"],
)
def test_an_attribute_of_another_form_is_an_error(attribute: object) -> None:
    with pytest.raises(ValueError, match="not messages of a model call"):
        decode_span_messages(attribute)
