"""The scripted LLM, with httpx and the official ``openai`` SDK as clients over real sockets."""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import numpy as np
import openai
import pydantic
import pytest
import trio
import trio.testing
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageParam

from lightning_trio import Usage
from lightning_trio.testing.scripted_llm import ScriptedLLM, open_scripted_llm
from lightning_trio.testing.scripted_llm._script import (
    BadJSON,
    CutConnection,
    ErrorStatus,
    RateLimited,
    RecordedRequest,
    Reply,
    Script,
    ScriptedLLMStatistics,
    ToolCall,
)

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Which room is free?"}]
BODY = {"model": "m", "messages": ASK}
STREAM = {**BODY, "stream": True}
PATH = "/chat/completions"

# A fully read stream leaves the async generators inside the SDK and its HTTP client to the garbage collector;
# under Trio their finalisation warns. Closing the stream and the client does not close them.
sdk_stream = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


TOOL_CALL = {"id": "7", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


class Meeting(pydantic.BaseModel):
    day: str
    people: int


@asynccontextmanager
async def opened(script: Script, *, latency: float = 0.0) -> AsyncGenerator[tuple[ScriptedLLM, httpx.AsyncClient]]:
    """Open a scripted LLM and an httpx client for it."""
    async with (
        open_scripted_llm(script, latency=latency) as llm_server,
        httpx.AsyncClient(base_url=llm_server.base_url, timeout=30, trust_env=False) as client,
    ):
        yield llm_server, client


def sdk(llm_server: ScriptedLLM, *, max_retries: int = 0) -> AsyncOpenAI:
    """Return the SDK's client; retries are off unless a test is about them."""
    return AsyncOpenAI(base_url=llm_server.base_url, api_key="sk-test", max_retries=max_retries)


async def stream_events(client: httpx.AsyncClient, body: Mapping[str, Any]) -> list[str]:
    """Return the data of each server-sent event."""
    response = await client.post(PATH, json=body)
    return [event.removeprefix("data: ") for event in response.text.split("\n\n") if event]


async def test_a_single_string_answers_every_request() -> None:
    """A script of one reply answers all requests with it."""
    async with opened("A103") as (_, client):
        answers = [(await client.post(PATH, json=BODY)).json() for _ in range(2)]

    assert [answer["choices"][0]["message"]["content"] for answer in answers] == ["A103", "A103"]


async def test_a_sequence_is_given_out_in_order() -> None:
    """The replies of a sequence go to the requests in the order in which these arrive."""
    async with opened(["one", Reply("two")]) as (_, client):
        answers = [(await client.post(PATH, json=BODY)).json() for _ in range(2)]

    assert [answer["choices"][0]["message"]["content"] for answer in answers] == ["one", "two"]


async def test_a_callable_answers_from_the_request() -> None:
    """A callable gets the JSON of the request and returns its reply."""
    async with opened(lambda body: body["messages"][-1]["content"].upper()) as (_, client):
        answer = (await client.post(PATH, json=BODY)).json()

    assert answer["choices"][0]["message"]["content"] == "WHICH ROOM IS FREE?"


async def test_an_exhausted_script_says_so() -> None:
    """When the script has run out, the error names its length and the request."""
    async with opened(["only"]) as (_, client):
        await client.post(PATH, json=BODY)
        response = await client.post(PATH, json=BODY)

    assert response.status_code == 500
    message = response.json()["error"]["message"]
    assert "ran out after 1 replies; this is request 2" in message
    assert "Which room is free?" in message


async def test_an_exhausted_script_is_not_retried_by_the_sdk() -> None:
    """The SDK does not retry after an exhausted script, but reports it immediately."""
    async with open_scripted_llm([]) as llm_server, sdk(llm_server, max_retries=5) as client:
        with pytest.raises(openai.InternalServerError, match="ran out after 0 replies"):
            await client.chat.completions.create(model="m", messages=ASK)

    assert len(llm_server.requests) == 1


async def test_a_script_that_raises_is_named_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error in a script's callable reaches the client as status 500 and the log as a traceback."""

    def broken(body: Mapping[str, Any]) -> str:
        return str(body["no such key"])

    async with opened(broken) as (_, client):
        response = await client.post(PATH, json=BODY)

    assert response.status_code == 500
    assert response.json()["error"]["message"] == "The script raised KeyError: 'no such key'"
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


async def test_a_callable_that_returns_no_reply_is_named() -> None:
    """A callable's result of another type is an error that names the valid types."""

    def wrong(body: Mapping[str, Any]) -> Any:
        return 42

    async with opened(wrong) as (_, client):
        response = await client.post(PATH, json=BODY)

    assert "answer to request 1 is 42 (int); write a str, a Reply" in response.json()["error"]["message"]


async def test_nothing_is_logged_when_all_goes_well(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server is silent."""
    async with opened(["fine", CutConnection()]) as (_, client):
        await client.post(PATH, json=BODY)
        with pytest.raises(httpx.TransportError):
            await client.post(PATH, json=BODY)

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")


async def test_a_whole_answer_has_openai_shape() -> None:
    """A whole answer has the fields of OpenAI's chat completion, and repeats the request's model."""
    async with opened("A103") as (_, client):
        answer = (await client.post(PATH, json=BODY)).json()

    created = answer.pop("created")
    assert isinstance(created, int)
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A103", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5},
    }


async def test_usage_counts_words_in_all_text_parts() -> None:
    """The simulated usage counts the words of strings and of text parts, and of tool calls."""
    parts = [{"type": "text", "text": "two words"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]

    async with opened(Reply("I look", [ToolCall("find", {"a": 1})])) as (_, client):
        answer = (await client.post(PATH, json={"messages": messages})).json()

    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}


async def test_a_reply_may_set_usage_and_finish_reason() -> None:
    """A reply's usage and finish reason replace the defaults."""
    async with opened(Reply("cut sh", finish_reason="length", usage=Usage(100, 20))) as (_, client):
        answer = (await client.post(PATH, json=BODY)).json()

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


async def test_the_trio_sdk_reads_a_whole_answer() -> None:
    """`AsyncOpenAI` works against the server under Trio."""
    async with open_scripted_llm("A103") as llm_server, sdk(llm_server) as client:
        answer = await client.chat.completions.create(model="m", messages=ASK)

    assert answer.choices[0].message.content == "A103"


async def test_the_blocking_sdk_reads_an_answer_in_a_thread() -> None:
    """`OpenAI` in a worker thread works against the server."""

    def ask(base_url: str) -> str | None:
        with OpenAI(base_url=base_url, api_key="sk-test", max_retries=0) as client:
            return client.chat.completions.create(model="m", messages=ASK).choices[0].message.content

    async with open_scripted_llm("A103") as llm_server:
        answer = await trio.to_thread.run_sync(ask, llm_server.base_url)

    assert answer == "A103"


async def test_the_blocking_sdk_reads_a_stream_in_a_thread() -> None:
    """`OpenAI` in a worker thread reads a stream."""

    def ask(base_url: str) -> list[str | None]:
        with (
            OpenAI(base_url=base_url, api_key="sk-test", max_retries=0) as client,
            client.chat.completions.create(model="m", messages=ASK, stream=True) as stream,
        ):
            return [chunk.choices[0].delta.content for chunk in stream]

    async with open_scripted_llm("Room A103") as llm_server:
        pieces = await trio.to_thread.run_sync(ask, llm_server.base_url)

    assert pieces == ["", "Room ", "A103", None]


async def test_a_stream_sends_role_words_and_end() -> None:
    """A stream's chunks are the role, the words, and the reason to finish, then the ``[DONE]`` mark."""
    async with opened("  Room A103\nis free ") as (_, client):
        *chunks, done = await stream_events(client, STREAM)

    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    words = [choice["delta"]["content"] for choice in choices[1:-1]]
    assert words == ["  ", "Room ", "A103\n", "is ", "free "]
    assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "stop")
    assert done == "[DONE]"


async def test_a_stream_reports_usage_when_asked() -> None:
    """With ``include_usage`` the last chunk has no choices and the usage, the others a null."""
    async with opened("Room A103") as (_, client):
        *chunks, _done = await stream_events(client, {**STREAM, "stream_options": {"include_usage": True}})

    *others, last = [json.loads(chunk) for chunk in chunks]
    assert {other["usage"] for other in others} == {None}
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


@sdk_stream
async def test_the_trio_sdk_reads_a_stream() -> None:
    """`AsyncOpenAI` joins the chunks of a stream to the content."""
    async with (
        open_scripted_llm("Room A103 is free") as llm_server,
        sdk(llm_server) as client,
        await client.chat.completions.create(model="m", messages=ASK, stream=True) as stream,
    ):
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]

    assert "".join(pieces) == "Room A103 is free"


