"""Reports of attempts: their spans, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import attrs

from ..._errors import UnknownId
from ..._lifecycle import TERMINAL_ATTEMPT, rollout_status_after
from ..._records import NO_USAGE, AttemptOutcome, AttemptStatus, RolloutStatus, Usage
from ..._span import Span
from .._rollout_ids import Scramble
from ._codec import NO_LIMIT, encode_error, encode_spans, with_number
from ._schema import SPAN, TRACE
from ._standing import READY, Standing, load_standings, number_of, was_there, write_standings
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


class EncodedSpan(NamedTuple):
    """A span and its text; its number is kept beside it, since it may get another."""

    span: Span
    body: str


def encode_span(span: Span, limit: int) -> EncodedSpan:
    """Encode a span.

    Raises:
        NotStorable, PayloadTooLarge: see `encode_spans`.
    """
    return EncodedSpan(span, encode_spans((span,), limit))


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
    transaction: Transaction, ids: Scramble, calls: Sequence[Sequence[EncodedOutcome]]
) -> list[list[RolloutStatus | None]]:
    """Commit how attempts ended; see `LightningStore.finish`."""
    reports = [each for call in calls for each in call]
    standings = load_standings(transaction, ids, [number_of(ids, each.outcome.rollout_id) for each in reports])
    known_spans = _known_spans(
        transaction, [standings.get(number_of(ids, each.outcome.rollout_id)) for each in reports if each.spans]
    )
    rows: list[tuple[Any, ...]] = []
    traces: list[tuple[int, str]] = []
    workers: set[str] = set()
    results: list[list[RolloutStatus | None]] = []
    touched: dict[int, Standing] = {}
    for call in calls:
        statuses: list[RolloutStatus | None] = []
        for each in call:
            outcome = each.outcome
            standing = standings.get(number_of(ids, outcome.rollout_id))
            if standing is not None and standing.worker_id is not None:
                workers.add(standing.worker_id)
            if standing is None or not _accepts(transaction, ids, standing, outcome):
                _count_late(transaction, ids, standing, outcome.rollout_id, len(outcome.spans))
                statuses.append(None)
                continue
            text = _count_spans(transaction, standing, each, known_spans.get(standing.attempt_number))
            if text is not None:
                traces.append((standing.attempt_number, text))
            rows.append(_ended_row(transaction, standing, each))
            touched[standing.number] = standing
            statuses.append(_move_on(transaction, standing, outcome))
        results.append(statuses)
    if rows:
        assignments = ", ".join(f"{name} = v.{name}" for name in _ENDED if name != "number")
        transaction.with_rows(
            _ENDED, rows, f"UPDATE attempts SET {assignments} FROM v WHERE attempts.number = v.number"
        )
        write_standings(transaction, list(touched.values()))
    if traces:
        transaction.with_rows(
            TRACE, traces, "INSERT INTO traces (number, spans) SELECT number, spans FROM v WHERE number IS NOT NULL"
        )
    note_idle(transaction, workers)
    return results


def _accepts(transaction: Transaction, ids: Scramble, standing: Standing, outcome: AttemptOutcome) -> bool:
    """Tell whether a report is of the attempt that runs.

    Raises:
        UnknownId: the rollout has no such attempt.
    """
    if outcome.attempt_id != standing.attempt_id:
        check_attempt_id(transaction, standing, outcome.attempt_id)
        return False
    return standing.at_work and not standing.ended


def check_attempt_id(transaction: Transaction, standing: Standing, attempt_id: str) -> int:
    """Give the number of one of a rollout's attempts.

    Raises:
        UnknownId: the rollout has no such attempt.
    """
    number: int | None = transaction.value(
        "number",
        "int",
        "FROM attempts WHERE rollout_number = ? AND attempt_id = ? AND number BETWEEN ? AND ?",
        (standing.number, attempt_id, *attempt_range(standing)),
    )
    if number is None:
        raise UnknownId(f"Attempt {attempt_id} not found for rollout {standing.rollout_id}")
    return number


def attempt_range(standing: Standing) -> tuple[int, int]:
    """Give the numbers between which a rollout's attempts lie."""
    last = standing.attempt_number
    return last - standing.attempts, last


def _count_late(
    transaction: Transaction, ids: Scramble, standing: Standing | None, rollout_id: str, spans: int
) -> None:
    if standing is None and not was_there(transaction, ids, rollout_id):
        raise UnknownId(f"Rollout {rollout_id} not found")
    if spans:
        transaction.effects.count("" if standing is None else standing.run_id, "late_spans", spans)


def _known_spans(transaction: Transaction, standings: Sequence[Standing | None]) -> Mapping[int, set[str]]:
    """Read the ids of spans that came before the outcome."""
    attempts = {s.attempt_number for s in standings if s is not None and s.streamed}
    if not attempts:
        return {}
    known: dict[int, set[str]] = {}
    for number, span_id in transaction.select_with_rows(
        {"number": "int"},
        [(number,) for number in sorted(attempts)],
        {"s.attempt_number": "int", "s.span_id": "text"},
        "FROM v JOIN spans s ON s.attempt_number = v.number",
    ):
        known.setdefault(number, set()).add(span_id)
    return known


