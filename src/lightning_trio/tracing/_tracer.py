"""The tracer: it records a runner's attempts and sends their spans to exporters besides the store."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from .._concurrency import FlatNursery
from .._errors import UsageError
from .._public import public
from .._repr import counted, one_line
from .._spans import Span, copy_attributes
from ._current import find_recorder
from ._export import ExporterStatistics, ExportQueue, ExportTasks
from ._finalisers import refusing_finalisers
from .instrumentation import OPENAI, open_instrumentations

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from ._otel import SpanRouter


@public
@attrs.frozen
class TracerStatistics:
    """Numbers of late spans, which came after their attempt had ended, and of each exporter's spans."""

    late_spans: int
    exporters: Mapping[str, ExporterStatistics]


@public
class Tracer:
    """Record attempts, collect the spans that libraries make through OpenTelemetry, and export both.

    Args:
        provider: a `TracerProvider` of the OpenTelemetry SDK to join, so that spans made through it inside a
            rollout are recorded there too. None makes a private one on first use. The process-wide provider is
            never set.
        instrument_openai: record calls of the OpenAI SDK where the extra ``openai`` is installed.

    >>> tracer = Tracer()
    >>> tracer.statistics().late_spans
    0
    """

    def __init__(self, provider: TracerProvider | None = None, *, instrument_openai: bool = True) -> None:
        self._provider: TracerProvider | None = None
        self._router: SpanRouter | None = None
        self._joined = provider is not None
        self._queues: list[ExportQueue] = []
        self._whole: set[ExportQueue] = set()
        self._late_spans = 0
        self._late_lock = threading.Lock()
        self._leave_out: frozenset[str] = frozenset() if instrument_openai else frozenset({OPENAI.sdk})
        self._export_tasks: list[ExportTasks] = []
        if provider is not None:
            if not hasattr(provider, "add_span_processor"):
                raise UsageError.not_a_provider(provider)
            self._use(provider)

    @one_line
    def __repr__(self) -> str:
        joined = "joined to a provider, " if self._joined else ""
        spans = f", {counted(self._late_spans, 'late span')}" if self._late_spans else ""
        return f"<{type(self).__name__}: {joined}{counted(len(self._queues), 'exporter')}{spans}>"

    def _use(self, provider: TracerProvider) -> None:
        # The SDK takes 90 ms to import, and agents without instrumented libraries never need it.
        from ._otel import router_of

        self._router = router_of(provider)
        self._provider = provider

    @property
    def provider(self) -> TracerProvider:
        """The `TracerProvider` to give to instrumentations and to get OpenTelemetry tracers from.

        >>> provider = Tracer().provider
        >>> tracer = provider.get_tracer("my.library")
        """
        if self._provider is None:
            # See _use.
            from ._otel import private_provider

            self._use(private_provider())
        assert self._provider is not None
        return self._provider

    def add_exporter(
        self, exporter: SpanExporter, *, max_queued_spans: int = 65_536, joined_spans: bool = False
    ) -> None:
        """Send the spans of every finished attempt to an OpenTelemetry exporter.

        Spans made through a provider that was joined are exported by that provider's own processors and left out
        here: a backend that both export to gets each span once and the whole trace.

        Exporting happens in a worker thread and never blocks an attempt: if the exporter is slower than the
        agents, attempts that find the queue full are dropped and counted in `statistics`. On closing, the
        runner exports what is queued for at most five seconds. Shutting the exporter down is left to the caller.

        Args:
            exporter: any `SpanExporter` of the OpenTelemetry SDK.
            max_queued_spans: how many spans may wait.
            joined_spans: send the joined provider's spans too, to a backend that this provider does not export to.
        """
        if max_queued_spans < 1:
            raise ValueError(f"max_queued_spans={max_queued_spans!r} is too small; write a number of at least 1")
        if not callable(getattr(exporter, "export", None)):
            raise UsageError.not_an_exporter(exporter)
        queue = ExportQueue(exporter, max_queued_spans)
        if joined_spans:
            self._whole.add(queue)
        self._queues.append(queue)
        for tasks in self._export_tasks:
            tasks.start(queue)

    def get_last_trace(self) -> list[Span]:
        """Return the spans that the calling context's attempt has recorded so far, in order of their start.

        Outside of rollouts the list is empty. Open spans are not included.
        """
        recorder = find_recorder()
        if recorder is None:
            return []
        # Copies, so that the caller cannot change what is recorded.
        spans = [attrs.evolve(span, attributes=copy_attributes(span.attributes)) for span in list(recorder.spans)]
        return sorted(spans, key=lambda span: span.sequence_id)

    def statistics(self) -> TracerStatistics:
        """Return the number of late spans and the counts of each exporter (`#2` marks the second of a class)."""
        exporters: dict[str, ExporterStatistics] = {}
        for queue in self._queues:
            name = kind = type(queue.exporter).__name__
            number = 1
            while name in exporters:
                number += 1
                name = f"{kind}#{number}"
            exporters[name] = queue.statistics()
        return TracerStatistics(self._late_spans, exporters)

    # The rest is for the runner and its attempts.

    @property
    def router(self) -> SpanRouter | None:
        """The processor that routes the spans of libraries, None before a provider was needed."""
        return self._router

    @property
    def leave_out(self) -> frozenset[str]:
        """The SDKs whose calls are not recorded, such as ``{"openai"}``."""
        return self._leave_out

    def finish_attempt(self, spans: Sequence[Span]) -> None:
        """Queue a finished attempt's spans for every exporter."""
        if not self._queues:
            return
        own = spans
        if self._joined and self._router is not None:
            resource = self._router.resource
            own = [span for span in spans if span.resource is not resource]
        for queue in self._queues:
            queue.put(spans if queue in self._whole else own)

    def count_late_span(self) -> None:
        """Count a span that came after its attempt had ended."""
        # Late spans come from any thread, and are rare.
        with self._late_lock:
            self._late_spans += 1

    def forget_library_spans(self, span_ids: Sequence[int]) -> None:
        """Remove the open spans of an attempt that has ended."""
        if self._router is not None:
            self._router.forget(span_ids)

    def convert(self, span: ReadableSpan, *, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
        """Return a library's span as a record."""
        made = Span.from_opentelemetry(span, rollout_id=rollout_id, attempt_id=attempt_id, sequence_id=sequence_id)
        return made if self._router is None else attrs.evolve(made, resource=self._router.resource)

    def open_instrumentations(self) -> AbstractContextManager[None]:
        """Record SDK calls in the attempts that make them until the block ends; in any process."""
        return open_instrumentations(self.leave_out)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Run the exporters and the instrumentations until the block ends."""
        with refusing_finalisers(self), self.open_instrumentations():
            async with FlatNursery() as nursery:
                tasks = ExportTasks(nursery)
                for queue in self._queues:
                    tasks.start(queue)
                self._export_tasks.append(tasks)
                try:
                    yield
                finally:
                    self._export_tasks.remove(tasks)
                    tasks.close()
