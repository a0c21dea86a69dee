"""Outcomes of attempts, with their spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from ..._lifecycle import Move, end_attempt
from ..._records import AttemptOutcome, RolloutStatus
from ..._serialization import NO_LIMIT, encode_error, encode_parts, encode_spans
from ..._spans import LARGE, NO_USAGE, Span, Usage, size_of_all
from .._rollout_ids import RolloutIdCipher
from ._rollout_state import RolloutState, check_attempt_id, count_late, load_states, number_of, write_states
from ._schema import TRACE, TRACE_PART
from ._spans import known_span_ids, number_spans
from ._transaction import Columns, Transaction
from ._workers import note_idle


@attrs.frozen
class EncodedOutcome:
    """An outcome with its spans and error encoded as text; large spans as several texts."""

    outcome: AttemptOutcome
    spans: str | Sequence[str] | None
    error: str | None


def encode_outcomes(outcomes: Sequence[AttemptOutcome], sizes: Sequence[float], limit: int) -> list[EncodedOutcome]:
    """Encode outcomes.

    Args:
        outcomes: the outcomes.
        sizes: `size_of_all` of the spans of each.
        limit: how many bytes the spans of an outcome may take.

    Raises:
        NotStorable, PayloadTooLarge: see `encode_spans`.
    """
    return [
        EncodedOutcome(
            outcome,
            _encode(outcome.spans, size, limit) if outcome.spans else None,
            encode_error(outcome.error),
        )
        for outcome, size in zip(outcomes, sizes, strict=True)
    ]


def _encode(spans: Sequence[Span], size: float, limit: int) -> str | Sequence[str]:
    return encode_parts(spans, limit) if size > LARGE else encode_spans(spans, limit)


_ENDED: Final[Columns] = {
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
    states = load_states(transaction, ids, [number_of(ids, each.outcome.rollout_id) for each in reports])
    known = known_span_ids(transaction, [state for state in states.values() if state.last_span])
    rows: list[tuple[Any, ...]] = []
    traces: list[tuple[int, str]] = []
    parts: list[tuple[int, int, str]] = []
    workers: set[str] = set()
    results: list[list[RolloutStatus | None]] = []
    touched: dict[int, RolloutState] = {}
    for call in calls:
        statuses: list[RolloutStatus | None] = []
        for each in call:
            outcome = each.outcome
            state = states.get(number_of(ids, outcome.rollout_id))
            if state is not None and state.worker_id is not None:
                workers.add(state.worker_id)
            move = None if state is None else _move(transaction, state, outcome)
            if state is None or move is None:
                count_late(transaction, ids, state, outcome.rollout_id, len(outcome.spans))
                statuses.append(None)
                continue
            text = _count_spans(transaction, state, each, known.get(state.attempt_number))
            if isinstance(text, str):
                traces.append((state.attempt_number, text))
            elif text is not None:
                parts += [(state.attempt_number, number, part) for number, part in enumerate(text)]
            rows.append(_ended_row(transaction, state, each))
            transaction.known_spans.forget(state.attempt_number)
            touched[state.number] = state
            state.move_on(transaction, move)
            statuses.append(move.status)
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
    for part in parts:
        # One by one: the lock of the interpreter is held while parameters are copied.
        _insert_part(transaction, part)
    note_idle(transaction, workers)
    return results


def _insert_part(transaction: Transaction, part: tuple[int, int, str]) -> None:
    columns = ", ".join(TRACE_PART)
    transaction.execute(f"INSERT INTO trace_parts ({columns}) VALUES (?, ?, ?)", part)


def _move(transaction: Transaction, state: RolloutState, outcome: AttemptOutcome) -> Move | None:
    """Return the move for an outcome, None if it comes too late.

    Raises:
        UnknownId: the rollout has no such attempt.
    """
    if outcome.attempt_id != state.attempt_id:
        check_attempt_id(transaction, state, outcome.attempt_id)
    return end_attempt(state, outcome.attempt_id, outcome.status, outcome.next)


def _count_spans(
    transaction: Transaction, state: RolloutState, each: EncodedOutcome, known: set[str] | None
) -> str | Sequence[str] | None:
    """Count the spans of an outcome and return their text, without the spans stored before it."""
    spans, text = each.outcome.spans, each.spans
    if known and spans:
        # Unnumbered spans get numbers, as in `add_spans`.
        spans = number_spans(spans, known, state)
        text = _encode(spans, size_of_all(spans), NO_LIMIT) if spans else None
    if spans:
        transaction.summary.count(state.run_id, "spans", len(spans))
    return text


def _ended_row(transaction: Transaction, state: RolloutState, each: EncodedOutcome) -> tuple[Any, ...]:
    outcome = each.outcome
    usage = outcome.usage
    if outcome.duration:
        transaction.summary.sum_up(state.run_id, "seconds", outcome.duration)
    if usage is not NO_USAGE:
        _add_usage(transaction, state.run_id, usage)
    state.final_reward = outcome.final_reward
    return (
        state.attempt_number,
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
    """Count the usage of model calls."""
    summary = transaction.summary
    summary.count(run_id, "input_tokens", usage.input_tokens)
    summary.count(run_id, "output_tokens", usage.output_tokens)
    summary.sum_up(run_id, "cost", usage.cost)
