"""A runner's report for a terminal. Pure functions of records."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from .._records import RunnerStatistics
from ..lanes import RunningTask
from ._inspection import RunningAttempt

_HEADER = ("rollout", "attempt", "lane", "age", "time left", "last span")
_RIGHT = frozenset({"attempt", "age", "time left"})
_CODE_WIDTH = 72


def describe(
    agent: str,
    statistics: RunnerStatistics,
    queued: int | None,
    attempts: Sequence[RunningAttempt],
    youngest: float | None = None,
) -> str:
    """Return a report: a line with numbers, then each attempt with its current line.

    Args:
        agent: the agent's name.
        statistics: the numbers.
        queued: how many rollouts wait in the store, None if that is unknown.
        attempts: the attempts to show, the oldest first; the report counts those left out.
        youngest: the age of the youngest attempt, in seconds.
    """
    lines = [summary(agent, statistics, queued)]
    if attempts:
        rows = [_HEADER, *map(_cells, attempts)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
        lines += ["", _row(_HEADER, widths)]
        for cells, attempt in zip(rows[1:], attempts, strict=True):
            lines.append(_row(cells, widths))
            if attempt.task is not None:
                lines += _tree(attempt.task)
    hidden = statistics.running - len(attempts)
    if hidden > 0:
        lines.append(f"  … and {hidden:,} more" + ("" if youngest is None else f", the youngest {_seconds(youngest)}"))
    return "\n".join(lines)


def summary(agent: str, statistics: RunnerStatistics, queued: int | None) -> str:
    """Return one line with the numbers of attempts that run, wait and are done."""
    parts = [f"{statistics.running:,} running on {statistics.max_concurrency:,} slots"]
    if statistics.retrying:
        parts.append(f"{statistics.retrying:,} waiting for a retry")
    if queued is not None:
        parts.append(f"{queued:,} queued")
    if statistics.abandoned_threads:
        parts.append(f"{statistics.abandoned_threads:,} in abandoned threads")
    ended = {
        "succeeded": statistics.succeeded,
        "failed": statistics.failed,
        "timed out": statistics.timed_out,
        "cancelled": statistics.cancelled,
    }
    details = ", ".join(f"{number:,} {name}" for name, number in ended.items() if number)
    parts.append(f"{statistics.done:,} done" + (f" ({details})" if details else ""))
    return f"Runner of {agent}: {', '.join(parts)}"


def _cells(attempt: RunningAttempt) -> tuple[str, ...]:
    return (
        attempt.rollout_id,
        str(attempt.sequence_id),
        attempt.lane or "-",
        _seconds(attempt.age),
        "-" if attempt.time_left is None else _seconds(attempt.time_left) if attempt.time_left > 0 else "over",
        _last_span(attempt),
    )


def _last_span(attempt: RunningAttempt) -> str:
    if attempt.last_span is None or attempt.last_span_age is None:
        return "-"
    age = _seconds(attempt.last_span_age)
    return f"{attempt.last_span}, open for {age}" if attempt.last_span_open else f"{attempt.last_span}, {age} ago"


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.rjust(width) if name in _RIGHT else cell.ljust(width)
        for name, cell, width in zip(_HEADER, cells, widths, strict=True)
    ]
    return "  " + "  ".join(aligned).rstrip()


def _tree(task: RunningTask) -> Iterator[str]:
    """Yield the lines of a task and its children, each with its current line."""
    yield f"    {_place(task)}"
    yield from _children(task, "    ")


def _children(task: RunningTask, indent: str) -> Iterator[str]:
    last = len(task.children) - 1
    for number, child in enumerate(task.children):
        ends = number == last and not task.hidden
        # Trio names a task after its function unless told otherwise.
        name = "" if child.name.endswith(f".{child.function}") else f"{child.name}: "
        yield f"{indent}{'└─' if ends else '├─'} {name}{_place(child)}"
        yield from _children(child, indent + ("   " if ends else "│  "))
    if task.hidden:
        yield f"{indent}└─ … and {task.hidden:,} more tasks"


def _place(task: RunningTask) -> str:
    code = task.code if len(task.code) <= _CODE_WIDTH else task.code[: _CODE_WIDTH - 1] + "…"
    place = f"{os.path.basename(task.file)}:{task.line} in {task.function}"
    return f"{place}: {code}" if code else place


def _seconds(seconds: float) -> str:
    """Return a duration as text.

    >>> [_seconds(each) for each in (0.04, 61.2, 754, 11_530)]
    ['0.0 s', '61.2 s', '12 min 34 s', '3 h 12 min']
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
