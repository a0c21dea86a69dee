"""Outcomes that a store cannot keep: each fails its own attempt and no other."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from .._errors import Evicted, NotStorable, StaleAttempt, StoreClosed, UnknownId
from .._log import Log
from .._records import FINAL, AttemptOutcome, ErrorRecord, RolloutStatus
from .._spans import NO_USAGE, TraceStatus
from ..store import LightningStore

logger = Log("lightning_trio.runner")

_FAULTS_OF_STORES: Final = (
    # `StoreUnavailable`, `StoreFull` and `StoreLocked` among them.
    OSError,
    StoreClosed,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.BusyResourceError,
    trio.ClosedResourceError,
    trio.EndOfChannel,
    # Not a fault, but what stops the commit.
    trio.Cancelled,
    KeyboardInterrupt,
    GeneratorExit,
)


def is_fault_of_store(exc: BaseException) -> bool:
    """Whether a store has failed because it is away, full, locked or closed, or was stopped: not because of a record.

    Any other exception is presumed to be about a record, as long as the store can store others.
    """
    if isinstance(exc, BaseExceptionGroup):
        return any(is_fault_of_store(each) for each in exc.exceptions)
    return isinstance(exc, _FAULTS_OF_STORES)


async def finish_bare(
    store: LightningStore, outcome: AttemptOutcome, why: BaseException
) -> tuple[AttemptOutcome, RolloutStatus | None]:
    """Commit that an attempt failed because its store cannot keep its outcome, without what the agent recorded.

    Args:
        store: the store.
        outcome: the outcome.
        why: what the store raised for this outcome alone.

    Returns:
        The committed outcome, and the rollout's status as `LightningStore.finish` returns it.

    Raises:
        Exception: what the store raises even for an outcome of a status and plain text.
    """
    if isinstance(why, _REFUSALS):
        logger.warning("the outcome of rollout %s is lost: %s", outcome.rollout_id, why)
        await trio.lowlevel.checkpoint()
        return outcome, None
    error = why if isinstance(why, NotStorable) else NotStorable.outcome(outcome.rollout_id, why)
    error.__cause__ = None if error is why else why
    logger.warning("the records of rollout %s are lost, and its attempt has failed: %s", outcome.rollout_id, error)
    bare = _without_payload(outcome, ErrorRecord.from_exception(error))
    try:
        [status] = await store.finish([bare])
    except BaseException as exc:
        if is_fault_of_store(exc):
            raise
    else:
        return bare, status
    bare = _with_plain_text(bare, error)
    [status] = await store.finish([bare])
    return bare, status


_REFUSALS: Final = (UnknownId, StaleAttempt, Evicted)
"""What a store raises for a rollout or an attempt that it no longer has, or that has ended."""


def _without_payload(outcome: AttemptOutcome, error: ErrorRecord) -> AttemptOutcome:
    """Return the outcome with its root span, its usage and an error."""
    failed = TraceStatus("ERROR", f"{error.type}: {error.message}")
    root = [attrs.evolve(span, status=failed) for span in outcome.spans if span.parent_id is None]
    bare = attrs.evolve(outcome, spans=root, error=error, final_reward=None)
    # A cancelled attempt keeps its status and what follows it.
    return bare if outcome.status == "cancelled" else attrs.evolve(bare, status="failed", next=FINAL)


def _with_plain_text(bare: AttemptOutcome, error: NotStorable) -> AttemptOutcome:
    """Return a bare outcome of which any store can keep everything."""
    text = str(error).replace("\0", "\\0").encode("ascii", "backslashreplace").decode()
    record = ErrorRecord(type(error).__name__, text[:_LONGEST_TEXT], "", error)
    return attrs.evolve(bare, spans=(), error=record, usage=NO_USAGE)


_LONGEST_TEXT: Final = 2000
