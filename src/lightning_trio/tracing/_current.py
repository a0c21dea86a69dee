"""The context variable with the attempt of the running code, and the search for it."""

from __future__ import annotations

from contextvars import ContextVar

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from ._otel_context import RECORDER_KEY
from ._recorder import AttemptRecorder

CURRENT: ContextVar[AttemptRecorder | None] = ContextVar("lightning_trio_attempt", default=None)


def find_recorder(context: Context | None = None) -> AttemptRecorder | None:
    """Return the recorder in our own variable, else the one in OpenTelemetry's `context` (None: the current one)."""
    recorder = CURRENT.get()
    if recorder is None:
        carried = otel_context.get_value(RECORDER_KEY, context)
        return carried if isinstance(carried, AttemptRecorder) else None
    return recorder
