"""A plot of concurrency against throughput.

Each point runs ten rollouts for every place, so that all points ideally take 1.0 s (see `sleeping`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from ._timing import time_once
from .sleeping import SLEEP_SECONDS, run_floor, run_sleepers

CONCURRENCIES = (10, 30, 100, 300, 600, 1_000, 1_500, 2_000, 2_500, 3_000)
_WAVES = 10


@attrs.frozen
class Point:
    """Rollouts a second at one concurrency, ours and of bare Trio tasks."""

    concurrency: int
    throughput: float
    floor: float

    @property
    def ideal(self) -> float:
        """The throughput if only the sleep took time."""
        return self.concurrency / SLEEP_SECONDS

    @property
    def efficiency(self) -> float:
        """The achieved share of the ideal."""
        return self.throughput / self.ideal


def measure_points(quick: bool) -> list[Point]:
    """Run every concurrency once."""
    run_sleepers(100, 100)

    def throughput(run: Callable[[int, int], None], concurrency: int) -> float:
        count = concurrency * _WAVES
        return count / time_once(run, count, concurrency)

    return [
        Point(concurrency, throughput(run_sleepers, concurrency), throughput(run_floor, concurrency))
        for concurrency in (CONCURRENCIES[:3] if quick else CONCURRENCIES)
    ]


def load_pyplot() -> Any:
    """Import matplotlib for drawing into files.

    Raises:
        SystemExit: it is not installed; the message shows how to install it.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise SystemExit("--plot draws with matplotlib, which is not installed; run: pip install matplotlib") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw(points: Sequence[Point], path: Path) -> None:
    """Write the plot to `path`; its suffix decides the format."""
    pyplot = load_pyplot()
    figure, (rate, share) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    at = [point.concurrency for point in points]
    rate.plot(at, [point.ideal for point in points], ":", color="grey", label="ideal")
    rate.plot(at, [point.floor for point in points], "--", color="tab:orange", label="bare Trio tasks")
    rate.plot(at, [point.throughput for point in points], "o-", color="tab:blue", label="lightning_trio")
    rate.set(xscale="log", yscale="log", xlabel="concurrent rollouts", ylabel="rollouts a second")
    rate.set_title(f"Throughput of rollouts that sleep {SLEEP_SECONDS} s and record five spans")
    share.plot(at, [point.floor / point.ideal for point in points], "--", color="tab:orange", label="bare Trio tasks")
    share.plot(at, [point.efficiency for point in points], "o-", color="tab:blue", label="lightning_trio")
    share.set(xscale="log", ylim=(0, 1.05), xlabel="concurrent rollouts", ylabel="ideal wall time ÷ wall time")
    share.set_title("Efficiency")
    for axes in (rate, share):
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
