"""Agent-lightning 0.3's tracers, over the one of lightning_trio.

`OtelTracer` and `AgentOpsTracer` join the program's default OpenTelemetry provider, or set one where there is none, so
that spans of ``opentelemetry.trace.get_tracer()`` inside an agent are kept. Nothing else of lightning_trio does so.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import TYPE_CHECKING, Any

import attrs
from opentelemetry import trace as otel_trace

from .._ids import new_attempt_id, random_bits
from .._log import Log
from .._public import public_in
from .._records import Attempt, AttemptedRollout
from .._spans import (
    OK_STATUS,
    Event,
    Span,
    SpanCoreFields,
    TraceStatus,
    copy_attributes,
    exception_attributes,
    sanitize_attributes,
)
from ..store import LightningStore
from ..tracing import (
    AttemptRecorder,
    current_recorder,
    enter_attempt,
    find_recorder,
    leave_attempt,
    refusing_finalisers,
)
from ..tracing import Tracer as NativeTracer
from ._shapes import Attributes, ParallelWorkerBase, SpanRecordingContext, StatusCode
from ._threads import following_threads

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = Log("lightning_trio.compat")


def default_provider() -> TracerProvider:
    """Return the program's default provider; set a new one if there is none that can be joined."""
    # The SDK takes 90 ms to import.
    from opentelemetry.sdk.trace import TracerProvider

    provider = otel_trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = NativeTracer().provider
        otel_trace.set_tracer_provider(provider)
    return provider


