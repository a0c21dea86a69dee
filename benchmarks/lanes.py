"""The cost of running an agent outside Trio: on an asyncio loop, in a thread, in a worker process.

Measured: wall time of many sleeping asyncio agents, and the longest stall of Trio's own loop meanwhile; the additional
cost of a no-op agent there; the time of blocking agents compared with the time they block; the time that a warm worker
process adds, and the time until a killed one is replaced.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import trio

import lightning_trio as agl

from ._floors import blocking_threads
from ._measurement import Measurement, Target
from ._timing import interleave

SLEEP_SECONDS = 0.1


@agl.rollout(runs_in="asyncio")
async def asyncio_sleeper(task: int) -> None:
    """Wait in asyncio."""
    await asyncio.sleep(SLEEP_SECONDS)


@agl.rollout(runs_in="asyncio")
async def asyncio_noop(task: int) -> None:
    """Do nothing in asyncio."""


async def native_noop(task: int | None) -> None:
    """Do nothing in Trio."""


def blocker(task: int) -> None:
    """Block a thread."""
    time.sleep(SLEEP_SECONDS)


@agl.rollout(runs_in="process")
def process_noop(task: object) -> None:
    """Do nothing in a worker process, or keep it busy until it is killed."""
    while task:
        pass


def noop() -> None:
    """Do nothing, for a bare worker process."""


def run_all(agent: Any, count: int, concurrency: int) -> None:
    """Run `count` rollouts."""
    result = trio.run(agl.Runner(agent, max_concurrency=concurrency).fit, range(count))
    assert result.counts["succeeded"] == count, result


def gather_in_side_thread(count: int) -> None:
    """Sleep as many times in plain asyncio, in a side thread of a Trio program."""

    async def gather() -> None:
        await asyncio.gather(*(asyncio.sleep(SLEEP_SECONDS) for _ in range(count)))

    async def main() -> None:
        await trio.to_thread.run_sync(asyncio.run, gather())

    trio.run(main)


async def worst_stall(fn: Callable[[], Awaitable[object]]) -> float:
    """Return the longest stall of Trio's loop in seconds while `fn` ran."""
    worst = 0.0
    interval = 0.002

    async def watch() -> None:
        nonlocal worst
        while True:
            before = trio.current_time()
            await trio.sleep(interval)
            worst = max(worst, trio.current_time() - before - interval)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await fn()
        nursery.cancel_scope.cancel()
    return worst


def measure_asyncio(quick: bool) -> list[Measurement]:
    """Measure the asyncio lane."""
    count, rounds = (200, 1) if quick else (5_000, 5)
    ours, floor = interleave(
        rounds, partial(run_all, asyncio_sleeper, count, count), partial(gather_in_side_thread, count)
    )
    there, here = interleave(
        rounds, partial(run_all, asyncio_noop, count, 100), partial(run_all, native_noop, count, 100)
    )
    stalls = [
        trio.run(worst_stall, partial(agl.Runner(asyncio_sleeper, max_concurrency=count).fit, range(count)))
        for _ in range(rounds)
    ]
    return [
        Measurement(
            f"{count:,} asyncio agents of {SLEEP_SECONDS} s",
            ours.median,
            "s",
            floor.median,
            Target(1.2),
            f"wall, median of {rounds}; floor: plain asyncio.gather in a side thread",
        ),
        Measurement(
            "added per asyncio call",
            (there.median - here.median) / count * 1e6,
            "µs",
            target=Target(40.0),
            note=f"{count:,} no-op rollouts, 100 at a time, less the same in Trio; medians of {rounds}",
        ),
        Measurement(
            "worst stall of Trio's loop meanwhile",
            statistics.median(stalls) * 1e3,
            "ms",
            target=Target(50.0),
            note=f"over {count:,} asyncio agents of {SLEEP_SECONDS} s that start at once; median of {rounds}, the "
            f"worst {max(stalls) * 1e3:.0f} ms",
        ),
    ]


def measure_threads(quick: bool) -> list[Measurement]:
    """Measure the thread lane."""
    count, threads, rounds = (100, 50, 1) if quick else (2_000, 500, 5)
    ideal = count / threads * SLEEP_SECONDS
    ours, floor = interleave(
        rounds,
        partial(run_all, blocker, count, threads),
        lambda: trio.run(blocking_threads, count, threads, SLEEP_SECONDS),
    )
    return [
        Measurement(
            f"{count:,} agents blocking {SLEEP_SECONDS} s on {threads} threads",
            ours.median,
            "s",
            floor.median,
            Target(ideal / 0.6),
            f"wall, median of {rounds}: efficiency {ideal / ours.median:.2f}, target 0.6; floor: bare "
            "to_thread.run_sync",
        )
    ]


async def time_each(count: int, fn: Callable[[], Awaitable[object]]) -> float:
    """Return the median seconds of `count` calls, one after the other."""
    times: list[float] = []
    for _ in range(count):
        begin = time.perf_counter()
        await fn()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


async def measure_warm_calls(count: int, rounds: int) -> tuple[float, float]:
    """Return the seconds that a warm worker process adds to a step, and those of a bare call of one."""
    import trio_parallel  # type: ignore[import-untyped]  # optional: the extra `process`

    added: list[float] = []
    bare: list[float] = []
    unlimited: Any = nullcontext()
    async with (
        agl.Runner(process_noop, max_processes=1) as there,
        agl.Runner(native_noop) as here,
        trio_parallel.open_worker_context() as workers,
    ):
        await there.step(None)
        await workers.run_sync(noop)
        for _ in range(rounds):
            remote = await time_each(count, partial(there.step, None))
            added.append(remote - await time_each(count, partial(here.step, None)))
            bare.append(await time_each(count, partial(workers.run_sync, noop, limiter=unlimited)))
    return statistics.median(added), statistics.median(bare)


async def measure_respawn(rounds: int) -> tuple[float, float]:
    """Return the seconds of a step after a kill of its worker process, and of a bare worker process's first answer."""
    import trio_parallel  # optional: the extra `process`

    ours: list[float] = []
    bare: list[float] = []
    async with agl.Runner(process_noop, max_processes=1) as runner:
        await runner.step(None)
        for _ in range(rounds):
            with trio.move_on_after(0.1):
                await runner.step("burn")
            begin = time.perf_counter()
            await runner.step(None)
            ours.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            async with trio_parallel.open_worker_context() as workers:
                await workers.run_sync(os.getpid)
                bare.append(time.perf_counter() - begin)
    return statistics.median(ours), statistics.median(bare)


def measure_processes(quick: bool) -> list[Measurement]:
    """Measure the process lane."""
    count, rounds = (20, 1) if quick else (500, 5)
    added, call = trio.run(measure_warm_calls, count, rounds)
    respawn, spawn = trio.run(measure_respawn, rounds)
    return [
        Measurement(
            "added per call of a warm worker process",
            added * 1e6,
            "µs",
            call * 1e6,
            Target(150.0),
            f"a step in a process less one in Trio, one at a time, medians of {rounds} × {count}; floor: bare "
            "trio_parallel.run_sync",
        ),
        Measurement(
            "a step after its worker was killed",
            respawn,
            "s",
            spawn,
            Target(0.4),
            f"median of {rounds}; floor: the first answer of a bare trio_parallel worker, which imports nothing",
        ),
    ]


def measure(quick: bool) -> list[Measurement]:
    """Compare medians of interleaved rounds."""
    return [*measure_asyncio(quick), *measure_threads(quick), *measure_processes(quick)]
