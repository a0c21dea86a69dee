"""Run the benchmarks and print one table: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import lightning_trio

from . import (
    breakdown,
    embedding,
    emitting,
    importing,
    lanes,
    large,
    latency,
    memory,
    noop,
    plot,
    postgres,
    scaling,
    sleeping,
    stores,
)
from ._measurement import Layer, Measurement, layer_table, measurement_table

SUBJECTS: Mapping[str, Callable[[bool], list[Measurement]]] = {
    "noop": noop.measure,
    "sleeping": sleeping.measure,
    "memory": memory.measure_in_flight,
    "stream": memory.measure_stream,
    "latency": latency.measure,
    "scaling": scaling.measure,
    "importing": importing.measure,
    "lanes": lanes.measure,
    "emitting": emitting.measure,
    "embedding": embedding.measure,
    "stores": stores.measure,
    "postgres": postgres.measure,
    "large": large.measure,
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the cost of rollouts, each figure beside a floor measured in the same run.",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that everything runs")
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", choices=SUBJECTS, default=list(SUBJECTS), help=" ".join(SUBJECTS)
    )
    parser.add_argument("--breakdown", action="store_true", help="also show where the time of a no-op rollout goes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all measurements to FILE")
    parser.add_argument(
        "--plot", type=_plot_path, metavar="FILE", help="also plot concurrency against throughput (.png, .svg)"
    )
    return parser.parse_args(argv)


def _plot_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".png", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} ends in neither .png nor .svg")
    return path


def environment() -> dict[str, Any]:
    """Return the versions and the machine that the figures were measured on."""
    return {
        "lightning_trio": lightning_trio.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load before": _load(),
    }


def _load() -> float | None:
    """Return the load average of the last minute, None if the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the requested benchmarks; a missed target is not a failure."""
    arguments = parse_arguments(argv)
    if arguments.plot is not None:
        # A missing library is reported before minutes of measuring, not after.
        plot.load_pyplot()
    machine = environment()
    console = Console(width=None if sys.stdout.isatty() else 180)
    progress = Console(stderr=True)
    started = time.perf_counter()
    measurements: list[Measurement] = []
    for name in arguments.only:
        progress.print(f"{name} …", style="dim")
        measurements += SUBJECTS[name](arguments.quick)
    layers: list[Layer] = []
    if arguments.breakdown:
        progress.print("breakdown …", style="dim")
        layers = breakdown.measure_layers(arguments.quick)
    points: list[plot.Point] = []
    if arguments.plot is not None:
        progress.print("plot …", style="dim")
        points = plot.measure_points(arguments.quick)
        plot.draw(points, arguments.plot)
    if measurements:
        console.print(measurement_table(measurements))
    if layers:
        console.print(layer_table(layers))
    seconds = time.perf_counter() - started
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()) + f"; took {seconds:.0f} s")
    if arguments.json is not None:
        report = {
            "environment": machine,
            "quick": arguments.quick,
            "seconds": seconds,
            "measurements": [measurement.as_json() for measurement in measurements],
            "breakdown": {layer.name: layer.microseconds for layer in layers},
            "concurrency": {point.concurrency: point.throughput for point in points},
        }
        arguments.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
