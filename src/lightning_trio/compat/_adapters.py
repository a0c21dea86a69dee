"""Agent-lightning 0.3's adapter of conversations, for the model calls that lightning_trio records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .. import semconv
from .._public import public_in
from .._spans import Span
from ._shapes import TraceAdapter


@public_in("lightning_trio.compat")
class TraceToMessages(TraceAdapter[list[dict[str, Any]]]):
    """Return the conversation of each model call, with its answer, as OpenAI's messages and tools."""

    def adapt(self, source: Sequence[Span], /) -> list[dict[str, Any]]:
        """Return a mapping with ``"messages"`` and ``"tools"`` (None without any) for each call that succeeded."""
        return [_conversation(span.attributes) for span in source if semconv.GEN_AI_OUTPUT_MESSAGES in span.attributes]


def _conversation(attributes: Mapping[str, Any]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    instructions = _decoded(attributes, semconv.GEN_AI_SYSTEM_INSTRUCTIONS)
    if instructions:
        messages.append({"role": "system", "content": _text(instructions)})
    for key in (semconv.GEN_AI_INPUT_MESSAGES, semconv.GEN_AI_OUTPUT_MESSAGES):
        for message in _decoded(attributes, key):
            messages += _wire_messages(message)
    tools = _decoded(attributes, semconv.GEN_AI_TOOL_DEFINITIONS)
    return {"messages": messages, "tools": tools or None}


def _decoded(attributes: Mapping[str, Any], key: str) -> Any:
    value = attributes.get(key, ())
    return json.loads(value) if isinstance(value, str) else value


def _text(parts: Sequence[Mapping[str, Any]]) -> str | None:
    texts = [str(part.get("content") or "") for part in parts if part.get("type") == "text"]
    return "\n".join(texts) if texts else None


def _wire_messages(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = message["parts"]
    results = [part for part in parts if part.get("type") == "tool_call_response"]
    if results:
        return [{"role": "tool", "tool_call_id": part.get("id"), "content": _result(part)} for part in results]
    made: dict[str, Any] = {"role": message["role"], "content": _text(parts)}
    calls = [part for part in parts if part.get("type") == "tool_call"]
    if calls:
        made["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {"name": call["name"], "arguments": _arguments(call.get("arguments"))},
            }
            for call in calls
        ]
    return [made]


def _result(part: Mapping[str, Any]) -> str:
    result = part.get("response", part.get("result"))
    return result if isinstance(result, str) else json.dumps(result)


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {})
