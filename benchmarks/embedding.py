"""The additional cost of a rollout from outside Trio.

Measured: `step` of a no-op agent, awaited on an asyncio loop or called in a blocking thread, through a Trio thread;
the figure is the difference to the same `runner.step` inside Trio, the floor. Then 500 steps at once.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

import trio

import lightning_trio as agl
from lightning_trio import embed

from ._measurement import Measurement, Target
from ._timing import Times

AT_ONCE = 500


async def agent(task: int) -> float:
    """Do nothing."""
    return 1.0


async def steps_inside(count: int) -> list[float]:
    """Return the seconds of each of `count` steps inside Trio."""
    seconds: list[float] = []
    async with agl.Runner(agent) as runner:
        for number in range(count):
            started = perf_counter()
            await runner.step(number)
            seconds.append(perf_counter() - started)
    return seconds


async def steps_from_asyncio(count: int) -> list[float]:
    """Return the seconds of each of `count` steps awaited on an asyncio loop."""
    seconds: list[float] = []
    async with embed.open_asyncio(agl.Runner(agent)) as r:
        for number in range(count):
            started = perf_counter()
            await r.step(number)
            seconds.append(perf_counter() - started)
    return seconds


def steps_blocking(count: int) -> list[float]:
    """Return the seconds of each of `count` blocking steps."""
    seconds: list[float] = []
    with embed.open_blocking(agl.Runner(agent)) as r:
        for number in range(count):
            started = perf_counter()
            r.step(number)
            seconds.append(perf_counter() - started)
    return seconds


async def burst_inside() -> float:
    """Return the seconds that `AT_ONCE` steps at once take inside Trio."""
    async with agl.Runner(agent, max_concurrency=AT_ONCE) as runner:
        started = perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE):
                nursery.start_soon(runner.step, number)
        return perf_counter() - started


async def burst_from_asyncio() -> float:
    """Return the seconds that `AT_ONCE` steps at once take, awaited on an asyncio loop."""
    async with embed.open_asyncio(agl.Runner(agent, max_concurrency=AT_ONCE)) as r:
        started = perf_counter()
        done = await asyncio.gather(*(r.step(number) for number in range(AT_ONCE)))
        seconds = perf_counter() - started
    assert len(done) == AT_ONCE
    return seconds


def measure(quick: bool) -> list[Measurement]:
    """Compare the medians of steps taken in turn, a few hundred at a time."""
    count, rounds = (100, 2) if quick else (500, 7)
    trio.run(steps_inside, 50)
    inside: list[float] = []
    from_asyncio: list[float] = []
    blocking: list[float] = []
    bursts_inside: list[float] = []
    bursts: list[float] = []
    for _ in range(rounds):
        inside += trio.run(steps_inside, count)
        from_asyncio += asyncio.run(steps_from_asyncio(count))
        blocking += steps_blocking(count)
        bursts_inside.append(trio.run(burst_inside))
        bursts.append(asyncio.run(burst_from_asyncio()))
    floor = Times(inside).median * 1e3
    asked = f"{count * rounds:,} one after another"
    return [
        *(
            Measurement(
                f"step {where}, added to a step inside Trio",
                max(0.0, median - floor),
                "ms",
                floor,
                target,
                f"median {median:.3f} ms of {asked}; floor: the step inside Trio",
            )
            for where, median, target in (
                ("awaited from asyncio", Times(from_asyncio).median * 1e3, Target(0.3)),
                ("from a blocking thread", Times(blocking).median * 1e3, None),
            )
        ),
        Measurement(
            f"{AT_ONCE} steps at once from asyncio",
            Times(bursts).median * 1e3,
            "ms",
            Times(bursts_inside).median * 1e3,
            note=f"median of {rounds}; floor: the same inside Trio",
        ),
    ]
