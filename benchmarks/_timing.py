"""Timing several things fairly: in turn, in one run, each after a garbage collection."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from typing import Any

import attrs


@attrs.frozen
class Times:
    """Seconds of the repeats of one thing: of wall time, and of this process's own work where it was taken."""

    seconds: Sequence[float]
    processor_seconds: Sequence[float] = ()

    @property
    def median(self) -> float:
        """The repeat in the middle."""
        return statistics.median(self.seconds)

    @property
    def processor_median(self) -> float:
        """The work of the repeat in the middle, which other programs lengthen less."""
        return statistics.median(self.processor_seconds)

    @property
    def least(self) -> float:
        """The quickest repeat, the one least disturbed by other programs."""
        return min(self.seconds)

    def percentile(self, percent: int) -> float:
        """The time that `percent` of the repeats do not exceed."""
        return sorted(self.seconds)[max(0, -(-len(self.seconds) * percent // 100) - 1)]


def time_once(fn: Callable[..., object], *args: Any) -> float:
    """Call `fn` after a garbage collection and give the seconds it took."""
    gc.collect()
    started = perf_counter()
    fn(*args)
    return perf_counter() - started


def interleave(rounds: int, *fns: Callable[[], object]) -> list[Times]:
    """Call each of `fns` once a round, so that a busy machine slows all of them, and give the times of each."""
    wall: list[list[float]] = [[] for _ in fns]
    work: list[list[float]] = [[] for _ in fns]
    for _ in range(rounds):
        for index, fn in enumerate(fns):
            gc.collect()
            started, worked = perf_counter(), process_time()
            fn()
            wall[index].append(perf_counter() - started)
            work[index].append(process_time() - worked)
    return [Times(*both) for both in zip(wall, work, strict=True)]
