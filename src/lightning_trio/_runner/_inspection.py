"""Attempts that run, looked at from outside: how old they are, and at which line their tasks and threads stand.

Nothing here waits or changes anything, so that it can be done from a signal handler and from any thread.
"""

from __future__ import annotations

import linecache
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import attrs
import trio

from .. import semconv
from .._records import LaneName, RolloutMode
from ..lanes import run_natively
from ..tracing import AttemptRecorder
from ._attempt import Progress

_CHILDREN_SHOWN = 8
"""How many child tasks of a task are looked at."""

_DEPTH_SHOWN = 6
"""How many levels of tasks below an attempt's own are looked at."""

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_TRIO = os.path.dirname(trio.__file__) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


@attrs.frozen
class RunningTask:
    """A Trio task or a thread of an attempt, and the line of the program it stands at.

    `code` is that line, empty where the source is not at hand. `children` are the tasks in its nurseries, `hidden`
    the number of those left out.
    """

    name: str
    function: str
    file: str
    line: int
    code: str
    children: Sequence[RunningTask] = ()
    hidden: int = 0


@attrs.frozen
class RunningAttempt:
    """An attempt that runs now. Times are in seconds.

    Args:
        rollout_id: its rollout.
        attempt_id: the attempt.
        sequence_id: its number, from 1.
        mode: the rollout's mode.
        lane: where it runs, None if the agent could not be bound.
        age: how long it has run.
        time_left: how long until its deadline, None if it has none.
        last_span: the name of the span that was started or ended last, None before the first.
        last_span_age: how long ago that was.
        last_span_open: whether that span has not ended.
        task: where it stands, for attempts in Trio and in threads.
    """

    rollout_id: str
    attempt_id: str
    sequence_id: int
    mode: RolloutMode | None
    lane: LaneName | None
    age: float
    time_left: float | None
    last_span: str | None
    last_span_age: float | None
    last_span_open: bool
    task: RunningTask | None


def look_at_running(
    live: Mapping[str, Progress], now: float, loop_thread: int, limit: int | None = None
) -> list[RunningAttempt]:
    """Look at the attempts that run, the oldest first.

    Args:
        live: the attempts, in order of their beginning.
        now: the time on Trio's clock.
        loop_thread: the id of the thread that Trio runs in.
        limit: how many to look at.
    """
    return [_look_at(progress, now, loop_thread) for progress in list(live.values())[:limit]]


def _look_at(progress: Progress, now: float, loop_thread: int) -> RunningAttempt:
    attempt = progress.rollout.attempt
    span = None if progress.recorder is None else _last_span(progress.recorder)
    left = None if progress.scope is None else progress.scope.deadline - now
    return RunningAttempt(
        attempt.rollout_id,
        attempt.attempt_id,
        attempt.sequence_id,
        progress.rollout.mode,
        progress.lane,
        now - progress.started,
        left if left != float("inf") else None,
        None if span is None else span.name,
        None if span is None else max(time.time() - span.time, 0.0),
        span is not None and span.open,
        _place(progress, loop_thread),
    )


@attrs.frozen
class _LastSpan:
    name: str
    time: float
    open: bool


def _last_span(recorder: AttemptRecorder) -> _LastSpan | None:
    # Copied, for threads may start and end spans meanwhile; copying is atomic.
    ended = recorder.spans[-1:]
    open_spans = list(recorder.open_spans.values())
    library = list(recorder.library_spans.values())
    found = [_LastSpan(_called(span.name, span.attributes), span.end_time or 0.0, False) for span in ended]
    found += [_LastSpan(_called(span.name, span.attributes), span.start_time, True) for span in open_spans[-1:]]
    found += [_LastSpan(span.name, (span.start_time or 0) / 1e9, True) for _, span in library[-1:]]
    return max(found, key=lambda span: span.time, default=None)


def _called(name: str, attributes: Mapping[str, Any]) -> str:
    """Give an operation's own name, since all operations' spans have the same."""
    return str(attributes.get(semconv.LightningSpanAttributes.OPERATION_NAME, name))


# Tasks and threads.


def _place(progress: Progress, loop_thread: int) -> RunningTask | None:
    if progress.thread is not None:
        return _thread(progress.thread.ident)
    if progress.task is None:
        return None
    return _task(progress.task, progress.nurseries, loop_thread, 0)


def _thread(ident: int | None) -> RunningTask | None:
    frame = None if ident is None else sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage]  # documented
    return None if frame is None else _standing("thread", list(_outwards(frame, None))[::-1])


def _outwards(frame: FrameType | None, last: FrameType | None) -> Iterator[FrameType]:
    """Go through a stack from its innermost frame, down to `last`."""
    while frame is not None:
        yield frame
        if frame is last:
            return
        frame = frame.f_back


def _task(task: trio.lowlevel.Task, outer_nurseries: int, loop_thread: int, depth: int) -> RunningTask | None:
    coro: Any = task.coro
    if coro.cr_running:
        frames = list(_outwards(sys._current_frames().get(loop_thread), coro.cr_frame))[::-1]  # pyright: ignore[reportPrivateUsage]  # documented
    else:
        frames = [frame for frame, _ in task.iter_await_frames()]
    codes = [frame.f_code for frame in frames]
    if run_natively.__code__ in codes:
        # What stands above the agent is the runner's caller.
        frames = frames[codes.index(run_natively.__code__) + 1 :]
    standing = _standing(task.name, frames)
    nurseries = task.child_nurseries[outer_nurseries:]
    children = sorted((child for nursery in nurseries for child in nursery.child_tasks), key=lambda child: child.name)
    if standing is None or not children:
        return standing
    shown = children[:_CHILDREN_SHOWN] if depth < _DEPTH_SHOWN else []
    looked_at = [_task(child, 0, loop_thread, depth + 1) for child in shown]
    return attrs.evolve(
        standing,
        children=tuple(child for child in looked_at if child is not None),
        hidden=len(children) - len(shown),
    )


def _standing(name: str, frames: Sequence[FrameType]) -> RunningTask | None:
    """Say where a stack, given from the outside in, stands: at its innermost line outside of libraries."""
    ranked = sorted(frames, key=_rank)
    if not ranked:
        return None
    # Where there is nothing but Trio's own code, as in start_soon(trio.sleep, 60), what was called says the most.
    frame = ranked[-1] if _rank(ranked[-1]) else frames[0]
    code = frame.f_code
    source = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    return RunningTask(name, code.co_name, code.co_filename, frame.f_lineno, source)


def _rank(frame: FrameType) -> int:
    """Prefer the program's own code to a library's, and that to Trio's and ours; the sort is stable."""
    file = frame.f_code.co_filename
    if file.startswith((_PACKAGE, _TRIO)):
        return 0
    return 1 if "site-packages" in file or file.startswith((_STANDARD_LIBRARY, "<frozen")) else 2
