"""What one rollout sets or cancels on the loop that it shares with others."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import trio

import lightning_trio as agl
from lightning_trio import Runner


async def tick(seconds: float = 0.01) -> float:
    await asyncio.sleep(seconds)
    return 1.0


async def run_beside_neighbours(act: Callable[[], Awaitable[float]], neighbour: Callable[[], Awaitable[float]]) -> None:
    """Have one agent `act` while three others are in `neighbour`, and demand that all four succeed."""
    begun = asyncio.Event()
    all_begun = 0

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        nonlocal all_begun
        all_begun += 1
        if all_begun == 4:
            begun.set()
        await begun.wait()
        return await (act() if task == 0 else neighbour())

    result = await Runner(agent, store=agl.InMemoryLightningStore(), max_concurrency=4).fit(range(4))
    assert result.counts["succeeded"] == 4


def cancel_all_others() -> list[asyncio.Task[Any]]:
    found = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in found:
        task.cancel()
    return found


async def sweep() -> float:
    await asyncio.gather(*cancel_all_others(), return_exceptions=True)
    return 1.0


async def gather() -> float:
    return sum(await asyncio.gather(tick(), tick(0.02)))


async def await_later() -> float:
    task = asyncio.create_task(tick(0.05))
    await tick(0.02)
    return await task


async def await_a_shared_task() -> float:
    return await asyncio.create_task(tick(0.05), context=contextvars.Context())


@pytest.mark.parametrize("neighbour", [gather, await_later, await_a_shared_task])
async def test_an_agent_that_cancels_all_tasks_of_the_loop_cancels_no_other_rollout(
    neighbour: Callable[[], Awaitable[float]],
) -> None:
    """Clean-up code written for an agent's own loop does this."""
    await run_beside_neighbours(sweep, neighbour)


async def test_agents_that_all_cancel_and_await_all_tasks_do_not_wait_for_each_other() -> None:
    with trio.fail_after(5):
        await run_beside_neighbours(sweep, sweep)


async def test_an_agent_may_cancel_and_await_a_task_that_another_rollout_started_and_awaits() -> None:
    """A shared client that is closed does this with its tasks."""
    shared: list[asyncio.Task[float]] = []

    async def start() -> float:
        if not shared:
            shared.append(asyncio.create_task(tick(60)))
            with suppress(asyncio.CancelledError):
                await shared[0]
        return await tick()

    async def cancel() -> float:
        while not shared:
            await tick()
        shared[0].cancel()
        await asyncio.wait(shared)
        return float(shared[0].cancelled())

    with trio.fail_after(5):
        await run_beside_neighbours(cancel, start)


def two_arguments(loop: asyncio.AbstractEventLoop, coro: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop)


async def test_a_task_factory_need_not_know_options_that_the_agent_does_not_use() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def act() -> float:
        async def look() -> int:
            agl.emit_message("from the task")
            return variable.get()

        asyncio.get_running_loop().set_task_factory(two_arguments)
        variable.set(3)
        assert await asyncio.create_task(look()) == 3
        return 1.0

    await run_beside_neighbours(act, gather)


def fail(generator: object) -> None:
    raise ValueError("no generators today")


async def test_hooks_that_an_agent_sets_for_generators_end_with_its_rollout() -> None:
    async def pages() -> Any:
        yield 1.0

    async def act() -> float:
        sys.set_asyncgen_hooks(firstiter=fail)
        return 1.0

    async def neighbour() -> float:
        await tick(0.05)
        return sum([page async for page in pages()])

    await run_beside_neighbours(act, neighbour)


def refuse(loop: object, coro: Any, **options: Any) -> asyncio.Task[Any]:
    coro.close()
    raise ValueError("no tasks today")


async def test_a_task_factory_that_an_agent_sets_makes_the_tasks_of_its_own_rollout_only() -> None:
    async def act() -> float:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(refuse)
        assert loop.get_task_factory() is refuse
        with pytest.raises(ValueError, match="no tasks today"):
            await asyncio.create_task(tick())
        await asyncio.sleep(0.03)
        loop.set_task_factory(before)
        return await asyncio.create_task(tick())

    async def neighbour() -> float:
        await asyncio.sleep(0.01)
        return await asyncio.create_task(tick())

    await run_beside_neighbours(act, neighbour)


async def test_a_default_executor_that_an_agent_sets_runs_the_calls_of_its_own_rollout_only() -> None:
    names: list[str] = []
    variable = contextvars.ContextVar("variable", default=0)

    async def act() -> float:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="own"))
        variable.set(3)
        names.append(await loop.run_in_executor(None, lambda: f"{threading.current_thread().name}:{variable.get()}"))
        await loop.shutdown_default_executor()
        return await asyncio.to_thread(float, 1)

    async def neighbour() -> float:
        await asyncio.sleep(0.01)
        return await asyncio.to_thread(float, threading.current_thread().name.startswith("own"))

    await run_beside_neighbours(act, neighbour)
    assert names == ["own_0:3"]


async def test_an_agent_that_shuts_the_loops_executor_and_generators_down_shuts_down_no_others() -> None:
    async def act() -> float:
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.get_running_loop().shutdown_asyncgens()
        return await asyncio.to_thread(float, 1)

    async def neighbour() -> float:
        async def pages() -> Any:
            for page in range(5):
                yield page

        found = []
        async for page in pages():
            found.append(await asyncio.to_thread(int, page))
            await tick()
        assert found == [0, 1, 2, 3, 4]
        return 1.0

    await run_beside_neighbours(act, neighbour)


@pytest.mark.parametrize(("method", "argument"), [("set_task_factory", 3), ("set_default_executor", None)])
async def test_what_asyncio_refuses_is_refused(method: str, argument: Any) -> None:
    async def act() -> float:
        with pytest.raises(TypeError, match="must be"):
            getattr(asyncio.get_running_loop(), method)(argument)
        return 1.0

    await run_beside_neighbours(act, tick)


async def test_what_a_callback_of_no_agent_sets_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def act() -> float:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.set_task_factory, refuse, context=contextvars.Context())
        await tick()
        return await asyncio.create_task(tick())

    with caplog.at_level(logging.WARNING, "lightning_trio.lanes"):
        await run_beside_neighbours(act, tick)
    assert "set_task_factory() was called on the agents' asyncio loop by no agent, and is ignored" in caplog.text
