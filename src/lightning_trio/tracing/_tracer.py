"""The tracer: what a runner's attempts are recorded with, and where their spans go besides the store."""

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
from .._spans import Span
from ._current import find_recorder
from ._export import ExporterStatistics, Exporting, ExportQueue
from .instrumentation import open_instrumentations

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from ._otel import RouteSpans


@public
@attrs.frozen
class TracerStatistics:
    """What became of spans outside the store.

    `late_spans` came after their attempt had ended and were given to nobody.
    """

    late_spans: int
    exporters: Mapping[str, ExporterStatistics]


@public
class Tracer:
    """Record attempts, take in spans that libraries make through OpenTelemetry, and export.

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
        self._route: RouteSpans | None = None
        self._joined = provider is not None
        self._queues: list[ExportQueue] = []
        self._whole: set[ExportQueue] = set()
        self._late_spans = 0
        self._late_lock = threading.Lock()
        self._instrument_openai = instrument_openai
        self._exporting: list[Exporting] = []
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
        from ._otel import route_of

        self._route = route_of(provider)
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

        Spans made through a provider that was joined are exported by that provider's own processors, so they are
        left out here: where both send to one backend, it gets each span once and the trace whole.

        Exporting happens in a worker thread and never holds an attempt up: where the exporter is slower than
        the agents, attempts that find the queue full are dropped and counted in `statistics`. On closing, the
        runner exports what is queued for at most five seconds. Shutting the exporter down stays with you.

        Args:
            exporter: any `SpanExporter` of the OpenTelemetry SDK.
            max_queued_spans: how many spans may wait.
            joined_spans: send those of the joined provider too, to a backend which that provider does not export to.
        """
        if max_queued_spans < 1:
            raise ValueError(f"max_queued_spans={max_queued_spans!r}: give at least 1")
        if not callable(getattr(exporter, "export", None)):
            raise UsageError.not_an_exporter(exporter)
        queue = ExportQueue(exporter, max_queued_spans)
        if joined_spans:
            self._whole.add(queue)
        self._queues.append(queue)
        for exporting in self._exporting:
            exporting.start(queue)

    def get_last_trace(self) -> list[Span]:
        """Give the spans the attempt of the calling context has recorded so far, in order of their start.

        Outside of rollouts the list is empty. Steps still open are not in it.
        """
        recorder = find_recorder()
        return [] if recorder is None else sorted(recorder.spans, key=lambda span: span.sequence_id)

    def statistics(self) -> TracerStatistics:
        """Count late spans, and exported and dropped ones by exporter (`#2` marks a second of its class)."""
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
    def route(self) -> RouteSpans | None:
        """The processor that brings in the spans of libraries, None before a provider was needed."""
        return self._route

    @property
    def instruments_openai(self) -> bool:
        """Whether calls of the OpenAI SDK are recorded, where it is installed."""
        return self._instrument_openai

    def finish_attempt(self, spans: Sequence[Span]) -> None:
        """Queue a finished attempt's spans for every exporter."""
        if not self._queues:
            return
        own = spans
        if self._joined and self._route is not None:
            resource = self._route.resource
            own = [span for span in spans if span.resource is not resource]
        for queue in self._queues:
            queue.put(spans if queue in self._whole else own)

    def count_late_span(self) -> None:
        """Count a span that came after its attempt had ended."""
        # Late spans come from any thread, and seldom.
        with self._late_lock:
            self._late_spans += 1

    def forget_library_spans(self, span_ids: Sequence[int]) -> None:
        """Stop waiting for the end of spans whose attempt has ended."""
        if self._route is not None:
            self._route.forget(span_ids)

    def convert(self, span: ReadableSpan, *, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
        """Make a record of a library's span."""
        made = Span.from_opentelemetry(span, rollout_id=rollout_id, attempt_id=attempt_id, sequence_id=sequence_id)
        return made if self._route is None else attrs.evolve(made, resource=self._route.resource)

    def open_instrumentations(self) -> AbstractContextManager[None]:
        """Record calls of SDKs into the attempts they are made in, until the block ends; for any process."""
        return open_instrumentations(leave_out=() if self._instrument_openai else ("openai",))

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Run the exporters and the instrumentations until the block ends."""
        with self.open_instrumentations():
            async with FlatNursery() as nursery:
                exporting = Exporting(nursery)
                for queue in self._queues:
                    exporting.start(queue)
                self._exporting.append(exporting)
                try:
                    yield
                finally:
                    self._exporting.remove(exporting)
                    exporting.close()
