"""Rows: what agents do to what they share with others: the process, its loop, their own resources and records."""

from __future__ import annotations

import asyncio
import decimal
import errno
import gc
import locale
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, NoReturn

import trio
import trio.lowlevel
from hostile_rows import IN_ONE_PROCESS, UNDO, fails, row

import lightning_trio as agl

ON_LINUX = IN_ONE_PROCESS if sys.platform == "linux" else ()

well = partial(row, "resources", "succeeds")
badly = partial(row, "resources", "fails")


# The interpreter and its threads.


class FailsLater:
    """A trace or profile function that fails when others run in its thread."""

    calls = 0

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls > 20:
            raise ValueError("of the profiler")


@well(lanes=("thread",))
def leaves_a_profile_function_that_fails_later() -> None:
    sys.setprofile(FailsLater())


@well(lanes=("thread",))
def leaves_a_trace_function_that_fails_later() -> None:
    sys.settrace(FailsLater())


@badly(lanes=("trio",), is_async=True, timeout=0.3)
async def takes_all_of_trios_threads_for_good() -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1
    may_end = threading.Event()
    UNDO.append(may_end.set)
    await trio.to_thread.run_sync(may_end.wait, abandon_on_cancel=True)


# The operating system's process.


@well()
def seeds_the_random_generator() -> None:
    random.seed(0)


@contextmanager
def restored(module: Any, name: str) -> Iterator[None]:
    value = getattr(module, name)
    try:
        yield
    finally:
        setattr(module, name, value)


