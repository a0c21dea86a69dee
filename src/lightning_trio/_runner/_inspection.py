"""Running attempts as records: their ages, and the current lines of their tasks and threads.

Nothing here waits or changes anything, so it may run in a signal handler and in any thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import attrs

from .. import semconv
from .._public import public
from .._records import RolloutMode
from ..lanes import RunningTask
from ..tracing import AttemptRecorder
from ._live_attempt import LiveAttempt


@public
@attrs.frozen
class RunningAttempt:
    """A running attempt. Times are in seconds.

    Args:
        rollout_id: its rollout's id.
        attempt_id: its id.
        sequence_id: its number, from 1.
        mode: the rollout's mode.
        lane: the lane it runs in, None if the agent could not be bound.
        age: how long it has run.
        time_left: how long until its deadline, None if it has none.
        last_span: the name of the span that was started or ended last, None before the first.
        last_span_age: how long ago that was.
        last_span_open: whether that span is still open.
        task: its current line, for attempts in Trio and in threads.
    """

    rollout_id: str
    attempt_id: str
    sequence_id: int
    mode: RolloutMode | None
    lane: str | None
    age: float
    time_left: float | None
    last_span: str | None
    last_span_age: float | None
    last_span_open: bool
    task: RunningTask | None


def running_attempts(
    live: Mapping[str, LiveAttempt], now: float, loop_thread: int, limit: int | None = None
) -> list[RunningAttempt]:
    """Return the running attempts, the oldest first.

    Args:
        live: the attempts, in order of their start.
        now: the time on Trio's clock.
        loop_thread: the id of the thread that Trio runs in.
        limit: the most to return; None for all.
    """
    return [_running_attempt(each, now, loop_thread) for each in list(live.values())[:limit]]


def _running_attempt(live: LiveAttempt, now: float, loop_thread: int) -> RunningAttempt:
    rollout, call = live.rollout, live.call
    attempt = rollout.attempt
    span = _last_span(live.recorder)
    left = None if live.scope is None else live.scope.deadline - now
    return RunningAttempt(
        rollout_id=attempt.rollout_id,
        attempt_id=attempt.attempt_id,
        sequence_id=attempt.sequence_id,
        mode=rollout.mode,
        lane=None if call is None else call.bound.lane,
        age=now - live.started,
        time_left=left if left != float("inf") else None,
        last_span=None if span is None else span.name,
        last_span_age=None if span is None else max(time.time() - span.time, 0.0),
        last_span_open=span is not None and span.open,
        task=None if live.lane is None or call is None else live.lane.locate(call, loop_thread),
    )


@attrs.frozen
class _LastSpan:
    name: str
    time: float
    open: bool


def _last_span(recorder: AttemptRecorder) -> _LastSpan | None:
    # Copied, because threads may start and end spans meanwhile; copying is atomic.
    ended = recorder.spans[-1:]
    open_spans = list(recorder.open_spans.values())
    library = list(recorder.library_spans.values())
    found = [_LastSpan(_display_name(span.name, span.attributes), span.end_time or 0.0, False) for span in ended]
    found += [_LastSpan(_display_name(span.name, span.attributes), span.start_time, True) for span in open_spans[-1:]]
    found += [_LastSpan(span.name, (span.start_time or 0) / 1e9, True) for _, span in library[-1:]]
    return max(found, key=lambda span: span.time, default=None)


def _display_name(name: str, attributes: Mapping[str, Any]) -> str:
    """Return an operation's own name, because all operations' spans have the same name."""
    return str(attributes.get(semconv.LightningSpanAttributes.OPERATION_NAME, name))
