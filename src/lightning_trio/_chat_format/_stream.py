"""Streamed replies of OpenAI's Chat Completions: chunks, each sent as a server-sent event.

Format: https://platform.openai.com/docs/api-reference/chat-streaming, events by
https://html.spec.whatwg.org/multipage/server-sent-events.html. A field that is `UNSET` is not sent.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ._replies import FinishReason, TokenCounts


class FunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk's addition to a call of a function: first its name, then piece by piece the JSON of its arguments."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk's addition to the tool call number `index`; only the first chunk of a call has its `id` and `type`."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk's addition to the assistant's message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | None | UnsetType = UNSET
    refusal: str | None | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk's addition to one of the messages; the last one of a message has the reason why it ends."""

    index: int
    delta: Delta
    logprobs: Any = None
    finish_reason: FinishReason | None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """The data of one event of a streamed reply.

    `usage` is sent only if the request asks for it: None in every chunk but the last, which has no choices.
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: TokenCounts | None | UnsetType = UNSET


def encode_event(data: bytes) -> bytes:
    r"""Return `data`, which has no line breaks, framed as a server-sent event.

    >>> encode_event(b"[DONE]")
    b'data: [DONE]\n\n'
    """
    return b"data: " + data + b"\n\n"


LAST_EVENT: Final = encode_event(b"[DONE]")
"""The event that ends a stream."""
