"""Where the attempt of the running code is kept, and how it is found."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import NamedTuple

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from ._otel_context import RECORDER_KEY
from ._recorder import AttemptRecorder

CURRENT: ContextVar[AttemptRecorder | None] = ContextVar("lightning_trio_attempt", default=None)


class AttemptContext(NamedTuple):
    """What `leave_attempt` needs to undo `enter_attempt`."""

    current: Token[AttemptRecorder | None]
    opentelemetry: Token[Context]


def enter_attempt(recorder: AttemptRecorder) -> AttemptContext:
    """Let the code that follows in this context, and in contexts copied from it, record into an attempt."""
    return AttemptContext(CURRENT.set(recorder), otel_context.attach(recorder.context()))


def leave_attempt(context: AttemptContext) -> None:
    """Undo `enter_attempt`, for a caller whose context goes on after the attempt."""
    otel_context.detach(context.opentelemetry)
    CURRENT.reset(context.current)


def find_recorder(context: Context | None = None) -> AttemptRecorder | None:
    """Return the attempt in our own variable, else in OpenTelemetry's `context` (None: the current one)."""
    recorder = CURRENT.get()
    if recorder is None:
        carried = otel_context.get_value(RECORDER_KEY, context)
        return carried if isinstance(carried, AttemptRecorder) else None
    return recorder
