"""The context variable with the attempt of the running code, and the search for it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import TypeAlias

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from .._errors import AttemptAbandoned
from ._otel_context import RECORDER_KEY
from ._recorder import OF_RUNNER, AttemptRecorder

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


def refuse_abandoned(recorder: AttemptRecorder | None = None) -> None:
    """Raise in the code of an abandoned attempt, unless it is a runner's or a hook's that runs in its context.

    Args:
        recorder: the recorder of the calling code's attempt, if it is known already.

    Raises:
        AttemptAbandoned: the attempt was abandoned.
    """
    recorder = CURRENT.get() if recorder is None else recorder
    if recorder is not None and recorder.has_abandoned_caller():
        raise AttemptAbandoned.abandoned(recorder.rollout.rollout_id, recorder.rollout.attempt.attempt_id)


@contextmanager
def as_runner() -> Generator[None]:
    """Run the block as a runner's code, which goes on when the attempt in whose context it runs is abandoned.

    The tasks of a runner that an agent opened inherit the agent's context. Hooks run in the context of their attempt,
    and what they start inherits it.
    """
    token = OF_RUNNER.set(CURRENT.get())
    try:
        yield
    finally:
        # A coroutine that a crashing Trio or the garbage collector closes is closed in another context.
        with suppress(ValueError):
            OF_RUNNER.reset(token)
