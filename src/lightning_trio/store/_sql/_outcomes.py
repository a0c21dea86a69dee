"""Reports of attempts: their spans, and how they ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Final as Constant

import attrs

from ..._lifecycle import rollout_status_after
from ..._records import AttemptOutcome, AttemptStatus, Final, GiveBack, RetryIn, RolloutStatus
from ..._serialization import NO_LIMIT, encode_error, encode_spans
from ..._spans import NO_USAGE, Usage
from .._rollout_ids import RolloutIdCipher
from ._rollout_state import READY, RolloutState, check_attempt_id, count_late, load_states, number_of, write_states
from ._schema import TRACE
from ._spans import known_span_ids, number_spans
from ._transaction import Columns, Transaction
from ._workers import note_idle


@attrs.frozen
class EncodedOutcome:
    """An outcome whose spans and error are texts; `spans` stays for an attempt that has had some before."""

    outcome: AttemptOutcome
    spans: str | None
    error: str | None


def encode_outcome(outcome: AttemptOutcome, limit: int) -> EncodedOutcome:
    """Encode an outcome.

    Raises:
        NotStorable, PayloadTooLarge: see `encode_spans`.
    """
    spans = encode_spans(outcome.spans, limit) if outcome.spans else None
    return EncodedOutcome(outcome, spans, encode_error(outcome.error))


_ENDED: Constant[Columns] = {
    "number": "int",
    "status": "text",
    "end_time": "real",
    "duration": "real",
    "final_reward": "real",
    "input_tokens": "int",
    "output_tokens": "int",
    "cost": "real",
    "error": "text",
}


def finish(
    transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Sequence[EncodedOutcome]]
) -> list[list[RolloutStatus | None]]:
    """Commit how attempts ended; see `LightningStore.finish`."""
    reports = [each for call in calls for each in call]
    standings = load_states(transaction, ids, [number_of(ids, each.outcome.rollout_id) for each in reports])
    known = known_span_ids(transaction, [standing for standing in standings.values() if standing.last_span])
    rows: list[tuple[Any, ...]] = []
    traces: list[tuple[int, str]] = []
    workers: set[str] = set()
    results: list[list[RolloutStatus | None]] = []
    touched: dict[int, RolloutState] = {}
    for call in calls:
        statuses: list[RolloutStatus | None] = []
        for each in call:
            outcome = each.outcome
            standing = standings.get(number_of(ids, outcome.rollout_id))
            if standing is not None and standing.worker_id is not None:
                workers.add(standing.worker_id)
            if standing is None or not _accepts(transaction, ids, standing, outcome):
                count_late(transaction, ids, standing, outcome.rollout_id, len(outcome.spans))
                statuses.append(None)
                continue
            text = _count_spans(transaction, standing, each, known.get(standing.attempt_number))
            if text is not None:
                traces.append((standing.attempt_number, text))
            rows.append(_ended_row(transaction, standing, each))
            transaction.known_spans.forget(standing.attempt_number)
            touched[standing.number] = standing
            statuses.append(_move_on(transaction, standing, outcome))
        results.append(statuses)
    if rows:
        assignments = ", ".join(f"{name} = v.{name}" for name in _ENDED if name != "number")
        transaction.with_rows(
            _ENDED, rows, f"UPDATE attempts SET {assignments} FROM v WHERE attempts.number = v.number"
        )
        write_states(transaction, list(touched.values()))
    if traces:
        transaction.with_rows(
            TRACE, traces, "INSERT INTO traces (number, spans) SELECT number, spans FROM v WHERE number IS NOT NULL"
        )
    note_idle(transaction, workers)
    return results


def _accepts(transaction: Transaction, ids: RolloutIdCipher, standing: RolloutState, outcome: AttemptOutcome) -> bool:
    """Tell whether a report is of the attempt that runs.

    Raises:
        UnknownId: the rollout has no such attempt.
    """
    if outcome.attempt_id != standing.attempt_id:
        check_attempt_id(transaction, standing, outcome.attempt_id)
        return False
    return standing.at_work and not standing.ended


def _count_spans(
    transaction: Transaction, standing: RolloutState, each: EncodedOutcome, known: set[str] | None
) -> str | None:
    """Give the text of the spans that came with an outcome, without those that came before it."""
    spans, text = each.outcome.spans, each.spans
    if known and spans:
        # Numbered where they have no number yet, as `add_spans` does.
        spans = number_spans(spans, known, standing)
        text = encode_spans(spans, NO_LIMIT) if spans else None
    if spans:
        transaction.effects.count(standing.run_id, "spans", len(spans))
    return text


def _ended_row(transaction: Transaction, standing: RolloutState, each: EncodedOutcome) -> tuple[Any, ...]:
    outcome = each.outcome
    usage = outcome.usage
    if outcome.duration:
        transaction.effects.sum_up(standing.run_id, "seconds", outcome.duration)
    if usage is not NO_USAGE:
        _add_usage(transaction, standing.run_id, usage)
    standing.attempt_status = outcome.status
    standing.final_reward = outcome.final_reward
    return (
        standing.attempt_number,
        outcome.status,
        outcome.end_time,
        outcome.duration,
        outcome.final_reward,
        usage.input_tokens,
        usage.output_tokens,
        usage.cost,
        each.error,
    )


def _add_usage(transaction: Transaction, run_id: str, usage: Usage) -> None:
    """Count what calls of models took."""
    effects = transaction.effects
    effects.count(run_id, "input_tokens", usage.input_tokens)
    effects.count(run_id, "output_tokens", usage.output_tokens)
    effects.sum_up(run_id, "cost", usage.cost)


def _move_on(transaction: Transaction, standing: RolloutState, outcome: AttemptOutcome) -> RolloutStatus:
    if isinstance(outcome.next, GiveBack):
        standing.not_counted += 1
        standing.set_status(transaction, "requeuing", READY)
        return "requeuing"
    delay = outcome.next.seconds if isinstance(outcome.next, RetryIn) else None
    return after_attempt(transaction, standing, outcome.status, delay, final=isinstance(outcome.next, Final))


def after_attempt(
    transaction: Transaction, standing: RolloutState, status: AttemptStatus, delay: float | None, *, final: bool
) -> RolloutStatus:
    """Move a rollout on by its latest attempt's status."""
    new = rollout_status_after(status, standing.counted, standing.config, final=final)
    available_at: float | None = None
    if new == "requeuing" and delay is not None:
        available_at = transaction.now() + delay if delay > 0 else READY
    standing.set_status(transaction, new, available_at)
    return new
