"""How close blocking agents come to the time they block, in worker threads.

Measured: wall time of sync agents that block 0.05 s. Floor: the same calls by `trio.to_thread.run_sync` under a limiter
of the same size. For information: there is no target.
"""

from __future__ import annotations

import time
from functools import partial

import trio

import lightning_trio as agl

from ._floors import blocking_threads
from ._measurement import Measurement
from ._timing import interleave

BLOCK_SECONDS = 0.05


def agent(task: int) -> float:
    """Block a thread."""
    time.sleep(BLOCK_SECONDS)
    return 1.0


def run_threads(count: int, concurrency: int) -> None:
    """Run `count` blocking rollouts."""
    result = trio.run(agl.Runner(agent, max_concurrency=concurrency).fit, range(count))
    assert result.counts["succeeded"] == count, result


def measure(quick: bool) -> list[Measurement]:
    """Compare medians of interleaved rounds."""
    count, threads, rounds = (200, 50, 1) if quick else (2_000, 500, 3)
    ideal = count / threads * BLOCK_SECONDS
    ours, floor = interleave(
        rounds,
        partial(run_threads, count, threads),
        lambda: trio.run(blocking_threads, count, threads, BLOCK_SECONDS),
    )
    return [
        Measurement(
            f"{count:,} sync agents of {BLOCK_SECONDS} s, {threads} threads",
            ours.median,
            "s",
            floor.median,
            note=f"wall, median of {rounds}; ideal {ideal:.1f} s; floor: bare to_thread.run_sync",
        )
    ]
