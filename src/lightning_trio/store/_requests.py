"""Validation of what callers ask a store for, before any store reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .._checks import checked
from .._records import EnqueueRolloutRequest, RolloutConfig, Unset


def check_requests(requests: Iterable[object]) -> None:
    """Validate requests to enqueue or start a rollout.

    Raises:
        ComponentError: one is not a request, or has a field of the wrong kind.
    """
    for request in requests:
        known = checked("enqueue_many_rollouts()", request, EnqueueRolloutRequest)
        check_fields(known.config, known.metadata)


def check_fields(config: object, metadata: object) -> None:
    """Validate fields of a rollout or an attempt, of which each may be None or unset.

    Raises:
        ComponentError: one is of the wrong kind.
    """
    if config is not None and not isinstance(config, Unset):
        checked("config", config, RolloutConfig)
    if metadata is not None and not isinstance(metadata, Unset):
        checked("metadata", metadata, Mapping)
