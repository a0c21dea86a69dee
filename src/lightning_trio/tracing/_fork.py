"""Spans in a forked child, whose copy of the recorder is never read."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .._log import Log
from .._spans import Span
from ._current import find_recorder

logger = Log("lightning_trio.tracing")


class LostSpans(list[Span]):
    """The spans of a recorder's copy in a forked child; the first is logged, and none is kept."""

    def __init__(self, rollout_id: str) -> None:
        super().__init__()
        self._rollout_id = rollout_id
        self._is_logged = False

    def append(self, span: Span, /) -> None:
        """Drop a span."""
        if not self._is_logged:
            self._is_logged = True
            logger.warning(
                "%r was recorded in a process that the agent of rollout %s has forked, and is lost, like all spans "
                "there; send the value to the agent's process, and emit it there",
                span.name,
                self._rollout_id,
            )

    def extend(self, spans: Iterable[Span], /) -> None:
        """Drop spans."""
        for span in spans:
            self.append(span)


def _after_fork_in_child() -> None:
    recorder = find_recorder()
    if recorder is not None:
        recorder.spans = LostSpans(recorder.rollout.rollout_id)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
