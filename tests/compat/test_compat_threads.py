"""Threads that an agent starts follow its rollout, as in Agent-lightning 0.3."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import lightning_trio
import lightning_trio.compat as agl


def recorded(agent: Any) -> list[tuple[Any, list[Any]]]:
    """Run an agent on several tasks at once; return each with the objects that its rollout recorded."""
    trainer = agl.Trainer(n_runners=4)
    assert trainer.fit(agent, range(8)).counts["succeeded"] == 8

    async def read() -> list[tuple[Any, list[Any]]]:
        rollouts = await trainer.store.query_rollouts()
        spans = [await trainer.store.query_spans(rollout.rollout_id) for rollout in rollouts]
        named = [[span for span in each if span.name == "agentlightning.object"] for each in spans]
        return [
            (rollout.input, [agl.get_object_value(span)["task"] for span in each])
            for rollout, each in zip(rollouts, named, strict=True)
        ]

    return asyncio.run(read())


def emit(task: int) -> None:
    agl.emit_object({"task": task})


class Emitting(threading.Thread):
    """A thread that is a class."""

    def __init__(self, task: int) -> None:
        super().__init__()
        self._task = task

    def run(self) -> None:
        emit(self._task)


@pytest.mark.parametrize(
    "make",
    [
        lambda task: threading.Thread(target=emit, args=(task,)),
        lambda task: threading.Timer(0.0, emit, (task,)),
        Emitting,
    ],
)
def test_a_thread_records_into_the_rollout_that_started_it(make: Callable[[int], threading.Thread]) -> None:
    @agl.rollout
    async def starts(task: int) -> None:
        thread = make(task)
        thread.start()
        await asyncio.to_thread(thread.join)

    assert recorded(starts) == [(task, [task]) for task in range(8)]


def test_a_pool_that_rollouts_share_records_each_call_where_it_was_submitted() -> None:
    with ThreadPoolExecutor(2) as pool:

        @agl.rollout
        async def submits(task: int) -> None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(pool, emit, task)
            await loop.run_in_executor(None, emit, task)
            await asyncio.wrap_future(pool.submit(emit, task))

        assert recorded(submits) == [(task, [task] * 3) for task in range(8)]
        with pytest.raises(lightning_trio.NoActiveRollout):
            pool.submit(emit, 1).result()


def test_a_coroutine_that_blocking_code_runs_in_a_thread_is_the_rollouts() -> None:
    async def answer(task: int) -> float:
        await asyncio.sleep(0)
        emit(task)
        return float(task)

    @agl.rollout
    async def calls_blocking_code(task: int) -> float:
        results: list[float] = []
        thread = threading.Thread(target=lambda: results.append(asyncio.run(answer(task))))
        thread.start()
        thread.join()
        return results[0]

    assert recorded(calls_blocking_code) == [(task, [task]) for task in range(8)]


def test_a_thread_follows_the_trace_of_a_tracer_alone() -> None:
    async def main() -> list[str]:
        tracer = agl.OtelTracer()
        async with tracer.trace_context("alone"):
            thread = threading.Thread(target=emit, args=(1,))
            thread.start()
            thread.join()
        return [span.name for span in tracer.get_last_trace()]

    assert asyncio.run(main()) == ["agentlightning.object"]


def test_other_threads_are_left_alone() -> None:
    agl.Trainer().fit(agl.rollout(lambda task: 1.0), [1])
    raised: list[BaseException] = []

    @lightning_trio.rollout
    def native(task: int) -> None:
        with ThreadPoolExecutor() as pool:
            raised.append(pool.submit(emit, task).exception() or AssertionError())

    lightning_trio.Trainer().fit(native, [1])

    assert isinstance(raised[0], lightning_trio.NoActiveRollout)
