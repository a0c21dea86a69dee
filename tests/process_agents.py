"""Agents for worker processes, which import this module again."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import attrs
import trio
from opentelemetry import trace

import lightning_trio as agl


@attrs.frozen
class Factor(agl.Resource, resource_type="test-factor"):
    """A resource that only the tests use."""

    value: float


@attrs.frozen
class Locked(agl.Resource, resource_type="test-locked"):
    """A resource that cannot be pickled."""

    lock: object


class Unreadable(Exception):
    """An exception that can be pickled, but not unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class RateLimit(OSError):
    """An exception like those of SDKs: its keyword-only argument prevents unpickling."""

    def __init__(self, message: str, *, response: int) -> None:
        super().__init__(message)
        self.response = response


class Unsendable:
    """An exception that cannot be pickled."""

    def __reduce__(self) -> str:
        raise TypeError("it stays where it is")


class OwnFloat(Unsendable, float):
    """A number of a class of its own."""


class OwnStr(Unsendable, str):
    """A string of a class of its own."""


class OwnText(Exception):
    """An exception whose message is of a class of its own."""

    def __str__(self) -> str:
        return OwnStr("what it says")


@agl.rollout(runs_in="process")
def own_number(task: float) -> float:
    agl.emit_message("before")
    return OwnFloat(task)


@agl.rollout(runs_in="process")
def own_text(task: float) -> float:
    agl.emit_message("before")
    raise OwnText


@agl.rollout(runs_in="process")
def busy(task: str) -> float:
    agl.emit_message("before")
    error = RateLimit("slow down", response=429)
    raise ExceptionGroup("calls", [error, KeyError("room")]) if task == "group" else error


@agl.rollout(runs_in="process")
def double(task: float) -> float:
    return task * 2


@agl.rollout(runs_in="process")
def pid(task: int) -> None:
    agl.emit_object({"pid": os.getpid()})


@agl.rollout(runs_in="process", name="the scaler")
def scale(
    task: float, factor: Factor, llm: agl.LLM, emitter: agl.Emitter, rollout: agl.AttemptedRollout, resources: object
) -> float:
    assert isinstance(resources, dict)
    assert set(resources) == {"factor", "llm"} == set(agl.current_resources())
    assert agl.current_rollout().rollout_id == rollout.rollout_id
    emitter.emit_message(f"{rollout.mode} {llm.api_key}")
    return task * factor.value


