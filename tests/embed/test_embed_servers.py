"""The examples of embedding, run as real servers on a loopback port and as scripts."""

from __future__ import annotations

import inspect
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import trio
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import lightning_trio as agl
from lightning_trio import embed

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVERS = ["embed_fastapi", "embed_starlette_trio"]


class Answer(NamedTuple):
    """A status and the JSON body."""

    status: int
    body: Any


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the examples importable."""
    monkeypatch.syspath_prepend(EXAMPLES)


def load(name: str) -> ModuleType:
    """Import an example, or skip the test if its requirements are not installed."""
    pytest.importorskip("starlette", reason="needs starlette: pip install 'lightning-trio[test]'")
    if name == "embed_fastapi":
        pytest.importorskip("fastapi", reason="needs fastapi: pip install fastapi uvicorn")
        pytest.importorskip("uvicorn", reason="needs uvicorn: pip install fastapi uvicorn")
    else:
        pytest.importorskip("hypercorn", reason="needs hypercorn: pip install 'lightning-trio[test]'")
    return __import__(name)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# A client that opens hundreds of connections cheaply.


async def connect(port: int) -> trio.SocketStream:
    with trio.fail_after(20):
        while True:
            try:
                return await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.05)


async def send(stream: trio.SocketStream, text: str) -> None:
    body = json.dumps({"text": text}).encode()
    head = "POST /label HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    await stream.send_all(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


async def receive(stream: trio.SocketStream) -> Answer:
    raw = b"".join([piece async for piece in stream])
    head, _, body = raw.partition(b"\r\n\r\n")
    return Answer(int(head.split()[1]), json.loads(body))


async def post(port: int, text: str) -> Answer:
    with trio.fail_after(60):
        async with await connect(port) as stream:
            await send(stream, text)
            return await receive(stream)


async def statistics(port: int) -> dict[str, int]:
    async with await connect(port) as stream:
        await stream.send_all(b"GET /statistics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return (await receive(stream)).body


async def wait_for(port: int, condition: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    with trio.fail_after(20):
        while not condition(now := await statistics(port)):
            await trio.sleep(0.02)
    return now


# Servers in this process, so that their stores can be read.


@asynccontextmanager
async def served(name: str, runner: agl.Runner, app: Any = None) -> AsyncGenerator[int]:
    """Serve an example with this runner and yield the port."""
    example = load(name)
    port = free_port()
    if name == "embed_fastapi":
        async with served_by_uvicorn(example.make_app(runner) if app is None else app, port):
            yield port
    else:
        async with runner, trio.open_nursery() as nursery:
            nursery.start_soon(serve_on_hypercorn, example.make_app(runner), port)
            yield port
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def served_by_uvicorn(app: Any, port: int) -> AsyncGenerator[None]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join)


async def serve_on_hypercorn(app: Any, port: int) -> None:
    import hypercorn.trio
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.backlog = 2048
    config.errorlog = None
    await hypercorn.trio.serve(app, config)


async def statuses(runner: agl.Runner) -> list[str]:
    return [rollout.status for rollout in await runner.store.query_rollouts()]


@pytest.mark.heavy
@pytest.mark.parametrize("name", SERVERS)
async def test_500_requests_at_once_are_answered_and_no_rollout_is_lost(name: str) -> None:
    runner = load(name).make_runner(0.01)
    texts = ["a wonderful book" if number % 3 else "it broke" for number in range(500)]
    answers: dict[int, Answer] = {}

    async def request(port: int, number: int) -> None:
        answers[number] = await post(port, texts[number])

    async with served(name, runner) as port, trio.open_nursery() as nursery:
        for number in range(500):
            nursery.start_soon(request, port, number)

    assert [answers[number].status for number in range(500)] == [200] * 500
    labels = [answers[number].body["label"] for number in range(500)]
    assert labels == ["positive" if number % 3 else "negative" for number in range(500)]
    assert await statuses(runner) == ["succeeded"] * 500
    for number in (0, 1, 250, 499):
        rollout = await runner.store.get_rollout_by_id(answers[number].body["rollout_id"])
        assert rollout is not None
        assert rollout.input == texts[number]


@pytest.mark.parametrize("name", SERVERS)
async def test_a_rollouts_failure_reaches_its_request(name: str) -> None:
    runner = load(name).make_runner(0.01)

    async with served(name, runner) as port:
        answer = await post(port, " ")

    assert answer == Answer(422, {"detail": "there is nothing to label"})
    assert await statuses(runner) == ["failed"]


@pytest.mark.parametrize("name", SERVERS)
async def test_clients_that_go_away_have_their_rollouts_cancelled_and_others_are_answered(name: str) -> None:
    async def agent(text: str) -> float:
        await trio.sleep(600 if text == "slow" else 0)
        return 1.0

    runner = agl.Runner(agent, max_concurrency=200)

    async with served(name, runner) as port:
        streams = [await connect(port) for _ in range(100)]
        for stream in streams:
            await send(stream, "slow")
        await wait_for(port, lambda now: now["running"] == 100)
        for stream in streams[:60]:
            await stream.aclose()
        gone = await wait_for(port, lambda now: now["cancelled"] == 60)
        answer = await post(port, "quick")
        for stream in streams[60:]:
            await stream.aclose()
        await wait_for(port, lambda now: now["running"] == 0)

    assert gone["running"] == 40
    assert answer.status == 200
    assert sorted(await statuses(runner)) == ["cancelled"] * 100 + ["succeeded"]


@pytest.mark.parametrize("name", SERVERS)
async def test_a_shutdown_in_the_middle_leaves_every_rollout_recorded(name: str) -> None:
    runner = load(name).make_runner(600)

    async with served(name, runner) as port:
        streams = [await connect(port) for _ in range(100)]
        for stream in streams:
            await send(stream, "a good one")
        await wait_for(port, lambda now: now["running"] == 100)
    for stream in streams:
        await stream.aclose()

    assert await statuses(runner) == ["cancelled"] * 100
    assert runner.statistics().running == 0


def instrument(runner: agl.Runner, provider: Any) -> Any:
    """Make the example with OpenTelemetry's instrumentation of FastAPI."""
    instrumentation = pytest.importorskip(
        "opentelemetry.instrumentation.fastapi", reason="needs opentelemetry-instrumentation-fastapi"
    )
    app = load("embed_fastapi").make_app(runner)
    instrumentation.FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    return app


