"""The assistant's messages of clients: OpenAI's, as an object or a dict, LangChain's, and whole completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..._plain_values import plain


@attrs.frozen
class Call:
    """One call of a tool."""

    name: str
    arguments: Mapping[str, Any] | str
    id: str | None


@attrs.frozen
class AssistantMessage:
    """What a client's message says."""

    content: str
    tool_calls: Sequence[Call]


def as_assistant_message(value: object) -> AssistantMessage | None:
    """Return an assistant's message as a record; None for what is no message.

    Raises:
        TypeError: it is the message of another role.
    """
    fields: Any = plain(value, repr)
    if isinstance(fields, dict) and fields.get("choices"):
        fields = fields["choices"][0].get("message")
    role = fields.get("role") or _ROLES.get(str(fields.get("type"))) if isinstance(fields, dict) else None
    if role is None:
        return None
    if role != "assistant":
        raise TypeError(f"a script says what the assistant answers, and {value!r} is a message of the role {role}")
    calls = [_call(call) for call in fields.get("tool_calls") or ()]
    return AssistantMessage(_text(fields.get("content")), calls)


_ROLES = {"ai": "assistant", "AIMessageChunk": "assistant", "human": "user", "system": "system", "tool": "tool"}
"""The roles of LangChain's types of messages; a chunk is also the sum of a stream's."""


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else part.get("text") or "" for part in content)
    return content or ""


def _call(call: Mapping[str, Any]) -> Call:
    function = call.get("function") or {"name": call.get("name"), "arguments": call.get("args")}
    return Call(str(function["name"]), function["arguments"] or {}, call.get("id"))
