"""The bytes that the scripted LLM sends: from a request and a reply to an `Answer`, without I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import attrs
import msgspec

from ..._chat_format import (
    LAST_EVENT,
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    ErrorBody,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    TokenCounts,
    ToolCallDelta,
    encode_event,
)
from ..._chat_format import ToolCall as WireToolCall
from ..._plain_values import json_text
from ._script import BadJSON, CutConnection, ErrorStatus, Fault, RateLimited, Reply, ToolCall

_ARGUMENT_PIECE = 12  # characters; so few that a client that does not join the pieces fails


def encode_json(value: object) -> bytes:
    """Return a value as JSON, with an escape for each lone surrogate that a script has."""
    return json_text(value).encode()


@attrs.frozen
class Writer:
    """Encode the replies to one request in OpenAI's format.

    Args:
        request: the request to answer.
        number: the request's number, for the ids.
        model: the model's name if the request has none.
        created: the time of the answer, in whole seconds of Unix time.
    """

    request: ChatRequest
    number: int
    model: str
    created: int

    def completion(self, reply: Reply) -> ChatCompletion:
        """Return a whole answer."""
        message = AssistantMessage(content=reply.content or _no_content(reply))
        if reply.tool_calls:
            calls = [
                WireToolCall(self._id(index, call), "function", FunctionCall(call.name, call.arguments))
                for index, call in enumerate(reply.tool_calls)
            ]
            message = msgspec.structs.replace(message, tool_calls=calls)
        return ChatCompletion(
            id=f"chatcmpl-{self.number}",
            created=self.created,
            model=self.request.model or self.model,
            choices=[Choice(index=0, message=message, finish_reason=_finish_reason(reply))],
            usage=self.usage(reply),
        )

    def chunks(self, reply: Reply) -> Iterator[ChatChunk]:
        """Yield each chunk of a streamed answer."""
        includes_usage = self.request.includes_usage()
        chunk = ChatChunk(
            id=f"chatcmpl-{self.number}",
            created=self.created,
            model=self.request.model or self.model,
            choices=[],
            usage=None if includes_usage else msgspec.UNSET,
        )
        for delta in self._deltas(reply):
            yield msgspec.structs.replace(chunk, choices=[ChunkChoice(index=0, delta=delta)])
        last = ChunkChoice(index=0, delta=Delta(), finish_reason=_finish_reason(reply))
        yield msgspec.structs.replace(chunk, choices=[last])
        if includes_usage:
            yield msgspec.structs.replace(chunk, usage=self.usage(reply))

    def usage(self, reply: Reply) -> TokenCounts:
        """Return the usage that a reply reports: its own, or the number of words as tokens."""
        if reply.usage is not None:
            prompt, completion = reply.usage.input_tokens, reply.usage.output_tokens
        else:
            calls = [text for call in reply.tool_calls for text in (call.name, call.arguments)]
            prompt = _count_words([text for message in self.request.messages for text in message.texts()])
            completion = _count_words([reply.content, *calls])
        return TokenCounts(prompt, completion, prompt + completion)

    def _deltas(self, reply: Reply) -> Iterator[Delta]:
        """Yield the addition of each chunk but the last to the message."""
        yield Delta(role="assistant", content=_no_content(reply), refusal=None)
        for word in re.findall(r"\s+|\S+\s*", reply.content):
            yield Delta(content=word)
        for index, call in enumerate(reply.tool_calls):
            begun = FunctionDelta(name=call.name, arguments="")
            yield _delta_of(ToolCallDelta(index=index, id=self._id(index, call), type="function", function=begun))
            for start in range(0, len(call.arguments), _ARGUMENT_PIECE):
                piece = call.arguments[start : start + _ARGUMENT_PIECE]
                yield _delta_of(ToolCallDelta(index=index, function=FunctionDelta(arguments=piece)))

    def _id(self, index: int, call: ToolCall) -> str:
        return call.id or f"call_{self.number}_{index}"


def _delta_of(call: ToolCallDelta) -> Delta:
    return Delta(tool_calls=[call])


def _no_content(reply: Reply) -> Literal[""] | None:
    # OpenAI sends null if there are tool calls and no text.
    return None if reply.tool_calls and not reply.content else ""


def _finish_reason(reply: Reply) -> FinishReason:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _count_words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


@attrs.frozen
class Answer:
    """A response: its head, one or more pieces of its body, and whether the connection is cut after them."""

    pieces: Sequence[bytes]
    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    piece_interval: float = 0.0
    is_cut: bool = False


def _whole(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    head = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    return Answer([body], status, head)


def _stream(pieces: Sequence[bytes], *, piece_interval: float = 0.0) -> Answer:
    head = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    return Answer(pieces, headers=head, piece_interval=piece_interval)


def _reply_answer(writer: Writer, reply: Reply) -> Answer:
    if not writer.request.stream:
        return _whole(encode_json(writer.completion(reply)))
    events = [encode_event(encode_json(chunk)) for chunk in writer.chunks(reply)]
    return _stream([*events, LAST_EVENT], piece_interval=reply.chunk_interval)


def _cut_answer(writer: Writer, cut: CutConnection) -> Answer:
    answer = _reply_answer(writer, cut.reply)
    if writer.request.stream:
        return attrs.evolve(answer, pieces=answer.pieces[: cut.after_chunks] or [b""], is_cut=True)
    [body] = answer.pieces
    return attrs.evolve(answer, pieces=[body[: len(body) // 2]], is_cut=True)


def _bad_json_answer(writer: Writer) -> Answer:
    broken = b'{"id":"chatcmpl-%d","choices":[{"index":0,' % writer.number
    return _stream([encode_event(broken), LAST_EVENT]) if writer.request.stream else _whole(broken)


def _error_answer(status: int, message: str, headers: Mapping[str, str]) -> Answer:
    return _whole(encode_json(ErrorBody.of(status, message)), status=status, headers=headers)


def answer_to(writer: Writer, reply: Reply | Fault) -> Answer:
    """Return the response to a request for the reply that the script has for it."""
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
    """Return the seconds before the first byte: the reply's own, or the server's default."""
    if reply.latency is not None:
        return reply.latency
    return latency_of(reply.reply, default) if isinstance(reply, CutConnection) else default
