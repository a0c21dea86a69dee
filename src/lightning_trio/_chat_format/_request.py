"""Requests of OpenAI's Chat Completions: ``POST /v1/chat/completions``.

Format: https://platform.openai.com/docs/api-reference/chat/create. Only the fields that this package reads are
declared; others, such as the sampling parameters, are skipped.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .._plain_values import from_json
from ._messages import Message, Tool


class StreamOptions(msgspec.Struct, frozen=True):
    """The options of a streamed reply."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """A request for the next message of a conversation."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: str | None = None
    tools: list[Tool] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def includes_usage(self) -> bool:
        """Whether a stream is to end with its token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


_decoder = msgspec.json.Decoder(ChatRequest)


def decode_request(body: bytes) -> ChatRequest:
    """Return the request in the body of a chat completion's ``POST``.

    Raises:
        ValueError: the body is not JSON, or does not have the form of a request; the message names the field.

    >>> decode_request(b'{"messages": [{"role": "user", "content": "Hello"}]}').messages[0].texts()
    ['Hello']
    """
    try:
        try:
            return _decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.convert(from_json(body), ChatRequest)
    except msgspec.ValidationError as error:
        raise ValueError(f"The request is not a chat completion request: {error}") from error
    except ValueError as error:
        raise ValueError(f"The body of the request is not valid JSON: {error}") from error
