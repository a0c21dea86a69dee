"""Removal of api keys from the texts that an attempt raised or recorded."""

from __future__ import annotations

from .._records import ErrorRecord
from .._resources import span_without_keys, without_keys
from .._spans import Span


def redact(error: ErrorRecord | None, spans: list[Span]) -> tuple[ErrorRecord | None, list[Span]]:
    """Return an attempt's error and spans with every api key that this process knows replaced in their texts.

    The exception itself is unchanged: it stays in the process, and it belongs to the agent.
    """
    return None if error is None else _clean_error(error), [span_without_keys(span) for span in spans]


def _clean_error(error: ErrorRecord) -> ErrorRecord:
    return ErrorRecord(
        without_keys(error.type), without_keys(error.message), without_keys(error.traceback), error.exception
    )
