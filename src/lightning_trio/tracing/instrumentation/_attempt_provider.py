"""A tracer provider for process-wide instrumentations: each span goes to the provider of its own attempt.

An instrumentation patches a library once per process, with one provider, but every runner has a provider of its
own. The one passed to instrumentations looks up the current attempt when a span starts. Outside of rollouts nothing
is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Span, Tracer, TracerProvider

# OpenTelemetry's own tracers use it: libraries call `start_as_current_span` as a decorator, too.
from opentelemetry.util._decorator import _agnosticcontextmanager  # pyright: ignore[reportPrivateUsage]

from .._current import find_recorder

_NO_OP = NoOpTracer()


class AttemptTracerProvider(TracerProvider):
    """A provider whose tracers record into the attempt of the calling context."""

    def get_tracer(self, instrumenting_module_name: str, *args: Any, **kwargs: Any) -> Tracer:
        """Make a tracer; the arguments are those of any provider."""
        return _AttemptTracer((instrumenting_module_name, *args), kwargs)


class _AttemptTracer(Tracer):
    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args = args
        self._kwargs = kwargs
        self._tracers: WeakKeyDictionary[TracerProvider, Tracer] = WeakKeyDictionary()

    def _resolve(self, context: Context | None) -> Tracer:
        recorder = find_recorder(context)
        if recorder is None:
            return _NO_OP
        provider = recorder.tracer.provider
        tracer = self._tracers.get(provider)
        if tracer is None:
            tracer = self._tracers[provider] = provider.get_tracer(*self._args, **self._kwargs)
        return tracer

    def start_span(self, name: str, context: Context | None = None, *args: Any, **kwargs: Any) -> Span:
        return self._resolve(context).start_span(name, context, *args, **kwargs)

    @_agnosticcontextmanager
    def start_as_current_span(
        self, name: str, context: Context | None = None, *args: Any, **kwargs: Any
    ) -> Iterator[Span]:
        with self._resolve(context).start_as_current_span(name, context, *args, **kwargs) as span:
            yield span