async def test_tool_calls_in_a_whole_answer() -> None:
    """Tool calls come with ids, a null content and their own reason to finish."""
    calls = [ToolCall("get_rooms", {"day": "Monday"}), ToolCall("noop", id="mine")]
    async with open_scripted_llm(Reply(tool_calls=calls)) as llm_server, sdk(llm_server) as client:
        choice = (await client.chat.completions.create(model="m", messages=ASK)).choices[0]

    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert [call.model_dump() for call in choice.message.tool_calls or ()] == [
        {
            "id": "call_1_0",
            "type": "function",
            "function": {"name": "get_rooms", "arguments": '{"day": "Monday"}'},
        },
        {"id": "mine", "type": "function", "function": {"name": "noop", "arguments": "{}"}},
    ]


async def test_tool_calls_in_a_stream_come_in_pieces() -> None:
    """A stream opens each tool call with id and name, then sends its arguments in pieces under its index."""
    calls = [ToolCall("a", "0123456789abcdef"), ToolCall("b", "{}")]
    async with opened(Reply(tool_calls=calls)) as (_, client):
        *chunks, _done = await stream_events(client, STREAM)

    first, *deltas, last = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert first["delta"]["content"] is None
    assert [choice["delta"]["tool_calls"] for choice in deltas] == [
        [{"index": 0, "id": "call_1_0", "type": "function", "function": {"name": "a", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": "0123456789ab"}}],
        [{"index": 0, "function": {"arguments": "cdef"}}],
        [{"index": 1, "id": "call_1_1", "type": "function", "function": {"name": "b", "arguments": ""}}],
        [{"index": 1, "function": {"arguments": "{}"}}],
    ]
    assert last["finish_reason"] == "tool_calls"


@sdk_stream
async def test_the_trio_sdk_joins_streamed_tool_calls() -> None:
    """The SDK's own accumulator joins the pieces of streamed tool calls."""
    reply = Reply(tool_calls=[ToolCall("get_rooms", {"day": "Monday", "people": 4})])
    async with (
        open_scripted_llm(reply) as llm_server,
        sdk(llm_server) as client,
        client.chat.completions.stream(model="m", messages=ASK) as stream,
    ):
        final = await stream.get_final_completion()

    [call] = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"day": "Monday", "people": 4}


async def test_arguments_may_be_invalid_json() -> None:
    """Arguments given as text are sent unchanged."""
    async with opened(Reply(tool_calls=[ToolCall("f", '{"day": ')])) as (_, client):
        answer = (await client.post(PATH, json=BODY)).json()

    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"day": '


@pytest.mark.parametrize("stream", [False, True])
async def test_a_lone_surrogate_reaches_the_client(stream: bool) -> None:
    """Half a surrogate pair, from a model that cut an emoji in two, is sent as its escape."""
    async with opened("half \ud835") as (_, client):
        response = await client.post(PATH, json={**BODY, "stream": stream})

    assert response.text.count("\\ud835") == 1


async def test_the_sdk_reads_a_lone_surrogate() -> None:
    """The SDK gives out the text of the script."""
    async with open_scripted_llm("half \ud835") as llm_server, sdk(llm_server) as client:
        answer = await client.chat.completions.create(model="m", messages=ASK)

    assert answer.choices[0].message.content == "half \ud835"


async def test_a_request_may_have_a_lone_surrogate() -> None:
    """The server reads the escape, and records the text that it stands for."""
    async with opened("yes") as (llm_server, client):
        response = await client.post(PATH, content=b'{"messages": [{"role": "user", "content": "half \\ud835"}]}')

    assert response.status_code == 200
    assert llm_server.requests[0].body["messages"][0]["content"] == "half \ud835"


@pytest.mark.parametrize(
    "arguments",
    [
        {"day": np.str_("Monday"), "people": np.int64(4)},
        {"day": "Monday", "people": 4},
        Meeting(day="Monday", people=4),
    ],
    ids=["numpy", "plain", "model"],
)
async def test_arguments_are_written_as_their_natural_json(arguments: Any) -> None:
    """The client gets the JSON text that a model would have written."""
    call = ToolCall("book", arguments)

    assert call.arguments == '{"day": "Monday", "people": 4}'


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "Hi", "tool_calls": [TOOL_CALL]},
        ChatCompletionMessage.model_validate({"role": "assistant", "content": "Hi", "tool_calls": [TOOL_CALL]}),
        AIMessage("Hi", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "7"}]),
        AIMessageChunk("Hi", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "7"}]),
        AIMessage([{"type": "text", "text": "Hi"}], tool_calls=[{"name": "f", "args": {"a": 1}, "id": "7"}]),
    ],
    ids=["dict", "openai", "langchain", "langchain stream", "langchain parts"],
)
async def test_a_clients_message_is_a_reply(message: Any) -> None:
    """What a client got before can be the script, whole with its tool calls."""
    async with open_scripted_llm([message]) as llm_server, sdk(llm_server) as client:
        answer = (await client.chat.completions.create(model="m", messages=ASK)).choices[0].message

    assert answer.content == "Hi"
    assert [call.model_dump() for call in answer.tool_calls or ()] == [TOOL_CALL]


