"""An async generator that is left half-read belongs to the asyncio rollout that first iterated it, whoever drops it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

import pytest
import trio

import lightning_trio as agl
from lightning_trio import CompletedRollout, Runner


async def answer() -> AsyncGenerator[None]:
    """An answer that is streamed; its end is recorded."""
    try:
        yield
        yield
    finally:
        await asyncio.sleep(0)
        agl.emit_reward(0.25)


def rewards(done: CompletedRollout) -> list[float | None]:
    return [reward for span in done.spans if (reward := agl.get_reward_value(span)) is not None]


class Cache:
    """What rollouts leave behind and others drop."""

    def __init__(self) -> None:
        self.held: list[object] = []

    async def fill(self) -> None:
        stream = answer()
        await anext(stream)
        self.held.append(stream)

    async def drop(self) -> None:
        self.held.clear()
        await asyncio.sleep(0.01)

    async def collect(self) -> None:
        self.held.append(self.held)
        self.held = []
        gc.collect()
        await asyncio.sleep(0.01)


Drop: TypeAlias = Callable[[Cache], Awaitable[None]]


@pytest.mark.parametrize("drop", [Cache.drop, Cache.collect])
async def test_a_generator_that_a_neighbour_drops_records_into_its_own_rollout_while_that_runs(drop: Drop) -> None:
    cache, ended = Cache(), asyncio.Event()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        if task == "fills":
            await cache.fill()
            await ended.wait()
        else:
            while not cache.held:
                await asyncio.sleep(0)
            await drop(cache)
            ended.set()

    async with Runner(agent, max_concurrency=2) as runner, runner.stream(["fills", "drops"]) as results:
        done = {each.rollout.input: rewards(each) async for each in results}

    assert done == {"fills": [0.25], "drops": []}


@pytest.mark.parametrize("drop", [Cache.drop, Cache.collect])
async def test_what_a_generator_of_an_ended_rollout_emits_is_refused_and_counted(
    drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "asyncio")
    cache = Cache()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> float:
        if task == "fills":
            await cache.fill()
        else:
            await drop(cache)
        return 1.0

    async with Runner(agent) as runner:
        done = [rewards(await runner.step(task)) for task in ("fills", "drops")]
        assert runner.tracer.statistics().late_spans == 1

    assert done == [[1.0], [1.0]]


async def test_what_a_generator_of_no_rollout_emits_is_refused_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "asyncio")
    cache = Cache()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> float:
        await asyncio.create_task(cache.fill(), context=contextvars.Context())
        await cache.drop()
        return 1.0

    async with Runner(agent) as runner:
        assert rewards(await runner.step("task")) == [1.0]
        assert runner.tracer.statistics().late_spans == 1


@pytest.mark.parametrize("drop", [Cache.drop, Cache.collect])
async def test_a_generator_that_its_own_rollout_drops_records_there(drop: Drop) -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        cache = Cache()
        # Its address is another one's later.
        async for _ in ended():
            pass
        await asyncio.create_task(cache.fill())
        await drop(cache)

    async with Runner(agent, max_concurrency=2) as runner, runner.stream(range(10)) as results:
        done = [rewards(each) async for each in results]

    assert done == [[0.25]] * 10


async def ended() -> AsyncGenerator[None]:
    yield


async def test_a_generator_that_another_thread_drops_records_into_its_rollout() -> None:
    cache = Cache()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        await cache.fill()
        await asyncio.get_running_loop().run_in_executor(None, cache.held.clear)
        await asyncio.sleep(0.01)

    with trio.fail_after(10):
        async with Runner(agent) as runner:
            assert rewards(await runner.step("task")) == [0.25]
