"""The attempt in OpenTelemetry's context, for instrumented libraries and for threads that carry that context."""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from collections.abc import Iterator
from contextvars import Token
from types import FrameType
from typing import Any, Protocol
from weakref import ref

import trio
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

from .._concurrency import await_stack
from .._spans import Link
from .._spans import SpanContext as SpanIds

RECORDER_KEY = otel_context.create_key("lightning_trio-attempt")
"""The key of the attempt, for threads that carry OpenTelemetry's context and not ours."""

# OpenTelemetry has no public name for the key of the current span; it is read from a context that has only that.
[SPAN_KEY] = set_span_in_context(INVALID_SPAN, Context())
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Trace(Protocol):
    """What a `NativeSpan` needs of its recorder: the trace's id."""

    trace_id: str


class NativeSpan(NonRecordingSpan):
    """One of our spans in OpenTelemetry's context, so that instrumented libraries make it their parent.

    Its `SpanContext` is computed on demand.
    """

    def __init__(self, recorder: Trace, span_id: str) -> None:
        # The base class takes a SpanContext (2 µs to make), which most attempts never need.
        self.recorder = recorder
        self.span_id = span_id

    def get_span_context(self) -> SpanContext:
        return SpanContext(
            int(self.recorder.trace_id, 16), int(self.span_id, 16), is_remote=False, trace_flags=_SAMPLED
        )

    def __repr__(self) -> str:
        return f"NativeSpan(trace_id={self.recorder.trace_id!r}, span_id={self.span_id!r})"


class GeneratorSpan(NativeSpan):
    """The span of an operation in a generator: current for the generator's own code, and not for its caller's.

    A generator runs in its caller's context, so what it makes current stays current between its steps, and after a
    caller has left it: it is closed when it is collected, in some other context, or with the caller's next operation
    still open. For the caller, and once it has ended, the span that was current before stands in its place. Tasks and
    threads are the generator's as long as it runs or waits for something; once it has yielded, they are its caller's.
    """

    def __init__(self, recorder: Trace, span_id: str, generator: FrameType) -> None:
        super().__init__(recorder, span_id)
        self._previous: Span = get_current_span()
        # The ids, because a frame would keep the generator's variables alive.
        self._frame_id = id(generator)
        task = _current_task()
        self._task: ref[Any] | None = None if task is None else ref(task)
        self._thread = threading.get_ident()
        self.ended: bool = False

    def get_span_context(self) -> SpanContext:
        span = self.resolved()
        return super().get_span_context() if span is self else span.get_span_context()

    def resolved(self) -> Span:
        """Return the span that is current for the calling code: this one or one that was current before."""
        span: Span = self
        while isinstance(span, GeneratorSpan) and not span._is_around_caller():
            span = span._previous
        return span

    def _is_around_caller(self) -> bool:
        if self.ended:
            return False
        frame = sys._current_frames().get(self._thread)  # pyright: ignore[reportPrivateUsage]  # documented
        if any(id(each) == self._frame_id for each in _stack(frame)):
            return True
        task = None if self._task is None else self._task()
        if task is None or task is _current_task():
            return False
        # Another task, perhaps one that the generator has started and waits for.
        coroutine = task.coro if isinstance(task, trio.lowlevel.Task) else task.get_coro()
        return any(id(each) == self._frame_id for each in await_stack(coroutine))


def _current_task() -> Any:
    """Return the task of Trio or asyncio that is running, None outside of both."""
    with contextlib.suppress(RuntimeError):
        return trio.lowlevel.current_task()
    # Most programs never import asyncio.
    asyncio: Any = sys.modules.get("asyncio")
    with contextlib.suppress(RuntimeError):
        return None if asyncio is None else asyncio.current_task()
    return None


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def generator_around(frame: FrameType | None) -> FrameType | None:
    """Return `frame` if it is a generator's that its caller iterates; None for a function's.

    The generator of a context manager lends its context to a block on purpose, so it counts as a function.
    """
    while frame is not None:
        in_contextlib = frame.f_code.co_filename == contextlib.__file__
        if not in_contextlib and not frame.f_code.co_flags & _GENERATOR:
            return None
        caller = frame.f_back
        if not in_contextlib and (caller is None or caller.f_code.co_filename != contextlib.__file__):
            return frame
        frame = caller
    return None


def leave_context(token: Token[Context]) -> None:
    """Undo an `attach`, if the calling code runs in the context that it was made in.

    OpenTelemetry's own `detach` logs an error with a traceback for any other context.
    """
    try:  # noqa: SIM105  # suppress takes 0.3 µs, as long as all else here
        token.var.reset(token)
    except ValueError:
        pass


def host_link() -> Link | None:
    """Return a link to the caller's current span, None without one."""
    span = get_current_span()
    if span is INVALID_SPAN or not (context := span.get_span_context()).is_valid:
        return None
    return Link(SpanIds(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.is_remote))