def trace_natively(runner: agl.Runner, provider: Any) -> Any:
    """Make a service whose spans are FastAPI's own, which newer versions make."""
    import fastapi

    if "telemetry" not in inspect.signature(fastapi.FastAPI).parameters:
        pytest.skip("this FastAPI makes no spans of its own")

    @asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncGenerator[None]:
        async with embed.open_asyncio(runner) as app.state.runner:
            yield

    app = fastapi.FastAPI(lifespan=lifespan, telemetry={"tracer_provider": provider})

    @app.post("/label")
    async def label(body: dict[str, str]) -> str:
        done = await app.state.runner.step(body["text"])
        return str(done.rollout.rollout_id)

    return app


@pytest.mark.parametrize("make_app", [instrument, trace_natively])
async def test_each_rollout_is_its_own_trace_with_a_link_to_its_requests_span(make_app: Callable[..., Any]) -> None:
    requests: list[ReadableSpan] = []

    class Keeping(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            requests.append(span)

    runner = load("embed_fastapi").make_runner(0.01)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Keeping())

    async with (
        served("embed_fastapi", runner, make_app(runner, provider)) as port,
        trio.open_nursery() as nursery,
    ):
        for _ in range(20):
            nursery.start_soon(post, port, "a good one")

    hosts = {(f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}") for span in requests}
    links = set()
    for rollout in await runner.store.query_rollouts():
        spans = await runner.store.query_spans(rollout.rollout_id)
        [root] = [span for span in spans if span.parent_id is None]
        [link] = root.links
        links.add((link.context.trace_id, link.context.span_id))
        assert {span.trace_id for span in spans} == {root.trace_id}
        assert root.trace_id != link.context.trace_id
    assert len({trace_id for trace_id, _ in links}) == 20
    assert links <= hosts


# Servers and scripts as separate programs that are stopped in the middle.


class Program(NamedTuple):
    """The exit of an example after a signal."""

    code: int
    err: str


@pytest.fixture
def programs() -> Iterator[list[subprocess.Popen[str]]]:
    """Programs that are killed at the end of the test if they still run."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for program in running:
        program.kill()
        program.communicate()


def start(programs: list[subprocess.Popen[str]], name: str, *arguments: str) -> subprocess.Popen[str]:
    load(name)
    program = subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    programs.append(program)
    return program


async def stop(program: subprocess.Popen[str], with_signal: signal.Signals) -> Program:
    program.send_signal(with_signal)

    def wait() -> tuple[str, str]:
        return program.communicate(timeout=60)

    _, err = await trio.to_thread.run_sync(wait)
    return Program(program.returncode, err)


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_stopped_in_the_middle_of_100_requests_ends_clean(
    name: str, with_signal: signal.Signals, programs: list[subprocess.Popen[str]]
) -> None:
    port = free_port()
    program = start(programs, name, "--port", str(port), "--seconds", "600")
    streams = [await connect(port) for _ in range(100)]
    for stream in streams:
        await send(stream, "a wonderful book")
    await wait_for(port, lambda now: now["running"] == 100)

    ended = await stop(program, with_signal)

    for stream in streams:
        await stream.aclose()
    assert "Traceback" not in ended.err, ended.err
    # Once everything is closed, uvicorn exits by the signal that it received.
    assert ended.code in (0, -with_signal), ended.err


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("name", SERVERS)
async def test_an_idle_server_ends_clean(name: str, programs: list[subprocess.Popen[str]]) -> None:
    port = free_port()
    program = start(programs, name, "--port", str(port), "--seconds", "0")
    answer = await post(port, "a great day")

    ended = await stop(program, signal.SIGINT)

    assert answer.body["label"] == "positive"
    assert "Traceback" not in ended.err, ended.err
    assert ended.code in (0, -signal.SIGINT)


def test_the_blocking_script_labels_all_reviews() -> None:
    script = [sys.executable, str(EXAMPLES / "embed_blocking.py"), "--seconds", "0.01"]

    ended = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)

    first, last = ended.stdout.splitlines()
    assert first.startswith("ro-")
    assert "of 120 are right" in last
    assert ended.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
async def test_the_blocking_script_is_left_by_ctrl_c(programs: list[subprocess.Popen[str]]) -> None:
    program = start(programs, "embed_blocking", "--seconds", "2")
    assert program.stdout is not None
    # The first line is printed after the first step, when the stream begins.
    await trio.to_thread.run_sync(program.stdout.readline)
    await trio.sleep(0.5)

    ended = await stop(program, signal.SIGINT)

    assert ended.code == 130
    assert "Traceback" not in ended.err, ended.err
