"""Rows: code of agents that somebody else calls: the garbage collector, finalizers, timers, futures, loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import queue
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Generator, Iterator
from functools import partial
from typing import Any, NoReturn

import trio
from hostile_rows import IN_ONE_PROCESS, row

import lightning_trio as agl

well = partial(row, "callbacks", "succeeds")
badly = partial(row, "callbacks", "fails")


def emit(what: str) -> None:
    agl.emit_annotation({"what": what})


class EmitsWhenCollected:
    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        emit("collected")


class ExitsWhenCollected:
    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        raise SystemExit(1)


@well()
def object_that_emits_when_it_is_collected() -> None:
    EmitsWhenCollected()


@well()
def object_that_exits_when_it_is_collected() -> None:
    ExitsWhenCollected()
    gc.collect()


@well()
def generator_that_emits_when_it_is_collected() -> None:
    def steps() -> Iterator[int]:
        try:
            yield 1
        finally:
            emit("collected")

    generator = steps()
    next(generator)
    cycle: list[Any] = [generator]
    cycle.append(cycle)


@well()
def generator_that_yields_again_when_it_is_closed() -> None:
    def stubborn() -> Iterator[int]:
        while True:
            try:
                yield 1
            except GeneratorExit:
                continue

    # Closed when it is collected, which fails there.
    next(stubborn())


@well()
def finalizer_that_emits() -> None:
    class Connection:
        pass

    connection = Connection()
    connection.cycle = connection  # type: ignore[attr-defined]
    weakref.finalize(connection, emit, "finalized").atexit = False


@well()
def callback_of_a_weak_reference_that_exits() -> None:
    class Node:
        pass

    def gone(reference: object) -> NoReturn:
        raise SystemExit(2)

    node = Node()
    reference = weakref.ref(node, gone)
    del node
    assert reference() is None


@well(lanes=IN_ONE_PROCESS)
def callback_of_the_garbage_collector_that_emits() -> None:
    def collected(phase: str, info: object) -> None:
        try:
            emit(phase)
        finally:
            if phase == "stop":
                gc.callbacks.remove(collected)

    gc.callbacks.append(collected)


@well(lanes=IN_ONE_PROCESS)
def callback_of_the_garbage_collector_that_fails() -> None:
    def collected(phase: str, info: object) -> NoReturn:
        gc.callbacks.remove(collected)
        raise SystemExit(3)

    gc.callbacks.append(collected)
    gc.collect()


@well()
def timer_that_emits_too_late() -> None:
    timer = threading.Timer(0.05, agl.carry_context(emit), ["too late"])
    timer.daemon = True
    timer.start()


@well()
def callback_of_a_future_that_fails() -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    future.add_done_callback(lambda done: sys.exit(4))
    try:
        future.set_result(1)
    except SystemExit:
        return


@well(lanes=("thread", "process"))
def pool_whose_calls_emit() -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(agl.carry_context(emit), ["a", "b", "c"]))


@badly(error="AgentError", lanes=("thread", "process"))
def pool_whose_calls_interrupt() -> None:
    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt).result()


SHARED: queue.SimpleQueue[Any] = queue.SimpleQueue()


@well(lanes=IN_ONE_PROCESS)
def token_of_a_context_variable_from_another_rollout() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    if SHARED.empty():
        SHARED.put((variable, variable.set(1)))
        return
    other, token = SHARED.get()
    try:
        other.reset(token)
    except (ValueError, RuntimeError):
        return


KEPT: dict[str, Any] = {}


@well(lanes=IN_ONE_PROCESS)
def emitter_that_is_kept_for_later() -> None:
    """Keep the emitter in a module; the resumed rollout uses the one of the attempt before."""
    kept = KEPT.get("emitter")
    KEPT["emitter"] = agl.current_emitter()
    if kept is not None:
        try:
            kept.emit_message("into an attempt that has ended")
        except (agl.NoActiveRollout, agl.AttemptAbandoned):
            return


@well(lanes=IN_ONE_PROCESS)
def operation_that_is_kept_for_later() -> None:
    op = agl.operation(name="kept")
    op.__enter__()

    def end_later() -> None:
        time.sleep(0.05)
        try:
            op.set_output("late")
            op.__exit__(None, None, None)
        except BaseException:
            return

    threading.Thread(target=end_later, daemon=True).start()


@badly(error="ValueError")
def profiler_that_fails() -> None:
    def profile(frame: object, event: str, argument: object) -> NoReturn:
        sys.setprofile(None)
        raise ValueError("of the profiler")

    sys.setprofile(profile)
    emit("profiled")


@well()
def cached_function_that_emits() -> None:
    @functools.cache
    def look_up(word: str) -> str:
        emit(word)
        return word

    look_up("a")
    look_up("a")


# Trio.


@well(lanes=("trio",), is_async=True)
async def system_task_that_emits() -> None:
    async def later() -> None:
        await trio.sleep(0.02)
        try:
            emit("too late")
        except BaseException:
            return

    trio.lowlevel.spawn_system_task(later)
    await trio.lowlevel.checkpoint()


@well(lanes=("trio",), is_async=True)
async def entry_of_the_loop_that_emits() -> None:
    def from_outside() -> None:
        try:
            emit("from outside")
        except BaseException:
            return

    trio.lowlevel.current_trio_token().run_sync_soon(from_outside)
    await trio.lowlevel.checkpoint()


@well(lanes=("trio",), is_async=True)
async def async_generators_closed_by_the_collector() -> None:
    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            emit("closed")
            raise SystemExit(6)

    generator = pages()
    await anext(generator)
    cycle: list[Any] = [generator]
    cycle.append(cycle)
    del generator, cycle
    gc.collect()
    await trio.sleep(0.01)


# asyncio.


@well(lanes=("asyncio",), is_async=True)
async def callbacks_of_the_loop_that_emit_and_fail() -> None:
    def fail() -> NoReturn:
        raise ValueError("of a callback")

    loop = asyncio.get_running_loop()
    loop.call_soon(emit, "soon")
    loop.call_later(0.02, emit, "too late")
    loop.call_soon(fail)
    await asyncio.sleep(0)


@well(lanes=("asyncio",), is_async=True)
async def callback_of_the_loop_that_exits() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 7)
    await asyncio.sleep(0.01)


@well(lanes=("asyncio",), is_async=True)
async def done_callback_that_exits() -> None:
    async def work() -> int:
        return 1

    task = asyncio.create_task(work())
    task.add_done_callback(lambda done: sys.exit(8))
    await task


@well(lanes=("asyncio",), is_async=True)
async def async_generator_dropped_in_asyncio() -> None:
    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            emit("closed")

    async for _ in pages():
        break
    gc.collect()
    await asyncio.sleep(0.01)


@badly(error="RuntimeError", lanes=("asyncio",), is_async=True)
async def awaitable_that_yields_nonsense() -> None:
    class Odd:
        def __await__(self) -> Generator[Any, Any, Any]:
            yield "nonsense"

    await Odd()


@badly(error="AsyncioAgentError", lanes=("trio",), is_async=True)
async def awaitable_that_yields_nonsense_to_trio() -> None:
    class Odd:
        def __await__(self) -> Generator[Any, Any, Any]:
            yield "nonsense"

    await Odd()


@well(lanes=("asyncio",), is_async=True)
async def executor_whose_call_emits_late() -> None:
    def late() -> None:
        time.sleep(0.05)
        try:
            emit("late")
        except BaseException:
            return

    asyncio.get_running_loop().run_in_executor(None, late)
