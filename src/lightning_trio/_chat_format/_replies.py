"""Whole replies of OpenAI's Chat Completions.

Format: https://platform.openai.com/docs/api-reference/chat/object. Fields are in the order in which OpenAI sends
them; `UNSET` omits a field, None sends ``null``.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from ._messages import ToolCall

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]


class TokenCounts(msgspec.Struct, frozen=True):
    """The numbers of tokens of a request and its reply, by OpenAI's names."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(msgspec.Struct, frozen=True):
    """The message that a model adds to the conversation; `content` is None if it only calls tools."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One of the messages that a request asked for, with the reason why it ends."""

    index: int
    message: AssistantMessage
    logprobs: Any = None
    finish_reason: FinishReason


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a whole reply; `created` in Unix seconds."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: TokenCounts
