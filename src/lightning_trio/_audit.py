"""An audit of a store: whether its books balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ._lifecycle import TERMINAL_ATTEMPT, TERMINAL_ROLLOUT
from ._records import Attempt, AttemptedRollout, Rollout, RolloutStatus
from ._span import Span
from .store import Condition, LightningStore, Query

_PAGE = 500
_FITS: Mapping[RolloutStatus, frozenset[str]] = {
    "succeeded": frozenset({"succeeded"}),
    "failed": frozenset({"failed", "timeout", "unresponsive"}),
    "cancelled": frozenset({"cancelled", "succeeded", "failed", "timeout", "unresponsive"}),
}
"""What a finished rollout's last attempt may have come to. One may be cancelled while it waits for a retry."""


@attrs.frozen
class Audit:
    """What `audit` found: how many rollouts it went through, and a sentence for each thing that is wrong."""

    rollouts: int
    problems: Sequence[str]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


async def audit(store: LightningStore, *, run_id: str | None = None, finished: bool = True) -> Audit:
    """Check that a store's records agree with one another, and that every rollout has come to exactly one end.

    It goes through all rollouts, page by page, so a large store takes a while. Nobody should write meanwhile.

    Args:
        store: an open store.
        run_id: only this run's rollouts; None for all.
        finished: whether every rollout should have ended; False while a run is still going on.

    >>> import trio
    >>> from lightning_trio import InMemoryLightningStore, Runner
    >>> store = InMemoryLightningStore()
    >>> result = trio.run(Runner(len, store=store).fit, ["a", "bc"])
    >>> trio.run(audit, store)
    Audit(rollouts=2, problems=[])
    """
    problems: list[str] = []
    counts: Counter[RolloutStatus] = Counter()
    keys: Counter[tuple[str | None, str]] = Counter()
    async for rollouts in _pages(store, run_id):
        attempts = _by_rollout(await _of(store, "attempts", rollouts))
        spans = _by_rollout(await _of(store, "spans", rollouts))
        for rollout in rollouts:
            counts[rollout.status] += 1
            if rollout.key is not None:
                keys[rollout.run_id, rollout.key] += 1
            of_rollout = attempts.get(rollout.rollout_id, [])
            problems += _of_status(rollout, finished)
            problems += _of_attempts(rollout, of_rollout)
            problems += _of_spans(rollout, of_rollout, spans.get(rollout.rollout_id, []))
    problems += [f"{run} has the key {key!r} {number} times" for (run, key), number in keys.items() if number > 1]
    problems += _of_counts(counts, (await store.summarize(run_id)).counts)
    return Audit(sum(counts.values()), problems)


async def _pages(store: LightningStore, run_id: str | None) -> AsyncIterator[Sequence[Rollout]]:
    must = [] if run_id is None else [Condition("run_id", {run_id})]
    offset = 0
    while page := await store.find(Query("rollouts", must, limit=_PAGE, offset=offset)):
        yield page
        offset += len(page)


async def _of(store: LightningStore, table: Any, rollouts: Sequence[Rollout]) -> Sequence[Any]:
    ids = {rollout.rollout_id for rollout in rollouts}
    return await store.find(Query(table, (Condition("rollout_id", ids),), sort_by="sequence_id"))


def _by_rollout(records: Iterable[Any]) -> dict[str, list[Any]]:
    grouped: dict[str, list[Any]] = {}
    for record in records:
        grouped.setdefault(record.rollout_id, []).append(record)
    return grouped


def _of_status(rollout: Rollout, finished: bool) -> Iterator[str]:
    terminal = rollout.status in TERMINAL_ROLLOUT
    if finished and not terminal:
        yield f"rollout {rollout.rollout_id} is {rollout.status} and has not ended"
    if terminal and rollout.end_time is None:
        yield f"rollout {rollout.rollout_id} is {rollout.status} without a time of its end"
    if not terminal and rollout.end_time is not None:
        yield f"rollout {rollout.rollout_id} is {rollout.status} and has a time of its end"


def _of_attempts(rollout: Rollout, attempts: Sequence[Attempt]) -> Iterator[str]:
    name = f"rollout {rollout.rollout_id}"
    numbers = [attempt.sequence_id for attempt in attempts]
    if numbers != list(range(1, len(attempts) + 1)):
        yield f"{name} has attempts numbered {numbers}"
    for attempt in attempts[:-1]:
        if attempt.status not in TERMINAL_ATTEMPT:
            yield f"{name}: attempt {attempt.attempt_id} was superseded and is still {attempt.status}"
    if not attempts:
        if rollout.status in ("succeeded", "failed", "running", "preparing"):
            yield f"{name} is {rollout.status} and was never attempted"
        return
    last = attempts[-1]
    if rollout.status in _FITS and last.status not in _FITS[rollout.status]:
        yield f"{name} is {rollout.status}, and its last attempt is {last.status}"
    if rollout.status in ("running", "preparing") and last.status in TERMINAL_ATTEMPT:
        yield f"{name} is {rollout.status}, and its last attempt has ended: {last.status}"
    if isinstance(rollout, AttemptedRollout) and rollout.attempt.attempt_id != last.attempt_id:
        yield f"{name} names {rollout.attempt.attempt_id} as its latest attempt, which is {last.attempt_id}"


def _of_spans(rollout: Rollout, attempts: Sequence[Attempt], spans: Sequence[Span]) -> Iterator[str]:
    known = {attempt.attempt_id for attempt in attempts}
    for attempt_id, of_attempt in _by_attempt(spans).items():
        name = f"rollout {rollout.rollout_id}, attempt {attempt_id}"
        if attempt_id not in known:
            yield f"{name}: there are spans and no such attempt"
        ids = [span.span_id for span in of_attempt]
        if len(set(ids)) < len(ids):
            yield f"{name}: a span is there twice"


def _by_attempt(spans: Sequence[Span]) -> dict[str, list[Span]]:
    grouped: dict[str, list[Span]] = {}
    for span in spans:
        grouped.setdefault(span.attempt_id, []).append(span)
    return grouped


def _of_counts(found: Mapping[RolloutStatus, int], counted: Mapping[RolloutStatus, int]) -> Iterator[str]:
    statuses: set[RolloutStatus] = {*found, *counted}
    for status in statuses:
        # More may have been counted than are there: finished ones are evicted or pruned.
        if found.get(status, 0) > counted.get(status, 0):
            yield f"{found[status]} rollouts are {status}, and the store counts {counted.get(status, 0)}"
        elif status not in TERMINAL_ROLLOUT and found.get(status, 0) < counted.get(status, 0):
            yield f"the store counts {counted[status]} rollouts as {status}, and {found.get(status, 0)} are"
