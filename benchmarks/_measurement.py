"""Figures, the floors beside them, and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import attrs
from rich import box
from rich.table import Table

Verdict: TypeAlias = Literal["ok", "short", "info"]


@attrs.frozen
class Target:
    """The most a figure may be, or its ratio to the floor."""

    limit: float
    of: Literal["figure", "ratio"] = "figure"

    def describe(self, unit: str) -> str:
        """Return the target as text for a table."""
        return f"≤ {self.limit:.2f}×" if self.of == "ratio" else f"≤ {format_figure(self.limit)} {unit}"


@attrs.frozen
class Measurement:
    """One row of the table. Smaller figures are better; without a target it is for information.

    Args:
        name: the subject of the measurement.
        figure: the result, in `unit`.
        unit: the unit of figure and floor.
        floor: the result of the bare alternative in the same run.
        target: the upper limit of the figure or ratio.
        note: sizes, spread and a description of the floor.
    """

    name: str
    figure: float
    unit: str
    floor: float | None = None
    target: Target | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The figure divided by the floor, None without a floor."""
        return self.figure / self.floor if self.floor else None

    @property
    def verdict(self) -> Verdict:
        """Whether the target is met."""
        if self.target is None:
            return "info"
        held = self.ratio if self.target.of == "ratio" else self.figure
        return "ok" if held is not None and held <= self.target.limit else "short"

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**attrs.asdict(self), "ratio": self.ratio, "verdict": self.verdict}


@attrs.frozen
class Layer:
    """A part of what one rollout costs, in microseconds."""

    name: str
    microseconds: float


def format_figure(value: float) -> str:
    """Return a number as text with three significant digits or all digits before the point.

    >>> [format_figure(value) for value in (0.01234, 1.2, 56.78, 12345.6, 0)]
    ['0.0123', '1.20', '56.8', '12,346', '0']
    """
    if value == 0:
        return "0"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value:,.{digits}f}"


_COLOURS = {"ok": "green", "short": "bold red", "info": "dim"}


def measurement_table(measurements: Sequence[Measurement]) -> Table:
    """Return the table of a run's measurements."""
    table = Table("benchmark", box=box.MARKDOWN)
    for heading in ("figure", "floor", "ratio", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("note")
    for row in measurements:
        table.add_row(
            row.name,
            f"{format_figure(row.figure)} {row.unit}",
            "" if row.floor is None else f"{format_figure(row.floor)} {row.unit}",
            "" if row.ratio is None else f"{row.ratio:.2f}×",
            "" if row.target is None else row.target.describe(row.unit),
            f"[{_COLOURS[row.verdict]}]{row.verdict}[/]",
            row.note,
        )
    return table


def layer_table(layers: Sequence[Layer]) -> Table:
    """Return the table of the layers of one rollout's time, with their sum."""
    whole = sum(layer.microseconds for layer in layers)
    table = Table("layer of one no-op rollout", box=box.MARKDOWN, show_footer=True)
    table.columns[0].footer = "whole"
    table.add_column("µs", justify="right", footer=f"{whole:.1f}")
    table.add_column("share", justify="right", footer="100 %")
    for layer in layers:
        table.add_row(layer.name, f"{layer.microseconds:.1f}", f"{layer.microseconds / whole:.0%}".replace("%", " %"))
    return table
