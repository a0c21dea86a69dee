"""The end of a trace: an outcome with its spans in order, without api keys, and what is read from them."""

from __future__ import annotations

import time

from .._concurrency import compute_in_thread
from .._records import AttemptOutcome, AttemptStatus, ErrorRecord
from .._resources import knows_keys
from .._spans import LARGE, MANY, find_final_reward, size_of_all, sum_usage
from ..tracing import AttemptRecorder
from ._redaction import redact


def close_trace(
    recorder: AttemptRecorder, status: AttemptStatus, error: ErrorRecord | None, duration: float
) -> AttemptOutcome:
    """Close the trace of an attempt and return its outcome."""
    spans = recorder.close(status, None if error is None else f"{error.type}: {error.message}")
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


async def record_error(exception: BaseException) -> ErrorRecord:
    """Return the record of an exception; outside of Trio's thread for one with thousands of notes or members."""
    if _has_many_parts(exception):
        return await compute_in_thread(ErrorRecord.from_exception, exception)
    return ErrorRecord.from_exception(exception)


def _has_many_parts(exception: BaseException) -> bool:
    left, rest = MANY, [exception]
    try:
        while rest and left > 0:
            exc = rest.pop()
            notes = vars(exc).get("__notes__")
            left -= 1 + (len(notes) if type(notes) is list else 0)
            if isinstance(exc, BaseExceptionGroup):
                rest += exc.exceptions
    except Exception:
        # An exception with attributes of its own making; it is recorded as any other.
        return False
    return left <= 0


def is_large(recorder: AttemptRecorder) -> bool:
    """Whether closing the trace takes long; a search for api keys takes long in large texts, too."""
    spans = recorder.spans
    return len(spans) > MANY or (knows_keys() and size_of_all(list(spans)) > LARGE)
