"""The script of a scripted LLM: replies, faults, and the record of the requests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, cast

import attrs
import trio

from ..._chat_format import FinishReason
from ..._plain_values import json_text, spaced_json
from ..._public import public_in
from ..._spans import Usage
from ._assistant_message import as_assistant_message


def _seconds(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not 0 <= value < float("inf"):
        raise ValueError(f"{attribute.name}={value!r} is not a duration; write seconds, finite and at least 0")


def _count(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name}={value!r} is negative; write a number of chunks")


def _error_status(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if not 400 <= value <= 599:
        raise ValueError(f"{attribute.name}={value!r} is not an HTTP error; write 400 to 599")


def _argument_text(arguments: Mapping[str, Any] | str) -> str:
    return arguments if isinstance(arguments, str) else spaced_json(arguments)


def _content(content: object) -> str:
    if isinstance(content, str):
        return str.__str__(content)
    return "" if content is None else json_text(content)


def _tool_calls(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    return tuple(calls)


def _as_reply(reply: Reply | str) -> Reply:
    return Reply(reply) if isinstance(reply, str) else reply


@public_in("lightning_trio.testing")
@attrs.frozen
class ToolCall:
    """Ask the agent, as a model would, to call one of its tools.

    Args:
        name: the function to call; the server does not check that the request offered it.
        arguments: a mapping, sent as JSON text; or the text itself, which may be invalid JSON.
        id: the id that the tool's answer must quote; by default ``call_{request number}_{index}``.

    Example::

        Reply(tool_calls=[ToolCall("get_weather", {"city": "Oslo"})])
    """

    name: str
    arguments: str = attrs.field(converter=_argument_text, default="{}")
    id: str | None = None


@public_in("lightning_trio.testing")
@attrs.frozen
class Reply:
    """One successful answer of a scripted LLM, sent whole or streamed as requested.

    Args:
        content: the assistant's text. A stream sends it word by word. A model, or another object with a form in
            JSON, is sent as JSON text.
        tool_calls: the tools that the agent is asked to call, in order.
        latency: seconds before the first byte; None means the server's ``latency``.
        finish_reason: by default ``"tool_calls"`` if there are any, else ``"stop"``.
        usage: the tokens to report, as ``agl.Usage(100, 20)``; by default *simulated* by counting words
            separated by whitespace, in the texts of the request's messages and in the reply's content, tool
            names and arguments.
        chunk_interval: seconds between two chunks of a stream; ignored for a whole answer.

    Raises:
        ValueError: if ``latency`` or ``chunk_interval`` is negative or not finite.

    Example::

        Reply("Room A103 is free.", latency=0.2, chunk_interval=0.05)
    """

    content: str = attrs.field(converter=_content, default="")
    tool_calls: tuple[ToolCall, ...] = attrs.field(converter=_tool_calls, default=())
    latency: float | None = attrs.field(default=None, validator=_seconds, kw_only=True)
    finish_reason: FinishReason | None = attrs.field(default=None, kw_only=True)
    usage: Usage | None = attrs.field(default=None, kw_only=True)
    chunk_interval: float = attrs.field(default=0.0, validator=_seconds, kw_only=True)


@public_in("lightning_trio.testing")
@attrs.frozen
class RateLimited:
    """Answer a request with status 429, as a provider does when its quota is used up.

    Args:
        retry_after: seconds for the ``Retry-After`` header, fractions allowed (clients accept them, though
            RFC 9110 section 10.2.3 specifies whole seconds); None sends no header.
        latency: seconds before the answer; None means the server's ``latency``.

    Raises:
        ValueError: if a time is negative or not finite.

    Example::

        async with open_scripted_llm([RateLimited(retry_after=0.1), "Hello"]) as llm_server: ...
    """

    retry_after: float | None = attrs.field(default=1.0, validator=_seconds)
    latency: float | None = attrs.field(default=None, validator=_seconds, kw_only=True)


@public_in("lightning_trio.testing")
@attrs.frozen
class ErrorStatus:
    """Answer a request with any HTTP error and a body in OpenAI's error format.

    Args:
        status: 400 to 599; the ``openai`` SDK retries 408, 409, 429 and 5xx, and raises on the others.
        message: the error's text.
        should_retry: sent as ``x-should-retry``, which overrides that rule of the SDK; None sends no header.
        latency: seconds before the answer; None means the server's ``latency``.

    Raises:
        ValueError: if ``status`` is not an error or ``latency`` is negative or not finite.

    Example::

        async with open_scripted_llm(ErrorStatus(401, "Incorrect API key")) as llm_server: ...
    """

    status: int = attrs.field(default=500, validator=_error_status)
    message: str = "The scripted LLM was told to fail."
    should_retry: bool | None = attrs.field(default=None, kw_only=True)
    latency: float | None = attrs.field(default=None, validator=_seconds, kw_only=True)


@public_in("lightning_trio.testing")
@attrs.frozen
class CutConnection:
    """Begin an answer and close the connection in the middle of it; the client sees a transport error.

    A whole answer is cut halfway through its body. A stream is cut after a number of chunks.

    Args:
        after_chunks: the number of chunks of a stream that are sent. The first only names the role, each further
            one carries a word.
        reply: the answer that is cut.
        latency: seconds before the first byte; None means the reply's ``latency``, then the server's.

    Raises:
        ValueError: if ``after_chunks`` is negative or ``latency`` is negative or not finite.

    Example::

        async with open_scripted_llm([CutConnection(after_chunks=3), "Hello"]) as llm_server: ...
    """

    after_chunks: int = attrs.field(default=0, validator=_count)
    reply: Reply = attrs.field(default=Reply("This answer does not reach its end."), converter=_as_reply)
    latency: float | None = attrs.field(default=None, validator=_seconds, kw_only=True)


@public_in("lightning_trio.testing")
@attrs.frozen
class BadJSON:
    """Answer with status 200 and a body, or a stream's chunk, that is not valid JSON.

    Args:
        latency: seconds before the answer; None means the server's ``latency``.

    Raises:
        ValueError: if ``latency`` is negative or not finite.
    """

    latency: float | None = attrs.field(default=None, validator=_seconds, kw_only=True)


Fault: TypeAlias = RateLimited | ErrorStatus | CutConnection | BadJSON


class Model(Protocol):
    """A message of the OpenAI SDK or of LangChain, or another model of pydantic."""

    def model_dump(self) -> dict[str, Any]:
        """Return the fields of the model."""
        ...


Scripted: TypeAlias = str | Reply | Fault | Mapping[str, Any] | Model
Script: TypeAlias = Scripted | Sequence[Scripted] | Callable[[Mapping[str, Any]], Scripted]

_SCRIPTED = (str, Mapping, Reply, RateLimited, ErrorStatus, CutConnection, BadJSON)
_REMEDY = "write a str, a Reply, an assistant's message, a RateLimited, an ErrorStatus, a CutConnection or a BadJSON"


@public_in("lightning_trio.testing")
@attrs.frozen
class RecordedRequest:
    """One chat completion request, as the server received it.

    Attributes:
        number: 1 for the first.
        body: the JSON of the request: ``body["messages"]``, ``body["model"]`` and so on.
        headers: by lower-case name; omitted from the ``repr``, because they contain the API key.
        when: the time at which its body had arrived, in seconds on Trio's clock (`trio.current_time`).
    """

    number: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = attrs.field(repr=False)
    when: float


@public_in("lightning_trio.testing")
@attrs.frozen
class ScriptedLLMStatistics:
    """The counts of a scripted LLM so far.

    Attributes:
        served: replies sent to their end, whole or streamed.
        faults: faults sent, including the errors of a script that has run out.
        streams: the streams among ``served``.
        in_flight: chat completion requests that are being answered now.
        max_in_flight: the maximum of ``in_flight`` so far.
    """

    served: int
    faults: int
    streams: int
    in_flight: int
    max_in_flight: int


def _checked(scripted: object, where: str) -> Reply | Fault:
    if isinstance(scripted, str):
        return Reply(scripted)
    if isinstance(scripted, (Reply, RateLimited, ErrorStatus, CutConnection, BadJSON)):
        return scripted
    if isinstance(scripted, Mapping) or hasattr(type(scripted), "model_dump"):
        message = as_assistant_message(scripted)
        if message is not None:
            calls = [ToolCall(call.name, call.arguments, call.id) for call in message.tool_calls]
            return Reply(message.content, calls)
        if not isinstance(scripted, Mapping):
            return Reply(scripted)
    raise TypeError(f"{where} is {scripted!r} ({type(scripted).__name__}); {_REMEDY}")


def _in_order(replies: Sequence[Reply | Fault]) -> Callable[[RecordedRequest], Reply | Fault]:
    def reply_to(request: RecordedRequest) -> Reply | Fault:
        if request.number <= len(replies):
            return replies[request.number - 1]
        return ErrorStatus(
            500,
            f"The script ran out after {len(replies)} replies; this is request {request.number}, "
            f"whose last message is {request.body['messages'][-1]!r}. Pass open_scripted_llm more replies, "
            "or a callable that answers any number of requests.",
            should_retry=False,
        )

    return reply_to


def _by_rule(rule: Callable[[Mapping[str, Any]], object]) -> Callable[[RecordedRequest], Reply | Fault]:
    if inspect.iscoroutinefunction(rule):
        raise TypeError(f"script={rule!r} is async; write a plain `def`, and Reply(latency=...) for waiting")
    return lambda request: _checked(rule(request.body), f"the script's answer to request {request.number}")


def _read_script(script: object) -> Callable[[RecordedRequest], Reply | Fault]:
    """Return a `Script` as a function from requests to replies.

    Raises:
        TypeError: it is not a script.
    """
    if isinstance(script, _SCRIPTED) or hasattr(type(script), "model_dump"):
        always = _checked(script, "script")
        return lambda request: always
    if callable(script):
        return _by_rule(script)
    if isinstance(script, Sequence):
        replies = cast("Sequence[object]", script)
        return _in_order([_checked(reply, f"script[{index}]") for index, reply in enumerate(replies)])
    raise TypeError(f"script is of type {type(script).__name__}; {_REMEDY}, a sequence of these, or a callable")


@public_in("lightning_trio.testing")
class Playback:
    """A script being played: the requests so far, their replies, and the counts."""

    def __init__(self, script: Script) -> None:
        self.reply_to: Callable[[RecordedRequest], Reply | Fault] = _read_script(script)
        self.requests: list[RecordedRequest] = []
        self.statistics: ScriptedLLMStatistics = ScriptedLLMStatistics(0, 0, 0, 0, 0)

    def record(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> RecordedRequest:
        """Add a request and return its record."""
        request = RecordedRequest(len(self.requests) + 1, body, headers, trio.current_time())
        self.requests.append(request)
        return request

    def count(self, *, served: int = 0, faults: int = 0, streams: int = 0, in_flight: int = 0) -> None:
        """Add to the counts."""
        was = self.statistics
        self.statistics = ScriptedLLMStatistics(
            served=was.served + served,
            faults=was.faults + faults,
            streams=was.streams + streams,
            in_flight=was.in_flight + in_flight,
            max_in_flight=max(was.max_in_flight, was.in_flight + in_flight),
        )

    @contextmanager
    def in_flight(self) -> Generator[None]:
        """Count a request as being answered while the block runs."""
        self.count(in_flight=1)
        try:
            yield
        finally:
            self.count(in_flight=-1)
