"""The cost of a rollout whose agent does nothing.

Measured: an async agent that returns 1.0, through `Runner.fit` on a store in memory, with root and reward span, a
deadline and the committed result. Floor: a bare Trio task with a deadline that makes the same two spans with the
OpenTelemetry SDK and keeps nothing (`_floors.task_with_two_spans`). Both run 1,000 at a time.
"""

from __future__ import annotations

from functools import partial

import trio

import lightning_trio as agl

from ._floors import task_with_two_spans
from ._measurement import Measurement, Target
from ._timing import interleave

CONCURRENCY = 1_000
TIMEOUT_SECONDS = 60.0


async def agent(task: int) -> float:
    """Do nothing and return a reward."""
    return 1.0


def run_noop(count: int) -> None:
    """Run `count` no-op rollouts, opening and closing the runner included."""
    config = agl.RolloutConfig(timeout_seconds=TIMEOUT_SECONDS)
    result = trio.run(agl.Runner(agent, max_concurrency=CONCURRENCY, config=config).fit, range(count))
    assert result.counts["succeeded"] == count, result


def run_floor(count: int) -> None:
    """Run `count` bare tasks."""
    trio.run(task_with_two_spans, count, CONCURRENCY, TIMEOUT_SECONDS)


def measure(quick: bool) -> list[Measurement]:
    """Compare medians of interleaved rounds."""
    count, rounds = (2_000, 3) if quick else (20_000, 7)
    run_noop(count // 10)
    run_floor(count // 10)
    ours, floor = interleave(rounds, partial(run_noop, count), partial(run_floor, count))
    return [
        Measurement(
            "no-op rollout through fit",
            ours.median / count * 1e6,
            "µs",
            floor.median / count * 1e6,
            Target(0.75, "ratio"),
            f"median of {rounds} × {count:,}, quickest to quickest {ours.least / floor.least:.2f}×, "
            f"CPU time {ours.processor_median / floor.processor_median:.2f}×; "
            "floor: bare task, deadline, two SDK spans",
        )
    ]