@agl.rollout(runs_in="process")
async def in_trio(task: int) -> float:
    async def child(number: int) -> None:
        await trio.sleep(0.001)
        with agl.operation(name=f"child {number}"):
            await trio.to_thread.run_sync(agl.emit_message, f"thread {number}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child, 1)
        nursery.start_soon(child, 2)
    return 1.0


@agl.rollout(runs_in="process")
def spans(task: int) -> list[agl.SpanCoreFields]:
    return [agl.SpanCoreFields("returned", attributes={"task": task})]


@agl.rollout(runs_in="process")
def anything(task: object) -> object:
    return {"lambda": lambda: None, "dict": {"a": 1}, "nan": float("nan"), "nothing": [], "bool": True}[str(task)]


@agl.rollout(runs_in="process")
def fails(task: str) -> float:
    agl.emit_message("before")
    if task == "group":
        raise ExceptionGroup("several", [KeyError("a"), ValueError("b")])
    if task == "exit":
        sys.exit(3)
    if task == "generator exit":
        raise GeneratorExit
    if task == "interrupt":
        raise KeyboardInterrupt
    if task == "unreadable":
        raise Unreadable("one", "two")
    if task == "local":

        class Local(Exception):
            pass

        raise Local("nobody else knows it")
    raise KeyError(task)


@agl.rollout(runs_in="process")
def dies(task: str) -> float:
    with agl.operation(name="finished"):
        pass
    if task == "os._exit":
        os._exit(7)
    if task == "SIGSEGV":
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
    if task == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return 1.0


@agl.rollout(runs_in="process")
def hangs(task: object) -> float:
    """Use the processor while holding the GIL, if the task asks for it."""
    agl.emit_message("begun")
    if isinstance(task, str):
        Path(task).write_text(str(os.getpid()), encoding="utf-8")
    while task:
        pass
    return 1.0


@agl.rollout(runs_in="process")
def emits_slowly(task: float) -> float:
    for _ in range(8):
        time.sleep(task)
        agl.emit_message("alive")
    return 1.0


@agl.rollout(runs_in="process")
def sleeps(task: float) -> float:
    time.sleep(task)
    return 1.0


@agl.rollout(runs_in="process")
def leaves_open(task: int) -> None:
    agl.operation(name="never ended").__enter__()
    threading.Thread(target=agl.carry_context(_emit_late), daemon=True).start()


def _emit_late() -> None:
    time.sleep(0.2)
    agl.emit_message("late")


class _Cyclic:
    """An object that emits when the collector frees it."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        with contextlib.suppress(agl.NoActiveRollout):
            agl.emit_message("late")


@agl.rollout(runs_in="process")
def leaves_garbage(task: str) -> None:
    if task == "leaves":
        _Cyclic()
    else:
        gc.collect()


@agl.rollout(runs_in="process")
def traced(task: int) -> float:
    """Make spans through OpenTelemetry's global API, as libraries do, also in threads that carry its context."""
    tracer = trace.get_tracer("a.library")
    with tracer.start_as_current_span("library", attributes={"task": task}):
        agl.emit_annotation({"task": task, "what": "in a library's span"})
        thread = threading.Thread(target=agl.carry_context(agl.emit_annotation), args=({"task": task},))
        thread.start()
        thread.join()
    with agl.operation(name="inner", task=task), tracer.start_as_current_span("library", attributes={"task": task}):
        agl.emit_annotation({"task": task, "what": "in a library's span"})
    return float(task)


@agl.rollout(runs_in="process")
def asks(task: str, llm: agl.LLM) -> None:
    import openai

    with openai.OpenAI(base_url=llm.endpoint, api_key="any") as client:
        client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": task}])


def plain(task: float) -> float:
    return task


under_another_name = agl.rollout(runs_in="process", name="other")(plain)


class Counting(agl.LitAgent[int]):
    """An agent with state, of which each worker process has a copy."""

    runs_in = "process"

    def __init__(self) -> None:
        self.step = 2
        self.extra: object = None

    def training_rollout(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        return float(task * self.step)

    async def validation_rollout_async(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        await trio.lowlevel.checkpoint()
        return float(-task)


@agl.rollout(runs_in="process")
async def adds_a_span(path: str, rollout: agl.AttemptedRollout) -> None:
    """Emit a reward, then add a higher one through the store at `path`."""
    agl.emit_reward(0.25)
    span = agl.Span.from_attributes(
        attributes={"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 0.75},
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
    )
    async with agl.SqliteLightningStore(path) as store:
        await store.add_span(span)


class Remembering(agl.LitAgent[int]):
    """An agent that counts its rollouts, of both modes and with all resources."""

    runs_in = "process"
    count = 0

    def rollout(self, task: int, resources: agl.NamedResources) -> float:
        self.count += 1
        return float(self.count)


class RunsAPart(agl.LitAgent[int]):
    """An agent that cannot be copied, but pickled."""

    runs_in = "process"

    def __copy__(self) -> RunsAPart:
        raise TypeError("not in this process")

    def rollout(self, task: int) -> float:
        return float(task)


def sets_an_alarm(task: int) -> float:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return 1.0


class LibraryError(Exception):
    """What a library makes of any error."""


async def calls_asyncio_in_a_library(task: int) -> None:
    try:
        await _wait_as_a_library()
    except TypeError as exc:
        raise LibraryError("no connection") from exc


@types.coroutine
def _wait_as_a_library() -> Iterator[object]:
    yield object()


class ExitsWhenPickled:
    """A task that ends the process which sends it."""

    def __reduce__(self) -> str:
        raise SystemExit("while pickling")


def _exit() -> None:
    raise SystemExit("while unpickling")


class ExitsWhenMade:
    """A task that ends the process which receives it."""

    def __reduce__(self) -> tuple[object, ...]:
        return _exit, ()


@agl.rollout(runs_in="process")
def returns_one(task: object) -> float:
    return 1.0


@agl.rollout(runs_in="process")
def reads_its_journal(task: str, llm: agl.LLM) -> float:
    key = os.environ[task]
    agl.emit_message(f"call with {key}")
    [journal] = Path(tempfile.gettempdir()).glob(f"lightning_trio-*/{os.getpid()}.spans")
    data = journal.read_bytes()
    assert b"[api key]" in data
    return float(key.encode() in data)


@agl.rollout(runs_in="process")
def fails_with_a_key_of_its_own(place: str) -> None:
    key = "sk-made-in-the-worker"
    agl.LLM(endpoint="http://127.0.0.1:9/v1", model="m", api_key=key)
    error = ValueError(f"bad key {key}" if place == "message" else "bad key")
    if place == "note":
        error.add_note(key)
    if place == "attribute":
        error.request = {"key": key}  # type: ignore[attr-defined]
    raise error from (KeyError(key) if place == "cause" else None)