@public_in("lightning_trio.compat")
class Tracer(NativeTracer, ParallelWorkerBase):
    """The base of tracers, which records attempts itself.

    `trace_context` records a trace without a runner. The emitters call a subclass's `create_span` and
    `operation_context`, also inside rollouts, and ``super()`` records there; what they make otherwise is the subclass's
    own. A runner calls `init`, `init_worker`, `teardown_worker` and `teardown`, and warns about a subclass with a
    `trace_context` or `get_last_trace`, which it does not call.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last_trace: list[Span] = []

    # Joining the default provider.

    @property
    def provider(self) -> TracerProvider:
        """The program's default provider."""
        self._join()
        return super().provider

    def _join(self) -> None:
        if self._provider is not (provider := default_provider()):
            self._use(provider)
            self._joined = True

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Join the default provider, follow threads and run the exporters until the block ends."""
        self._join()
        with following_threads():
            async with super().open():
                yield

    # A trace without a runner.

    def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AbstractAsyncContextManager[otel_trace.Tracer]:
        """Record what the block emits, and with ids store it for that attempt; yields an OpenTelemetry tracer.

        Raises:
            ValueError: only one of the ids is given.
        """
        return self._trace(name, store or self._store, rollout_id, attempt_id)

    _store: LightningStore | None = None

    def init_worker(self, worker_id: int, store: LightningStore | None = None, *args: Any, **kwargs: Any) -> None:
        """Join the default provider, and keep the store for `trace_context`."""
        super().init_worker(worker_id)
        self._join()
        self._store = store

    @asynccontextmanager
    async def _trace(
        self, name: str | None, store: LightningStore | None, rollout_id: str | None, attempt_id: str | None
    ) -> AsyncGenerator[otel_trace.Tracer]:
        if (rollout_id is None) != (attempt_id is None):
            raise ValueError(
                f"trace_context(rollout_id={rollout_id!r}, attempt_id={attempt_id!r}): give both, or neither"
            )
        with self._recording(name or "trace", rollout_id, attempt_id):
            yield self.provider.get_tracer("agentlightning")
        if store is not None and rollout_id is not None:
            await store.add_many_spans(self._last_trace)

    @contextmanager
    def _recording(self, name: str, rollout_id: str | None, attempt_id: str | None) -> Generator[None]:
        self._join()
        now = time.time()
        rollout_id, attempt_id = rollout_id or f"ro-{random_bits(48):012x}", attempt_id or new_attempt_id()
        attempt = Attempt(rollout_id, attempt_id, 1, now, status="running")
        recorder = AttemptRecorder(self, AttemptedRollout(rollout_id, None, now, attempt=attempt), {}, name, None)
        status: Any = "failed"
        context = enter_attempt(recorder)
        try:
            with refusing_finalisers(self), self.open_instrumentations(), following_threads(), active(self):
                yield
            status = "succeeded"
        finally:
            leave_attempt(context)
            self._last_trace = self._own_spans(recorder, recorder.close(status, None))

    def _own_spans(self, recorder: AttemptRecorder, spans: Sequence[Span]) -> list[Span]:
        """Return the spans of a trace without the root that this package adds, numbered from 1."""
        own = [span for span in spans if span.span_id != recorder.root_id]
        return [
            attrs.evolve(
                span, sequence_id=number, parent_id=None if span.parent_id == recorder.root_id else span.parent_id
            )
            for number, span in enumerate(own, 1)
        ]

    def get_last_trace(self) -> list[Span]:
        """Return the spans of the calling context's attempt so far, or else of the last `trace_context`."""
        return super().get_last_trace() if find_recorder() is not None else list(self._last_trace)

    def trace_run(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function and record what it emits."""
        with self._recording(getattr(func, "__name__", "trace"), None, None):
            return func(*args, **kwargs)

    async def trace_run_async(self, func: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Await an async function and record what it emits."""
        async with self.trace_context(getattr(func, "__name__", "trace")):
            return await func(*args, **kwargs)

    def lifespan(self, store: LightningStore | None = None) -> AbstractContextManager[None]:
        """Prepare the tracer, with a store for its traces, and clean up at the end of the block."""
        return prepared(self, store, nullcontext)

    # Single spans.

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Record a span that starts and ends at a timestamp in seconds, without one now.

        Raises:
            NoActiveRollout: outside of any rollout and `trace_context`.
        """
        span = current_recorder("create_span()").start_span(name, sanitize_attributes(attributes))
        if timestamp is not None:
            span.start_time = timestamp
        made = span.end(OK_STATUS if status is None else status, span.start_time)
        return SpanCoreFields(made.name, made.status, copy_attributes(made.attributes), made.start_time, made.end_time)

    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> AbstractContextManager[SpanRecordingContext]:
        """Record a span from the start of the block to its end, or with other times, in seconds.

        Raises:
            NoActiveRollout: outside of any rollout and `trace_context`.
        """
        return OpenOperation(name, attributes).running(start_time, end_time)

    def get_langchain_handler(self, tags: list[str] | None = None) -> Any:
        """Return a callback handler that records LangChain's chains, tools and models; None without LangChain."""
        from ._langchain import langchain_handler

        return langchain_handler(tags or [])


@contextmanager
def prepared(
    tracer: Tracer, store: LightningStore | None, cleaning_up: Callable[[str], AbstractContextManager[object]]
) -> Generator[None]:
    """Prepare a tracer as that of a worker, and clean up at the end of the block, within ``cleaning_up(message)``."""
    tracer.init()
    try:
        tracer.init_worker(0, store)
        try:
            yield
        finally:
            with cleaning_up("Error during tracer worker teardown"):
                tracer.teardown_worker(0)
    finally:
        with cleaning_up("Error during tracer teardown"):
            tracer.teardown()


@public_in("lightning_trio.compat")
class OtelTracer(Tracer):
    """Records attempts together with the spans of the program's OpenTelemetry provider."""


@public_in("lightning_trio.compat")
class AgentOpsTracer(Tracer):
    """The same as `OtelTracer`: AgentOps is not needed, and its options are ignored."""

    def __init__(self, *, agentops_managed: bool = True, instrument_managed: bool = True, daemon: bool = True) -> None:
        super().__init__()


class DummySpanRecordingContext:
    """A span that is recorded nowhere."""

    def __init__(self, name: str, attributes: Attributes | None = None, start_time: float | None = None) -> None:
        self.name = name
        self.attributes: Attributes = {} if attributes is None else attributes
        self.start_time = time.time() if start_time is None else start_time
        self.end_time: float | None = None
        self.status = OK_STATUS

    def record_exception(self, exception: BaseException) -> None:
        """Add an exception, and set the status."""
        self.record_status("ERROR", str(exception))
        self.record_attributes(exception_attributes(exception))

    def record_attributes(self, attributes: Attributes) -> None:
        """Add attributes."""
        self.attributes.update(attributes)

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Set the status."""
        self.status = TraceStatus(status_code, description)

    def finalize(self, end_time: float | None = None) -> None:
        """Set the end."""
        self.end_time = time.time() if end_time is None else end_time

    def get_recorded_span(self) -> SpanCoreFields:
        """Return the span.

        Raises:
            ValueError: it has not ended.
        """
        if self.end_time is None:
            raise ValueError("the span has not ended; call finalize() first")
        return SpanCoreFields(self.name, self.status, self.attributes, self.start_time, self.end_time)


@public_in("lightning_trio.compat")
class DummyTracer(Tracer):
    """A tracer for the emitters alone, which records nothing."""

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Return a span that is recorded nowhere."""
        now = time.time() if timestamp is None else timestamp
        return SpanCoreFields(name, OK_STATUS if status is None else status, attributes or {}, now, now)

    @contextmanager
    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Generator[DummySpanRecordingContext]:
        """Yield a span that is recorded nowhere."""
        recording = DummySpanRecordingContext(name, attributes, start_time)
        try:
            yield recording
        except BaseException as exc:
            recording.record_exception(exc)
            raise
        finally:
            recording.finalize(end_time)


class OpenOperation:
    """A span of the current attempt while its block runs."""

    def __init__(self, name: str, attributes: Attributes | None) -> None:
        self._open = current_recorder("operation_context()").start_span(name, sanitize_attributes(attributes))
        self._status = TraceStatus("UNSET")
        self._ended: Span | None = None

    @contextmanager
    def running(self, start_time: float | None, end_time: float | None) -> Generator[OpenOperation]:
        if start_time is not None:
            self._open.start_time = start_time
        self._open.enter(None)
        try:
            yield self
        except BaseException as exc:
            self.record_exception(exc)
            raise
        finally:
            self._open.leave()
            self._ended = self._open.end(self._status, end_time)

    def record_exception(self, exception: BaseException) -> None:
        self._open.events.append(Event("exception", exception_attributes(exception)))
        self.record_status("ERROR", str(exception))

    def record_attributes(self, attributes: Attributes) -> None:
        self._open.attributes.update(sanitize_attributes(attributes))

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        self._status = TraceStatus(status_code, description)

    def get_recorded_span(self) -> SpanCoreFields:
        if self._ended is None:
            raise ValueError("the span has not ended; read it after the block")
        span = self._ended
        return SpanCoreFields(span.name, span.status, copy_attributes(span.attributes), span.start_time, span.end_time)


# The tracer that emitters outside of rollouts use. In 0.3 it was one for the process, as here.
_active: Any = None


def set_active_tracer(tracer: Any) -> None:
    """Make the emitters use `tracer` outside of rollouts.

    Raises:
        ValueError: there is an active tracer already.
    """
    global _active
    if _active is not None:
        raise ValueError("An active tracer is already set. Cannot set a new one.")
    _active = tracer


def clear_active_tracer() -> None:
    """Undo `set_active_tracer`."""
    global _active
    _active = None


def get_active_tracer() -> Any:
    """Return the tracer of the calling context's attempt, or else the one of `set_active_tracer`, None without one."""
    recorder = find_recorder()
    if recorder is not None and isinstance(recorder.tracer, NativeTracer):
        return recorder.tracer
    return _active


@contextmanager
def active(tracer: Any) -> Generator[None]:
    """Make a tracer the active one until the block ends, unless there is one."""
    if _active is not None:
        yield
        return
    set_active_tracer(tracer)
    try:
        yield
    finally:
        clear_active_tracer()
