"""Spans that come one by one, before their attempt has ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..._lifecycle import TERMINAL_ATTEMPT
from ..._serialization import encode_spans
from ..._spans import Span, with_number
from .._rollout_ids import RolloutIdCipher
from ._rollout_state import RolloutState, check_attempt_id, count_late, load_states, number_of, write_states
from ._schema import SPAN
from ._transaction import Transaction


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


class _New(NamedTuple):
    """A span to be written."""

    standing: RolloutState
    span: Span
    body: str


def add_spans(
    transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Sequence[EncodedSpan]]
) -> list[list[Span]]:
    """Store spans that come one by one; see `LightningStore.add_spans`."""
    numbers = {
        rollout_id: number_of(ids, rollout_id)
        for rollout_id in {each.span.rollout_id for call in calls for each in call}
    }
    by_number = load_states(transaction, ids, numbers.values())
    standings = {rollout_id: by_number.get(number) for rollout_id, number in numbers.items()}
    known = known_span_ids(transaction, standings.values())
    new: list[_New] = []
    alive: dict[int, RolloutState] = {}
    results: list[list[Span]] = []
    for call in calls:
        added: list[Span] = []
        for span, body in call:
            standing = standings[span.rollout_id]
            if standing is None or not _takes_spans(transaction, standing, span):
                count_late(transaction, ids, standing, span.rollout_id, 1)
                continue
            number = standing.attempt_number
            alive[number] = standing
            if span.span_id not in known[number]:
                known[number].add(span.span_id)
                span = _numbered(span, standing)
                new.append(_New(standing, span, body))
                added.append(span)
        results.append(added)
    _insert_spans(transaction, new)
    for number, standing in alive.items():
        transaction.known_spans.keep(number, standing.last_span or 0, known[number])
    _note_alive(transaction, list(alive.values()))
    return results


def _takes_spans(transaction: Transaction, standing: RolloutState, span: Span) -> bool:
    """Tell whether a span is of the attempt that runs.

    Raises:
        UnknownId: the rollout has no such attempt.
    """
    if span.attempt_id != standing.attempt_id:
        check_attempt_id(transaction, standing, span.attempt_id)
        return False
    return standing.attempt_status not in TERMINAL_ATTEMPT


def _insert_spans(transaction: Transaction, new: Sequence[_New]) -> None:
    if not new:
        return
    rows: list[tuple[Any, ...]] = []
    for number, (standing, span, body) in enumerate(new, transaction.take_numbers("spans", len(new))):
        rows.append((number, standing.attempt_number, standing.last_span or 0, span.span_id, span.sequence_id, body))
        standing.last_span = number
        transaction.effects.count(standing.run_id, "spans", 1)
    columns = ", ".join(SPAN)
    transaction.with_rows(SPAN, rows, f"INSERT INTO spans ({columns}) SELECT {columns} FROM v WHERE number IS NOT NULL")


def _note_alive(transaction: Transaction, standings: Sequence[RolloutState]) -> None:
    """Note the heartbeat that a span is; the first one makes its attempt and rollout running."""
    if not standings:
        return
    now = transaction.now()
    transaction.with_rows(
        {"number": "int", "last_heartbeat_time": "real", "last_span": "int", "last_sequence_id": "int"},
        [(s.attempt_number, now, s.last_span, s.last_sequence_id) for s in standings],
        "UPDATE attempts SET status = 'running', last_heartbeat_time = v.last_heartbeat_time, last_span = v.last_span, "
        "last_sequence_id = v.last_sequence_id FROM v WHERE attempts.number = v.number",
    )
    changed: list[RolloutState] = []
    for standing in standings:
        standing.attempt_status = "running"
        if not standing.ended and (standing.status != "running" or standing.available_at is not None):
            standing.set_status(transaction, "running")
            changed.append(standing)
    if changed:
        write_states(transaction, changed)


def known_span_ids(transaction: Transaction, standings: Iterable[RolloutState | None]) -> dict[int, set[str]]:
    """Give the ids of the spans of rollouts' latest attempts, by the attempts' numbers; to be added to."""
    last_spans = {s.attempt_number: s.last_span or 0 for s in standings if s is not None}
    return transaction.known_spans.of(transaction, last_spans)


def number_spans(spans: Sequence[Span], known: set[str], standing: RolloutState) -> list[Span]:
    """Leave out the spans that are known, and give the others a number each."""
    new: list[Span] = []
    for span in spans:
        if span.span_id not in known:
            known.add(span.span_id)
            new.append(_numbered(span, standing))
    return new


def _numbered(span: Span, standing: RolloutState) -> Span:
    last = standing.last_sequence_id or 0
    if span.sequence_id <= 0:
        span = with_number(span, last + 1)
    standing.last_sequence_id = max(last, span.sequence_id)
    return span
