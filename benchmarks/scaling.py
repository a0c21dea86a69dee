"""The cost per rollout in short and in long runs.

Measured: microseconds per no-op rollout through `Runner.fit` for several numbers of rollouts, in interleaved rounds
(more of the short ones), the most expensive against the cheapest.
"""

from __future__ import annotations

from ._measurement import Measurement, Target
from ._timing import Times, time_once
from .noop import run_noop


def measure(quick: bool) -> list[Measurement]:
    """Compare the medians of all sizes."""
    repeats = {1_000: 3, 5_000: 1} if quick else {1_000: 8, 10_000: 2, 100_000: 1}
    rounds = 1 if quick else 3
    run_noop(200)
    seconds: dict[int, list[float]] = {count: [] for count in repeats}
    for _ in range(rounds):
        for count, times in repeats.items():
            seconds[count] += [time_once(run_noop, count) for _ in range(times)]
    costs = {count: Times(taken).median / count * 1e6 for count, taken in seconds.items()}
    return [
        Measurement(
            "cost per rollout, most expensive to cheapest size",
            max(costs.values()),
            "µs",
            min(costs.values()),
            Target(1.2, "ratio"),
            "medians: " + ", ".join(f"{cost:.1f} µs at {count:,}" for count, cost in costs.items()),
        )
    ]
