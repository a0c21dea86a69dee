"""Messages and tools of OpenAI's Chat Completions, as clients send them.

Format: https://platform.openai.com/docs/api-reference/chat/create. Only the fields that this package reads are
declared, others are skipped. Fields are optional if other servers accept requests without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class ContentPart(msgspec.Struct, frozen=True):
    """One typed part of a message's content; only the type of an image or a sound is kept."""

    type: str = "text"
    text: str | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    """A model's call of a function; `arguments` is JSON text as the model wrote it, valid or not."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    """A model's request to call a tool; the message with the result quotes the `id`.

    A call of a tool that is not a function has a `type` of its own and no `function`.
    """

    id: str
    type: str = "function"
    function: FunctionCall | None = None


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation, of any role."""

    role: str | None = None
    content: str | list[ContentPart] | None = None
    tool_calls: list[ToolCall] | None = None
    """The tools that an assistant's message calls."""
    tool_call_id: str | None = None
    """The call whose result a tool's message has."""

    def texts(self) -> list[str]:
        """Return the texts of the content.

        >>> Message("user", [ContentPart("text", "Is it free?"), ContentPart("image_url")]).texts()
        ['Is it free?']
        """
        if isinstance(self.content, str):
            return [self.content]
        return [part.text for part in self.content or () if part.text is not None]


class FunctionDefinition(msgspec.Struct, frozen=True):
    """A function offered to a model; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool offered to a model; one that is not a function has a `type` of its own and no `function`."""

    type: str = "function"
    function: FunctionDefinition | None = None
