"""Outcomes that a store cannot keep: each fails its own attempt and no other."""

from __future__ import annotations

import logging

import attrs

from .._errors import NotStorable
from .._records import FINAL, AttemptOutcome, ErrorRecord, RolloutStatus
from .._spans import TraceStatus
from ..store import LightningStore

logger = logging.getLogger("lightning_trio.runner")


async def finish_storable(
    store: LightningStore, outcome: AttemptOutcome
) -> tuple[AttemptOutcome, RolloutStatus | None]:
    """Commit one outcome; if the store cannot keep it, commit that the attempt failed because of that.

    Returns:
        The committed outcome, and the rollout's status as `LightningStore.finish` returns it.
    """
    try:
        [status] = await store.finish([outcome])
    except NotStorable as exc:
        logger.warning("the records of rollout %s are lost, and its attempt has failed: %s", outcome.rollout_id, exc)
        return await _finish_without_payload(store, outcome, ErrorRecord.from_exception(exc))
    return outcome, status


async def _finish_without_payload(
    store: LightningStore, outcome: AttemptOutcome, error: ErrorRecord
) -> tuple[AttemptOutcome, RolloutStatus | None]:
    failed = TraceStatus("ERROR", f"{error.type}: {error.message}")
    root = [attrs.evolve(span, status=failed) for span in outcome.spans if span.parent_id is None]
    bare = attrs.evolve(outcome, spans=root, error=error, final_reward=None)
    # A cancelled attempt keeps its status and what follows it.
    if outcome.status != "cancelled":
        bare = attrs.evolve(bare, status="failed", next=FINAL)
    try:
        [new] = await store.finish([bare])
    except NotStorable:
        bare = attrs.evolve(bare, spans=())
        [new] = await store.finish([bare])
    return bare, new
