"""Libraries whose calls become spans: one file a vendor."""

from ._attempt_provider import AttemptTracerProvider as AttemptTracerProvider
from ._openai import open_openai_instrumentation as open_openai_instrumentation
