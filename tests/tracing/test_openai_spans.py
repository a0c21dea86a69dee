"""Calls of the OpenAI SDK become spans with OpenTelemetry's GenAI attributes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import openai
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from openai.resources.chat.completions import AsyncCompletions, Completions
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lightning_trio.tracing.instrumentation import OPENAI

# Read or not, a stream of the SDK leaves its inner async generators to the garbage collector, even when it is closed:
# openai._streaming, httpx2 and httpcore2 do not close the generators they iterate over. Trio warns about it.
leaves_generators = pytest.mark.filterwarnings(
    "ignore:Async generator '(openai|httpx2|httpcore2|httpx|httpcore)\\.:ResourceWarning"
)

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
ADD = {
    "type": "function",
    "function": {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}},
}
ANSWER = {"id": "chatcmpl-1", "created": 1, "model": "served-model"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


# --- a server that answers by the model's name


async def answer_chat(request: Request) -> Response:
    body = await request.json()
    if body["model"] == "silent":
        await trio.sleep_forever()
    if body["model"].isdigit():
        return as_json({"error": {"message": "no"}}, int(body["model"]))
    if body["model"] == "flaky" and request.headers["x-stainless-retry-count"] == "0":
        return as_json({"error": {"message": "no"}}, 503)
    if body.get("stream"):
        return StreamingResponse(stream_chunks(body), media_type="text/event-stream")
    message: dict[str, Any] = {"role": "assistant", "content": f"echo {body['messages'][-1]['content']}"}
    finish_reason = "stop"
    if body.get("tools"):
        message, finish_reason = (
            {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
            "tool_calls",
        )
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return as_json({**ANSWER, "object": "chat.completion", "choices": [choice], "usage": USAGE})


async def stream_chunks(body: dict[str, Any]) -> AsyncIterator[bytes]:
    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = {**ANSWER, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {json.dumps(chunk)}\n\n".encode()

    for word in ("Hel", "lo"):
        yield event([{"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}])
    if body["model"] == "stuck":
        await trio.sleep_forever()
    yield event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if body.get("stream_options"):
        yield event([], usage=USAGE)
    yield b"data: [DONE]\n\n"


async def answer_response(request: Request) -> Response:
    await request.json()
    text = {"type": "output_text", "text": "Hello", "annotations": []}
    message = {"type": "message", "id": "1", "role": "assistant", "status": "completed", "content": [text]}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return as_json(
        {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": "served-model",
            "status": "completed",
            "output": [message],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {"input_tokens": 4, "output_tokens": 2, "total_tokens": 6, **details},
        }
    )


async def answer_embedding(request: Request) -> Response:
    await request.json()
    data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    return as_json({"object": "list", "model": "served-model", "data": data, "usage": usage})


def as_json(body: object, status_code: int = 200) -> Response:
    # Not Starlette's JSONResponse, which cannot write half a surrogate pair.
    return Response(json.dumps(body), status_code, headers={"retry-after-ms": "1"}, media_type="application/json")


@pytest.fixture
async def base_url(nursery: trio.Nursery) -> str:
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", answer_chat, methods=["POST"]),
            Route("/v1/responses", answer_response, methods=["POST"]),
            Route("/v1/embeddings", answer_embedding, methods=["POST"]),
        ]
    )
    config = Config.from_mapping(bind=["127.0.0.1:0"], graceful_timeout=0, errorlog=None)
    shutdown = trio.sleep_forever  # the nursery's cancellation ends it
    urls: list[str] = await nursery.start(partial(serve, app, config, shutdown_trigger=shutdown))
    return f"{urls[0]}/v1"


@pytest.fixture
async def client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    # On a busy machine two hundred connections at once take longer than the 5 s that the SDK allows them.
    async with openai.AsyncOpenAI(base_url=base_url, api_key="-", max_retries=0, timeout=60) as client:
        yield client


# --- spans


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture
def instrumented(provider: TracerProvider) -> Iterator[None]:
    with OPENAI.open(provider):
        yield


def only_span(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, dict[str, Any]]:
    (span,) = exporter.get_finished_spans()
    return span, dict(span.attributes or {})


def texts(messages: str) -> list[tuple[str, str]]:
    return [(message["role"], message["parts"][0]["content"]) for message in json.loads(messages)]


@pytest.mark.usefixtures("instrumented")
async def test_a_chat_completion_is_a_span_with_prompt_answer_and_tokens(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    await client.chat.completions.create(model="m", messages=PROMPT, temperature=0.5, max_tokens=9)

    span, attributes = only_span(exporter)
    assert (span.name, span.kind.name, span.status.status_code) == ("chat m", "CLIENT", StatusCode.UNSET)
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.request.model"] == "m"
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.request.max_tokens"] == 9
    assert attributes["gen_ai.response.model"] == "served-model"
    assert attributes["gen_ai.response.id"] == "chatcmpl-1"
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["gen_ai.usage.input_tokens"] == 7
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert texts(attributes["gen_ai.input.messages"]) == [("system", "Be brief."), ("user", "Hi")]
    assert texts(attributes["gen_ai.output.messages"]) == [("assistant", "echo Hi")]


@pytest.mark.usefixtures("instrumented")
async def test_a_blocking_call_in_a_thread_is_a_child_of_the_current_span(
    base_url: str, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    def ask() -> None:
        with openai.OpenAI(base_url=base_url, api_key="-") as client:
            client.chat.completions.create(model="m", messages=PROMPT)

    with provider.get_tracer("test").start_as_current_span("agent"):
        await trio.to_thread.run_sync(ask)

    call, agent = exporter.get_finished_spans()
    assert call.parent is not None
    assert call.parent.span_id == agent.context.span_id
    assert texts(str((call.attributes or {})["gen_ai.output.messages"])) == [("assistant", "echo Hi")]


@leaves_generators
@pytest.mark.usefixtures("instrumented")
async def test_a_stream_read_to_its_end_has_the_whole_answer_and_its_tokens(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    async with await client.chat.completions.create(
        model="m", messages=PROMPT, stream=True, stream_options={"include_usage": True}
    ) as stream:
        async for _ in stream:
            pass

    _, attributes = only_span(exporter)
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert texts(attributes["gen_ai.output.messages"]) == [("assistant", "Hello")]


@pytest.mark.usefixtures("instrumented")
async def test_a_stream_read_in_a_thread_has_the_whole_answer(base_url: str, exporter: InMemorySpanExporter) -> None:
    def ask() -> None:
        with (
            openai.OpenAI(base_url=base_url, api_key="-") as client,
            client.chat.completions.create(model="m", messages=PROMPT, stream=True) as stream,
        ):
            list(stream)

    await trio.to_thread.run_sync(ask)

    assert texts(only_span(exporter)[1]["gen_ai.output.messages"]) == [("assistant", "Hello")]


@leaves_generators
@pytest.mark.usefixtures("instrumented")
async def test_a_stream_closed_early_ends_its_span_with_what_was_read(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    async with await client.chat.completions.create(model="stuck", messages=PROMPT, stream=True) as stream:
        await anext(stream)

    span, attributes = only_span(exporter)
    assert span.status.status_code is StatusCode.UNSET
    assert texts(attributes["gen_ai.output.messages"]) == [("assistant", "Hel")]


@pytest.mark.usefixtures("instrumented")
async def test_tools_offered_and_called_are_recorded(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    history = [
        *PROMPT,
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
    ]
    await client.chat.completions.create(model="m", messages=history, tools=[ADD])

    _, attributes = only_span(exporter)
    call = {"type": "tool_call", "id": "call_1", "name": "add", "arguments": {"a": 1}}
    result = {"type": "tool_call_response", "id": "call_1", "response": "3"}
    sent = [message["parts"][0] for message in json.loads(attributes["gen_ai.input.messages"])]
    assert sent[2:] == [call, result]
    assert json.loads(attributes["gen_ai.output.messages"])[0]["parts"] == [call]
    assert json.loads(attributes["gen_ai.tool.definitions"]) == [{"type": "function", **ADD["function"]}]


@pytest.mark.parametrize(("status", "error"), [(429, "RateLimitError"), (500, "InternalServerError")])
@pytest.mark.usefixtures("instrumented")
async def test_a_refused_call_is_an_error_that_keeps_its_prompt(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter, status: int, error: str
) -> None:
    with pytest.raises(openai.APIStatusError):
        await client.chat.completions.create(model=str(status), messages=PROMPT)

    span, attributes = only_span(exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes["error.type"] == f"openai.{error}"
    assert texts(attributes["gen_ai.input.messages"])[1] == ("user", "Hi")


@pytest.mark.usefixtures("instrumented")
async def test_a_cancelled_call_is_an_error_that_names_the_cancellation(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    with trio.move_on_after(0.1):
        await client.chat.completions.create(model="silent", messages=PROMPT)

    span, attributes = only_span(exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes["error.type"] == "trio.Cancelled"


@leaves_generators
@pytest.mark.usefixtures("instrumented")
async def test_a_cancelled_stream_keeps_what_was_read(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    with trio.CancelScope() as scope:
        async with await client.chat.completions.create(model="stuck", messages=PROMPT, stream=True) as stream:
            async for chunk in stream:
                if chunk.choices[0].delta.content == "lo":
                    scope.cancel()

    span, attributes = only_span(exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes["error.type"] == "trio.Cancelled"
    assert texts(attributes["gen_ai.output.messages"]) == [("assistant", "Hello")]


@pytest.mark.usefixtures("instrumented")
async def test_a_call_the_client_retried_is_one_span(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    await client.with_options(max_retries=2).chat.completions.create(model="flaky", messages=PROMPT)

    span, _ = only_span(exporter)
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.usefixtures("instrumented")
async def test_a_raw_response_is_recorded_and_still_raw(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="m", messages=PROMPT)

    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].message.content == "echo Hi"
    assert texts(only_span(exporter)[1]["gen_ai.output.messages"]) == [("assistant", "echo Hi")]


@pytest.mark.usefixtures("instrumented")
async def test_the_responses_api_is_recorded(client: openai.AsyncOpenAI, exporter: InMemorySpanExporter) -> None:
    await client.responses.create(model="m", instructions="Be brief.", input="Hi")

    span, attributes = only_span(exporter)
    assert span.name == "chat m"
    assert texts(attributes["gen_ai.input.messages"]) == [("user", "Hi")]
    assert texts(attributes["gen_ai.output.messages"]) == [("assistant", "Hello")]
    assert json.loads(attributes["gen_ai.system_instructions"])[0]["content"] == "Be brief."
    assert attributes["gen_ai.usage.output_tokens"] == 2


@pytest.mark.usefixtures("instrumented")
async def test_embeddings_are_recorded_without_their_vectors(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    await client.embeddings.create(model="m", input="Hi", encoding_format="float")

    span, attributes = only_span(exporter)
    assert span.name == "embeddings m"
    assert attributes["gen_ai.usage.input_tokens"] == 2
    assert attributes["gen_ai.embeddings.dimension.count"] == 2


@pytest.mark.usefixtures("instrumented")
async def test_concurrent_calls_keep_their_own_parent_and_prompt(
    client: openai.AsyncOpenAI, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def agent(name: str) -> None:
        with provider.get_tracer("test").start_as_current_span(name):
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": name}])

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(agent, f"agent {number}")

    spans = exporter.get_finished_spans()
    agents = {span.context.span_id: span.name for span in spans if span.name != "chat m"}
    calls = [span for span in spans if span.name == "chat m"]
    assert len(agents) == len(calls) == 200
    for call in calls:
        assert call.parent is not None
        assert texts(str((call.attributes or {})["gen_ai.input.messages"]))[0] == (
            "user",
            agents[call.parent.span_id],
        )


@pytest.mark.usefixtures("instrumented")
async def test_an_image_is_recorded_inside_the_prompt(
    client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAE="}}
    await client.chat.completions.create(model="m", messages=[{"role": "user", "content": [image]}])

    (message,) = json.loads(only_span(exporter)[1]["gen_ai.input.messages"])
    (part,) = message["parts"]
    assert (part["type"], part["mime_type"], part["content"]) == ("blob", "image/png", "AAE=")


@pytest.mark.usefixtures("instrumented")
async def test_half_a_surrogate_pair_in_an_answer_does_not_cost_the_answer(
    monkeypatch: pytest.MonkeyPatch, client: openai.AsyncOpenAI, exporter: InMemorySpanExporter
) -> None:
    monkeypatch.setitem(TOOL_CALL["function"], "arguments", '{"emoji": "\\ud83d"}')
    await client.chat.completions.create(model="m", messages=PROMPT, tools=[ADD])

    (part,) = json.loads(only_span(exporter)[1]["gen_ai.output.messages"])[0]["parts"]
    assert part["arguments"] == {"emoji": "\ud83d"}


async def test_calls_outside_an_attempt_work_and_leave_nothing(client: openai.AsyncOpenAI) -> None:
    with OPENAI.open(NoOpTracerProvider()):
        answer = await client.chat.completions.create(model="m", messages=PROMPT)

    assert answer.choices[0].message.content == "echo Hi"


# --- switching on and off


def test_the_sdk_is_restored_and_the_environment_never_touched(provider: TracerProvider) -> None:
    before = (AsyncCompletions.create, Completions.create, dict(os.environ))

    with OPENAI.open(provider):
        assert AsyncCompletions.create is not before[0]
        assert dict(os.environ) == before[2]

    assert (AsyncCompletions.create, Completions.create, dict(os.environ)) == before


def test_the_sdk_is_restored_when_the_block_raises(provider: TracerProvider) -> None:
    before = AsyncCompletions.create

    with pytest.raises(ZeroDivisionError), OPENAI.open(provider):
        raise ZeroDivisionError

    assert AsyncCompletions.create is before


def test_the_last_of_overlapping_blocks_restores_the_sdk(provider: TracerProvider) -> None:
    before = AsyncCompletions.create
    first, second = OPENAI.open(provider), OPENAI.open(provider)

    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert AsyncCompletions.create is not before
    second.__exit__(None, None, None)
    assert AsyncCompletions.create is before


async def test_overlapping_blocks_record_a_call_once(
    client: openai.AsyncOpenAI, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with OPENAI.open(provider), OPENAI.open(provider):
        await client.chat.completions.create(model="m", messages=PROMPT)

    only_span(exporter)


def test_blocks_in_many_threads_leave_the_sdk_restored(provider: TracerProvider) -> None:
    before = AsyncCompletions.create
    seen: list[bool] = []

    def runner() -> None:
        for _ in range(20):
            with OPENAI.open(provider):
                seen.append(AsyncCompletions.create is not before)

    threads = [threading.Thread(target=runner) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [True] * 160
    assert AsyncCompletions.create is before


async def test_an_instrumentation_by_the_host_is_left_alone(
    client: openai.AsyncOpenAI,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider)
    try:
        with OPENAI.open(NoOpTracerProvider()):
            pass
        await client.chat.completions.create(model="m", messages=PROMPT)
    finally:
        OpenAIInstrumentor().uninstrument()

    only_span(exporter)
    assert "already called OpenAIInstrumentor().instrument()" in caplog.text


# --- whether openai is imported, in a process of its own

PRELUDE = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from lightning_trio.tracing.instrumentation import OPENAI
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
def call():
    import openai
    with openai.OpenAI(base_url="http://127.0.0.1:9", api_key="-", max_retries=0) as client:
        try:
            client.chat.completions.create(model="m", messages=[])
        except openai.APIConnectionError:
            pass
def names():
    return [span.name for span in exporter.get_finished_spans()]
"""


