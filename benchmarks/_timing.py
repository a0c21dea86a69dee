"""Fair timing of several functions: in turn, in one run, each call after a garbage collection."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from typing import Any

import attrs


@attrs.frozen
class Times:
    """Seconds of the repeats of one function: of wall time, and of processor time if it was measured."""

    seconds: Sequence[float]
    processor_seconds: Sequence[float] = ()

    @property
    def median(self) -> float:
        """The median wall time."""
        return statistics.median(self.seconds)

    @property
    def processor_median(self) -> float:
        """The median processor time, which other programs lengthen less."""
        return statistics.median(self.processor_seconds)

    @property
    def least(self) -> float:
        """The shortest wall time, the one least disturbed by other programs."""
        return min(self.seconds)

    def percentile(self, percent: int) -> float:
        """Return the time that `percent` of the repeats do not exceed."""
        return sorted(self.seconds)[max(0, -(-len(self.seconds) * percent // 100) - 1)]


def time_once(fn: Callable[..., object], *args: Any) -> float:
    """Call `fn` after a garbage collection and return the seconds it took."""
    gc.collect()
    started = perf_counter()
    fn(*args)
    return perf_counter() - started


def interleave(rounds: int, *fns: Callable[[], object]) -> list[Times]:
    """Call each of `fns` once per round, so that a busy machine slows all of them, and return the times of each."""
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