@well(lanes=ON_LINUX)
def takes_all_file_descriptors() -> None:
    """Use up the descriptors for a moment, as too many open connections do."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        time.sleep(0.05)
        agl.emit_message("no descriptors left")
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@badly(error="OSError", lanes=ON_LINUX)
def leaves_all_file_descriptors_taken_for_a_while() -> None:
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass

    def release() -> None:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    timer = threading.Timer(0.3, release)
    timer.start()
    UNDO.append(timer.join)
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@well(lanes=IN_ONE_PROCESS)
def changes_into_a_folder_that_is_removed() -> None:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
    UNDO.append(partial(os.chdir, before))


@well()
def sets_a_short_socket_timeout_for_all() -> None:
    socket.setdefaulttimeout(0.001)
    UNDO.append(partial(socket.setdefaulttimeout, None))


@well(lanes=IN_ONE_PROCESS)
def turns_warnings_into_errors_for_all() -> None:
    filters = warnings.filters[:]
    warnings.simplefilter("error")

    def restore() -> None:
        warnings.filters[:] = filters  # type: ignore[index]

    UNDO.append(restore)


@well()
def sets_a_decimal_precision_of_one() -> None:
    decimal.getcontext().prec = 1
    decimal.getcontext().traps[decimal.Inexact] = False


@well(lanes=IN_ONE_PROCESS)
def loses_the_standard_streams() -> None:
    """Replace the streams by nothing, as a daemon or ``pythonw`` has them."""
    out, err = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = None  # type: ignore[assignment]

    def restore() -> None:
        sys.stdout, sys.stderr = out, err

    UNDO.append(restore)


class FailingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> NoReturn:
        raise SystemExit(1)


@well(lanes=IN_ONE_PROCESS)
def adds_a_log_handler_that_exits() -> list[Any]:
    handler = FailingHandler()
    logger = logging.getLogger("lightning_trio.agent")
    logger.addHandler(handler)
    UNDO.append(partial(logger.removeHandler, handler))
    # This is logged, by the code that reads what agents return.
    return []


class EmittingHandler(logging.Handler):
    """A handler that records what is logged, in the trace of whatever code logs it."""

    def emit(self, record: logging.LogRecord) -> None:
        agl.emit_message(record.getMessage())


@well(lanes=IN_ONE_PROCESS)
def adds_a_log_handler_that_emits() -> list[Any]:
    handler = EmittingHandler()
    logging.getLogger("lightning_trio").addHandler(handler)
    UNDO.append(partial(logging.getLogger("lightning_trio").removeHandler, handler))
    return []


@well(lanes=IN_ONE_PROCESS)
def disables_the_garbage_collector() -> None:
    gc.disable()
    UNDO.append(gc.enable)


@well(lanes=IN_ONE_PROCESS)
def collects_garbage_again_and_again() -> None:
    for _ in range(3):
        gc.collect()


@well(lanes=IN_ONE_PROCESS)
def lowers_the_recursion_limit() -> None:
    limit = sys.getrecursionlimit()
    depth = len(trace_of_here())
    sys.setrecursionlimit(depth + 60)
    try:
        agl.emit_object({"a": [{"b": [1]}]})
    finally:
        sys.setrecursionlimit(limit)


def trace_of_here() -> list[Any]:
    frame, frames = sys._getframe(), []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return frames


@well(lanes=IN_ONE_PROCESS)
def clears_the_environment() -> None:
    before = dict(os.environ)
    os.environ.clear()
    UNDO.append(partial(os.environ.update, before))


@well()
def sets_another_locale() -> None:
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C")
    UNDO.append(partial(locale.setlocale, locale.LC_ALL, before))


# The runner that rows share on PostgreSQL is not in the main thread, where alone a handler may be set.
@badly(error="TimeoutError", lanes=("trio",), but={"postgres": fails("ValueError")})
def times_out_by_a_signal() -> None:
    """Use the timeout decorator that many copy from the web."""

    def ring(number: int, frame: object) -> NoReturn:
        raise TimeoutError("too slow")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        time.sleep(5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@well()
def starts_a_child_and_forgets_it() -> None:
    subprocess.Popen(["sleep", "0.2"], stdout=subprocess.DEVNULL)


@well(lanes=("thread", "process"))
def forks_a_child_that_raises() -> None:
    child = subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], check=False)
    assert child.returncode == 3


# Its worker process.


@badly(error="WorkerDied", lanes=("process",))
def worker_exits_at_once() -> None:
    os._exit(0)


@badly(error="WorkerDied", lanes=("process",))
def worker_is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


# With a limit, for that keeps its worker process from running other rows, which use the streams.
@well(lanes=("process",), timeout=20.0)
def worker_closes_its_standard_streams() -> None:
    for descriptor in (0, 1, 2):
        os.close(descriptor)


@well(lanes=("process",))
def worker_writes_to_its_standard_streams() -> None:
    os.write(1, b"\x80\x04\x00" * 10_000)
    print("x" * 100_000, file=sys.stderr)


@well(lanes=("process",))
def worker_changes_into_a_folder_that_is_removed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)


@well(lanes=("process",))
def worker_leaves_a_thread_that_fails() -> None:
    threading.Thread(target=fail_later).start()


def fail_later() -> None:
    time.sleep(0.05)
    raise SystemExit(2)


# Threads.


@well(lanes=("thread", "trio", "asyncio"))
def leaves_a_thread_that_fails() -> None:
    threading.Thread(target=agl.carry_context(fail_later), daemon=True).start()


@well(lanes=("thread", "trio", "asyncio"))
def leaves_a_thread_that_emits_too_late() -> None:
    def emit() -> None:
        time.sleep(0.1)
        try:
            agl.emit_annotation({"late": True})
        except BaseException:
            return

    threading.Thread(target=agl.carry_context(emit), daemon=True).start()


@badly(error="AttemptTimedOut", lanes=("thread",), timeout=1.0)
def thread_beyond_its_deadline() -> None:
    with agl.operation(name="slow"):
        time.sleep(1.5)
    agl.emit_message("too late")


@badly(error="AttemptTimedOut", lanes=("thread",), timeout=1.0)
def thread_that_swallows_everything_beyond_its_deadline() -> None:
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
            agl.emit_message("going on")
        except BaseException:
            time.sleep(0.01)


@badly(lanes=("thread",), timeout=1.0)
def thread_that_spoils_the_run_beyond_its_deadline() -> None:
    # It imports this module.
    from hostile_agents import in_thread

    store, own = in_thread.get_runner().store, agl.current_rollout()
    time.sleep(1.5)
    spoil = (
        partial(store.enqueue, [agl.EnqueueRolloutRequest(1)], run_id=own.run_id),
        partial(store.update_rollout, own.rollout_id, input=1),
        partial(store.add_resources, {"llm": agl.LLM("http://localhost", "model")}),
    )
    for each in spoil:
        try:
            trio.from_thread.run(each)
        except BaseException:
            continue


# Trio.


@well(lanes=("trio",), is_async=True)
async def cancels_a_scope_of_its_own() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.sleep_forever()


@well(lanes=("trio",), is_async=True)
async def cancels_the_scope_around_it() -> None:
    """Cancel what the current deadline belongs to, as code that looks for "the" scope does."""
    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    async with trio.open_nursery() as own:
        own.start_soon(trio.sleep, 60)
        own.cancel_scope.cancel()


@badly(error="AttemptTimedOut", lanes=("trio",), is_async=True, timeout=1.0)
async def swallows_its_cancellation() -> float:
    while True:
        try:
            await trio.sleep(60)
        except trio.Cancelled:
            return 1.0


@badly(error="SystemExit", lanes=("trio",), is_async=True, timeout=1.0)
async def answers_its_deadline_with_an_exit() -> None:
    try:
        await trio.sleep(60)
    except BaseException:
        raise SystemExit(3) from None


@badly(error="BaseExceptionGroup", lanes=("trio",), is_async=True, timeout=1.0)
async def children_that_fail_at_the_deadline() -> None:
    async def child(exc: BaseException) -> None:
        try:
            await trio.sleep(60)
        finally:
            raise exc

    async with trio.open_nursery() as nursery:
        for exc in (ValueError("a"), SystemExit(4), KeyboardInterrupt(), GeneratorExit()):
            nursery.start_soon(child, exc)


@badly(error="SystemExit", lanes=("trio",), is_async=True)
async def child_that_exits() -> None:
    async def child() -> None:
        await trio.lowlevel.checkpoint()
        sys.exit(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        await trio.sleep(60)


@asynccontextmanager
async def left_open() -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0.05)
        yield


@badly(error="AgentError", lanes=("trio",), is_async=True)
async def leaves_a_nursery_open() -> None:
    """Enter a context manager and never leave it."""
    manager = left_open()
    await manager.__aenter__()


@badly(error="AgentError", lanes=("trio",), is_async=True)
async def leaves_a_scope_open() -> None:
    trio.CancelScope().__enter__()
    await trio.lowlevel.checkpoint()


@badly(error="AgentError", lanes=("trio",), is_async=True)
async def leaves_a_deadline_open() -> None:
    trio.move_on_after(0.05).__enter__()
    await trio.sleep(0.01)


@well(lanes=("trio",), is_async=True)
async def drops_an_async_generator() -> None:
    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            agl.emit_annotation({"closed": True})
            await trio.lowlevel.checkpoint()

    async for _ in pages():
        break
    gc.collect()


@badly(error="RuntimeError", lanes=("trio",), is_async=True)
async def runs_another_trio_within() -> None:
    trio.run(trio.sleep, 0)


@badly(error="AsyncioAgentError", lanes=("trio",), is_async=True)
async def uses_asyncio_in_trio() -> None:
    asyncio.get_running_loop()


@well(lanes=("trio",), is_async=True)
async def ends_while_a_thread_runs() -> None:
    with trio.move_on_after(0.02):
        await trio.to_thread.run_sync(time.sleep, 0.1, abandon_on_cancel=True)


# asyncio.


@badly(error="AgentError", lanes=("asyncio",), is_async=True)
async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel("by itself")
    await asyncio.sleep(1)


# Since Python 3.13 `uncancel` takes back a cancellation that has not been raised yet.
@row(
    "resources",
    "succeeds" if sys.version_info >= (3, 13) else "fails",
    error=None if sys.version_info >= (3, 13) else "AgentError",
    lanes=("asyncio",),
    is_async=True,
)
async def cancels_itself_and_returns() -> float:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    task.uncancel()
    return 1.0


@well(lanes=("asyncio",), is_async=True)
async def stops_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)


@badly(error="RuntimeError", lanes=("asyncio",), is_async=True)
async def closes_the_loop() -> None:
    asyncio.get_running_loop().close()


@well(lanes=("asyncio",), is_async=True)
async def leaves_tasks_that_fail() -> None:
    async def fail(exc: BaseException) -> None:
        await asyncio.sleep(0.01)
        raise exc

    for exc in (ValueError("a"), asyncio.CancelledError(), ExceptionGroup("g", [KeyError("b")])):
        asyncio.create_task(fail(exc))  # noqa: RUF006


@well(lanes=("asyncio",), is_async=True)
async def leaves_a_task_that_exits() -> None:
    async def leave() -> None:
        await asyncio.sleep(0.01)
        sys.exit(6)

    asyncio.create_task(leave())  # noqa: RUF006


@well(lanes=("asyncio",), is_async=True)
async def leaves_a_task_that_refuses_to_end() -> None:
    async def stay() -> None:
        agl.emit_message("I am a task of this rollout")
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    asyncio.create_task(stay())  # noqa: RUF006
    await asyncio.sleep(0.01)


@badly(error="SystemExit", lanes=("asyncio",), is_async=True)
async def task_group_with_an_exit() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(exit_soon())
        await asyncio.sleep(1)


async def exit_soon() -> None:
    await asyncio.sleep(0)
    raise SystemExit(7)


@badly(error="AttemptTimedOut", lanes=("asyncio",), is_async=True, timeout=1.0)
async def swallows_its_cancellation_in_asyncio() -> float:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return 1.0
    return 0.0


@badly(error="AgentError", lanes=("asyncio",), is_async=True, timeout=1.0)
async def answers_its_deadline_with_an_interrupt() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@badly(error="AttemptTimedOut", lanes=("asyncio",), is_async=True, timeout=1.0)
async def blocks_the_loop_beyond_its_deadline() -> None:
    await asyncio.sleep(0.1)
    time.sleep(1.5)


@well(lanes=("asyncio",), is_async=True)
async def sets_a_debugging_loop() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.call_later(0.2, loop.set_debug, False)


@well(lanes=("asyncio",), is_async=True)
async def sets_an_exception_handler_that_fails() -> None:
    loop = asyncio.get_running_loop()

    def handle(loop: object, context: object) -> NoReturn:
        raise ValueError("the handler's own")

    def fail() -> NoReturn:
        raise ValueError("of a callback")

    loop.set_exception_handler(handle)
    loop.call_soon(fail)
    loop.call_later(0.1, loop.set_exception_handler, None)


@well(lanes=("asyncio",), is_async=True)
async def cancels_and_awaits_all_tasks_of_the_loop() -> None:
    found = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in found:
        task.cancel()
    await asyncio.gather(*found, return_exceptions=True)


@well(lanes=("asyncio",), is_async=True)
async def sets_a_default_executor_that_is_shut_down() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    asyncio.get_running_loop().set_default_executor(executor)


@well(lanes=("asyncio",), is_async=True)
async def shuts_the_loops_executor_and_generators_down() -> None:
    await asyncio.get_running_loop().shutdown_default_executor()
    await asyncio.get_running_loop().shutdown_asyncgens()


@well(lanes=("asyncio",), is_async=True)
async def keeps_a_task_factory_that_fails() -> None:
    def make(loop: object, coroutine: Any, **options: Any) -> NoReturn:
        coroutine.close()
        raise ValueError("no tasks today")

    asyncio.get_running_loop().set_task_factory(make)


@well(lanes=("asyncio",), is_async=True)
async def sets_a_task_factory_that_fails() -> None:
    loop = asyncio.get_running_loop()

    def make(loop: object, coroutine: Any, **options: Any) -> NoReturn:
        coroutine.close()
        raise ValueError("no tasks today")

    before, is_restored = loop.get_task_factory(), threading.Event()

    def restore() -> None:
        loop.set_task_factory(before)
        is_restored.set()

    loop.set_task_factory(make)
    loop.call_later(0.05, restore)
    UNDO.append(is_restored.wait)


@badly(error="KeyError", lanes=("asyncio",), is_async=True)
async def gathers_with_failures() -> float:
    async def work(number: int) -> int:
        await asyncio.sleep(0.001 * number)
        if number == 1:
            raise KeyError(number)
        return number

    await asyncio.gather(*(work(number) for number in range(5)))
    return 1.0


# What it was given.


@well()
def changes_its_resources() -> None:
    resources = agl.current_resources()
    try:
        resources["llm"] = None  # type: ignore[index]
    except TypeError:
        return


@well()
def changes_its_records() -> None:
    rollout = agl.current_rollout()
    for name in ("rollout_id", "status", "input", "attempt"):
        try:
            setattr(rollout, name, None)
        except AttributeError:
            continue
    if isinstance(rollout.metadata, dict):
        rollout.metadata["run"] = object()


@badly(error="ResourceError")
def template_with_a_huge_width() -> None:
    agl.PromptTemplate("{x:>99999999999}").format(x=1)


@badly(error="ResourceError")
def template_that_reads_attributes() -> None:
    agl.PromptTemplate("{x.__class__.__mro__[1]}", engine="f-string").format(x=1)


@badly(error="ResourceError")
def template_with_an_error() -> None:
    agl.PromptTemplate("{% for x in %}", engine="jinja").format(x=1)


@badly(error="ResourceError")
def template_that_divides_by_zero() -> None:
    agl.PromptTemplate("{{ 1 // x }}", engine="jinja").format(x=0)


@badly(error="ResourceError")
def template_that_calls_itself() -> None:
    agl.PromptTemplate("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", engine="jinja").format()


@badly(error="SystemExit")
def template_whose_value_exits() -> None:
    class Value:
        def __str__(self) -> str:
            raise SystemExit(8)

        def __format__(self, spec: str) -> str:
            raise SystemExit(8)

    agl.PromptTemplate("{x}").format(x=Value())
