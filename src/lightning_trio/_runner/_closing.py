"""The end of a trace: its spans in order, without api keys, and what is read from them."""

from __future__ import annotations

from typing import NamedTuple

from .._concurrency import compute_in_thread
from .._records import AttemptStatus, ErrorRecord
from .._resources import knows_keys
from .._spans import LARGE, MANY, Span, Usage, find_final_reward, size_of_all, sum_usage
from ..tracing import AttemptRecorder
from ._redaction import redact


class ClosedTrace(NamedTuple):
    """What an attempt has recorded, and its error without api keys."""

    error: ErrorRecord | None
    spans: list[Span]
    final_reward: float | None
    usage: Usage


def close_trace(recorder: AttemptRecorder, status: AttemptStatus, error: ErrorRecord | None) -> ClosedTrace:
    """Close the trace of an attempt."""
    spans = recorder.close(status, None if error is None else f"{error.type}: {error.message}")
    error, spans = redact(error, spans)
    return ClosedTrace(error, spans, find_final_reward(spans), sum_usage(spans))


async def close_large_trace(recorder: AttemptRecorder, status: AttemptStatus, error: ErrorRecord | None) -> ClosedTrace:
    """Close a trace outside of Trio's thread, which takes a second for 100,000 spans."""
    # Before the thread begins, because tasks of the agent's may be left that would record more.
    recorder.closed = True
    return await compute_in_thread(close_trace, recorder, status, error)


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
