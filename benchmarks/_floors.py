"""The floors: the same work in plain Trio and plain OpenTelemetry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter, sleep

import trio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from ._memory import resident_bytes


def sdk_tracer() -> trace.Tracer:
    """Return a tracer of a private OpenTelemetry SDK that records every span and keeps none."""
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    # Without a processor the SDK makes spans that record nothing.
    provider.add_span_processor(SpanProcessor())
    return provider.get_tracer("benchmarks")


async def run_limited(count: int, limit: int, fn: Callable[[trio.Semaphore], Awaitable[None]]) -> None:
    """Run `count` tasks, at most `limit` at a time; `fn` releases the place that was acquired before its spawn."""
    places = trio.Semaphore(limit)
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            if places.value:
                places.acquire_nowait()
            else:
                await places.acquire()
            nursery.start_soon(fn, places)


async def task_with_two_spans(count: int, limit: int, timeout_seconds: float) -> None:
    """Run bare tasks with a deadline that make a root and a reward span of the OpenTelemetry SDK."""
    tracer = sdk_tracer()

    async def task(places: trio.Semaphore) -> None:
        # Like the no-op agent, the block never waits; only the cost of the scope matters.
        with trio.CancelScope(deadline=trio.current_time() + timeout_seconds):  # noqa: ASYNC100
            root = tracer.start_span(
                "invoke_agent agent",
                context=Context(),
                attributes={"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "agent"},
            )
            reward = tracer.start_span(
                "agentlightning.annotation",
                context=trace.set_span_in_context(root, Context()),
                attributes={"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 1.0},
            )
            reward.end()
            root.end()
        places.release()

    await run_limited(count, limit, task)


async def sleepers(count: int, limit: int, seconds: float) -> None:
    """Run bare tasks that sleep."""

    async def task(places: trio.Semaphore) -> None:
        await trio.sleep(seconds)
        places.release()

    await run_limited(count, limit, task)


async def bytes_per_waiting_task(count: int) -> float:
    """Return the memory of one bare task that waits inside a cancel scope with a deadline."""
    waiting = 0
    peak = 0
    release = trio.Event()

    async def task() -> None:
        nonlocal waiting, peak
        with trio.CancelScope(deadline=trio.current_time() + 600):
            waiting += 1
            if waiting == count:
                peak = resident_bytes()
                release.set()
            await release.wait()

    before = resident_bytes()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(task)
    return (peak - before) / count


async def hand_over(count: int) -> list[float]:
    """Return the seconds from sending an item to a loop that spawns a task for it until that task is done."""
    send, receive = trio.open_memory_channel[trio.Event](0)
    seconds: list[float] = []

    async def work(done: trio.Event) -> None:
        done.set()

    async def serve(nursery: trio.Nursery) -> None:
        async for done in receive:
            nursery.start_soon(work, done)

    async with trio.open_nursery() as nursery, send:
        nursery.start_soon(serve, nursery)
        for _ in range(count):
            started = perf_counter()
            done = trio.Event()
            await send.send(done)
            await done.wait()
            seconds.append(perf_counter() - started)
    return seconds


async def blocking_threads(count: int, limit: int, seconds: float) -> None:
    """Run a blocking call in worker threads, with a limiter of its own."""
    limiter = trio.CapacityLimiter(limit)

    async def task(places: trio.Semaphore) -> None:
        await trio.to_thread.run_sync(sleep, seconds, limiter=limiter)
        places.release()

    await run_limited(count, limit, task)
