"""The boundary with OpenTelemetry: libraries' spans enter as records, records leave as `ReadableSpan`.

This module imports the OpenTelemetry SDK (90 ms), so `Tracer` imports it only when it first needs a provider.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource as SdkResource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link as SdkLink
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from .._ids import random_bits
from .._log import Log
from .._plain_values import json_text, without_surrogates
from .._spans import OtelResource, Span
from .._spans import SpanContext as SpanIds
from .._version import __version__
from ..semconv import LightningResourceAttributes as Ids
from ._current import find_recorder
from ._finalisers import find_finaliser_tracer
from ._recorder import AttemptRecorder

logger = Log("lightning_trio.tracing")

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_RESOURCE = SdkResource({"service.name": "lightning_trio", "service.version": __version__})
_SCOPE = InstrumentationScope("lightning_trio", __version__)


class SpanRouter(SpanProcessor):
    """Route each span that a library makes through one provider to the attempt in whose context it starts.

    A provider has one router, however many tracers join it, because a span processor cannot be removed.

    An error in a span processor would be raised in the agent's code; these hooks log errors instead.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self.resource: OtelResource = OtelResource(dict(provider.resource.attributes), provider.resource.schema_url)
        """The resource of all spans of the provider; `Tracer` recognises them by the identity of this object."""
        # By both ids: libraries draw theirs from `random`; agents that seed it alike repeat span ids.
        self._owners: dict[tuple[int, int], AttemptRecorder] = {}

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Record which attempt the span belongs to."""
        try:
            recorder = find_recorder(parent_context)
            if recorder is None:
                self._count_in_finaliser()
                return
            if recorder.tracer.router is not self or span.context is None:
                return
            recorder.start_library_span(span)
            if not recorder.closed:
                self._owners[span.context.trace_id, span.context.span_id] = recorder
        except Exception:
            logger.exception("a span of another library could not be routed; it is not recorded")

    def _count_in_finaliser(self) -> None:
        tracer = find_finaliser_tracer()
        if tracer is not None and tracer.router is self:
            tracer.count_late_span()

    def on_end(self, span: ReadableSpan) -> None:
        """Add the finished span to its attempt."""
        try:
            ids = span.context
            recorder = None if ids is None else self._owners.pop((ids.trace_id, ids.span_id), None)
            if recorder is not None:
                recorder.end_library_span(span)
        except Exception:
            logger.exception("a span of another library could not be read; it is not recorded")

    def forget(self, span_ids: Sequence[int]) -> None:
        """Remove spans that were open when their attempt ended, because they end too late to be recorded."""
        if span_ids:
            for ids, recorder in list(self._owners.items()):
                if recorder.closed:
                    self._owners.pop(ids, None)


_routers: WeakKeyDictionary[TracerProvider, SpanRouter] = WeakKeyDictionary()
_routers_lock = threading.Lock()


def router_of(provider: TracerProvider) -> SpanRouter:
    """Return the provider's one router, added on first use."""
    with _routers_lock:
        router = _routers.get(provider)
        if router is None:
            router = _routers[provider] = SpanRouter(provider)
            provider.add_span_processor(router)
        return router


def private_provider() -> TracerProvider:
    """Make a provider that records everything; OpenTelemetry's default limit of 128 attributes drops the oldest."""
    limits = SpanLimits(max_span_attributes=8192, max_events=4096, max_links=1024)
    return TracerProvider(
        sampler=ALWAYS_ON, resource=_RESOURCE, span_limits=limits, id_generator=_OwnIds(), shutdown_on_exit=False
    )


class _OwnIds(IdGenerator):
    """Ids that do not repeat when an agent calls `random.seed`, unlike those of OpenTelemetry's generator."""

    def generate_span_id(self) -> int:
        return random_bits(64) or 1

    def generate_trace_id(self) -> int:
        return random_bits(128) or 1


def to_readable(span: Span) -> ReadableSpan:
    """Return a record as exporters expect it, with the ids of rollout and attempt as attributes."""
    attributes = {
        **_exported(span.attributes),
        Ids.ROLLOUT_ID.value: span.rollout_id,
        Ids.ATTEMPT_ID.value: span.attempt_id,
        Ids.SPAN_SEQUENCE_ID.value: span.sequence_id,
    }
    parent = span.parent
    description = span.status.description
    return ReadableSpan(
        name=without_surrogates(span.name),
        context=_sdk_context(span.context),
        parent=None if parent is None else _sdk_context(parent),
        resource=_RESOURCE
        if not span.resource.attributes
        else SdkResource(_exported(span.resource.attributes), span.resource.schema_url),
        attributes=attributes,
        events=[
            SdkEvent(
                without_surrogates(event.name),
                _exported(event.attributes),
                _nanoseconds(event.timestamp or span.start_time),
            )
            for event in span.events
        ],
        links=[SdkLink(_sdk_context(link.context), _exported(link.attributes)) for link in span.links],
        kind=SpanKind[span.kind],
        status=Status(
            StatusCode[span.status.status_code], None if description is None else without_surrogates(description)
        ),
        start_time=_nanoseconds(span.start_time),
        end_time=_nanoseconds(span.end_time),
        instrumentation_scope=_SCOPE,
    )


_END_OF_TIME = (1 << 64) / 1e9
"""The first time, in Unix seconds, that has no nanoseconds in 64 bits."""


def _exported(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes that every exporter can encode, in UTF-8 and with integers of 64 bits."""
    return {without_surrogates(key): _exported_value(value) for key, value in attributes.items()}


def _exported_value(value: Any) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return str(value)
    if isinstance(value, list | tuple):
        return [_exported_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _exported_value(item) for key, item in value.items()}
    return value if value is None or isinstance(value, int | float) else without_surrogates(json_text(value))


def _sdk_context(ids: SpanIds) -> SpanContext:
    trace_id, span_id = int(ids.trace_id, 16), int(ids.span_id, 16)
    if not (0 <= trace_id < 1 << 128 and 0 <= span_id < 1 << 64):
        # An exporter would fail with the whole batch.
        raise ValueError("its ids are not 32 and 16 hexadecimal digits")
    return SpanContext(trace_id, span_id, ids.is_remote, _SAMPLED)


def _nanoseconds(seconds: float | None) -> int | None:
    """Return a time as exporters encode it, in 64 bits; None if it cannot be encoded."""
    # False for NaN, too.
    if seconds is None or not 0.0 <= seconds < _END_OF_TIME:
        return None
    return round(seconds * 1e9)
