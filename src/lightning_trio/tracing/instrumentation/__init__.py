"""Instrumentations: the calls of vendors' SDKs as spans, one file per vendor behind a Protocol."""

from ._attempt_provider import AttemptTracerProvider as AttemptTracerProvider
from ._openai import OPENAI as OPENAI
from ._protocol import Instrumentation as Instrumentation
from ._registry import open_instrumentations as open_instrumentations
