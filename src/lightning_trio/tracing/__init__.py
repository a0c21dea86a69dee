"""Tracing: native span records, with OpenTelemetry at the edges."""

from ._exporting import ExporterStatistics as ExporterStatistics
from ._tracer import Tracer as Tracer
from ._tracer import TracerStatistics as TracerStatistics
