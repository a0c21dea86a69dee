"""Export off the hot path: finished attempts wait in a bounded queue, from which a task feeds the exporter."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from .._log import Log
from .._public import public
from .._spans import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter


logger = Log("lightning_trio.tracing")

_BATCH_SPANS = 512
_FLUSH_SECONDS = 5.0


@public
@attrs.frozen
class ExporterStatistics:
    """What happened to the spans meant for one exporter, as numbers of spans."""

    exported: int
    queued: int
    """Waiting, or being exported at the moment."""
    dropped: int
    """Not exported because the queue was full or the runner closed before their turn."""
    failed: int
    """Rejected by the exporter."""


@attrs.define(eq=False)
class ExportQueue:
    """The queue of one exporter, whose blocking calls run one at a time in a worker thread."""

    exporter: SpanExporter
    max_queued_spans: int
    _attempts: deque[Sequence[Span]] = attrs.field(factory=deque[Sequence[Span]], init=False)
    _queued: int = attrs.field(default=0, init=False)
    """Spans not yet counted as anything else, including those being exported."""
    _exported: int = attrs.field(default=0, init=False)
    _dropped: int = attrs.field(default=0, init=False)
    _failed: int = attrs.field(default=0, init=False)
    _has_raised: bool = attrs.field(default=False, init=False)
    _has_malformed: bool = attrs.field(default=False, init=False)
    _runs: int = attrs.field(default=0, init=False)
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _filled: trio.Event = attrs.field(factory=trio.Event, init=False)

    def put(self, spans: Sequence[Span]) -> None:
        """Add an attempt's spans, all or none of them."""
        if self._queued + len(spans) > self.max_queued_spans:
            if not self._dropped:
                logger.warning(
                    "%s is too slow: %d spans are waiting, so further ones are dropped and counted in "
                    "tracer.statistics(); raise max_queued_spans or export less",
                    type(self.exporter).__name__,
                    self._queued,
                )
            self._dropped += len(spans)
            return
        self._queued += len(spans)
        self._attempts.append(spans)
        self._filled.set()

    async def run(self, scope: trio.CancelScope) -> None:
        """Export until `scope` gets a deadline, then what is left; runners that share a tracer take turns."""
        self._runs += 1
        limiter = trio.CapacityLimiter(1)
        with scope:
            while self._queued or scope.deadline == math.inf:
                if self._queued:
                    async with self._turn:
                        await self._export_next(limiter)
                else:
                    await self._wait_filled()
        self._runs -= 1
        if not self._runs:
            self._drop_rest()

    async def _wait_filled(self) -> None:
        if self._filled.is_set():
            self._filled = trio.Event()
        await self._filled.wait()

    def wake(self) -> None:
        """Wake `run` so that it checks its scope."""
        self._filled.set()

    async def _export_next(self, limiter: trio.CapacityLimiter) -> None:
        batch: list[Span] = []
        while self._attempts and len(batch) < _BATCH_SPANS:
            batch.extend(self._attempts.popleft())
        if not batch:
            return
        exported: int | None = None
        try:
            exported = await trio.to_thread.run_sync(self._export, batch, limiter=limiter, abandon_on_cancel=True)
        finally:
            self._queued -= len(batch)
            if exported is None:
                # Abandoned at the deadline, whether or not the exporter still succeeds.
                self._dropped += len(batch)
            else:
                self._exported += exported
                self._failed += len(batch) - exported

    def _export(self, batch: list[Span]) -> int:
        """Export spans and return how many; runs in a worker thread, where no exception is a Ctrl-C or Trio's."""
        # The exporter has imported the SDK already.
        from opentelemetry.sdk.trace.export import SpanExportResult

        readable = [each for each in map(self._try_to_convert, batch) if each is not None]
        if not readable:
            return 0
        try:
            return len(readable) if self.exporter.export(readable) is SpanExportResult.SUCCESS else 0
        except BaseException:
            if not self._has_raised:
                self._has_raised = True
                logger.exception(
                    "%s failed; %d spans were not exported. Further failures are only counted, in tracer.statistics()",
                    type(self.exporter).__name__,
                    len(batch),
                )
            return 0

    def _try_to_convert(self, span: Span) -> ReadableSpan | None:
        """Return a span for exporters, None if it is malformed: it is lost alone, and not with its batch."""
        from ._otel import to_readable

        try:
            return to_readable(span)
        except Exception as exc:
            if not self._has_malformed:
                self._has_malformed = True
                logger.warning(
                    "a span of rollout %s cannot be exported (%s: %s). Further ones are only counted, in "
                    "tracer.statistics()",
                    span.rollout_id,
                    type(exc).__name__,
                    exc,
                )
            return None

    def _drop_rest(self) -> None:
        self._dropped += self._queued
        self._queued = 0
        self._attempts.clear()

    def statistics(self) -> ExporterStatistics:
        """Return the counts so far."""
        return ExporterStatistics(self._exported, self._queued, self._dropped, self._failed)


@attrs.define(eq=False)
class ExportTasks:
    """The tasks of one open runner that feed the exporters."""

    _nursery: trio.Nursery
    _scopes: list[tuple[ExportQueue, trio.CancelScope]] = attrs.field(
        factory=list[tuple[ExportQueue, trio.CancelScope]], init=False
    )

    def start(self, queue: ExportQueue) -> None:
        """Start feeding one exporter; its task is shielded from the runner's cancellation."""
        scope = trio.CancelScope(shield=True)
        self._scopes.append((queue, scope))
        self._nursery.start_soon(queue.run, scope)

    def close(self) -> None:
        """Stop after exporting what is queued, which may take at most five seconds."""
        for queue, scope in self._scopes:
            scope.deadline = trio.current_time() + _FLUSH_SECONDS
            queue.wake()
