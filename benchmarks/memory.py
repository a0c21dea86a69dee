"""The memory of rollouts, measured in separate processes.

Measured: resident memory of a rollout in flight (all of them wait in their agent at once; queue entry, attempt, spans
and task included), against a bare Trio task that waits inside a cancel scope with a deadline. And the growth of a
process during a long stream into a store that keeps a fixed number of finished rollouts, once it is full.
"""

from __future__ import annotations

import gc

import trio

import lightning_trio as agl

from ._floors import bytes_per_waiting_task
from ._measurement import Measurement, Target
from ._memory import in_fresh_process, resident_bytes

STREAM_MARKS = (0.2, 0.6, 1.0)


def bytes_per_rollout_in_flight(count: int) -> float:
    """Start `count` rollouts that wait until all of them do, and return the memory of one."""
    config = agl.RolloutConfig(timeout_seconds=600)
    in_flight = 0
    peak = 0
    release = trio.Event()

    async def agent(task: int) -> float:
        nonlocal in_flight, peak
        in_flight += 1
        if in_flight == count:
            peak = resident_bytes()
            release.set()
        await release.wait()
        return 1.0

    async def noop(task: int) -> float:
        return 1.0

    trio.run(agl.Runner(noop, config=config).fit, range(100))
    gc.collect()
    before = resident_bytes()
    trio.run(agl.Runner(agent, max_concurrency=count, config=config).fit, range(count))
    return (peak - before) / count


def bytes_per_bare_task(count: int) -> float:
    """Measure the floor."""
    trio.run(bytes_per_waiting_task, 100)
    gc.collect()
    return trio.run(bytes_per_waiting_task, count)


async def _stream(count: int, retain: int) -> list[int]:
    async def agent(task: int) -> float:
        return 1.0

    marks = {round(count * share) for share in STREAM_MARKS}
    resident: list[int] = []
    runner = agl.Runner(agent, store=agl.InMemoryLightningStore(retain=retain))
    async with runner, runner.stream(range(count)) as results:
        done = 0
        async for _ in results:
            done += 1
            if done in marks:
                resident.append(resident_bytes())
    return resident


def resident_while_streaming(count: int, retain: int) -> list[int]:
    """Stream `count` rollouts and return the memory of the process at each of `STREAM_MARKS`."""
    return trio.run(_stream, count, retain)


def measure_in_flight(quick: bool) -> list[Measurement]:
    """Compare a rollout in flight with a bare task."""
    count = 1_000 if quick else 10_000
    ours = in_fresh_process(bytes_per_rollout_in_flight, count)
    floor = in_fresh_process(bytes_per_bare_task, count)
    return [
        Measurement(
            "memory of a rollout in flight",
            ours / 1024,
            "KB",
            floor / 1024,
            Target(10.0),
            f"{count:,} waiting at once; floor: bare task waiting in a cancel scope",
        )
    ]


def measure_stream(quick: bool) -> list[Measurement]:
    """Measure the growth from the first mark to the last."""
    count, retain = (10_000, 1_000) if quick else (200_000, 10_000)
    resident = in_fresh_process(resident_while_streaming, count, retain)
    shares = ", ".join(f"{share:.0%}".replace("%", " %") for share in STREAM_MARKS)
    sizes = ", ".join(f"{size / 2**20:.1f}" for size in resident)
    return [
        Measurement(
            f"memory growth, {count:,} streamed",
            max(0.0, resident[-1] / resident[0] - 1) * 100,
            "%",
            target=Target(2.0),
            note=f"{sizes} MB at {shares}; the store keeps {retain:,}",
        )
    ]
