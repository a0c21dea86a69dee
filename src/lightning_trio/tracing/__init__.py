"""Tracing: native span records, with OpenTelemetry at the edges."""

from ._around_calls import after_calls as after_calls
from ._around_calls import around_calls as around_calls
from ._context import carry_context as carry_context
from ._context import current_recorder as current_recorder
from ._context import current_resources as current_resources
from ._context import current_rollout as current_rollout
from ._current import CURRENT as CURRENT
from ._current import as_runner as as_runner
from ._current import enter_attempt as enter_attempt
from ._current import find_recorder as find_recorder
from ._current import leave_attempt as leave_attempt
from ._current import refuse_abandoned as refuse_abandoned
from ._export import ExporterStatistics as ExporterStatistics
from ._finalisers import refusing_context as refusing_context
from ._finalisers import refusing_finalisers as refusing_finalisers
from ._fork import LostSpans as LostSpans
from ._open_span import OpenSpan as OpenSpan
from ._otel_context import host_link as host_link
from ._recorder import AttemptRecorder as AttemptRecorder
from ._tracer import Tracer as Tracer
from ._tracer import TracerStatistics as TracerStatistics

# The other names are for this package's own use.
__all__ = ["ExporterStatistics", "Tracer", "TracerStatistics", "carry_context", "current_resources", "current_rollout"]
