"""The context variable with the attempt of the running code, and the search for it."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TypeAlias

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from ._otel_context import RECORDER_KEY
from ._recorder import AttemptRecorder

CURRENT: ContextVar[AttemptRecorder | None] = ContextVar("lightning_trio_attempt", default=None)


# A plain tuple, for it is made once an attempt, and a named one takes three times as long.
AttemptContext: TypeAlias = tuple[Token[AttemptRecorder | None], Token[Context]]
"""What `leave_attempt` needs to undo `enter_attempt`."""


def enter_attempt(recorder: AttemptRecorder) -> AttemptContext:
    """Let the code that follows in this context, and in contexts copied from it, record into an attempt."""
    return CURRENT.set(recorder), otel_context.attach(recorder.context())


def leave_attempt(context: AttemptContext) -> None:
    """Undo `enter_attempt`, for a caller whose context outlives the attempt."""
    current, opentelemetry = context
    otel_context.detach(opentelemetry)
    CURRENT.reset(current)


def find_recorder(context: Context | None = None) -> AttemptRecorder | None:
    """Return the recorder in our own variable, else the one in OpenTelemetry's `context` (None: the current one)."""
    recorder = CURRENT.get()
    if recorder is None:
        carried = otel_context.get_value(RECORDER_KEY, context)
        return carried if isinstance(carried, AttemptRecorder) else None
    return recorder
