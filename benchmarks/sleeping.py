"""The wall time of concurrent rollouts compared with that of tasks that only sleep.

Measured: wall and processor time of rollouts that sleep 0.1 s and emit three spans. Floor: bare Trio tasks that sleep
as long under the same limit. The ideal, which no machine reaches, is rollouts ÷ concurrency × 0.1 s.
"""

from __future__ import annotations

from functools import partial

import trio

import lightning_trio as agl

from ._floors import sleepers
from ._measurement import Measurement, Target
from ._timing import interleave

SLEEP_SECONDS = 0.1


async def agent(task: int) -> float:
    """Sleep and emit three spans; the returned reward is a fourth."""
    agl.emit_message("asleep")
    await trio.sleep(SLEEP_SECONDS)
    agl.emit_annotation({"task": task})
    agl.emit_object(task)
    return 1.0


def run_sleepers(count: int, concurrency: int) -> None:
    """Run `count` sleeping rollouts, opening and closing the runner included."""
    result = trio.run(agl.Runner(agent, max_concurrency=concurrency).fit, range(count))
    assert result.counts["succeeded"] == count, result


def run_floor(count: int, concurrency: int) -> None:
    """Run `count` sleeping tasks."""
    trio.run(sleepers, count, concurrency, SLEEP_SECONDS)


def measure(quick: bool) -> list[Measurement]:
    """Compare medians of interleaved rounds."""
    count, concurrency, rounds = (1_000, 200, 1) if quick else (10_000, 1_000, 3)
    ideal = count / concurrency * SLEEP_SECONDS
    run_sleepers(100, 100)
    ours, floor = interleave(rounds, partial(run_sleepers, count, concurrency), partial(run_floor, count, concurrency))
    return [
        Measurement(
            f"{count:,} rollouts of {SLEEP_SECONDS} s, {concurrency:,} at a time",
            ours.median,
            "s",
            floor.median,
            Target(1.10, "ratio"),
            f"wall, median of {rounds}; efficiency {ideal / ours.median:.2f} of the ideal {ideal:.1f} s, bare "
            f"{ideal / floor.median:.2f}; floor: bare sleeping tasks",
        ),
        Measurement(
            "processor time of one of them",
            ours.processor_median / count * 1e6,
            "µs",
            floor.processor_median / count * 1e6,
            Target(2.3, "ratio"),
            f"median of {rounds}; floor: a bare sleeping task",
        ),
    ]
