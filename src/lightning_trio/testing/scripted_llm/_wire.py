"""OpenAI's Chat Completions format, as bytes on the wire.

Formats: https://platform.openai.com/docs/api-reference/chat and .../chat-streaming. What is sent is decided
without I/O, from a request and a reply to an `Answer`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import attrs
import msgspec
from starlette.exceptions import HTTPException

from ._script import BadJSON, CutConnection, ErrorStatus, Fault, RateLimited, Reply, ToolCall, Usage

_ERROR_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_ARGUMENT_PIECE = 12  # characters; short, so that a client that does not join the pieces is found out


class ContentPart(msgspec.Struct):
    """One typed part of a message's content; only text is looked at."""

    text: str | None = None


class Message(msgspec.Struct):
    """One message of a request; only its content is looked at."""

    content: str | list[ContentPart] | None = None

    def texts(self) -> list[str]:
        """Return the texts of the content."""
        if isinstance(self.content, str):
            return [self.content]
        return [part.text for part in self.content or () if part.text is not None]


class StreamOptions(msgspec.Struct):
    """What a request asks of a stream."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct):
    """What an answer depends on in a request's body; the rest is recorded and not looked at."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def includes_usage(self) -> bool:
        """Tell whether a stream is to end with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


def read_request(raw: bytes) -> ChatRequest:
    """Return the body of a chat completion request, or raise the status 400 that says what is wrong."""
    try:
        return msgspec.json.decode(raw, type=ChatRequest)
    except msgspec.ValidationError as error:
        raise HTTPException(400, f"The request is no chat completion request: {error}") from error
    except ValueError as error:
        raise HTTPException(400, f"The body of the request is not valid JSON: {error}") from error


@attrs.frozen
class Writer:
    """Puts the replies to one request into OpenAI's format.

    Args:
        request: the request that is answered.
        number: which one it is, for the ids.
        model: the model's name if the request has none.
        created: when the answer was made, in whole seconds of Unix time.
    """

    request: ChatRequest
    number: int
    model: str
    created: int

    def completion(self, reply: Reply) -> dict[str, Any]:
        """Return the JSON of a whole answer."""
        content = reply.content or _no_content(reply)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reply.tool_calls:
            message["tool_calls"] = [
                self._tool_call(index, call, call.arguments) for index, call in enumerate(reply.tool_calls)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply)}
        return {**self._envelope("chat.completion"), "choices": [choice], "usage": self.usage(reply)}

    def chunks(self, reply: Reply) -> Iterator[dict[str, Any]]:
        """Yield the JSON of each chunk of a streamed answer."""
        envelope = self._envelope("chat.completion.chunk")
        if self.request.includes_usage():
            envelope["usage"] = None
        for delta, finish_reason in self._deltas(reply):
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            yield {**envelope, "choices": [choice]}
        if self.request.includes_usage():
            yield {**envelope, "choices": [], "usage": self.usage(reply)}

    def usage(self, reply: Reply) -> dict[str, int]:
        """Return the usage a reply reports: its own, or words counted as if they were tokens."""
        prompt = [text for message in self.request.messages for text in message.texts()]
        calls = [text for call in reply.tool_calls for text in (call.name, call.arguments)]
        usage = reply.usage or Usage(_count_words(prompt), _count_words([reply.content, *calls]))
        return {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.number}",
            "object": kind,
            "created": self.created,
            "model": self.request.model or self.model,
        }

    def _deltas(self, reply: Reply) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yield what each chunk adds to the message, and the reason to finish with the last."""
        yield {"role": "assistant", "content": _no_content(reply), "refusal": None}, None
        for word in re.findall(r"\s+|\S+\s*", reply.content):
            yield {"content": word}, None
        for index, call in enumerate(reply.tool_calls):
            yield {"tool_calls": [{"index": index, **self._tool_call(index, call, "")}]}, None
            for start in range(0, len(call.arguments), _ARGUMENT_PIECE):
                piece = call.arguments[start : start + _ARGUMENT_PIECE]
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, None
        yield {}, _finish_reason(reply)

    def _tool_call(self, index: int, call: ToolCall, arguments: str) -> dict[str, Any]:
        return {
            "id": call.id or f"call_{self.number}_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }


def _no_content(reply: Reply) -> str | None:
    # OpenAI has null where there are tool calls and no text.
    return None if reply.tool_calls and not reply.content else ""


def _finish_reason(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _count_words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


@attrs.frozen
class Answer:
    """What goes over the wire: the head, one or more pieces of the body, whether it breaks off after them."""

    pieces: Sequence[bytes]
    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    piece_interval: float = 0.0
    is_cut: bool = False


def _json_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _whole(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    head = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    return Answer([body], status, head)


def _stream(pieces: Sequence[bytes], *, piece_interval: float = 0.0) -> Answer:
    head = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    return Answer(pieces, headers=head, piece_interval=piece_interval)


def _reply_answer(writer: Writer, reply: Reply) -> Answer:
    if not writer.request.stream:
        return _whole(_json_bytes(writer.completion(reply)))
    events = [_event(_json_bytes(chunk)) for chunk in writer.chunks(reply)]
    return _stream([*events, _event(b"[DONE]")], piece_interval=reply.chunk_interval)


def _cut_answer(writer: Writer, cut: CutConnection) -> Answer:
    answer = _reply_answer(writer, cut.reply)
    if writer.request.stream:
        return attrs.evolve(answer, pieces=answer.pieces[: cut.after_chunks] or [b""], is_cut=True)
    [body] = answer.pieces
    return attrs.evolve(answer, pieces=[body[: len(body) // 2]], is_cut=True)


def _bad_json_answer(writer: Writer) -> Answer:
    broken = b'{"id":"chatcmpl-%d","choices":[{"index":0,' % writer.number
    return _stream([_event(broken), _event(b"[DONE]")]) if writer.request.stream else _whole(broken)


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return the JSON of an error, as OpenAI's API shapes it."""
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": _ERROR_CODES.get(status)}}


def _error_answer(status: int, message: str, headers: Mapping[str, str]) -> Answer:
    return _whole(_json_bytes(error_body(status, message)), status=status, headers=headers)


def answer_to(writer: Writer, reply: Reply | Fault) -> Answer:
    """Return what goes over the wire for a request and the reply the script has for it."""
    match reply:
        case Reply():
            return _reply_answer(writer, reply)
        case CutConnection():
            return _cut_answer(writer, reply)
        case BadJSON():
            return _bad_json_answer(writer)
        case RateLimited(retry_after=seconds):
            headers = {} if seconds is None else {"retry-after": f"{seconds:g}"}
            return _error_answer(429, "Rate limit reached.", headers)
        case ErrorStatus(status=status, message=message, should_retry=should_retry):
            headers = {} if should_retry is None else {"x-should-retry": str(should_retry).lower()}
            return _error_answer(status, message, headers)


def latency_of(reply: Reply | Fault, default: float) -> float:
    if reply.latency is not None:
        return reply.latency
    return latency_of(reply.reply, default) if isinstance(reply, CutConnection) else default
