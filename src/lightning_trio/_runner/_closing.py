"""The end of a trace: an outcome with its spans in order, without api keys, and what is read from them."""

from __future__ import annotations

import time

from .._concurrency import compute_in_thread
from .._errors import AgentError
from .._exception_text import class_name, has_many_notes
from .._log import Log
from .._records import AttemptOutcome, AttemptStatus, ErrorRecord
from .._resources import knows_keys
from .._spans import LARGE, MANY, find_final_reward, size_of_all, sum_usage
from ..tracing import AttemptRecorder
from ._redaction import redact

logger = Log("lightning_trio.runner")


def close_trace(
    recorder: AttemptRecorder, status: AttemptStatus, error: ErrorRecord | None, duration: float
) -> AttemptOutcome:
    """Close the trace of an attempt and return its outcome."""
    spans = recorder.close(status, None if error is None else f"{error.type}: {error.message}")
    if knows_keys():
        error, spans = redact(error, spans)
    attempt = recorder.rollout.attempt
    return AttemptOutcome(
        attempt.rollout_id,
        attempt.attempt_id,
        status,
        time.time(),
        spans,
        error,
        find_final_reward(spans),
        duration,
        usage=sum_usage(spans),
    )


async def close_large_trace(
    recorder: AttemptRecorder, status: AttemptStatus, error: ErrorRecord | None, duration: float
) -> AttemptOutcome:
    """Close a trace outside of Trio's thread, which takes a second for 100,000 spans."""
    # Before the thread begins, because tasks of the agent's may be left that would record more.
    recorder.closed = True
    return await compute_in_thread(close_trace, recorder, status, error, duration)


def close_bare(recorder: AttemptRecorder, status: AttemptStatus, exc: BaseException, duration: float) -> AttemptOutcome:
    """Return an outcome with nothing of the agent's, because reading what it raised or recorded has raised `exc`."""
    attempt = recorder.rollout.attempt
    logger.warning(
        "rollout %s ends without its spans: reading what its agent raised or recorded raised %s",
        attempt.rollout_id,
        class_name(exc),
    )
    unreadable = AgentError.unreadable(status, class_name(exc))
    unreadable.__cause__ = exc
    error = ErrorRecord.from_exception(unreadable)
    spans = recorder.close_bare(status, f"{error.type}: {error.message}")
    return AttemptOutcome(attempt.rollout_id, attempt.attempt_id, status, time.time(), spans, error, duration=duration)


async def record_error(exception: BaseException) -> ErrorRecord:
    """Return the record of an exception; outside of Trio's thread for one with thousands of notes."""
    if has_many_notes(exception, MANY):
        return await compute_in_thread(ErrorRecord.from_exception, exception)
    return ErrorRecord.from_exception(exception)


def has_large_texts(recorder: AttemptRecorder) -> bool:
    """Whether a search for api keys in a trace takes long."""
    return size_of_all(list(recorder.spans)) > LARGE