def run_python(program: str) -> str:
    """Run a program, which must succeed without warnings, and return its log."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_sdk_imported_in_the_middle_of_a_block_is_recorded() -> None:
    run_python("""
with OPENAI.open(provider):
    assert "openai" not in sys.modules
    assert "opentelemetry.instrumentation.genai.openai" not in sys.modules
    call()
call()
assert names() == ["chat m"]
with OPENAI.open(provider):
    call()
assert names() == ["chat m"] * 2
""")


def test_the_sdk_imported_after_the_block_is_not_touched() -> None:
    run_python("""
with OPENAI.open(provider):
    pass
call()
assert names() == []
assert "opentelemetry.instrumentation.genai.openai" not in sys.modules
with OPENAI.open(provider):
    call()
assert names() == ["chat m"]
""")


def test_the_sdk_imported_by_several_threads_at_once_is_recorded() -> None:
    run_python("""
import threading
gate = threading.Barrier(8)
def runner():
    gate.wait()
    with OPENAI.open(provider):
        call()
        gate.wait()
threads = [threading.Thread(target=runner) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert names() == ["chat m"] * 8, names()
""")


@pytest.mark.parametrize(
    "missing", ["openai", "opentelemetry.instrumentation", "opentelemetry.instrumentation.genai.openai"]
)
def test_without_the_extra_nothing_happens(missing: str) -> None:
    logged = run_python(f"""
sys.modules[{missing!r}] = None
from lightning_trio.tracing.instrumentation import open_instrumentations
with open_instrumentations():
    assert "wrapt" not in sys.modules
""")

    assert logged == ""


def test_an_instrumentation_that_does_not_load_leaves_the_sdk_working_and_says_so() -> None:
    logged = run_python("""
sys.modules["opentelemetry.instrumentation.genai.openai.patch"] = None
with OPENAI.open(provider):
    call()
assert names() == []
""")

    assert "Calls of openai are not traced" in logged
