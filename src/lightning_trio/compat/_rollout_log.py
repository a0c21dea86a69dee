"""What `Baseline` logs about each rollout, in the words of Agent-lightning 0.3."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

from .._agents import LitAgent
from .._log import Log
from .._records import Attempt, AttemptedRollout, AttemptStatus, Rollout
from .._runner import Hook as NativeHook
from .._runner import Runner as NativeRunner
from .._spans import Span
from ..adapters import Adapter
from ..store import LightningStore

logger = Log("agentlightning.algorithm.fast")

SpanVerbosity: TypeAlias = Literal["keys", "key_values", "none"]
"""What is logged of a span's attributes; of ``"none"`` not even the span."""


def is_logged() -> bool:
    """Whether anybody reads what is logged."""
    return logger.is_enabled_for(logging.INFO)


async def log_rollout(
    rollout: Rollout, store: LightningStore, adapter: Adapter[Any] | None, verbosity: SpanVerbosity
) -> None:
    """Log a rollout that has ended, with its attempts and spans."""
    _log_end(rollout.rollout_id, rollout.status, (rollout.end_time or time.time()) - rollout.start_time)
    for attempt in await store.query_attempts(rollout.rollout_id):
        spans = await store.query_spans(rollout.rollout_id, attempt.attempt_id)
        _log_attempt(attempt, attempt.status, spans, verbosity)
    if adapter is not None:
        latest = await store.query_spans(rollout.rollout_id, attempt_id="latest")
        logger.info("[Rollout %s] Adapted data: %s", rollout.rollout_id, adapter.adapt(latest))


class RolloutLog(NativeHook):
    """Logs each attempt of a runner as it ends."""

    def __init__(self, verbosity: SpanVerbosity) -> None:
        self._verbosity: SpanVerbosity = verbosity

    async def on_rollout_end(
        self, *, agent: LitAgent[Any], runner: NativeRunner, rollout: AttemptedRollout, spans: Sequence[Span]
    ) -> None:
        attempt, root = rollout.attempt, next(span for span in spans if span.parent_id is None)
        status: AttemptStatus = "succeeded" if root.status.status_code == "OK" else "failed"
        _log_end(rollout.rollout_id, status, time.time() - attempt.start_time)
        _log_attempt(attempt, status, spans, self._verbosity)


def _log_end(rollout_id: str, status: str, seconds: float) -> None:
    logger.info("[Rollout %s] Finished with status %s in %.2f seconds.", rollout_id, status, seconds)


def _log_attempt(attempt: Attempt, status: AttemptStatus, spans: Sequence[Span], verbosity: SpanVerbosity) -> None:
    logger.info(
        "[Rollout %s | Attempt %d] ID: %s. Status: %s. Worker: %s",
        attempt.rollout_id,
        attempt.sequence_id,
        attempt.attempt_id,
        status,
        attempt.worker_id,
    )
    if verbosity == "none":
        return
    for span in spans:
        logger.info(
            "[Rollout %s | Attempt %s | Span %s] #%d (%s) %s. %s",
            attempt.rollout_id,
            attempt.attempt_id,
            span.span_id,
            span.sequence_id,
            span.name,
            _when(span),
            f"Attributes: {span.attributes}"
            if verbosity == "key_values"
            else f"Attribute keys: {list(span.attributes)}",
        )


def _when(span: Span) -> str:
    seconds = f"{span.end_time - span.start_time:.2f}" if span.start_time and span.end_time else "unknown"
    return f"From {_shown(span.start_time)}, to {_shown(span.end_time)}, {seconds} seconds"


def _shown(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).isoformat() if seconds else "unknown"
