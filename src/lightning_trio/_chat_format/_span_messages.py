"""Messages in spans of model calls: the JSON of ``gen_ai.input.messages`` and ``gen_ai.output.messages``.

Format: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/. A message is a role and its parts: texts,
calls of tools, and other parts that a library adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from .._plain_values import json_text


class TextPart(msgspec.Struct, frozen=True):
    """A part of any type but ``"tool_call"``, such as ``"text"`` or ``"reasoning"``; `content` may be empty."""

    content: str
    type: str = "text"


class ToolCallPart(msgspec.Struct, frozen=True):
    """A call of a tool, its arguments decoded."""

    name: str
    arguments: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])
    id: str | None = None
    type: Literal["tool_call"] = "tool_call"


Part: TypeAlias = TextPart | ToolCallPart


class SpanMessage(msgspec.Struct, frozen=True):
    """One message of a model call."""

    role: str
    parts: Sequence[Part]


def decode_span_messages(attribute: object) -> list[SpanMessage]:
    """Return the messages in an attribute, which is JSON text or already decoded.

    Raises:
        ValueError: the attribute has another form, because libraries differ and agents set attributes too.

    >>> decode_span_messages('[{"role": "assistant", "parts": [{"type": "text", "content": "Hello"}]}]')
    [SpanMessage(role='assistant', parts=[TextPart(content='Hello', type='text')])]
    """
    try:
        messages: Any = json.loads(attribute) if isinstance(attribute, str) else attribute
        return [_message(message) for message in messages]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
        raise ValueError(f"these are not messages of a model call: {exc}") from exc


def _message(message: Mapping[str, Any]) -> SpanMessage:
    parts = [_part(part) for part in message["parts"]]
    return SpanMessage(str(message.get("role") or ""), parts)


def _part(part: Mapping[str, Any]) -> Part:
    kind = part.get("type")
    if kind != "tool_call":
        return TextPart(str(part.get("content") or ""), str(kind or "text"))
    arguments = part.get("arguments")
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    call_id = part.get("id")
    return ToolCallPart(str(part["name"]), dict((arguments or {}).items()), None if call_id is None else str(call_id))


def encode_span_messages(messages: Sequence[object]) -> str:
    """Return the JSON text of messages that have the form of the conventions, whatever their classes.

    >>> encode_span_messages([SpanMessage("user", [TextPart("Hello")])])
    '[{"role":"user","parts":[{"content":"Hello","type":"text"}]}]'
    """
    # A model that cuts an emoji in two leaves half a surrogate pair.
    return json_text(messages, str)
