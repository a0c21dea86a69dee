"""Agent-lightning 0.3's adapter from spans of model calls to chat messages.

It reads both layouts: that of 0.3's tracers, ``gen_ai.prompt.0.content`` and so on, and the messages of OpenTelemetry's
conventions, in which the calls of this package's rollouts are recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

from .. import semconv
from .._public import public_in
from .._spans import Span, filter_and_unflatten_attributes
from ._shapes import TraceAdapter

_OF_A_CALL: Final = ("gen_ai.prompt.", "gen_ai.completion.", "gen_ai.request.", "gen_ai.response.")


class OpenAIMessages(TypedDict):
    """The messages of one model call, the answer included, and the tools that it was offered."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


@public_in("lightning_trio.compat")
class TraceToMessages(TraceAdapter[list[OpenAIMessages]]):
    """Turn spans into the chat messages of each model call, in OpenAI's form."""

    def adapt(self, source: Sequence[Span], /) -> list[OpenAIMessages]:
        """Return the messages of each model call among the spans, in their order.

        Raises:
            ValueError: the attributes of a span contain no messages.
        """
        return [_messages(span, source) for span in source if _is_call(span)]


def _is_call(span: Span) -> bool:
    return any(key.startswith(_OF_A_CALL) or key == semconv.GEN_AI_INPUT_MESSAGES for key in span.attributes)


def _messages(span: Span, spans: Sequence[Span]) -> OpenAIMessages:
    try:
        if semconv.GEN_AI_INPUT_MESSAGES in span.attributes:
            return _of_conventions(span.attributes)
        children = [child for child in spans if child.parent_id == span.span_id]
        return _of_agent_lightning(span.attributes, children)
    except (TypeError, LookupError, AttributeError) as exc:
        raise ValueError(f"the span {span.name!r} has malformed messages: {type(exc).__name__}: {exc}") from exc


# The layout of Agent-lightning 0.3.


def _of_agent_lightning(attributes: Mapping[str, Any], children: Sequence[Span]) -> OpenAIMessages:
    prompts = [_old_message(entry) for entry in _numbered(attributes, "gen_ai.prompt")]
    called = [_called(child.attributes) for child in children if "tool.name" in child.attributes]
    answers = [_old_message(entry) for entry in _numbered(attributes, "gen_ai.completion")]
    answers = [answer for answer in answers if answer["role"] == "assistant"]
    for answer in answers:
        if called:
            answer["tool_calls"] = called
    tools = [
        _tool(each["name"], each.get("description"), each.get("parameters"))
        for each in _numbered(attributes, "gen_ai.request.functions")
    ]
    return {"messages": prompts + answers, "tools": tools or None}


def _numbered(attributes: Mapping[str, Any], prefix: str) -> list[Any]:
    """Return the items under ``prefix.0``, ``prefix.1`` and so on; other keys there are left out."""
    found: Any = filter_and_unflatten_attributes(attributes, prefix)
    if isinstance(found, list):
        return found
    return [found[key] for key in sorted((key for key in found if key.isdigit()), key=int)]


def _old_message(entry: Mapping[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": entry["role"], "content": entry.get("content")}
    if "tool_call_id" in entry:
        message["tool_call_id"] = entry["tool_call_id"]
    if calls := entry.get("tool_calls"):
        message["tool_calls"] = [_call(each.get("id"), each["name"], each.get("arguments")) for each in calls]
    return message


def _called(attributes: Mapping[str, Any]) -> dict[str, Any]:
    call = _call(attributes.get("tool.call.id"), attributes["tool.name"], attributes.get("tool.parameters"))
    return {**call, "type": attributes.get("tool.call.type", "function")}


# OpenTelemetry's conventions.


def _of_conventions(attributes: Mapping[str, Any]) -> OpenAIMessages:
    instructions = _decoded(attributes.get(semconv.GEN_AI_SYSTEM_INSTRUCTIONS, "[]"))
    messages = [{"role": "system", "content": _text(instructions)}] if instructions else []
    for key in (semconv.GEN_AI_INPUT_MESSAGES, semconv.GEN_AI_OUTPUT_MESSAGES):
        for message in _decoded(attributes.get(key, "[]")):
            messages += _new_messages(message["role"], message["parts"])
    tools = [
        _tool(each["name"], each.get("description"), each.get("parameters"))
        for each in _decoded(attributes.get(semconv.GEN_AI_TOOL_DEFINITIONS, "[]"))
        if "name" in each
    ]
    return {"messages": messages, "tools": tools or None}


def _new_messages(role: str, parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    results = [part for part in parts if part["type"] == "tool_call_response"]
    if results:
        return [
            {"role": role, "content": _as_text(part.get("response")), "tool_call_id": part.get("id")}
            for part in results
        ]
    message: dict[str, Any] = {"role": role, "content": _text(parts)}
    calls = [part for part in parts if part["type"] == "tool_call"]
    if calls:
        message["tool_calls"] = [_call(part.get("id"), part["name"], part.get("arguments")) for part in calls]
    return [message]


def _text(parts: Sequence[Mapping[str, Any]]) -> str | None:
    texts = [str(part.get("content")) for part in parts if part["type"] == "text"]
    return "\n".join(texts) if texts else None


# Both.


def _call(call_id: object, name: str, arguments: object) -> dict[str, Any]:
    function = {"name": name, "arguments": "{}" if arguments is None else _as_text(arguments)}
    return {"id": call_id, "type": "function", "function": function}


def _tool(name: str, description: str | None, parameters: object) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": _decoded(parameters)}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