async def test_a_whole_completion_is_a_reply() -> None:
    """What one server answered is the script of another."""
    async with open_scripted_llm("Hi") as llm_server, sdk(llm_server) as client:
        completion = await client.chat.completions.create(model="m", messages=ASK)
    async with open_scripted_llm(completion) as llm_server, sdk(llm_server) as client:
        again = await client.chat.completions.create(model="m", messages=ASK)

    assert again.choices[0].message.content == "Hi"


@pytest.mark.parametrize("script", [Meeting(day="Monday", people=4), Reply(Meeting(day="Monday", people=4))], ids=repr)
async def test_a_model_is_sent_as_json(script: Script) -> None:
    """A structured answer is the JSON of the model that the client asked for."""
    async with open_scripted_llm(script) as llm_server, sdk(llm_server) as client:
        answer = await client.chat.completions.create(model="m", messages=ASK)

    assert Meeting.model_validate_json(answer.choices[0].message.content or "") == Meeting(day="Monday", people=4)


async def test_a_rate_limit_has_status_header_and_body() -> None:
    """`RateLimited` is status 429 with ``Retry-After`` and OpenAI's error format."""
    async with opened(RateLimited(retry_after=2.5)) as (_, client):
        response = await client.post(PATH, json=BODY)

    assert (response.status_code, response.headers["retry-after"]) == (429, "2.5")
    assert response.json() == {
        "error": {
            "message": "Rate limit reached.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }


async def test_the_sdk_retries_after_a_rate_limit() -> None:
    """The SDK waits for the seconds in ``Retry-After`` and retries."""
    script: Script = [RateLimited(retry_after=0.05), "A103"]
    async with open_scripted_llm(script) as llm_server, sdk(llm_server, max_retries=1) as client:
        answer = await client.chat.completions.create(model="m", messages=ASK)

    assert answer.choices[0].message.content == "A103"
    first, second = llm_server.requests
    assert 0.05 <= second.when - first.when < 0.5


async def test_a_server_error_has_its_status() -> None:
    """`ErrorStatus` is 500 by default, which the SDK raises as `InternalServerError`."""
    async with open_scripted_llm(ErrorStatus()) as llm_server, sdk(llm_server) as client:
        with pytest.raises(openai.InternalServerError, match="was told to fail") as caught:
            await client.chat.completions.create(model="m", messages=ASK)

    assert caught.value.status_code == 500


async def test_an_error_status_may_be_the_clients_fault() -> None:
    """`ErrorStatus(401)` is what the SDK raises as `AuthenticationError`, with its code."""
    fault = ErrorStatus(401, "Incorrect API key provided")
    async with open_scripted_llm(fault) as llm_server, sdk(llm_server) as client:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key") as caught:
            await client.chat.completions.create(model="m", messages=ASK)

    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("should_retry", [True, False])
async def test_an_error_status_decides_whether_the_sdk_retries(should_retry: bool) -> None:
    """``should_retry`` overrides the SDK's own rule."""
    fault = ErrorStatus(400 if should_retry else 500, should_retry=should_retry)
    async with open_scripted_llm(fault) as llm_server, sdk(llm_server, max_retries=1) as client:
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(model="m", messages=ASK)

    assert len(llm_server.requests) == (2 if should_retry else 1)


async def test_a_cut_whole_answer_is_a_transport_error() -> None:
    """A whole answer is cut in the middle, and the client raises because it is incomplete."""
    async with opened(CutConnection()) as (_, client):
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            await client.post(PATH, json=BODY)


async def test_the_sdk_retries_a_cut_answer() -> None:
    """The SDK treats a cut connection as a connection error and retries."""
    script: Script = [CutConnection(), "A103"]
    async with open_scripted_llm(script) as llm_server, sdk(llm_server, max_retries=1) as client:
        answer = await client.chat.completions.create(model="m", messages=ASK)

    assert answer.choices[0].message.content == "A103"


@pytest.mark.parametrize("after_chunks", [0, 1, 3])
async def test_a_stream_is_cut_after_its_chunks(after_chunks: int) -> None:
    """The chunks before the cut arrive, then the client gets a transport error."""
    events: list[str] = []

    async def read(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", PATH, json=STREAM) as response:
            async for line in response.aiter_lines():
                events.extend([line] if line else [])

    async with opened(CutConnection(after_chunks, "one two three four")) as (_, client):
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await read(client)

    assert len(events) == after_chunks


async def test_the_trio_sdk_sees_a_cut_stream() -> None:
    """A stream that is cut ends `AsyncOpenAI`'s iteration with an error, not silently."""
    async with (
        open_scripted_llm(CutConnection(2)) as llm_server,
        sdk(llm_server) as client,
        await client.chat.completions.create(model="m", messages=ASK, stream=True) as stream,
    ):
        # Newer versions of the SDK wrap the transport's error.
        with pytest.raises((openai.APIConnectionError, httpx.TransportError)):
            _ = [chunk async for chunk in stream]


async def test_bad_json_cannot_be_decoded() -> None:
    """`BadJSON` has status 200, the right content type and a body that breaks off."""
    async with opened(BadJSON()) as (_, client):
        response = await client.post(PATH, json=BODY)

    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    with pytest.raises(json.JSONDecodeError):
        response.json()


async def test_bad_json_in_a_stream_cannot_be_decoded() -> None:
    """`BadJSON` in a stream is a chunk that breaks off."""
    async with opened(BadJSON()) as (_, client):
        chunk, done = await stream_events(client, STREAM)

    with pytest.raises(json.JSONDecodeError):
        json.loads(chunk)
    assert done == "[DONE]"


@pytest.mark.parametrize("script", [Reply("late", latency=0.1), ErrorStatus(latency=0.1), Reply("late")])
async def test_latency_delays_the_answer(script: Script) -> None:
    """An answer waits for its own latency, or for the server's."""
    async with opened(script, latency=0.1) as (_, client):
        start = trio.current_time()
        await client.post(PATH, json=BODY)

        assert 0.1 <= trio.current_time() - start < 1


async def test_a_replys_latency_goes_before_the_servers() -> None:
    """A reply with a latency of 0 seconds does not wait for the server's latency."""
    async with opened(Reply("now", latency=0), latency=60) as (_, client):
        with trio.fail_after(5):
            response = await client.post(PATH, json=BODY)

    assert response.status_code == 200


async def test_a_cut_reply_keeps_its_own_latency() -> None:
    """The latency of the reply in a `CutConnection` counts if the fault has none."""
    async with opened(CutConnection(reply=Reply("now", latency=0)), latency=60) as (_, client):
        with trio.fail_after(5), pytest.raises(httpx.TransportError):
            await client.post(PATH, json=BODY)


async def test_chunks_come_one_interval_apart() -> None:
    """``chunk_interval`` spreads a stream over time; each chunk leaves when it is due."""
    async with (
        opened(Reply("one two", chunk_interval=0.05)) as (_, client),
        client.stream("POST", PATH, json=STREAM) as response,
    ):
        times = [trio.current_time() async for _piece in response.aiter_raw()]

    assert len(times) == 5  # role, two words, finish, [DONE]
    assert 0.2 <= times[-1] - times[0] < 1


async def ask_raw(port: int, content: str) -> str:
    """Ask without a client library: an httpx pool of hundreds of connections takes seconds of CPU time."""
    body = json.dumps({"messages": [{"role": "user", "content": content}]})
    head = f"POST /v1{PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", port) as connection:
        await connection.send_all((head + body).encode())
        answer = b"".join([part async for part in connection])
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"])


@pytest.fixture
def many_sockets() -> Iterator[None]:
    """Allow more open files than the usual 1,024: each request takes two, for its client and the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.heavy
@pytest.mark.usefixtures("many_sockets")
async def test_five_hundred_requests_at_once() -> None:
    """Five hundred requests are answered side by side, and each gets its own answer."""
    answers: dict[str, str] = {}

    async def ask(port: int, name: str) -> None:
        answers[name] = await ask_raw(port, name)

    async with open_scripted_llm(lambda body: body["messages"][0]["content"], latency=1) as llm_server:
        port = httpx.URL(llm_server.base_url).port or 0
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(ask, port, str(number))

    assert answers == {str(number): str(number) for number in range(500)}
    assert llm_server.statistics().served == 500
    assert llm_server.statistics().max_in_flight > 100


async def test_requests_are_recorded() -> None:
    """The recorded requests have number, body, headers and time, oldest first."""
    async with opened("ok") as (llm_server, client):
        before = trio.current_time()
        await client.post(PATH, json=BODY, headers={"Authorization": "Bearer sk-secret"})
        await client.post(PATH, json=STREAM)

        first, second = llm_server.requests
        assert isinstance(first, RecordedRequest)
        assert (first.number, second.number) == (1, 2)
        assert (first.body, second.body) == (BODY, STREAM)
        assert first.headers["authorization"] == "Bearer sk-secret"
        assert before <= first.when <= second.when <= trio.current_time()


async def test_a_recorded_request_hides_the_key() -> None:
    """The repr of a recorded request does not show the headers, which hold the API key."""
    async with opened("ok") as (llm_server, client):
        await client.post(PATH, json=BODY, headers={"Authorization": "Bearer sk-secret"})

    assert "sk-secret" not in repr(llm_server.requests)


async def test_statistics_count_what_was_sent() -> None:
    """Replies, streams and faults are counted, and how many requests were in flight at most."""
    async with opened(["one", "two", RateLimited()]) as (llm_server, client):
        for body in (BODY, STREAM, BODY):
            await client.post(PATH, json=body)

    assert llm_server.statistics() == ScriptedLLMStatistics(served=2, faults=1, streams=1, in_flight=0, max_in_flight=1)


@pytest.mark.parametrize("script", [Reply("late", latency=60), Reply("a b c", chunk_interval=60)])
async def test_a_client_that_leaves_is_no_longer_in_flight(script: Reply) -> None:
    """A request whose client disconnects while it waits is abandoned, and not counted as served."""
    async with opened(script) as (llm_server, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.post, PATH, json=STREAM))
            with trio.fail_after(60):
                while not llm_server.statistics().in_flight:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(60):
            while llm_server.statistics().in_flight:
                await trio.sleep(0.01)

        assert llm_server.statistics() == ScriptedLLMStatistics(
            served=0, faults=0, streams=0, in_flight=0, max_in_flight=1
        )


@pytest.mark.parametrize("reply", [Reply("late", latency=60), Reply("a b c", chunk_interval=60)])
async def test_closing_cuts_off_requests_in_flight(reply: Reply) -> None:
    """Leaving the block takes less than 0.2 seconds and the waiting client gets a transport error."""
    has_arrived = trio.Event()

    def rule(body: Mapping[str, Any]) -> Reply:
        has_arrived.set()
        return reply

    async def ask(url: str) -> None:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                await client.post(url, json=STREAM)

    async with trio.open_nursery() as nursery:
        async with open_scripted_llm(rule) as llm_server:
            nursery.start_soon(ask, llm_server.base_url + PATH)
            await has_arrived.wait()
            start = trio.current_time()

        assert trio.current_time() - start < 0.2
    assert llm_server.statistics().in_flight == 0


async def test_closing_does_not_wait_for_idle_connections() -> None:
    """Leaving the block takes less than 0.2 seconds while clients hold connections open."""
    async with httpx.AsyncClient(trust_env=False) as client:
        async with open_scripted_llm("ok") as llm_server:
            await client.get(f"{llm_server.base_url}/models")
            start = trio.current_time()

        assert trio.current_time() - start < 0.2


async def test_a_closed_server_refuses_connections() -> None:
    """After the block nothing listens on the port."""
    async with open_scripted_llm("ok") as llm_server:
        pass

    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{llm_server.base_url}/models")


async def test_cancellation_closes_the_server() -> None:
    """A cancellation of the block ends it, with a request in flight."""

    async def cancel_when_in_flight(llm_server: ScriptedLLM, scope: trio.CancelScope) -> None:
        while not llm_server.statistics().in_flight:
            await trio.sleep(0.01)
        scope.cancel()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with opened(Reply("late", latency=3600)) as (llm_server, client):
                    nursery.start_soon(cancel_when_in_flight, llm_server, scope)
                    await client.post(PATH, json=BODY)

    assert scope.cancelled_caught


async def test_an_error_in_the_block_stays_as_it_is() -> None:
    """An exception leaves the block without a group, with its cause."""
    cause = KeyError("cause")

    with pytest.raises(ValueError, match="mine") as caught:
        async with open_scripted_llm("ok"):
            raise ValueError("mine") from cause

    assert caught.value.__cause__ is cause


async def test_two_servers_do_not_meet() -> None:
    """Servers open at the same time have their own ports, scripts and records."""
    async with opened("one") as (first, first_client), opened("two") as (second, second_client):
        await first_client.post(PATH, json=BODY)
        answer = (await second_client.post(PATH, json=BODY)).json()

    assert answer["choices"][0]["message"]["content"] == "two"
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert first.base_url != second.base_url


async def test_the_model_is_listed() -> None:
    """``GET /v1/models`` lists the one model."""
    async with open_scripted_llm("ok", model="tiny") as llm_server, sdk(llm_server) as client:
        models = [model.id async for model in client.models.list()]

    assert models == ["tiny"]


async def test_another_path_is_refused() -> None:
    """A path the server does not have gets 404 and OpenAI's error format, whatever the size of its body."""
    async with opened("ok") as (_, client):
        response = await client.post("/embeddings", content=b"x" * 2_000_000)
        after = await client.get("/models")

    assert response.status_code == 404
    assert "has no POST /v1/embeddings" in response.json()["error"]["message"]
    assert after.status_code == 200


async def test_another_method_is_refused() -> None:
    """A method the path does not have gets 405 and OpenAI's error format."""
    async with opened("ok") as (_, client):
        response = await client.get(PATH)

    assert response.status_code == 405
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"messages": [{"content": "\xff"}]}', "not valid JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `messages`"),
        (b'{"messages": []}', "length >= 1 - at `$.messages`"),
        (b'{"messages": "hello"}', "got `str` - at `$.messages`"),
        (b'{"messages": ["hello"]}', "got `str` - at `$.messages[0]`"),
        (b'{"messages": [{"content": 1}]}', "got `int` - at `$.messages[0].content`"),
    ],
)
async def test_a_malformed_request_is_refused(content: bytes, says: str) -> None:
    """A malformed request gets status 400 with what is wrong, and uses up no reply."""
    async with opened(["kept"]) as (llm_server, client):
        response = await client.post(PATH, content=content)
        after = await client.post(PATH, json=BODY)

    assert response.status_code == 400
    assert says in response.json()["error"]["message"]
    assert after.json()["choices"][0]["message"]["content"] == "kept"
    assert len(llm_server.requests) == 1