def _count_spans(
    transaction: Transaction, standing: Standing, each: EncodedOutcome, known: set[str] | None
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


def _ended_row(transaction: Transaction, standing: Standing, each: EncodedOutcome) -> tuple[Any, ...]:
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


def number_spans(spans: Sequence[Span], known: set[str], standing: Standing) -> list[Span]:
    """Leave out the spans that are known, and give the others a number each."""
    new: list[Span] = []
    for span in spans:
        if span.span_id not in known:
            known.add(span.span_id)
            new.append(_numbered(span, standing))
    return new


def _numbered(span: Span, standing: Standing) -> Span:
    last = standing.last_sequence_id or 0
    if span.sequence_id <= 0:
        span = with_number(span, last + 1)
    standing.last_sequence_id = max(last, span.sequence_id)
    return span


def _move_on(transaction: Transaction, standing: Standing, outcome: AttemptOutcome) -> RolloutStatus:
    if outcome.requeue:
        standing.not_counted += 1
        standing.set_status(transaction, "requeuing", READY)
        return "requeuing"
    return after_attempt(transaction, standing, outcome.status, outcome.retry_delay, final=outcome.final)


def after_attempt(
    transaction: Transaction, standing: Standing, status: AttemptStatus, delay: float | None, *, final: bool
) -> RolloutStatus:
    """Move a rollout on by its latest attempt's status."""
    new = rollout_status_after(status, standing.counted, standing.config, final=final)
    available_at: float | None = None
    if new == "requeuing" and delay is not None:
        available_at = transaction.now() + delay if delay > 0 else READY
    standing.set_status(transaction, new, available_at)
    return new


def add_spans(transaction: Transaction, ids: Scramble, calls: Sequence[Sequence[EncodedSpan]]) -> list[list[Span]]:
    """Store spans that come one by one; see `LightningStore.add_spans`."""
    numbers = {
        rollout_id: number_of(ids, rollout_id)
        for rollout_id in {each.span.rollout_id for call in calls for each in call}
    }
    by_number = load_standings(transaction, ids, numbers.values())
    standings = {rollout_id: by_number.get(number) for rollout_id, number in numbers.items()}
    known = _known_among(transaction, standings, calls)
    rows: list[tuple[int, str, int, str]] = []
    alive: dict[int, Standing] = {}
    results: list[list[Span]] = []
    for call in calls:
        added: list[Span] = []
        for span, body in call:
            standing = standings[span.rollout_id]
            if standing is None or not _takes_spans(transaction, standing, span):
                _count_late(transaction, ids, standing, span.rollout_id, 1)
                continue
            number = standing.attempt_number
            alive[number] = standing
            if (number, span.span_id) in known:
                continue
            known.add((number, span.span_id))
            new = _numbered(span, standing)
            rows.append((number, new.span_id, new.sequence_id, body))
            standing.streamed = (standing.streamed or 0) + 1
            transaction.effects.count(standing.run_id, "spans", 1)
            added.append(new)
        results.append(added)
    _insert_spans(transaction, rows)
    _note_alive(transaction, list(alive.values()))
    return results


def _takes_spans(transaction: Transaction, standing: Standing, span: Span) -> bool:
    """Tell whether a span is of the attempt that runs.

    Raises:
        UnknownId: the rollout has no such attempt.
    """
    if span.attempt_id != standing.attempt_id:
        check_attempt_id(transaction, standing, span.attempt_id)
        return False
    return standing.attempt_status not in TERMINAL_ATTEMPT


def _known_among(
    transaction: Transaction, standings: Mapping[str, Standing | None], calls: Sequence[Sequence[EncodedSpan]]
) -> set[tuple[int, str]]:
    """Read which of the spans are there already."""
    asked: list[tuple[int, str]] = []
    for call in calls:
        for span, _ in call:
            standing = standings[span.rollout_id]
            if standing is not None and standing.streamed:
                asked.append((standing.attempt_number, span.span_id))
    if not asked:
        return set()
    rows = transaction.select_with_rows(
        {"number": "int", "span_id": "text"},
        asked,
        {"s.attempt_number": "int", "s.span_id": "text"},
        "FROM v JOIN spans s ON s.attempt_number = v.number AND s.span_id = v.span_id",
    )
    return {(number, span_id) for number, span_id in rows}


def _insert_spans(transaction: Transaction, rows: Sequence[tuple[int, str, int, str]]) -> None:
    if not rows:
        return
    first = transaction.take_numbers("spans", len(rows))
    columns = ", ".join(SPAN)
    transaction.with_rows(
        SPAN,
        [(number, *row) for number, row in enumerate(rows, first)],
        f"INSERT INTO spans ({columns}) SELECT {columns} FROM v WHERE number IS NOT NULL",
    )


def _note_alive(transaction: Transaction, standings: Sequence[Standing]) -> None:
    """Note the heartbeat that a span is; the first one makes its attempt and rollout running."""
    if not standings:
        return
    now = transaction.now()
    transaction.with_rows(
        {"number": "int", "last_heartbeat_time": "real", "streamed": "int", "last_sequence_id": "int"},
        [(s.attempt_number, now, s.streamed, s.last_sequence_id) for s in standings],
        "UPDATE attempts SET status = 'running', last_heartbeat_time = v.last_heartbeat_time, streamed = v.streamed, "
        "last_sequence_id = v.last_sequence_id FROM v WHERE attempts.number = v.number",
    )
    changed: list[Standing] = []
    for standing in standings:
        standing.attempt_status = "running"
        if not standing.ended and (standing.status != "running" or standing.available_at is not None):
            standing.set_status(transaction, "running")
            changed.append(standing)
    if changed:
        write_standings(transaction, changed)