async def _async_rule(body: Mapping[str, Any]) -> str:
    return "ok"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (42, "script is of type int; write a str"),
        (HumanMessage("hello"), "is a message of the role user"),
        ({"text": "hello"}, r"script is \{'text': 'hello'\} \(dict\); write a str"),
        (["fine", None], r"script\[1\] is None \(NoneType\); write a str"),
        (_async_rule, "is async; write a plain `def`"),
    ],
)
async def test_a_wrong_script_is_refused(script: Any, says: str) -> None:
    """A script of another type is an error when the server is opened."""
    with pytest.raises(TypeError, match=says):
        async with open_scripted_llm(script):
            pass


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
async def test_a_wrong_latency_is_refused(seconds: float) -> None:
    """A latency of the server or of a reply that is negative or not finite is an error."""
    with pytest.raises(ValueError, match="latency="):
        Reply("x", latency=seconds)
    with pytest.raises(ValueError, match="latency="):
        async with open_scripted_llm("x", latency=seconds):
            pass


@pytest.mark.parametrize("status", [200, 302, 600])
def test_a_status_that_is_no_error_is_refused(status: int) -> None:
    """`ErrorStatus` takes error statuses only."""
    with pytest.raises(ValueError, match=f"status={status} is not an HTTP error"):
        ErrorStatus(status)


def test_a_negative_number_of_chunks_is_refused() -> None:
    """`CutConnection` takes no negative number of chunks."""
    with pytest.raises(ValueError, match="after_chunks=-1 is negative"):
        CutConnection(-1)


def test_a_missing_extra_is_named() -> None:
    """Without Starlette the module still imports, and the error of opening a server names what to install."""
    program = """
import sys
sys.modules["starlette"] = None
import trio
from lightning_trio.testing import open_scripted_llm

async def main():
    async with open_scripted_llm("ok"):
        pass

try:
    trio.run(main)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "pip install 'lightning-trio[testing]'" in done.stdout
